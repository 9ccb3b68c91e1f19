// Images of new patients: chosen or dropped, copied one by one, then predicted.

const IMAGE = /\.(jpe?g|png|tiff?|bmp|gif|webp|ppm|pgm|pnm|dcm|heic|heif|jp2)$/i;

let chosen = [];  // of { file, path }

const part = (id) => document.getElementById(id);

function add(files) {
  const known = new Set(chosen.map((one) => one.path));
  // Hidden files are the system's own.
  const good = files.filter((one) => IMAGE.test(one.path) && !/(^|\/)\./.test(one.path));
  for (const one of good) if (!known.has(one.path)) chosen.push(one);
  show(files.length - good.length);
}

// The files of one folder: its name goes from their paths where folders of patients are in it.
function below(files) {
  const deep = files.every((one) => one.path.split("/").length > 2);
  return deep ? files.map((one) => ({ ...one, path: one.path.replace(/^[^/]*\//, "") })) : files;
}

function isLoose(one) {
  return !one.path.includes("/");
}

function target(one) {
  if (!isLoose(one)) return one.path;
  const each = document.querySelector("[name=loose]:checked").value === "each";
  const patient = each ? one.path.replace(/\.[^.]*$/, "") : part("patient").value.trim() || "patient";
  return `${patient.replace(/[\\/]/g, "_")}/${one.path}`;
}

function show(skipped = 0) {
  const folders = new Set(chosen.filter((one) => !isLoose(one)).map((one) => one.path.replace(/\/[^/]*$/, "")));
  const loose = chosen.filter(isLoose).length;
  const counts = [
    folders.size ? `${chosen.length - loose} images in ${folders.size} ${folders.size === 1 ? "folder" : "folders"}` : "",
    loose ? `${loose} ${loose === 1 ? "image" : "images"} without a folder` : "",
    skipped ? `${skipped} other ${skipped === 1 ? "file" : "files"} left out` : "",
  ].filter(Boolean);
  part("chosen").textContent = counts.length ? `${counts.join(", ")}.` : "Nothing chosen yet.";
  part("loose").hidden = !loose;
  part("predict").disabled = part("clear").disabled = !chosen.length;
}

async function* within(entry, path) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    yield { file, path };
    return;
  }
  const reader = entry.createReader();
  // A call gives a hundred at most.
  for (;;) {
    const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!entries.length) return;
    for (const inner of entries) yield* within(inner, `${path}/${inner.name}`);
  }
}

async function dropped(items) {
  // At once: the list is empty after the first wait.
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [];
  for (const entry of entries) {
    const inner = [];
    for await (const one of within(entry, entry.name)) inner.push(one);
    files.push(...below(inner));
  }
  add(files);
}

async function answered(request) {
  const answer = await request;
  if (answer.ok) return answer;
  const text = await answer.json().then((body) => body.error, () => "");
  throw new Error(text || "The program refused it.");
}

async function send(form) {
  const base = form.dataset.address;
  const headers = { Accept: "application/json" };
  const { batch } = await (await answered(fetch(`${base}/uploads`, { method: "POST", headers }))).json();
  const bar = part("sent");
  bar.hidden = false;
  bar.max = chosen.length;
  for (const [index, one] of chosen.entries()) {
    const name = encodeURIComponent(target(one));
    await answered(fetch(`${base}/uploads/${batch}?name=${name}`, { method: "PUT", headers, body: one.file }));
    bar.value = index + 1;
  }
  await answered(fetch(`${base}/predict`, { method: "POST", headers, body: new URLSearchParams({ batch }) }));
  location.reload();
}

export function sendImages() {
  const form = part("upload");
  if (!form) return;
  part("images").addEventListener("change", (event) => {
    add([...event.target.files].map((file) => ({ file, path: file.name })));
    event.target.value = "";
  });
  part("folder").addEventListener("change", (event) => {
    add(below([...event.target.files].map((file) => ({ file, path: file.webkitRelativePath }))));
    event.target.value = "";
  });
  const drop = part("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      // Beside the field, too: a browser would leave the page for the image.
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") dropped(event.dataTransfer.items);
    });
  }
  part("clear").addEventListener("click", () => {
    chosen = [];
    show();
    part("folder").focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    part("predict").disabled = true;
    part("chosen").textContent = "Copying ...";
    try {
      await send(form);
    } catch (error) {
      part("chosen").textContent = `That did not work: ${error.message}`;
      part("predict").disabled = false;
    }
  });
}
