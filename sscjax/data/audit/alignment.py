"""Laying one thumbnail over another, and how well they then agree.

The method is that of Lucas and Kanade (1981) for a scale and a shift along each axis, by least
squares with the brightness and contrast among the unknowns, from coarse to fine. The agreement is
measured on details, part by part, and three parts in four must have it: a true copy agrees all
over, two tiles that share a straight edge of background only along that edge, and two bundles of
parallel fibres only where their stripes happen to meet.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sscjax.data.audit.thumbnails import BLOCKS, block_sums, details, orient, structured_blocks

# Iterations on thumbnails reduced by these factors; after each, some pairs are given up.
_LEVELS = ((2, 4), (1, 2))
# Correlation of the grey thumbnails below which a pair is given up on the way.
_GIVE_UP = 0.5
# Least share of the other image that must lie within the first.
_LEAST_OVERLAP = 0.5
# Pixels of the reduced thumbnails.
_LONGEST_STEP = 1.0
_LEAST_SHARE, _MOST_SHARE = 0.5, 1.6
# Parts with structure in both that must lie one over the other.
_FEWEST_BLOCKS = 3


@dataclasses.dataclass(frozen=True)
class Placement:
    """How P images lie within P others, in shares of the side of those.

    Attributes:
      top, left: [P] float64, where they begin.
      height, width: [P] float64, how far they reach.
    """

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray

    @property
    def overlap(self) -> np.ndarray:
        """[P]: the share of the placed image that lies within the other."""
        rows = np.minimum(self.top + self.height, 1) - np.maximum(self.top, 0)
        columns = np.minimum(self.left + self.width, 1) - np.maximum(self.left, 0)
        inside = np.maximum(rows, 0) * np.maximum(columns, 0)
        return inside / (self.height * self.width)


def align(
    thumbnails: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    orientations: np.ndarray,
    start: np.ndarray,
) -> tuple[np.ndarray, Placement]:
    """Finds where each second image, turned as given, lies within its first.

    Args:
      thumbnails: [N,S,S] uint8.
      first: [P] int, the images that are laid under.
      second: [P] int, those that are laid over.
      orientations: [P] int, how the second is turned before (`thumbnails.orient`).
      start: [P,3], top, left and share of the window to begin with.

    Returns:
      [P] float64, the likeness: 1 for a perfect copy, about 0 for images that only look alike,
      -1 for pairs given up on the way; and the placements.
    """
    position = np.stack([start[:, 0], start[:, 2], start[:, 1], start[:, 2]], axis=1)
    likeness = np.full(len(first), -1.0)
    going = np.arange(len(first))
    for factor, steps in _LEVELS:
        if not len(going):
            break
        under = _reduced(thumbnails[first[going]], factor)
        over = _reduced(_oriented(thumbnails[second[going]], orientations[going]), factor)
        agreement = np.full(len(going), -1.0)
        for _ in range(steps):
            position[going], agreement = _improve(under, over, position[going])
        going = going[(agreement >= _GIVE_UP) & _sensible(position[going])]
    found = Placement(position[:, 0], position[:, 2], position[:, 1], position[:, 3])
    if len(going):
        under = details(thumbnails[first[going]])
        over = details(_oriented(thumbnails[second[going]], orientations[going]))
        likeness[going] = _likeness(under, over, position[going])
    return likeness, found


def _oriented(thumbnails: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    found = np.empty_like(thumbnails)
    for orientation in np.unique(orientations):
        chosen = orientations == orientation
        found[chosen] = orient(thumbnails[chosen], int(orientation))
    return found


def _reduced(thumbnails: np.ndarray, factor: int) -> np.ndarray:
    count, side = thumbnails.shape[:2]
    cells = side // factor
    parts = thumbnails.astype(np.float32).reshape(count, cells, factor, cells, factor)
    return parts.mean((2, 4))


def _sensible(position: np.ndarray) -> np.ndarray:
    placed = Placement(position[:, 0], position[:, 2], position[:, 1], position[:, 3])
    shares = np.stack([placed.height, placed.width])
    sized = (shares >= _LEAST_SHARE).all(0) & (shares <= _MOST_SHARE).all(0)
    return sized & (placed.overlap >= _LEAST_OVERLAP)


def _rows(start: np.ndarray, share: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation of one axis: [P,side,side] weights, [P,side] whether within."""
    centres = (np.arange(side) + 0.5) / side
    places = (start[:, None] + share[:, None] * centres) * side - 0.5
    inside = (places > -0.75) & (places < side - 0.25)
    places = np.clip(places, 0, side - 1)[:, :, None]
    weights = np.maximum(0, 1 - np.abs(places - np.arange(side))).astype(np.float32)
    return weights, inside


