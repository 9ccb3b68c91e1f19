// What is made of the network's outputs; the same rules as sscjax.answers.

export const UNSURE = "unsure";
export const FOREIGN = "foreign";

/**
 * The answer from calibrated probabilities.
 *
 * @param {object} about the network's metadata.
 * @param {number[]} probabilities one for each of `about.columns`.
 * @param {number} distance how unlike the training images.
 * @param {boolean} foreign whether that is too far.
 */
export function judge(about, probabilities, distance, foreign = distance > about.distance.limit) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  if (best < 0 || Number.isNaN(distance)) throw new Error("the network gave no number");
  const used = probabilities.slice(0, about.classes.length);
  const score = total(used.slice(1)) / total(used);
  const least = about.confidence_threshold.value;
  const unsure = least !== null && probabilities[best] < least;
  const answer = foreign ? FOREIGN : unsure ? UNSURE : about.columns[best];
  const positive = score >= about.threshold.value;
  return { probabilities, distance, best, score, positive, unsure, foreign, answer };
}

/** The answer for images of one patient: mean of probabilities, median of distances. */
export function together(about, images) {
  const probabilities = about.columns.map((_, k) => mean(images.map((one) => one.probabilities[k])));
  const foreign = mean(images.map((one) => Number(one.foreign))) > 0.5;
  return judge(about, probabilities, median(images.map((one) => one.distance)), foreign);
}

/** A table of answers, with the columns of images.csv of `sscjax predict`, but for the subject. */
export function csv(about, images) {
  const head = ["file", "answer", "most_probable", "confidence", "disease_score", "positive"];
  const rows = images.map((one) => [
    one.name,
    one.answer,
    about.columns[one.best],
    one.probabilities[one.best],
    one.score,
    capital(one.positive),
    capital(one.unsure),
    capital(one.foreign),
    one.distance,
    ...one.probabilities,
  ]);
  head.push("unsure", "foreign", "distance", ...about.columns.map((name) => `p_${name}`));
  return [head, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

const capital = (truth) => (truth ? "True" : "False");

/** Quoted where needed; what a spreadsheet would take for a formula is made text. */
function cell(value) {
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const total = (some) => some.reduce((one, other) => one + other, 0);

const mean = (some) => total(some) / some.length;

function median(some) {
  const sorted = [...some].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
