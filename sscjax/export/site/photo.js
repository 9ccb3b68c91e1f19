// An image file as the network sees images, prepared as sscjax.data.image_io prepares them.

import { square } from "./resample.js";

// As in sscjax.data.image_io.
const MIN_SIDE = 8;
const MAX_PIXELS = 178956970;

// Enough for the size of a png or bmp, and for a segment's head of a jpg.
const HEAD_BYTES = 32;

/** A file that cannot be used; the message says why. */
export class Unreadable extends Error {}

/**
 * Decode, crop and reduce: upright, transparency on white, colour profiles ignored.
 *
 * @param {Blob} file jpg, png or bmp.
 * @param {number} size side of the result in pixels.
 * @returns {Promise<Uint8Array>} [size, size, 3] RGB.
 * @throws {Unreadable} it is no such file, damaged, too small or too large.
 */
export async function read(file, size) {
  await check(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Unreadable("the image is truncated or damaged");
  }
  try {
    const { width, height } = bitmap;
    return square((...part) => pixels(bitmap, ...part), width, height, size);
  } finally {
    bitmap.close();
  }
}

function pixels(bitmap, top, rows, left, columns) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, columns, rows);
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, columns, rows).data;
}

/** Look at the header before a decoder does: it could claim more pixels than memory holds. */
async function check(file) {
  if (!file.size) throw new Unreadable("the file is empty");
  const [width, height] = await dimensions(file);
  if (Math.min(width, height) < MIN_SIDE) {
    throw new Unreadable(`${width}x${height} pixels, expected at least ${MIN_SIDE}x${MIN_SIDE}`);
  }
  if (width * height > MAX_PIXELS) {
    throw new Unreadable(`${width}x${height} pixels, more than ${MAX_PIXELS}: cut it into tiles`);
  }
}

const part = async (file, at) => new DataView(await file.slice(at, at + HEAD_BYTES).arrayBuffer());

async function dimensions(file) {
  const head = await part(file, 0);
  const start = head.byteLength >= 26 ? head.getUint32(0) : 0;
  if (start === 0x89504e47) return [head.getUint32(16), head.getUint32(20)];
  if (start >>> 16 === 0x424d) return [head.getInt32(18, true), Math.abs(head.getInt32(22, true))];
  if (start >>> 8 === 0xffd8ff) return ofJpeg(file);
  throw new Unreadable("not a jpg, png or bmp by its content: convert it");
}

/**
 * Width and height are in the first 'start of frame' (ITU-T T.81, B.2.2), which may come late:
 * phones write previews and depth maps before it.
 */
async function ofJpeg(file) {
  for (let at = 2; at + 9 < file.size; ) {
    const head = await part(file, at);
    const marker = head.getUint16(0);
    const frame = marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker);
    if (frame) return [head.getUint16(7), head.getUint16(5)];
    if (marker >>> 8 !== 0xff) break;
    // Fill bytes may precede a marker.
    at += marker === 0xffff ? 1 : 2 + head.getUint16(2);
  }
  throw new Unreadable("the image's header is truncated or damaged");
}
