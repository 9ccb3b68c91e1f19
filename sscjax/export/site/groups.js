// The list of results: a row for each patient, which opens to the images, and images that stand alone.

import { answer, card, element, numbers, percent, plural } from "./cards.js";
import { likely, patients, said } from "./patients.js";
import { together } from "./rules.js";

/** Patients and images on the page; `shown()` says which map is drawn. */
export class Groups {
  constructor(about, places, shown) {
    Object.assign(this, { about, places, shown });
    this.clear();
  }

  clear() {
    this.paths = [];
    this.images = [];
    // What the reader chose; until then it is found from the names.
    this.chosen = "";
    this.draw();
  }

  /** Paths of images that are given, predicted or not: patients are found from all of them. */
  expect(paths) {
    this.paths.push(...paths);
    this.draw();
  }

  get way() {
    return this.chosen || likely(this.paths);
  }

  choose(way) {
    this.chosen = way;
    this.draw();
  }

  /** Show one image more. */
  add(image) {
    this.images.push(image);
    image.patient = this.patientOf.get(image.path);
    const group = this.groups.get(image.patient);
    if (!group) this.places.cards.append(this.card(image));
    else this.grow(group, image);
    this.count();
  }

  /** The answers of all patients, in the order of the page. */
  rows() {
    return [...this.groups.values()].filter((group) => group.images.length).map((group) => group.row);
  }

  // --- drawing ------------------------------------------------------------------------------------

  /** Make all rows again: patients are others, or have other names. */
  draw() {
    const names = patients(this.paths, this.way, this.about.classes);
    this.patientOf = new Map(this.paths.map((path, k) => [path, names[k]]));
    const open = new Set([...(this.groups?.values() ?? [])].filter((one) => one.item.open).map((one) => one.name));
    this.groups = new Map();
    this.places.patients.replaceChildren();
    this.places.cards.replaceChildren();
    for (const name of new Set(names)) if (name !== null) this.groups.set(name, this.group(name, open.has(name)));
    for (const image of this.images) {
      image.canvas = null;
      image.patient = this.patientOf.get(image.path);
      const group = this.groups.get(image.patient);
      if (group) group.images.push(image);
      else this.places.cards.append(this.card(image));
    }
    for (const group of this.groups.values()) if (group.images.length) this.show(group);
    this.count();
  }

  count() {
    const alone = this.paths.filter((path) => this.patientOf.get(path) === null).length;
    this.places.way.value = this.way;
    this.places.said.textContent = said(this.way, this.groups.size, alone);
    this.places.patients.hidden = !this.groups.size;
  }

  card(image) {
    return card(this.about, image, this.shown());
  }

  group(name, open) {
    const item = element("details", "patient");
    item.open = open;
    const group = { name, item, images: [], cards: null };
    item.addEventListener("toggle", () => this.fill(group));
    return group;
  }

  grow(group, image) {
    group.images.push(image);
    this.show(group);
  }

  /** The row itself: made when the first image is there, then kept, so that it keeps the focus. */
  show(group) {
    const { item, images } = group;
    const row = together(this.about, images);
    group.row = { name: group.name, images: images.length, ...row };
    if (!item.isConnected) {
      const line = element("li");
      line.append(item);
      this.places.patients.append(line);
      group.summary = item.appendChild(element("summary"));
      group.body = item.appendChild(element("div", "inside"));
    }
    const { title, reason } = answer(row);
    const sure = reason || percent(row.probabilities[row.best]);
    group.summary.replaceChildren(
      element("h3", "", group.name),
      element("span", "count", plural(images.length, "image")),
      element("span", reason ? "answer none" : "answer", title),
      element("span", "sure", sure),
      element("span", "set", `cannot be excluded: ${row.set.join(", ")}`),
    );
    this.fill(group);
  }

  /** What is inside an open row; images that are drawn already stay. */
  fill(group) {
    if (!group.item.open || !group.body) return;
    const { reason } = answer(group.row);
    if (!group.cards) {
      group.cards = element("ol", "cards");
      group.numbers = element("div", "numbers");
      group.body.append(group.numbers, group.cards);
    }
    // The set stands in the row already.
    const [, ...rest] = numbers(this.about, group.row, this.about.rules.subject, reason);
    group.numbers.replaceChildren(...rest);
    for (const image of group.images.slice(group.cards.childElementCount)) group.cards.append(this.card(image));
  }
}
