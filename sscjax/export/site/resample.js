// Pillow's Lanczos, to the bit: what the network was trained on was reduced by it.

// Of Pillow's src/libImaging/Resample.c: weights are multiples of 2^-22.
const PRECISION_BITS = 32 - 8 - 2;
const LOBES = 3;

// Rows that are held at a time, so that a large photo is never held twice.
const STRIP = 256;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

const lanczos = (x) => (-LOBES <= x && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0);

const triangle = (x) => Math.max(0, 1 - Math.abs(x));

/**
 * Weights of the input's pixels for each of `out` pixels on one axis.
 *
 * @param {number} length of the input in pixels.
 * @param {number} start where the part begins that is reduced.
 * @param {number} side length of that part; pixels beyond it count at its edges.
 * @param {number} out pixels of the output.
 * @param {(x: number) => number} filter even, 0 beyond `support`.
 * @param {number} support half of the filter's width, in pixels of the coarser side.
 * @returns {{first: number, weights: number[]}[]} sums of weights are 1.
 */
function taps(length, start, side, out, filter, support) {
  const scale = side / out;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: out }, (_, k) => {
    const centre = start + (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const end = Math.min(length, Math.trunc(centre + support * stretch + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(filter((x - centre + 0.5) / stretch));
    const sum = weights.reduce((one, other) => one + other, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function fixedPoint(taps) {
  const unit = 2 ** PRECISION_BITS;
  return taps.map(({ first, weights }) => ({
    first,
    // Half away from zero, as a cast after adding 0.5 does it.
    weights: Int32Array.from(weights, (weight) => Math.trunc(weight * unit + 0.5 * Math.sign(weight))),
  }));
}

/**
 * The central square of an image at `size` pixels.
 *
 * @param {(top: number, rows: number, left: number, columns: number) => Uint8ClampedArray} read
 *   gives a part of the image as RGBA, row by row.
 * @param {number} width of the image in pixels.
 * @param {number} height of the image in pixels.
 * @param {number} size side of the result in pixels.
 * @returns {Uint8Array} [size, size, 3] RGB.
 */
export function square(read, width, height, size) {
  const side = Math.min(width, height);
  const [left, top] = [Math.floor((width - side) / 2), Math.floor((height - side) / 2)];
  const across = fixedPoint(taps(width, left, side, size, lanczos, LOBES));
  const down = fixedPoint(taps(height, top, side, size, lanczos, LOBES));
  const [firstColumn, firstRow] = [across[0].first, down[0].first];
  const end = (taps) => taps.at(-1).first + taps.at(-1).weights.length;
  const [columns, rows] = [end(across) - firstColumn, end(down) - firstRow];

  // Of the two orders, that of Pillow 13; earlier ones always took the rows first. They differ by
  // the rounding in between.
  const tall = height > size && height - size > 2 * (width - size);
  const half = new Uint8ClampedArray((tall ? columns : rows) * size * 3);
  const result = new Uint8ClampedArray(size * size * 3);
  for (let done = 0; done < (tall ? columns : rows); done += STRIP) {
    if (tall) {
      const count = Math.min(STRIP, columns - done);
      const strip = read(firstRow, rows, firstColumn + done, count);
      down.forEach(({ first, weights }, k) => {
        for (let column = 0; column < count; column++) {
          const start = 4 * ((first - firstRow) * count + column);
          mix(weights, strip, start, 4 * count, half, 3 * (k * columns + done + column));
        }
      });
    } else {
      const count = Math.min(STRIP, rows - done);
      const strip = read(firstRow + done, count, firstColumn, columns);
      for (let row = 0; row < count; row++) {
        across.forEach(({ first, weights }, k) => {
          const start = 4 * (row * columns + first - firstColumn);
          mix(weights, strip, start, 4, half, 3 * ((done + row) * size + k));
        });
      }
    }
  }
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const target = 3 * (row * size + column);
      if (tall) {
        const { first, weights } = across[column];
        mix(weights, half, 3 * (row * columns + first - firstColumn), 3, result, target);
      } else {
        const { first, weights } = down[row];
        mix(weights, half, 3 * ((first - firstRow) * size + column), 3 * size, result, target);
      }
    }
  }
  return new Uint8Array(result.buffer);
}

/** Write one pixel: the weighted sum of pixels that lie `between` values apart. */
function mix(weights, from, start, between, to, target) {
  let [red, green, blue] = [0, 0, 0];
  for (let j = 0, at = start; j < weights.length; j++, at += between) {
    red += weights[j] * from[at];
    green += weights[j] * from[at + 1];
    blue += weights[j] * from[at + 2];
  }
  to[target] = rounded(red);
  to[target + 1] = rounded(green);
  to[target + 2] = rounded(blue);
}

// A clamped array clips to 0..255.
const rounded = (sum) => Math.floor((sum + 2 ** (PRECISION_BITS - 1)) / 2 ** PRECISION_BITS);

/**
 * A map enlarged linearly between its own points, as Pillow's BILINEAR.
 *
 * @param {Float32Array} values [rows, columns].
 * @param {number} rows of the map.
 * @param {number} columns of the map.
 * @param {number} size side of the result.
 * @returns {Float32Array} [size, size].
 */
export function enlarge(values, rows, columns, size) {
  const across = taps(columns, 0, columns, size, triangle, 1);
  const down = taps(rows, 0, rows, size, triangle, 1);
  const wide = new Float32Array(rows * size);
  for (let row = 0; row < rows; row++) {
    across.forEach(({ first, weights }, k) => {
      wide[row * size + k] = weights.reduce((sum, w, j) => sum + w * values[row * columns + first + j], 0);
    });
  }
  const result = new Float32Array(size * size);
  down.forEach(({ first, weights }, k) => {
    for (let column = 0; column < size; column++) {
      result[k * size + column] = weights.reduce((sum, w, j) => sum + w * wide[(first + j) * size + column], 0);
    }
  });
  return result;
}
