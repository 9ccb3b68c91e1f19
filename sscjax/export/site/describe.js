// What the page says of the network: how it was tested, whom it is for, by which rules it answers.

import { element, percent } from "./cards.js";

const at = (id) => document.getElementById(id);

/** Fill in all that does not depend on images. */
export function describe(about) {
  const classes = about.columns.join(", ");
  document.title = `${about.run.name}: ${classes}`;
  at("title").textContent = `Which of ${classes}?`;
  at("lead").textContent = `By the network ${about.run.name}. ${about.notice}`;
  at("tested").textContent = about.tested ? about.tested.sentence : "How it was tested is not recorded.";
  at("tested_more").textContent = about.tested ? about.tested.detail : "";
  lines(at("warnings"), about.warnings.map(calm));
  at("weak").hidden = !about.warnings.length;
  const several = about.warnings.length === 1 ? "weakness" : "weaknesses";
  at("weak_title").textContent = `${about.warnings.length} ${several} of this test`;
  at("use").textContent = about.intended_use.text;
  at("use").classList.toggle("none", !about.intended_use.stated);
  lines(at("limits"), about.limits);
  for (const [name, text] of facts(about)) at("facts").append(element("dt", "", name), element("dd", "", text));
}

/** A warning that does not begin in capitals: 'NO SUBJECTS: ...' as 'No subjects: ...'. */
export function calm(warning) {
  const words = warning.split(/\s+/);
  const plain = words.findIndex((word) => /[a-z]/.test(word));
  const mark = words.findIndex((word) => /[:,]$/.test(word)) + 1;
  const ends = [plain, mark].filter((end) => end > 0);
  const end = plain === 0 ? 0 : Math.min(...ends, words.length);
  const line = [...words.slice(0, end).map((word) => word.toLowerCase()), ...words.slice(end)].join(" ");
  return line.slice(0, 1).toUpperCase() + line.slice(1);
}

/** Show a list of texts; hidden where there are none. */
export function lines(list, texts) {
  list.replaceChildren(...texts.map((text) => element("li", "", text)));
  list.hidden = !texts.length;
}

function facts(about) {
  const { rules, distance, run, network, preparation } = about;
  const { subject, image } = rules;
  const weights = run.weights.name ?? run.weights.kind;
  const mean = rules.aggregation === "geometric" ? "geometric mean" : "mean";
  return [
    [
      "One patient",
      `${mean} of the images' probabilities, ${calibration(subject)}; out of distribution where most images are`,
    ],
    ["Disease, of a patient", disease(rules, subject)],
    ["No answer, of a patient", abstention(subject)],
    ["Set, of a patient", `the classes that cannot be excluded: ${subject.prediction_set.rule}`],
    ["One image", calibration(image)],
    ["Disease, of an image", disease(rules, image)],
    ["No answer, of an image", abstention(image)],
    ["Set, of an image", `the classes that cannot be excluded: ${image.prediction_set.rule}`],
    [
      "Out of distribution",
      distance.limit === null
        ? distance.rule
        : `unlike the training images, at a distance above ${distance.limit.toFixed(2)}: ${distance.rule}`,
    ],
    ["Colours", about.maps ? `${about.maps.method} of ${about.maps.layers.join(", ")}` : `none: ${about.maps_absent}`],
    ...(about.maps ? [["Check of the colours", about.maps.verdict]] : []),
    ["Images", `${preparation.crop}, reduced to ${preparation.image_size}x${preparation.image_size} pixels`],
    [
      "Trained",
      `${run.trained ?? "date unknown"}, on ${run.data.training_images} of ${run.data.images} images` +
        `${run.data.synthetic ? ", drawn by a program" : ""}; split by ${run.split_by}; weights: ${weights}`,
    ],
    ["Network", `${network.name}, ${network.parameters} numbers, SHA-256 ${network.sha256}`],
    ["Exported", `by sscjax ${about.sscjax}; run by onnxruntime-web ${about.site.onnxruntime}`],
  ];
}

/** A temperature of 1 leaves everything as it is: nothing is calibrated by it. */
export function calibration({ temperature }) {
  if (temperature === 1) return "not calibrated: as the network gives them (temperature 1)";
  return `calibrated on held-out patients by a temperature of ${temperature.toFixed(2)}`;
}

function disease({ positive, negative }, rules) {
  return `${positive} from ${percent(rules.threshold)} on, else ${negative}: ${rules.threshold_rule}`;
}

function abstention(rules) {
  const threshold = rules.confidence_threshold;
  return threshold === null
    ? `never, there is no confidence threshold: ${rules.abstention_rule}`
    : `below the confidence threshold of ${percent(threshold)}: ${rules.abstention_rule}`;
}
