// Files that are chosen or dropped, with the folders that they come from.

const READ = /\.(jpe?g|png|bmp)$/i;

// What systems put into folders, as `sscjax.data` leaves it out without a word.
const OF_SYSTEMS = /(^|\/)(\.|@eaDir\/|__MACOSX\/|#recycle\/|Thumbs\.db$|desktop\.ini$)/;

/**
 * @typedef {object} Given
 * @property {File} file
 * @property {string} path with the folders that are known, such as `patient_07/a.jpg`.
 * @property {boolean} inside whether a folder was given, not the file itself.
 */

/** @returns {Given[]} of an input; of one that takes folders with their paths, in their order. */
export function ofInput(list) {
  const given = Array.from(list, (file) => ({
    file,
    path: file.webkitRelativePath || file.name,
    inside: Boolean(file.webkitRelativePath),
  }));
  // Browsers list a folder in the order of the disk.
  return given.every((one) => one.inside) ? given.sort(byPath) : given;
}

const byPath = (one, other) => (one.path < other.path ? -1 : 1);

/**
 * Of a drop, with all files in folders that are dropped, in the order of their names.
 *
 * @param {DataTransfer} transfer
 * @returns {Promise<Given[]>}
 */
export async function ofDrop(transfer) {
  // All entries at once: after the first pause the browser forgets them.
  const items = Array.from(transfer.items).filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const lists = await Promise.all(entries.filter(Boolean).map((entry) => inEntry(entry, "")));
  return lists.flat();
}

async function inEntry(entry, above) {
  if (entry instanceof File) return [{ file: entry, path: entry.name, inside: false }];
  const path = above + entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path, inside: above !== "" }];
  }
  const entries = await inFolder(entry.createReader());
  entries.sort((one, other) => (one.name < other.name ? -1 : 1));
  const lists = await Promise.all(entries.map((part) => inEntry(part, `${path}/`)));
  return lists.flat();
}

async function inFolder(reader) {
  const entries = [];
  for (;;) {
    // At most 100 at a time, and none at the end.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return entries;
    entries.push(...part);
  }
}

/**
 * Leave out what a folder holds beside images, and what was given before.
 *
 * @param {Given[]} given
 * @param {Set<string>} known what earlier calls gave; is added to.
 * @returns {{images: Given[], others: string[], again: string[]}} paths of what is left out.
 */
export function sorted(given, known) {
  const images = [];
  const others = [];
  const again = [];
  for (const one of given) {
    if (one.inside && OF_SYSTEMS.test(one.path)) continue;
    const identity = [one.path, one.file.size, one.file.lastModified].join("|");
    // A file that was named itself is tried, whatever it is called.
    if (one.inside && !READ.test(one.path)) others.push(one.path);
    else if (known.has(identity)) again.push(one.path);
    else {
      known.add(identity);
      images.push(one);
    }
  }
  return { images, others, again };
}
