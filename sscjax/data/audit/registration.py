"""Laying one image over another that is rotated, scaled, shifted and mirrored against it.

What the keypoints of a pair propose is improved by Gauss-Newton steps on the pixels (Lucas and
Kanade 1981) over the similarity transforms, with brightness and contrast among the unknowns, and
judged by the details of the area that both images show, part by part.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sscjax.data.audit.keypoints import blur_matrix
from sscjax.data.audit.matching import Matches

_STEPS = 4
# The grid is an image reduced by this factor. The other is reduced alike, or not at all where it
# appears smaller than this: reducing it would lose what the grid shows.
_REDUCED = 2
_FINER_BELOW = 0.7
# The pass band of the details, in pixels of a grid of 64, as in `thumbnails`.
_FINE, _COARSE = 0.8, 4.0
# Parts of the area along an image's side, and how many with structure must be judged.
_PARTS = 8
_FEWEST_PARTS = 4
_STRUCTURE = 2.5  # grey levels, as in `thumbnails`
# Of both images the greatest enlargement that is looked for, and the least common area.
_MOST_ENLARGED = 2.6
_LEAST_OVERLAP = 0.12


@dataclasses.dataclass(frozen=True)
class Registered:
    """P pairs laid one over the other.

    Attributes:
      likeness: [P] float64, 1 for a perfect copy, about 0 for images that only look alike, -1 where
        too little is common to judge.
      overlap: [P] float64, the share of the smaller image's area that both show.
      scale: [P] complex128; z_first = scale * z_second + shift, as in `Matches`.
      shift: [P] complex128.
    """

    likeness: np.ndarray
    overlap: np.ndarray
    scale: np.ndarray
    shift: np.ndarray


def register(grey: np.ndarray, pairs: Matches) -> Registered:
    """Lay the second image of each pair over the first, and judge.

    Args:
      grey: [N,S,S] uint8.
      pairs: P of them, with what the keypoints propose.
    """
    side = grey.shape[-1]
    scale, shift = pairs.scale.copy(), pairs.shift.copy()
    # The conjugate counts rows from -(S-1) to 0, a mirrored image from 0 to S-1.
    shift = np.where(pairs.mirrored, shift - scale * 1j * (side - 1), shift)
    # The image that is enlarged is the grid: the other is sampled at steps of a pixel at most.
    swapped = np.abs(scale) > 1
    scale = np.where(swapped, 1 / scale, scale)
    shift = np.where(swapped, -shift * scale, shift)
    likeness, overlap = np.full(len(scale), -1.0), np.zeros(len(scale))
    for finer in (False, True):
        part = np.flatnonzero((np.abs(scale) < _FINER_BELOW) == finer)
        if not len(part):
            continue
        under, over = _images(grey, pairs, part, swapped[part])
        factor = 1 if finer else _REDUCED
        placed = _placed(under, over, factor, scale[part], shift[part])
        likeness[part], overlap[part], scale[part], shift[part] = placed
    enlarged = 1 / np.maximum(np.abs(scale), 1e-6)
    sensible = (enlarged <= _MOST_ENLARGED) & (enlarged >= 0.8) & (overlap >= _LEAST_OVERLAP)
    inverse = 1 / np.where(scale == 0, 1, scale)
    scale, shift = np.where(swapped, inverse, scale), np.where(swapped, -shift * inverse, shift)
    shift = np.where(pairs.mirrored, shift + scale * 1j * (side - 1), shift)
    return Registered(np.where(sensible, likeness, -1.0), overlap, scale, shift)


def _images(
    grey: np.ndarray, pairs: Matches, part: np.ndarray, swapped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[P,S,S] float32: the images that are sampled, and those that are the grid."""
    under = grey[pairs.first[part]].astype(np.float32)
    over = grey[pairs.second[part]].astype(np.float32)
    mirrored = pairs.mirrored[part]
    over[mirrored] = over[mirrored, ::-1]
    under[swapped], over[swapped] = over[swapped], under[swapped].copy()
    return under, over