def _warps(position: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of rows, of columns (transposed), and the mask [P,side,side] float32."""
    rows, rows_inside = _rows(position[:, 0], position[:, 1], side)
    columns, columns_inside = _rows(position[:, 2], position[:, 3], side)
    mask = (rows_inside[:, :, None] & columns_inside[:, None, :]).astype(np.float32)
    return rows, columns.swapaxes(1, 2), mask


def _improve(
    under: np.ndarray, over: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One Gauss-Newton step: the new positions [P,4], and the correlation before it [P]."""
    count, side = over.shape[:2]
    rows, columns, mask = _warps(position, side)
    image = rows @ under @ columns
    down = rows @ np.gradient(under, axis=1) @ columns
    along = rows @ np.gradient(under, axis=2) @ columns
    centres = ((np.arange(side) + 0.5) / side).astype(np.float32)
    parts = [down, down * centres[:, None], along, along * centres, image, np.ones_like(image)]
    # The number of pixels by name: NumPy cannot infer a -1 beside a count of 0.
    system = np.stack([(part * mask).reshape(count, side * side) for part in parts], axis=1)
    wanted = (over * mask).reshape(count, side * side, 1)
    agreement = _correlation(image, over, mask)
    normal = (system @ system.swapaxes(1, 2)).astype(np.float64)
    # A trace of damping: an even image determines no step, and takes none.
    scale = np.einsum("pii->pi", normal)
    normal[:, np.arange(6), np.arange(6)] += 1e-4 * scale + 1e-3
    solved = np.linalg.solve(normal, (system @ wanted).astype(np.float64))[:, :, 0]
    # By the ratio of the contrasts, not by the solved gain: that falls while the images are not yet
    # one over the other, and would make the step overshoot.
    contrast = np.sqrt(_variance(over, mask) / np.maximum(_variance(image, mask), 1e-6))
    step = solved[:, :4] / np.maximum(contrast, 0.2)[:, None] / side
    step = np.clip(step, -_LONGEST_STEP / side, _LONGEST_STEP / side)
    return position + step, agreement


def _variance(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[P]: within the mask."""
    count = np.maximum(mask.sum((1, 2)), 1)
    mean = (image * mask).sum((1, 2)) / count
    return (np.square(image) * mask).sum((1, 2)) / count - np.square(mean)


def _correlation(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = np.maximum(mask.sum((1, 2), keepdims=True), 1)
    one = (one - (one * mask).sum((1, 2), keepdims=True) / count) * mask
    other = (other - (other * mask).sum((1, 2), keepdims=True) / count) * mask
    lengths = np.sqrt(np.square(one).sum((1, 2)) * np.square(other).sum((1, 2)))
    return (one * other).sum((1, 2)) / np.maximum(lengths, 1e-6)


def _likeness(under: np.ndarray, over: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The lower quartile of the parts' correlations of details; 0 where too few have structure."""
    side = over.shape[1]
    rows, columns, mask = _warps(position, side)
    warped = rows @ under @ columns
    pixels = block_sums(mask)
    divisor = np.maximum(pixels, 1)

    def moment(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        means = block_sums(one * mask) * block_sums(other * mask) / np.square(divisor)
        return block_sums(one * other * mask) / divisor - means

    lengths = np.sqrt(np.maximum(moment(warped, warped) * moment(over, over), 1e-12))
    correlation = moment(warped, over) / lengths
    judged = (structured_blocks(over) | structured_blocks(warped)) & (
        pixels >= (side // BLOCKS) ** 2 / 2
    )
    enough = judged.sum(1) >= _FEWEST_BLOCKS
    values = np.where(judged, correlation, np.nan)
    values[~enough] = 0.0
    return np.nanquantile(values, 0.25, axis=1)
