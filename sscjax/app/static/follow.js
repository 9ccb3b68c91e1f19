// Long work: the page is asked for again, and its live parts are replaced where they changed.

const EVERY = 1000;

const shown = new Map();

function parts(root) {
  return [...root.querySelectorAll("[data-live]")];
}

function replace(doc) {
  for (const fresh of parts(doc)) {
    // Compared with what the server sent before: the reader may have changed what is shown.
    if (shown.get(fresh.id) === fresh.innerHTML) continue;
    shown.set(fresh.id, fresh.innerHTML);
    document.getElementById(fresh.id).innerHTML = fresh.innerHTML;
  }
}

function say(text) {
  const ended = document.getElementById("ended");
  if (ended.textContent !== text) ended.textContent = text;
  ended.classList.toggle("problem", text !== "");
}

async function ask() {
  if (!("poll" in document.body.dataset)) return;
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) {
      const locked = "Open the address that was printed last where the app was started.";
      say(answer.status === 403 ? locked : `The program answered ${answer.status}: reload this page.`);
      return;
    }
    const doc = new DOMParser().parseFromString(await answer.text(), "text/html");
    say("");
    if (doc.body.dataset.state !== document.body.dataset.state) {
      location.reload();
      return;
    }
    replace(doc);
    if (!("poll" in doc.body.dataset)) delete document.body.dataset.poll;
  } catch {
    say("The program has ended. Start it again: what was being trained can be resumed.");
  }
  setTimeout(ask, EVERY);
}

export function followWork() {
  for (const part of parts(document)) shown.set(part.id, part.innerHTML);
  setTimeout(ask, EVERY);
}
