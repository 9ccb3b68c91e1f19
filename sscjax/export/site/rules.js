// From the network's outputs to decisions: the rules of sscjax.inference.decisions.

export const ABSTAIN = "abstain";
export const OUT_OF_DISTRIBUTION = "out_of_distribution";

/**
 * The decision from calibrated probabilities.
 *
 * @param {object} about the network's metadata.
 * @param {number[]} probabilities one for each of `about.columns`.
 * @param {number} distance how unlike the training images.
 * @param {boolean} outOfDistribution whether that is too far.
 */
export function decide(
  about,
  probabilities,
  distance,
  outOfDistribution = distance > about.distance.limit,
) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  if (best < 0 || Number.isNaN(distance)) throw new Error("an output of the network is not a number");
  const used = probabilities.slice(0, about.classes.length);
  const score = total(used.slice(1)) / total(used);
  const lowest = about.confidence_threshold.value;
  const abstained = lowest !== null && probabilities[best] < lowest;
  const ofConfidence = abstained ? ABSTAIN : about.columns[best];
  const decision = outOfDistribution ? OUT_OF_DISTRIBUTION : ofConfidence;
  const positive = score >= about.threshold.value;
  return { probabilities, distance, best, score, positive, abstained, outOfDistribution, decision };
}

/** The decision for images of one patient: mean of probabilities, median of distances. */
export function together(about, images) {
  const probabilities = about.columns.map((_, k) => mean(images.map((image) => image.probabilities[k])));
  const flagged = mean(images.map((image) => Number(image.outOfDistribution))) > 0.5;
  return decide(about, probabilities, median(images.map((image) => image.distance)), flagged);
}

/** A table of predictions, with the columns of images.csv of `sscjax predict`, but for the subject. */
export function csv(about, images) {
  const head = ["file", "decision", "most_probable", "confidence", "disease_score", "positive"];
  const rows = images.map((image) => [
    image.name,
    image.decision,
    about.columns[image.best],
    image.probabilities[image.best],
    image.score,
    capital(image.positive),
    capital(image.abstained),
    capital(image.outOfDistribution),
    image.distance,
    ...image.probabilities,
  ]);
  head.push("abstained", "out_of_distribution", "distance", ...about.columns.map((name) => `p_${name}`));
  return [head, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

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
