// Which images are of one patient, as far as folders or names say so.

export const FOLDER = "folder";
export const NAME = "name";
export const ALL = "all";
export const NONE = "none";

// Folders of these names stand between a class and its patients, or above both.
const SPLITS = ["train", "training", "val", "valid", "validation", "test", "testing"];

/**
 * By folders as `sscjax predict` does: the folder with the images; where one level has the names of
 * the classes, the folder below it. Null where there is none.
 */
function byFolder(path, classes) {
  const [root, ...rest] = path.split("/").slice(0, -1);
  if (root === undefined) return null;
  const isClass = (part) => classes.some((name) => name.toLowerCase() === part.toLowerCase());
  const level = rest.findIndex(isClass);
  const inner =
    level < 0
      ? rest.join("/")
      : (rest.slice(0, level).filter((part) => !SPLITS.includes(part.toLowerCase()))[0] ?? rest[level + 1] ?? "");
  // A patient may stand in the folders of two classes.
  if (isClass(root)) return inner || null;
  if (level >= 0) return inner ? `${root}/${inner}` : null;
  return inner ? `${root}/${inner}` : root;
}

/** The part of a file's name before the first `_` or `-`; null where there is none. */
function byName(path) {
  return /^([^_-]+)[_-]/.exec(path.split("/").at(-1))?.[1] ?? null;
}

const BY = {
  [FOLDER]: byFolder,
  [NAME]: byName,
  [ALL]: () => "all images",
  [NONE]: () => null,
};

/**
 * The way that tells patients apart: folders, where any image comes from one; else the start of
 * the names, where all have one and there are several, fewer than images; else none.
 *
 * @param {string[]} paths of all images.
 */
export function likely(paths) {
  if (paths.some((path) => path.includes("/"))) return FOLDER;
  const starts = new Set(paths.map(byName));
  return !starts.has(null) && starts.size > 1 && starts.size < paths.length ? NAME : NONE;
}

/**
 * The patient of each image; null where nothing says so: such an image stands alone.
 *
 * @param {string[]} paths with their folders.
 * @param {string} way one of the names above.
 * @param {string[]} classes their names.
 */
export function patients(paths, way, classes) {
  const found = paths.map((path) => BY[way](path, classes));
  if (way !== FOLDER) return found;
  // Without the folder that was given, if no two patients have the same name then.
  const full = [...new Set(found.filter((name) => name !== null))];
  const short = (name) => name.slice(name.indexOf("/") + 1);
  if (new Set(full.map(short)).size < full.length) return found;
  return found.map((name) => name && short(name));
}

/** How images were grouped, in a sentence or two. */
export function said(way, count, alone) {
  const found = `${count} ${count === 1 ? "patient" : "patients"}`;
  const rest = alone ? ` ${alone} ${alone === 1 ? "image stands" : "images stand"} alone.` : "";
  return {
    [FOLDER]: `By folder: each folder with images is one patient. ${found}.${rest}`,
    [NAME]: `By name: what stands before the first _ or - is taken for the patient. ${found}. Check that it is.`,
    [ALL]: "All images are taken for one patient's.",
    [NONE]: "Nothing says which images are of one patient: each stands alone. If they are all of one, say so here.",
  }[way];
}
