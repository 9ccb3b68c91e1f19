// An image's or a patient's answer on the page: decision, probabilities, map.

import * as draw from "./draw.js";
import { ABSTAIN, OUT_OF_DISTRIBUTION } from "./rules.js";

// Titles and reasons of decisions that are not a class.
const TITLES = {
  [ABSTAIN]: ["No answer", "below the confidence threshold"],
  [OUT_OF_DISTRIBUTION]: ["Out of distribution", "unlike the training images"],
};

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export const plural = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;

export function element(kind, name, text = "") {
  const node = document.createElement(kind);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

/** The decision in a few words, and the reason where it is no class. */
export function answer(row) {
  const kind = row.outOfDistribution ? OUT_OF_DISTRIBUTION : row.abstained ? ABSTAIN : "";
  const [title, reason] = TITLES[kind] ?? [row.decision, ""];
  return { title, reason };
}

/** The decision, a bar for each probability, and the numbers that decide. */
export function verdict(about, row, rules) {
  const { title, reason } = answer(row);
  const decision = element("p", reason ? "decision none" : "decision", title);
  if (reason) decision.append(element("span", "", reason));
  return [decision, ...numbers(about, row, rules, reason)];
}

/** What stands below the decision. */
export function numbers(about, row, rules, reason) {
  const table = document.createElement("table");
  about.columns.forEach((name, k) => {
    const line = table.insertRow();
    const head = element("th", "", name);
    head.scope = "row";
    const meter = document.createElement("meter");
    meter.value = row.probabilities[k];
    meter.setAttribute("aria-label", `probability of ${name}`);
    const bar = element("td", "bar");
    bar.append(meter);
    line.append(head, bar, element("td", "n", percent(row.probabilities[k])));
  });
  const { positive, negative } = about.rules;
  const score = `disease ${percent(row.score)}, threshold ${percent(rules.threshold)}`;
  const { limit } = about.distance;
  const distance = `distance ${row.distance.toFixed(2)}, ${limit === null ? "no limit" : `limit ${limit.toFixed(2)}`}`;
  // Without a decision neither disease nor its absence is named.
  const disease = reason ? score : `${row.positive ? positive : negative} (${score})`;
  const set = element("p", "soft", `Cannot be excluded: ${row.set.join(", ")}`);
  return [set, table, element("p", "soft", `${disease}; ${distance}`)];
}

/** A card of an image; `shown` says which class's map is drawn, and whether. */
export function card(about, image, shown) {
  const item = element("li", "card");
  item.append(element("h4", "", image.name), pictures(about, image, shown));
  if (image.caption) item.append(image.caption);
  item.append(...verdict(about, image, about.rules.image));
  return item;
}

function pictures(about, image, shown) {
  const row = element("div", "pictures");
  const plain = picture(`${image.name}, as the network sees it`);
  draw.image(plain, image.pixels, about.preparation.image_size);
  row.append(plain);
  if (image.maps) {
    image.canvas = picture("");
    image.caption = element("p", "soft");
    row.append(image.canvas);
    overlay(about, image, shown);
  }
  return row;
}

function picture(label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Draw an image's map again, if its card was made. */
export function overlay(about, image, { of, hidden }) {
  if (!image.canvas) return;
  const index = of === "" ? image.best : about.columns.indexOf(of);
  const { values, rows, columns } = image.maps;
  const map = { values: values[index], rows, columns };
  draw.overlay(image.canvas, image.pixels, about.preparation.image_size, map, about.site.overlay);
  image.canvas.setAttribute("aria-label", `evidence for ${about.columns[index]} in ${image.name}`);
  image.caption.textContent = `Evidence for ${about.columns[index]}`;
  image.canvas.hidden = image.caption.hidden = hidden;
}
