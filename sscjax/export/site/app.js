// The page: files in, answers out. Nothing that is read here leaves the page.

import * as draw from "./draw.js";
import { open } from "./network.js";
import { Unreadable, read } from "./photo.js";
import { FOREIGN, UNSURE, csv, judge, together } from "./rules.js";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

const REASONS = {
  [UNSURE]: "no class is probable enough for an answer",
  [FOREIGN]: "unlike the images that the network was trained on",
};

// Milliseconds between two words on how far it is.
const SAID_EVERY = 3000;

let about;
let ask;
let answered = [];
// Files wait their turn; those of an earlier, cleared list are dropped.
let waiting = [];
let working = false;
let list = 0;

// From the first moment on: a browser would leave the page for a file that is dropped too early.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => event.preventDefault());
}

start().catch((error) => {
  at("title").textContent = "The network could not be loaded";
  at("lead").textContent = `${error.message}. Load the page again; if this stays, export it again.`;
  at("progress").hidden = true;
});

async function start() {
  const response = await fetch(new URL("model.json", import.meta.url));
  if (!response.ok) throw new Error(`model.json: the server says ${response.status}`);
  about = await response.json();
  const bytes = Object.values(about.site.files).reduce((sum, file) => sum + file.bytes, 0);
  at("lead").textContent = `${Math.ceil(bytes / 1e6)} MB are loaded once.`;
  at("bar").setAttribute("aria-label", "Network loaded");
  at("progress").hidden = false;
  ask = await open(about, (share) => {
    at("bar").value = share;
  });
  at("progress").hidden = true;
  at("bar").setAttribute("aria-label", "Images answered");
  describe();
  listen();
  at("ask").hidden = at("about").hidden = false;
  document.body.dataset.ready = "yes";
  await Promise.all([keep(), compare()]);
  document.addEventListener("visibilitychange", () => document.hidden || compare());
}

/** Keep the page for use without a network, where the browser does that, and say which it is. */
async function keep() {
  try {
    // Absent without https.
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
    at("kept").textContent = "This page is kept on the device and works without a network.";
  } catch {
    at("kept").textContent = "This page works with its server alone: browsers keep pages by https only.";
  }
}

/** Tell where the server has another export by now: what is open, or kept, is the old one. */
async function compare() {
  try {
    const worker = await (await fetch("offline.js", { cache: "no-cache" })).text();
    const [, version] = /"version": "([0-9a-f]+)"/.exec(worker);
    at("other").hidden = new URL("./", import.meta.url).pathname.endsWith(`${version}/`);
  } catch {
    // No network: nothing is known of another one.
  }
}

// --- what does not change -------------------------------------------------------------------------

