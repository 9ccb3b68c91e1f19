// Images and maps on canvases; maps look as sscjax.reports.overlays draws them.

import { enlarge } from "./resample.js";

/** Draw [size, size, 3] RGB. */
export function image(canvas, pixels, size) {
  paint(canvas, size, (data, k) => {
    for (let c = 0; c < 3; c++) data[4 * k + c] = pixels[3 * k + c];
  });
}

/**
 * Draw a map over an image in grey: the higher, the more colour.
 *
 * @param {HTMLCanvasElement} canvas to be drawn on.
 * @param {Uint8Array} pixels [size, size, 3] RGB.
 * @param {number} size side in pixels.
 * @param {{values: Float32Array, rows: number, columns: number}} map of any height; what is
 *   negative counts as 0.
 * @param {{colours: number[][], cover: number}} style colours from nothing to the highest, and how
 *   much of the image they cover there.
 */
export function overlay(canvas, pixels, size, map, style) {
  const positive = map.values.map((value) => Math.max(value, 0));
  const highest = Math.max(...positive, Number.MIN_VALUE);
  const shares = enlarge(positive.map((value) => value / highest), map.rows, map.columns, size);
  const last = style.colours.length - 1;
  paint(canvas, size, (data, k) => {
    const share = Math.min(Math.max(shares[k], 0), 1);
    const colour = style.colours[Math.min(Math.floor(share * (last + 1)), last)];
    const grey = luma(pixels[3 * k], pixels[3 * k + 1], pixels[3 * k + 2]);
    for (let c = 0; c < 3; c++) data[4 * k + c] = mixed(colour[c], share, grey, style.cover);
  });
}

/** Draw the colours side by side, as they look on tissue of medium grey. */
export function scale(canvas, style) {
  canvas.width = style.colours.length;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  const row = context.createImageData(canvas.width, 1);
  style.colours.forEach((colour, k) => {
    const share = k / (style.colours.length - 1);
    row.data.set([...colour.map((value) => mixed(value, share, 160, style.cover)), 255], 4 * k);
  });
  context.putImageData(row, 0, 0);
}

const mixed = (value, share, grey, cover) =>
  Math.round((1 - cover * share) * grey + cover * share * value);

// ITU-R 601-2, as Pillow.
const luma = (red, green, blue) => Math.round((299 * red + 587 * green + 114 * blue) / 1000);

/** `write(data, k)` writes pixel k of RGBA data. */
function paint(canvas, size, write) {
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(size, size);
  for (let k = 0; k < size * size; k++) {
    write(pixels.data, k);
    pixels.data[4 * k + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}
