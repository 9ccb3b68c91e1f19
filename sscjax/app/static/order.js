// The order of the classes: by buttons, for the keyboard and the finger, or by dragging.

function say(item) {
  const items = [...item.parentElement.children];
  const name = item.querySelector(".what").textContent;
  document.getElementById("moved").textContent =
    `${name} is now number ${items.indexOf(item) + 1} of ${items.length}.`;
}

function move(button) {
  const item = button.closest("li");
  const up = button.dataset.move === "-1";
  const other = up ? item.previousElementSibling : item.nextElementSibling;
  if (!other) return;
  if (up) other.before(item);
  else other.after(item);
  say(item);
  // The button of an end is not shown: the other one takes its place.
  const stays = up ? item.previousElementSibling : item.nextElementSibling;
  (stays ? button : item.querySelector(`[data-move="${up ? 1 : -1}"]`)).focus();
}

let dragged = null;

export function orderClasses() {
  // On the document: the list appears when the folder was read.
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".order [data-move]");
    if (button) move(button);
  });
  document.addEventListener("pointerdown", (event) => {
    const item = event.target.closest(".order li");
    if (item && !event.target.closest("button")) {
      item.draggable = true;
      dragged = item;
    }
  });
  document.addEventListener("dragstart", () => dragged?.classList.add("dragged"));
  document.addEventListener("dragover", (event) => {
    const over = event.target.closest?.(".order li");
    if (!dragged || !over) return;
    event.preventDefault();
    if (over === dragged) return;
    const box = over.getBoundingClientRect();
    if (event.clientY < box.top + box.height / 2) over.before(dragged);
    else over.after(dragged);
  });
  document.addEventListener("dragend", () => {
    if (!dragged) return;
    dragged.classList.remove("dragged");
    say(dragged);
    dragged = null;
  });
}
