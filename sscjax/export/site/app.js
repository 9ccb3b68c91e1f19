// The page: files in, predictions out. Nothing that is read here leaves the page.

import * as draw from "./draw.js";
import { open } from "./network.js";
import { Unreadable, read } from "./photo.js";
import { ABSTAIN, OUT_OF_DISTRIBUTION, csv, decide, together } from "./rules.js";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Titles and reasons of decisions that are not a class.
const TITLES = {
  [ABSTAIN]: ["Abstained", "below the confidence threshold"],
  [OUT_OF_DISTRIBUTION]: ["Out of distribution", "unlike the training images"],
};

// Milliseconds between two progress messages.
const MESSAGE_EVERY = 3000;

let about;
let run;
let predicted = [];
// Files to predict; those of an earlier, cleared list are dropped.
let waiting = [];
let working = false;
let list = 0;

// From the first moment on: a browser would leave the page for a file that is dropped too early.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => event.preventDefault());
}

start().catch((error) => {
  at("title").textContent = "The network could not be loaded";
  at("lead").textContent = `${error.message}. Reload the page; if the error remains, export it again.`;
  at("progress").hidden = true;
});

async function start() {
  const response = await fetch(new URL("model.json", import.meta.url));
  if (!response.ok) throw new Error(`model.json: the server says ${response.status}`);
  about = await response.json();
  const bytes = Object.values(about.site.files).reduce((sum, file) => sum + file.bytes, 0);
  at("lead").textContent = `Loading ${Math.ceil(bytes / 1e6)} MB, once.`;
  at("bar").setAttribute("aria-label", "Network loaded");
  at("progress").hidden = false;
  run = await open(about, (share) => {
    at("bar").value = share;
  });
  at("progress").hidden = true;
  at("bar").setAttribute("aria-label", "Images predicted");
  describe();
  listen();
  at("ask").hidden = at("about").hidden = false;
  document.body.dataset.ready = "yes";
  await Promise.all([store(), compare()]);
  document.addEventListener("visibilitychange", () => document.hidden || compare());
}

/** Store the page for use offline, where the browser allows it, and say whether it is stored. */
async function store() {
  try {
    // Undefined without https.
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
    at("stored").textContent = "This page is stored on this device and works offline.";
  } catch {
    at("stored").textContent = "This page works only while its server can be reached: browsers store pages only over https.";
  }
}

/** Say so where the server has another export by now: the open page is of the earlier one. */
async function compare() {
  try {
    const worker = await (await fetch("offline.js", { cache: "no-cache" })).text();
    const [, version] = /"version": "([0-9a-f]+)"/.exec(worker);
    at("newer").hidden = new URL("./", import.meta.url).pathname.endsWith(`${version}/`);
  } catch {
    // Offline: whether there is another export is not known.
  }
}

// --- what does not change -------------------------------------------------------------------------

function describe() {
  const classes = about.columns.join(", ");
  document.title = `${about.run.name}: ${classes}`;
  at("title").textContent = `Which of ${classes}?`;
  at("lead").textContent = `By the network ${about.run.name}. ${about.notice}`;
  lines(at("warnings"), about.warnings);
  const options = [["", "the prediction"], ...about.columns.map((name) => [name, name])];
  at("shown").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (about.maps) draw.scale(at("scale"), about.site.overlay);
  else for (const id of ["switch", "shown", "legend"]) at(id).hidden = true;
  for (const [name, text] of facts()) {
    const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    detail.textContent = text;
    at("facts").append(term, detail);
  }
}