function describe() {
  const classes = about.columns.join(", ");
  document.title = `${about.run.name}: ${classes}`;
  at("title").textContent = `Which of ${classes}?`;
  at("lead").textContent = `By the network ${about.run.name}. ${about.notice}`;
  lines(at("warnings"), about.warnings);
  const options = [["", "the answer"], ...about.columns.map((name) => [name, name])];
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
  const { threshold, confidence_threshold: least, distance, run, network, preparation } = about;
  const weights = run.weights.name ?? run.weights.kind;
  return [
    ["Probabilities", `calibrated on validation images (temperature ${about.temperature.toFixed(2)})`],
    [
      "Disease",
      `${threshold.positive} from ${percent(threshold.value)} on, else ${threshold.negative}: ${threshold.rule}`,
    ],
    ["Unsure", least.value === null ? `never: ${least.rule}` : `below ${percent(least.value)}: ${least.rule}`],
    ["Foreign", `at a distance above ${distance.limit.toFixed(2)}: ${distance.rule}`],
    ["Several images", "mean of the probabilities; foreign where most of them are"],
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

function lines(place, some) {
  place.replaceChildren(
    ...some.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
  place.hidden = !some.length;
}

// --- what is asked --------------------------------------------------------------------------------

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
  let told = began;
  while (waiting.length && mine === list) {
    const file = waiting.shift();
    at("bar").value = done / (done + waiting.length + 1);
    // Not for each one: screen readers read all of it out.
    if (performance.now() - told > SAID_EVERY) {
      at("status").textContent = `${done} of ${done + waiting.length + 1} images`;
      told = performance.now();
    }
    try {
      await answer(file, mine);
    } catch (error) {
      // An error of a list that was cleared is nobody's any more.
      if (mine !== list) break;
      faults.push(`${file.name}: ${error.message}${error instanceof Unreadable ? "" : " (not expected)"}`);
      lines(at("faults"), faults);
    }
    done += 1;
    // Between images the page may scroll and be clicked.
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
    `${plural(done - faults.length, "image")} answered in ${seconds.toFixed(1)} s${failed}.`;
  summarise();
}

async function answer(file, mine) {
  const size = about.preparation.image_size;
  const pixels = await read(file, size);
  const found = await ask(pixels);
  if (mine !== list) return;
  const one = { name: file.name, pixels, maps: found.maps, ...judge(about, found.probabilities, found.distance) };
  answered.push(one);
  at("results").hidden = false;
  at("cards").append(card(one));
}

const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

// --- what is shown --------------------------------------------------------------------------------

function card(one) {
  const item = element("li", "card");
  item.append(element("h3", "", one.name), pictures(one));
  if (one.caption) item.append(one.caption);
  item.append(...verdict(one));
  return item;
}

function pictures(one) {
  const place = element("div", "pictures");
  const plain = picture(`${one.name}, as the network sees it`);
  draw.image(plain, one.pixels, about.preparation.image_size);
  place.append(plain);
  if (one.maps) {
    one.canvas = picture("");
    one.caption = element("p", "soft");
    place.append(one.canvas);
    overlay(one);
  }
  return place;
}

function picture(label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function overlay(one) {
  const wanted = at("shown").value === "" ? one.best : about.columns.indexOf(at("shown").value);
  const { values, rows, columns } = one.maps;
  const map = { values: values[wanted], rows, columns };
  draw.overlay(one.canvas, one.pixels, about.preparation.image_size, map, about.site.overlay);
  one.canvas.setAttribute("aria-label", `where ${one.name} speaks for ${about.columns[wanted]}`);
  one.caption.textContent = `What speaks for ${about.columns[wanted]}`;
  one.canvas.hidden = one.caption.hidden = !at("maps").checked;
}

function redraw() {
  for (const one of answered) if (one.maps) overlay(one);
}

function toggle() {
  const hidden = !at("maps").checked;
  for (const one of answered) if (one.maps) one.canvas.hidden = one.caption.hidden = hidden;
  at("shown").disabled = at("legend").hidden = hidden;
}

/** The answer, a bar for each probability, and what stands behind it. */
function verdict(one) {
  const reason = REASONS[one.foreign ? FOREIGN : one.unsure ? UNSURE : ""];
  const answer = element("p", reason ? "answer none" : "answer", one.answer);
  if (reason) answer.append(element("span", "", reason));
  const table = document.createElement("table");
  about.columns.forEach((name, k) => {
    const row = table.insertRow();
    const head = element("th", "", name);
    head.scope = "row";
    const meter = document.createElement("meter");
    meter.value = one.probabilities[k];
    meter.setAttribute("aria-label", `probability of ${name}`);
    const bar = element("td", "bar");
    bar.append(meter);
    row.append(head, bar, element("td", "n", percent(one.probabilities[k])));
  });
  const { positive, negative } = about.threshold;
  const score = `disease ${percent(one.score)}, threshold ${percent(about.threshold.value)}`;
  const distance = `distance ${one.distance.toFixed(2)}, limit ${about.distance.limit.toFixed(2)}`;
  // Where there is no answer, none is smuggled in.
  const kind = reason ? score : `${one.positive ? positive : negative} (${score})`;
  return [answer, table, element("p", "soft", `${kind}; ${distance}`)];
}

function summarise() {
  at("together").replaceChildren();
  if (answered.length < 2) return;
  const item = element("div", "card");
  const title = `If these ${answered.length} images are of one patient`;
  item.append(element("h3", "", title), ...verdict(together(about, answered)));
  at("together").append(item);
}

function element(kind, name, text = "") {
  const found = document.createElement(kind);
  if (name) found.className = name;
  found.textContent = text;
  return found;
}

function clear() {
  list += 1;
  waiting = [];
  answered = [];
  at("cards").replaceChildren();
  at("together").replaceChildren();
  lines(at("faults"), []);
  at("results").hidden = at("progress").hidden = true;
  at("status").textContent = "";
  at("files").focus();
}

function save() {
  const link = document.createElement("a");
  // The mark in front tells spreadsheets that it is UTF-8.
  const text = `\ufeff${csv(about, answered)}`;
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `answers_${about.run.name}_${about.network.sha256.slice(0, 8)}.csv`;
  link.click();
  // Some browsers read it only after the click is over.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
