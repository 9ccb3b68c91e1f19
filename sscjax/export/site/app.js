// The page: files in, predictions out. Nothing that is read here leaves the page.

import * as draw from "./draw.js";
import { overlay, plural } from "./cards.js";
import { describe, lines } from "./describe.js";
import { ofDrop, ofInput, sorted } from "./files.js";
import { Groups } from "./groups.js";
import { open } from "./network.js";
import { Unreadable, read } from "./photo.js";
import { csv, csvOfPatients, decide } from "./rules.js";

const at = (id) => document.getElementById(id);

// Milliseconds between two progress messages.
const MESSAGE_EVERY = 3000;

// Names of files that are left out which a message shows.
const NAMED = 3;

let about;
let run;
let groups;
// Files to predict; those of an earlier, cleared list are dropped.
let waiting = [];
let working = false;
let list = 0;
let known = new Set();
let names = new Set();
let faults = [];

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
  describe(about);
  prepare();
  listen();
  for (const id of ["quality", "ask", "about"]) at(id).hidden = false;
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

/** The tools above the results. */
function prepare() {
  const options = [["", "the prediction"], ...about.columns.map((name) => [name, name])];
  at("shown").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (about.maps) {
    draw.scale(at("scale"), about.site.overlay);
    // Maps that failed their check are shown to those alone who ask for them.
    at("maps").checked = about.maps.shown;
    at("shown").disabled = at("legend").hidden = !about.maps.shown;
    at("verdict").textContent = `${about.maps.verdict}.`;
  } else for (const id of ["switch", "shown", "legend", "verdict"]) at(id).hidden = true;
  const places = { patients: at("patients"), cards: at("cards"), way: at("way"), said: at("said") };
  groups = new Groups(about, places, shown);
}

/** Which class's map is drawn, and whether it is hidden. */
const shown = () => ({ of: at("shown").value, hidden: !at("maps").checked });

function listen() {
  for (const id of ["files", "folder"]) {
    at(id).addEventListener("change", () => {
      add(ofInput(at(id).files));
      at(id).value = "";
    });
  }
  for (const kind of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(kind, (event) => {
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") ofDrop(event.dataTransfer).then(add, (error) => fault(`The drop: ${error.message}`));
    });
  }
  at("maps").addEventListener("change", redraw);
  at("shown").addEventListener("change", redraw);
  at("way").addEventListener("change", () => regroup(at("way").value));
  at("save").addEventListener("click", () => save("images", csv(about, groups.images)));
  at("save_patients").addEventListener("click", () => save("patients", csvOfPatients(about, groups.rows())));
  at("clear").addEventListener("click", clear);
}

// --- files to predict -----------------------------------------------------------------------------

function add(given) {
  if (!given.length) return;
  if (!waiting.length && !working) {
    faults = [];
    lines(at("faults"), faults);
  }
  const { images, others, again } = sorted(given, known);
  leftOut(others, "no jpg, png or bmp by their name", "left out");
  leftOut(again, "given before", "counted once");
  for (const image of images) {
    // Two files of one name may be of two patients: the browser does not say from where they come.
    const { path } = image;
    for (let k = 2; names.has(image.path); k++) image.path = `${path} (${k})`;
    names.add(image.path);
  }
  groups.expect(images.map((image) => image.path));
  waiting.push(...images);
  if (!working) work();
}

function leftOut(paths, why, result) {
  if (!paths.length) return;
  const more = paths.length > NAMED ? ", ..." : "";
  fault(`${plural(paths.length, "file")} ${why}, ${result}: ${paths.slice(0, NAMED).join(", ")}${more}`);
}

function fault(text) {
  faults.push(text);
  lines(at("faults"), faults);
}

async function work() {
  working = true;
  const mine = list;
  let done = 0;
  let unreadable = 0;
  at("progress").hidden = false;
  const began = performance.now();
  let reported = began;
  while (waiting.length && mine === list) {
    const { file, path } = waiting.shift();
    at("bar").value = done / (done + waiting.length + 1);
    // Not for each image: screen readers read every message aloud.
    if (performance.now() - reported > MESSAGE_EVERY) {
      at("status").textContent = `${done} of ${done + waiting.length + 1} images`;
      reported = performance.now();
    }
    try {
      await predict(file, path, mine);
    } catch (error) {
      // An error of a list that was cleared is not shown.
      if (mine !== list) break;
      unreadable += 1;
      fault(`${path}: ${error.message}${error instanceof Unreadable ? "" : " (unexpected error)"}`);
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
  const failed = unreadable ? `, ${unreadable} not readable` : "";
  at("status").textContent = `${plural(done - unreadable, "image")} predicted in ${seconds.toFixed(1)} s${failed}.`;
}

async function predict(file, path, mine) {
  const size = about.preparation.image_size;
  const pixels = await read(file, size);
  const outputs = await run(pixels);
  if (mine !== list) return;
  const decision = decide(about, outputs.probabilities, outputs.distance);
  groups.add({ name: path, path, pixels, maps: outputs.maps, ...decision });
  at("results").hidden = false;
  at("save_patients").hidden = !groups.groups.size;
}

// --- what is shown --------------------------------------------------------------------------------

function redraw() {
  for (const image of groups.images) if (image.maps) overlay(about, image, shown());
  at("shown").disabled = at("legend").hidden = !at("maps").checked;
}

function regroup(way) {
  groups.choose(way);
  at("save_patients").hidden = !groups.groups.size;
}

function clear() {
  list += 1;
  waiting = [];
  faults = [];
  known = new Set();
  names = new Set();
  groups.clear();
  lines(at("faults"), faults);
  at("results").hidden = at("progress").hidden = true;
  at("status").textContent = "";
  at("files").focus();
}

function save(what, table) {
  const link = document.createElement("a");
  // A byte order mark: spreadsheets then read it as UTF-8.
  link.href = URL.createObjectURL(new Blob([`\ufeff${table}`], { type: "text/csv" }));
  link.download = `${what}_${about.run.name}_${about.network.sha256.slice(0, 8)}.csv`;
  link.click();
  // Some browsers read it only after the click is over.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
