// From the network's outputs to decisions: the rules of sscjax.inference.decisions.

export const ABSTAIN = "abstain";
export const OUT_OF_DISTRIBUTION = "out_of_distribution";

// As in `sscjax.evaluation.predictions`: the least positive number that float32 keeps in full.
const LEAST = 1.1754943508222875e-38;

/**
 * The decision for one image.
 *
 * @param {object} about the network's metadata.
 * @param {number[]} probabilities one for each of `about.columns`, calibrated.
 * @param {number} distance how unlike the training images.
 */
export function decide(about, probabilities, distance) {
  const { limit } = about.distance;
  return decision(about, about.rules.image, probabilities, distance, limit !== null && distance > limit);
}

/**
 * The decision for images of one patient: by the patient's own rules, from the aggregate of the
 * images' probabilities and the median of their distances.
 */
export function together(about, images) {
  const rows = images.map((image) => image.probabilities);
  const geometric = about.rules.aggregation === "geometric";
  const parts = geometric ? rows.map(logarithms) : rows;
  const means = about.columns.map((_, k) => mean(parts.map((row) => row[k])));
  const row = calibrated(geometric ? softmax(means) : means, about.rules.subject.temperature);
  const flagged = mean(images.map((image) => Number(image.outOfDistribution))) > 0.5;
  const distance = median(images.map((image) => image.distance));
  return decision(about, about.rules.subject, row, distance, flagged);
}

function decision(about, rules, probabilities, distance, outOfDistribution) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  if (best < 0 || Number.isNaN(distance)) throw new Error("an output of the network is not a number");
  const used = probabilities.slice(0, about.classes.length);
  const score = total(used.slice(1)) / total(used);
  const lowest = rules.confidence_threshold;
  const abstained = lowest !== null && probabilities[best] < lowest;
  const ofConfidence = abstained ? ABSTAIN : about.columns[best];
  return {
    ...{ probabilities, distance, best, score, abstained, outOfDistribution },
    positive: score >= rules.threshold,
    set: members(about, rules.prediction_set.limits, used),
    decision: outOfDistribution ? OUT_OF_DISTRIBUTION : ofConfidence,
  };
}

/** The classes that cannot be excluded; the most probable one never is. */
function members(about, limits, used) {
  const best = used.indexOf(Math.max(...used));
  return about.classes.filter((_, k) => k === best || limits[k] === null || 1 - used[k] <= limits[k] + 1e-9);
}

const logarithms = (row) => row.map((value) => Math.log(Math.max(value, LEAST)));

/** Logits divided by a temperature. */
function calibrated(row, temperature) {
  return temperature === 1 ? row : softmax(logarithms(row).map((value) => value / temperature));
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - highest));
  const sum = total(powers);
  return powers.map((value) => value / sum);
}

/** A table of predictions, with the columns of images.csv of `sscjax predict`. */
export function csv(about, images) {
  // An image of no known patient counts as its own, as there.
  const rows = images.map((image) => [image.name, image.patient ?? image.name, ...decided(about, image)]);
  return table(about, ["file", "subject"], rows);
}

/** A table of patients, with the columns of subjects.csv. */
export function csvOfPatients(about, patients) {
  const rows = patients.map((patient) => [patient.name, patient.images, ...decided(about, patient)]);
  return table(about, ["subject", "images"], rows);
}

const DECIDED = ["decision", "prediction_set", "most_probable", "confidence", "disease_score", "positive"];

function table(about, first, rows) {
  const head = [...first, ...DECIDED, "abstained", "out_of_distribution", "distance"];
  head.push(...about.columns.map((name) => `p_${name}`));
  return [head, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

const decided = (about, row) => [
  row.decision,
  row.set.join(" | "),
  about.columns[row.best],
  row.probabilities[row.best],
  row.score,
  capital(row.positive),
  capital(row.abstained),
  capital(row.outOfDistribution),
  row.distance,
  ...row.probabilities,
];

const capital = (truth) => (truth ? "True" : "False");

/** Quoted where needed; what a spreadsheet would take for a formula is made text. */
function cell(value) {
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const total = (values) => values.reduce((sum, value) => sum + value, 0);

const mean = (values) => total(values) / values.length;

function median(values) {
  const sorted = [...values].sort((first, second) => first - second);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