def _placed(
    under: np.ndarray, over: np.ndarray, factor: int, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Likeness, overlap, scale and shift of `over`, reduced, laid over `under` / `factor`."""
    under, over = _reduced(under, factor), _reduced(over, _REDUCED)
    # Centres of pixels: z = factor * z_reduced + (factor - 1) / 2 * (1 + i).
    own, grid = ((size - 1) / 2 * (1 + 1j) for size in (factor, _REDUCED))
    scale, shift = scale * _REDUCED / factor, (scale * grid + shift - own) / factor
    for _ in range(_STEPS):
        scale, shift = _improved(under, over, scale, shift)
    likeness, overlap = _likeness(under, over, scale, shift)
    scale = scale * factor / _REDUCED
    return likeness, overlap, scale, shift * factor + own - scale * grid


def _reduced(images: np.ndarray, factor: int) -> np.ndarray:
    count, side = images.shape[:2]
    cells = side // factor
    return images.reshape(count, cells, factor, cells, factor).mean((2, 4))


def _warped(
    images: np.ndarray, scale: np.ndarray, shift: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images [P,S,S] at scale * z + shift for the pixels z of a grid [P,side,side], and a mask."""
    count, size = images.shape[:2]
    axis = np.arange(side, dtype=np.float32)
    real, imaginary = (part.astype(np.float32)[:, None, None] for part in (scale.real, scale.imag))
    column = real * axis - imaginary * axis[:, None] + shift.real.astype(np.float32)[:, None, None]
    row = imaginary * axis + real * axis[:, None] + shift.imag.astype(np.float32)[:, None, None]
    mask = (row >= -0.25) & (row <= size - 0.75) & (column >= -0.25) & (column <= size - 0.75)
    np.clip(row, 0, size - 1, out=row)
    np.clip(column, 0, size - 1, out=column)
    top = np.minimum(row.astype(np.int32), size - 2)
    left = np.minimum(column.astype(np.int32), size - 2)
    base = top * size + left + (np.arange(count, dtype=np.int32) * size * size)[:, None, None]
    flat = np.ascontiguousarray(images).reshape(-1)
    down, along = row - top, column - left
    upper = flat[base]
    upper += (flat[base + 1] - upper) * along
    base += size
    lower = flat[base]
    lower += (flat[base + 1] - lower) * along
    upper += (lower - upper) * down
    return upper, mask


def _improved(
    under: np.ndarray, over: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One Gauss-Newton step of scale and shift, [P] complex128 each."""
    count, side = over.shape[:2]
    image, mask = _warped(under, scale, shift, side)
    down, along = np.gradient(image, axis=1), np.gradient(image, axis=2)
    centre = (side - 1) / 2
    axis = ((np.arange(side) - centre) / side).astype(np.float32)
    # image(z + d) with d = (a + ib) * (z - centre) / side + c + ie, in pixels of the grid.
    parts = [
        along * axis + down * axis[:, None],
        down * axis - along * axis[:, None],
        along,
        down,
        image,
        np.ones_like(image),
    ]
    system = np.stack([(part * mask).reshape(count, side * side) for part in parts], axis=1)
    goal = (over * mask).reshape(count, side * side, 1)
    normal = (system @ system.swapaxes(1, 2)).astype(np.float64)
    trace = np.einsum("pii->pi", normal)
    normal[:, np.arange(6), np.arange(6)] += 1e-4 * trace + 1e-3
    solved = np.linalg.solve(normal, (system @ goal).astype(np.float64))[:, :, 0]
    gain = np.maximum(np.abs(solved[:, 4]), 0.3)[:, None]
    step = np.clip(solved[:, :4] / gain, -1.5, 1.5)
    turn = (step[:, 0] + 1j * step[:, 1]) / side
    moved = step[:, 2] + 1j * step[:, 3]
    # over(z) = under(scale * (z + d) + shift)
    shift = shift + scale * (moved - turn * centre * (1 + 1j))
    return scale * (1 + turn), shift


def _likeness(
    under: np.ndarray, over: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lower quartile of the parts' correlations of details, and the common share."""
    side = over.shape[1]
    image, mask = _warped(under, scale, shift, side)
    weight = mask.astype(np.float32)
    one, other = _details(image, weight), _details(over, weight)
    pixels = _sums(weight)
    divisor = np.maximum(pixels, 1)

    def moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _sums(a * b * weight) / divisor - _sums(a * weight) * _sums(b * weight) / divisor**2

    variances = moment(one, one), moment(other, other)
    correlation = moment(one, other) / np.sqrt(np.maximum(variances[0] * variances[1], 1e-12))
    judged = np.maximum(*variances) >= _STRUCTURE**2
    judged &= pixels >= (side // _PARTS) ** 2 / 2
    enough = judged.sum(1) >= _FEWEST_PARTS
    values = np.where(judged, correlation, np.nan)
    values[~enough] = -1.0
    return np.nanquantile(values, 0.25, axis=1), weight.mean((1, 2))


def _details(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What is neither too fine nor too coarse, from the weighted area alone."""
    spread = images.shape[-1] / 64
    parts = []
    for sigma in (_FINE * spread, _COARSE * spread):
        blur = blur_matrix(images.shape[-1], sigma)
        covered = blur @ weight @ blur.T
        parts.append(blur @ (images * weight) @ blur.T / np.maximum(covered, 1e-3))
    return parts[0] - parts[1]


def _sums(maps: np.ndarray) -> np.ndarray:
    """[P,S,S] to [P,parts]: the sums over the parts."""
    count, side = maps.shape[:2]
    cell = side // _PARTS
    return maps.reshape(count, _PARTS, cell, _PARTS, cell).sum((2, 4)).reshape(count, _PARTS**2)
