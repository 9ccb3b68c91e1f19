"use strict";
// Search, filter, order and maps of the page of predictions. Without a script all is shown.
const at = (id) => document.getElementById(id);
const main = at("main");
const patients = [...main.querySelectorAll(".patient")];
const collator = new Intl.Collator(undefined, { numeric: true });
const orders = {
  number: (a, b) => a.dataset.number - b.dataset.number,
  name: (a, b) => collator.compare(a.dataset.name, b.dataset.name),
  confidence: (a, b) => a.dataset.confidence - b.dataset.confidence,
};

function choose() {
  const wanted = at("find").value.trim().toLowerCase();
  const kind = at("kind").value;
  let count = 0;
  for (const patient of patients) {
    const shown = patient.dataset.name.toLowerCase().includes(wanted) && (!kind || patient.dataset.kind === kind);
    patient.hidden = !shown;
    count += shown;
  }
  at("status").textContent = count === patients.length ? "" : `${count} of ${patients.length} shown`;
}

at("find").addEventListener("input", choose);
at("kind").addEventListener("change", choose);
at("order").addEventListener("change", () => {
  for (const patient of [...patients].sort(orders[at("order").value])) main.append(patient);
});
at("maps")?.addEventListener("change", () => {
  document.body.classList.toggle("with-maps", at("maps").checked);
});
const form = document.querySelector(".controls");
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