function facts() {
  const { rules, distance, run, network, preparation } = about;
  const { subject, image } = rules;
  const weights = run.weights.name ?? run.weights.kind;
  return [
    [
      "One patient",
      `${rules.aggregation === "geometric" ? "geometric mean" : "mean"} of the images' probabilities, calibrated ` +
        `by a temperature of ${subject.temperature.toFixed(2)}; out of distribution where most images are`,
    ],
    ["Disease, of a patient", disease(subject)],
    ["Abstained, of a patient", abstention(subject)],
    ["Set, of a patient", `the classes that cannot be excluded: ${subject.prediction_set.rule}`],
    ["One image", image.temperature === 1
        ? "not calibrated: as the network gives them"
        : `calibrated on held-out images (temperature ${image.temperature.toFixed(2)})`],
    ["Disease, of an image", disease(image)],
    ["Abstained, of an image", abstention(image)],
    ["Set, of an image", `the classes that cannot be excluded: ${image.prediction_set.rule}`],
    [
      "Out of distribution",
      distance.limit === null
        ? distance.rule
        : `unlike the training images, at a distance above ${distance.limit.toFixed(2)}: ${distance.rule}`,
    ],
    ["Colours", about.maps ? `${about.maps.method} of ${about.maps.layers.join(", ")}` : `none: ${about.maps_absent}`],
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

function disease(rules) {
  const { positive, negative } = about.rules;
  return `${positive} from ${percent(rules.threshold)} on, else ${negative}: ${rules.threshold_rule}`;
}

function abstention(rules) {
  const threshold = rules.confidence_threshold;
  return threshold === null
    ? `never, there is no confidence threshold: ${rules.abstention_rule}`
    : `below the confidence threshold of ${percent(threshold)}: ${rules.abstention_rule}`;
}

function lines(list, texts) {
  list.replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
  list.hidden = !texts.length;
}

// --- files to predict --------------------------------------------------------------------------------

function listen() {
  at("files").addEventListener("change", () => {
    add(at("files").files);
    at("files").value = "";
  });
  for (const kind of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(kind, (event) => {
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") add(event.dataTransfer.files);
    });
  }
  at("maps").addEventListener("change", toggle);
  at("shown").addEventListener("change", redraw);
  at("save").addEventListener("click", save);
  at("clear").addEventListener("click", clear);
}

function add(files) {
  if (!files.length) return;
  if (!waiting.length && !working) lines(at("faults"), []);
  waiting.push(...files);
  if (!working) work();
}

async function work() {
  working = true;
  const mine = list;
  const faults = [];
  let done = 0;
  at("progress").hidden = false;
  const began = performance.now();
  let reported = began;
  while (waiting.length && mine === list) {
    const file = waiting.shift();
    at("bar").value = done / (done + waiting.length + 1);
    // Not for each image: screen readers read every message aloud.
    if (performance.now() - reported > MESSAGE_EVERY) {
      at("status").textContent = `${done} of ${done + waiting.length + 1} images`;
      reported = performance.now();
    }
    try {
      await predict(file, mine);
    } catch (error) {
      // An error of a list that was cleared is not shown.
      if (mine !== list) break;
      faults.push(`${file.name}: ${error.message}${error instanceof Unreadable ? "" : " (unexpected error)"}`);
      lines(at("faults"), faults);
    }
    done += 1;
    // Between images the page can scroll and react to clicks.
    await new Promise((resume) => setTimeout(resume));
  }
  working = false;
  if (mine !== list) {
    if (waiting.length) work();
    return;
  }
  at("progress").hidden = true;
  const seconds = (performance.now() - began) / 1000;
  const failed = faults.length ? `, ${faults.length} not readable` : "";
  at("status").textContent =
    `${plural(done - faults.length, "image")} predicted in ${seconds.toFixed(1)} s${failed}.`;
  summarise();
}

async function predict(file, mine) {
  const size = about.preparation.image_size;
  const pixels = await read(file, size);
  const outputs = await run(pixels);
  if (mine !== list) return;
  const image = { name: file.name, pixels, maps: outputs.maps, ...decide(about, outputs.probabilities, outputs.distance) };
  predicted.push(image);
  at("results").hidden = false;
  at("cards").append(card(image));
}

const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

// --- what is shown --------------------------------------------------------------------------------

function card(image) {
  const item = element("li", "card");
  item.append(element("h3", "", image.name), pictures(image));
  if (image.caption) item.append(image.caption);
  item.append(...verdict(image));
  return item;
}

function pictures(image) {
  const row = element("div", "pictures");
  const plain = picture(`${image.name}, as the network sees it`);
  draw.image(plain, image.pixels, about.preparation.image_size);
  row.append(plain);
  if (image.maps) {
    image.canvas = picture("");
    image.caption = element("p", "soft");
    row.append(image.canvas);
    overlay(image);
  }
  return row;
}

function picture(label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function overlay(image) {
  const shown = at("shown").value === "" ? image.best : about.columns.indexOf(at("shown").value);
  const { values, rows, columns } = image.maps;
  const map = { values: values[shown], rows, columns };
  draw.overlay(image.canvas, image.pixels, about.preparation.image_size, map, about.site.overlay);
  image.canvas.setAttribute("aria-label", `evidence for ${about.columns[shown]} in ${image.name}`);
  image.caption.textContent = `Evidence for ${about.columns[shown]}`;
  image.canvas.hidden = image.caption.hidden = !at("maps").checked;
}

function redraw() {
  for (const image of predicted) if (image.maps) overlay(image);
}

function toggle() {
  const hidden = !at("maps").checked;
  for (const image of predicted) if (image.maps) image.canvas.hidden = image.caption.hidden = hidden;
  at("shown").disabled = at("legend").hidden = hidden;
}

/** The decision, a bar for each probability, and the numbers that decide. */
function verdict(image, rules = about.rules.image) {
  const kind = image.outOfDistribution ? OUT_OF_DISTRIBUTION : image.abstained ? ABSTAIN : "";
  const [title, reason] = TITLES[kind] ?? [image.decision, ""];
  const decision = element("p", reason ? "decision none" : "decision", title);
  if (reason) decision.append(element("span", "", reason));
  const table = document.createElement("table");
  about.columns.forEach((name, k) => {
    const row = table.insertRow();
    const head = element("th", "", name);
    head.scope = "row";
    const meter = document.createElement("meter");
    meter.value = image.probabilities[k];
    meter.setAttribute("aria-label", `probability of ${name}`);
    const bar = element("td", "bar");
    bar.append(meter);
    row.append(head, bar, element("td", "n", percent(image.probabilities[k])));
  });
  const { positive, negative } = about.rules;
  const score = `disease ${percent(image.score)}, threshold ${percent(rules.threshold)}`;
  const { limit } = about.distance;
  const distance = `distance ${image.distance.toFixed(2)}, ${limit === null ? "no limit" : `limit ${limit.toFixed(2)}`}`;
  // Without a decision neither disease nor its absence is named.
  const disease = reason ? score : `${image.positive ? positive : negative} (${score})`;
  const set = element("p", "soft", `Cannot be excluded: ${image.set.join(", ")}`);
  return [decision, set, table, element("p", "soft", `${disease}; ${distance}`)];
}

function summarise() {
  at("together").replaceChildren();
  if (predicted.length < 2) return;
  const item = element("div", "card");
  const title = `If these ${predicted.length} images are of one patient`;
  item.append(element("h3", "", title), ...verdict(together(about, predicted), about.rules.subject));
  at("together").append(item);
}

function element(kind, name, text = "") {
  const node = document.createElement(kind);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

function clear() {
  list += 1;
  waiting = [];
  predicted = [];
  at("cards").replaceChildren();
  at("together").replaceChildren();
  lines(at("faults"), []);
  at("results").hidden = at("progress").hidden = true;
  at("status").textContent = "";
  at("files").focus();
}

function save() {
  const link = document.createElement("a");
  // A byte order mark: spreadsheets then read it as UTF-8.
  const text = `\ufeff${csv(about, predicted)}`;
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `predictions_${about.run.name}_${about.network.sha256.slice(0, 8)}.csv`;
  link.click();
  // Some browsers read it only after the click is over.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
