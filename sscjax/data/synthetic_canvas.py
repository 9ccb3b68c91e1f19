"""What the synthetic tiles are drawn with: a tile's arrays, smooth noise, nuclei, blur and JPEG.

Lengths are in units of 1/128 of a tile's side, as in `synthetic`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy import ndarray
from numpy.random import Generator

_Pair = tuple[float, float]
SIDE = 128.0
_COSINES = np.cos(np.pi / 8 * np.arange(8)[:, None] * (np.arange(8)[None, :] + 0.5)) / 2
_COSINES[0] /= np.sqrt(2)
_WAVES = np.kron(_COSINES, _COSINES)  # [64,64], orthonormal: the transform of a block of 8x8
_LUMA_CHROMA = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
_QUANTISER = 10.0 + 7.0 * np.add.outer(np.arange(8), np.arange(8))  # coarse at high frequencies


@dataclasses.dataclass
class Tile:
    """A tile while it is drawn: [S,S] arrays over its pixels, float32 but for the regions."""

    x: ndarray  # from the centre to the right
    y: ndarray  # from the centre downwards
    along: ndarray  # along the skin's surface
    depth: ndarray  # below the skin's surface
    angle: float
    regions: ndarray  # uint8 index into TISSUES
    blue: ndarray  # haematoxylin
    pink: ndarray  # eosin

    def at(self, points: ndarray, field: ndarray) -> ndarray:
        """[K] values of an [S,S] field at [K,2] points (x, y), the nearest pixel's."""
        size = len(field)
        index = np.clip(((points / SIDE + 0.5) * size).astype(int), 0, size - 1)
        return field[index[:, 1], index[:, 0]]

    def around(self, centre: ndarray, reach: float) -> Tile:
        """A view of the pixels within `reach` of `centre` (x, y) along each axis."""
        size = len(self.x)
        first = np.clip((centre - reach) / SIDE + 0.5, 0, 1) * size
        last = np.clip((centre + reach) / SIDE + 0.5, 0, 1) * size
        columns, rows = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        arrays = (self.x, self.y, self.along, self.depth, self.regions, self.blue, self.pink)
        x, y, along, depth, regions, blue, pink = (array[rows, columns] for array in arrays)
        return Tile(x, y, along, depth, self.angle, regions, blue, pink)


def noise(rng: Generator, x: ndarray, y: ndarray) -> ndarray:
    """Smooth random field in 0..1 at places (x, y), above -100; it varies over lengths of 1."""
    lattice = rng.random(64 * 64, np.float32)
    x, y = x + rng.uniform(100, 164), y + rng.uniform(100, 164)  # positive: truncation is floor
    column, row = x.astype(np.int64), y.astype(np.int64)
    x, y = x - column.astype(np.float32), y - row.astype(np.float32)
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    left, upper = column & 63, (row & 63) << 6
    right, lower = (column + 1) & 63, (upper + 64) & 4095
    first, third = lattice.take(upper + left), lattice.take(lower + left)
    above = first + x * (lattice.take(upper + right) - first)
    below = third + x * (lattice.take(lower + right) - third)
    return above + y * (below - above)


def limit(value: float, low: float, high: float) -> float:
    """`value`, at least `low` and at most `high`."""
    return min(max(value, low), high)


def smooth_step(distance: ndarray, softness: float) -> ndarray:
    """0 where `distance` is below -softness, 1 above softness, smooth between."""
    t = np.minimum(np.maximum(distance * (0.5 / softness) + 0.5, 0), 1)
    return t * t * (3 - 2 * t)


def draw_nuclei(
    rng: Generator, tile: Tile, points: ndarray, angles: ndarray, axes: _Pair, amount: float
) -> None:
    """Nuclei: dark ellipses (of half `axes`, length and width) at [K,2] points, all at once."""
    size, unit = len(tile.x), SIDE / len(tile.x)
    reach = int(np.ceil(1.4 * axes[0] / unit)) + 1
    centre = ((points / SIDE + 0.5) * size).astype(int)
    steps = np.arange(-reach, reach + 1)
    rows = centre[:, 1, None, None] + steps[None, :, None]
    columns = centre[:, 0, None, None] + steps[None, None, :]
    x = (columns + 0.5) * unit - SIDE / 2 - points[:, 0, None, None]
    y = (rows + 0.5) * unit - SIDE / 2 - points[:, 1, None, None]
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    scale = np.exp(rng.normal(0, 0.13, (2, len(points), 1, 1)))
    long = (x * cosine + y * sine) / (axes[0] * scale[0])
    wide = (y * cosine - x * sine) / (axes[1] * scale[1])
    tone = amount * np.exp(rng.normal(0, 0.2, (len(points), 1, 1)))
    shape = tone * smooth_step(1 - np.sqrt(long**2 + wide**2), 0.35)
    seen = (shape > 0) & (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    where = (np.broadcast_to(rows, seen.shape)[seen], np.broadcast_to(columns, seen.shape)[seen])
    np.maximum.at(tile.blue, where, shape[seen].astype(np.float32))


def blur(image: ndarray, deviation: float) -> ndarray:
    """Gaussian blur of [S,S,3], edges repeated; `deviation` in pixels."""
    reach = int(np.ceil(2.5 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    size = len(image)
    for _ in range(2):  # down the columns, turned, down the columns, turned back
        wide = np.pad(image, ((reach, reach), (0, 0), (0, 0)), mode="edge")
        image = sum(w * wide[k : k + size] for k, w in enumerate(weights)).swapaxes(0, 1)
    return image


def jpeg(image: ndarray, step: float) -> ndarray:
    """What coarsely kept cosine blocks of 8x8 leave of an image [S,S,3] of 0..255, as uint8."""
    size = len(image)
    pad = -size % 8
    wide = np.pad(np.clip(image, 0, 255), [(0, pad), (0, pad), (0, 0)], mode="edge") - 128.0
    count = len(wide) // 8
    blocks = wide.reshape(count, 8, count, 8, 3).transpose(4, 0, 2, 1, 3).reshape(3, -1)
    waves = (_LUMA_CHROMA @ blocks).reshape(-1, 64) @ _WAVES.T
    grid = step * np.outer([1.0, 1.5, 1.5], _QUANTISER.ravel())[:, None, :]
    waves = np.round(waves.reshape(3, -1, 64) / grid) * grid
    blocks = np.linalg.inv(_LUMA_CHROMA) @ (waves.reshape(-1, 64) @ _WAVES).reshape(3, -1)
    decoded = blocks.reshape(3, count, count, 8, 8).transpose(1, 3, 2, 4, 0).reshape(wide.shape)
    return np.clip(np.round(decoded[:size, :size] + 128.0), 0, 255).astype(np.uint8)
