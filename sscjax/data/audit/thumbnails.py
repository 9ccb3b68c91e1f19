"""Small grey versions of images, and what they say about likeness.

Copies of an image are looked for among all pairs, so an image is first reduced to what a comparison
needs: a grey thumbnail for laying one image over another (`alignment`), and a few low frequencies
of it for choosing the pairs that are worth that (`duplicates`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import fft, ndimage

from sscjax.data.lazy import Rows

SIDE = 64
"""Pixels of a thumbnail's side; of smaller images their own side is taken (`side_of`)."""

BLOCKS = 4
"""A thumbnail is compared in BLOCKS x BLOCKS parts."""

ORIENTATIONS = 8
"""Four quarter turns, each also mirrored."""

# Grey levels of 0..255. JPEG at quality 60 leaves about 1 in even areas, tissue has 5 to 30.
_STRUCTURE = 2.5
# Parts with structure that an image must have to be recognised.
_FEWEST_BLOCKS = 3

# The pass band of `details`, in pixels of a thumbnail of 64: finer is lost by JPEG and by
# enlarging, coarser is alike in many images (light from one side, a half-empty tile).
_FINE, _COARSE = 0.8, 4.0

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_CHUNK = 256


def chunks(count: int, size: int = _CHUNK) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..count."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def grey_thumbnails(
    images: Rows, on_chunk: Callable[[np.ndarray], None], sides: Sequence[int] = (SIDE,)
) -> list[np.ndarray]:
    """Grey thumbnails by averaging areas.

    Args:
      images: [N,H,W,3] uint8, read once, in parts; H and W at least `sides`.
      on_chunk: is given each part as it was read, so that others need not read it again.
      sides: pixels of the thumbnails' sides.

    Returns:
      for each of the sides S, [N,S,S] uint8.
    """
    height, width = images.shape[1:3]
    thumbnails = [np.empty((len(images), side, side), np.uint8) for side in sides]
    for part in chunks(len(images)):
        pixels = images[part]
        on_chunk(pixels)
        grey = pixels.reshape(-1, 3).astype(np.float32) @ _LUMA
        grey = grey.reshape(pixels.shape[:3])
        for side, target in zip(sides, thumbnails, strict=True):
            rows, columns = _area_matrix(height, side, 0, 1), _area_matrix(width, side, 0, 1)
            target[part] = np.rint(rows @ grey @ columns.T)
    return thumbnails


def side_of(images: Rows, most: int, multiple: int) -> int:
    """The side of a thumbnail: `most`, or of smaller images the multiple below their side."""
    return min(most, *(size // multiple * multiple for size in images.shape[1:3]))


def details(thumbnails: np.ndarray) -> np.ndarray:
    """[N,S,S] of any type to float32: what is neither too fine nor too coarse to compare."""
    scale = thumbnails.shape[-1] / SIDE
    grey = thumbnails.astype(np.float32)
    fine = ndimage.gaussian_filter(grey, (0, _FINE * scale, _FINE * scale), mode="nearest")
    coarse = ndimage.gaussian_filter(grey, (0, _COARSE * scale, _COARSE * scale), mode="nearest")
    return fine - coarse


def block_sums(maps: np.ndarray) -> np.ndarray:
    """[N,S,S] to [N,BLOCKS*BLOCKS]: the sums over the parts."""
    count, side = maps.shape[:2]
    cell = side // BLOCKS
    return maps.reshape(count, BLOCKS, cell, BLOCKS, cell).sum((2, 4)).reshape(count, BLOCKS**2)


def structured_blocks(detail: np.ndarray) -> np.ndarray:
    """[N,S,S] of `details` to [N,BLOCKS*BLOCKS] bool: parts in which there is something to see."""
    pixels = (detail.shape[-1] // BLOCKS) ** 2
    mean = block_sums(detail) / pixels
    variance = block_sums(np.square(detail)) / pixels - np.square(mean)
    return variance >= _STRUCTURE**2


def recognisable(thumbnails: np.ndarray) -> np.ndarray:
    """Which images have enough content to be distinguished: [N] bool.

    Blank and nearly blank tiles (background, one even stain) are alike without being copies.
    """
    found = np.empty(len(thumbnails), bool)
    for part in chunks(len(thumbnails)):
        blocks = structured_blocks(details(thumbnails[part]))
        found[part] = blocks.sum(1) >= _FEWEST_BLOCKS
    return found


def orient(thumbnails: np.ndarray, orientation: int) -> np.ndarray:
    """[N,S,S] mirrored (`orientation` odd), then turned by `orientation // 2` quarter turns."""
    mirrored = thumbnails[:, :, ::-1] if orientation % 2 else thumbnails
    return np.rot90(mirrored, orientation // 2, axes=(1, 2))


def signatures(
    thumbnails: np.ndarray, share: float, places: int, cells: int, power: float
) -> np.ndarray:
    """The low frequencies of square windows of each image.

    Args:
      thumbnails: [N,S,S] of any type, S at least `cells`.
      share: a window's side as a share of the image's.
      places: windows along each axis, from one edge to the other; 1: at the first edge.
      cells: a window is averaged to this many cells along each axis.
      power: of the frequency by which each weighs; 0 lets the low ones decide, in which all images
        are strong and alike.

    Returns:
      [N,places*places,K] float32 of length 1 (0 for an even window), so that the product of two is
      their correlation; the windows by rows.
    """
    axis = _windows(thumbnails.shape[-1], share, places, cells)
    grid = axis @ thumbnails.astype(np.float32) @ axis.T
    grid = grid.reshape(-1, places, cells, places, cells).swapaxes(2, 3)
    found = grid.reshape(len(thumbnails), places * places, cells * cells) @ _waves(cells, power)
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-6)


@functools.cache
def _windows(side: int, share: float, places: int, cells: int) -> np.ndarray:
    """[places*cells,side]: the averages of all windows along one axis."""
    starts = np.linspace(0, 1 - share, places)
    return np.concatenate([_area_matrix(side, cells, start, share) for start in starts])


@functools.cache
def _waves(cells: int, power: float) -> np.ndarray:
    """[cells*cells,K]: weighted two-dimensional cosines below the diagonal, without the mean."""
    waves = fft.dct(np.eye(cells), axis=0, norm="ortho")
    pairs = [(u, v) for u in range(cells) for v in range(cells) if 0 < u + v < cells]
    columns = [np.hypot(u, v) ** power * np.outer(waves[u], waves[v]).ravel() for u, v in pairs]
    return np.stack(columns, axis=1).astype(np.float32)


def _area_matrix(size: int, cells: int, start: float, share: float) -> np.ndarray:
    """[cells,size] float32: averages over equal parts of the window [start, start+share]."""
    edges = (start + share * np.arange(cells + 1) / cells) * size
    pixels = np.arange(size)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    covered = np.maximum(high - low, 0)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)
