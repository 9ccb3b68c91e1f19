"""Pairs of images whose keypoints fit one similarity transform: rotated, cropped, overlapping.

Descriptors are compared within cells of an inverted file (Jégou et al. 2011, IEEE Transactions on
Pattern Analysis and Machine Intelligence): each with those of the cells next to it instead of with
all. A single match already gives a rotation, a scale and a shift; of the matches of a pair, as many
as agree with one of them count.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sscjax.data.audit.keypoints import MIRROR, Keypoints

FEWEST_MATCHES = 4
"""That agree. One pair of different tiles in 100 has three by chance, true pairs have more."""

# Principal components of the descriptors that are compared, each divided by the root of its spread;
# their product from which two match (1 in 800 of different tissue, half of the true ones in a crop
# of half the side); and the most matches of one in a cell.
_COMPONENTS = 24
_LEAST_PRODUCT = 0.78
_MOST_MATCHES = 3
_TABLE_BITS = 24
# Descriptors in a cell, on average, and the cells that each is looked for in.
_CELL = 512
_PROBES = 3
_TRAINED_ON = 48  # descriptors for each cell
_ROUNDS = 4
# Matches of a pair that are compared with each other, and pairs at a time.
_MOST_COMPARED = 32
_PAIRS = 1024
# How far a match may lie from where another puts it: pixels, and logarithm of scale with angle.
_TOLERANCE = 4.0
_FRAME_TOLERANCE = 0.4


@dataclasses.dataclass(frozen=True)
class Matches:
    """P pairs of images whose keypoints agree; z_first = scale * z_second + shift.

    Attributes:
      first, second: [P] int, first < second.
      mirrored: [P] bool; if so, the conjugate of z_second is meant.
      scale: [P] complex128, enlargement (modulus) and rotation (argument).
      shift: [P] complex128, pixels, column + i row.
      count: [P] int, keypoints that agree.
    """

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    count: np.ndarray


def match(points: Keypoints, pool: ThreadPoolExecutor) -> Matches:
    """The pairs with at least `FEWEST_MATCHES` keypoints that agree, each pair once."""
    low, high, mirrored = _descriptor_matches(points, pool)
    group = (points.image[low].astype(np.int64) << 32) | (points.image[high] << 1) | mirrored
    order = np.argsort(group, kind="stable")
    low, high, group = low[order], high[order], group[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    enough = sizes >= FEWEST_MATCHES
    starts, sizes = starts[enough], np.minimum(sizes[enough], _MOST_COMPARED)
    parts = [slice(k, k + _PAIRS) for k in range(0, len(starts), _PAIRS)]
    fits = list(pool.map(lambda p: _agreeing(points, low, high, group, starts[p], sizes[p]), parts))
    return _best_of_pairs(joined(fits))


def joined(parts: list[Matches]) -> Matches:
    """One table of several."""
    empty = np.zeros(0, np.int64)
    nothing = Matches(empty, empty, empty.astype(bool), empty * 1j, empty * 1j, empty)
    names = [field.name for field in dataclasses.fields(Matches)]
    return Matches(*(np.concatenate([getattr(p, n) for p in [nothing, *parts]]) for n in names))


def chosen(matches: Matches, index: np.ndarray | slice) -> Matches:
    """Some of the pairs."""
    names = [field.name for field in dataclasses.fields(Matches)]
    return Matches(*(getattr(matches, name)[index] for name in names))


def _best_of_pairs(matches: Matches) -> Matches:
    """Mirrored or not, whichever has more matches."""
    order = np.lexsort((matches.mirrored, -matches.count, matches.second, matches.first))
    pairs = np.stack([matches.first[order], matches.second[order]])
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(pairs, axis=1) != 0).any(0)
    return chosen(matches, order[new])


# --- descriptors --------------------------------------------------------------------------------


def _descriptor_matches(
    points: Keypoints, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints of the lower and of the higher image, and whether mirrored: [M] each, once."""
    count = len(points.image)
    if not count:
        return (np.zeros(0, np.int64),) * 3
    described, mirrored = _components(points)
    centres = _centres(described, pool)
    members = _members(_nearest(described, centres, 1, pool)[:, 0], len(centres))
    probes = min(_PROBES, len(centres))
    keys: list[np.ndarray] = []
    for mirror, queries in enumerate((described, mirrored)):
        visited = _nearest(queries, centres, probes, pool)
        visitors = _members(visited.ravel(), len(centres))

        def compare(
            k: int,
            queries: np.ndarray = queries,
            visitors: list[np.ndarray] = visitors,
            mirror: int = mirror,
        ) -> np.ndarray:
            asking = visitors[k] // probes
            one, other = _likest(points.image, queries, described, asking, members[k])
            low = np.where(points.image[one] < points.image[other], one, other)
            return (low * count + (one + other - low)) * 2 + mirror

        keys += pool.map(compare, range(len(centres)))
    key = np.concatenate(keys)
    keys.clear()
    low, high = np.divmod(key >> 1, count)
    images = points.image[low].astype(np.int64) << 32 | points.image[high]
    key = np.unique(key[_frequent(images << 1 | key & 1)])
    return *np.divmod(key >> 1, count), key & 1


def _frequent(pairs: np.ndarray) -> np.ndarray:
    """[M] bool: whether a pair may be among `pairs` often enough; few of chance's matches are.

    Counted in a table that several pairs may share an entry of, for want of memory for all pairs.
    """
    entry = (pairs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)
    entry = entry.astype(np.int64)
    return np.bincount(entry, minlength=1 << _TABLE_BITS)[entry] >= FEWEST_MATCHES


def _components(points: Keypoints) -> tuple[np.ndarray, np.ndarray]:
    """[K,C] float32 of length 1: what the descriptors differ by, and the mirrored ones."""
    sample = points.descriptor[:: max(1, len(points.descriptor) // 50_000)].astype(np.float64)
    sample = np.concatenate([sample, sample * MIRROR])
    mean = sample.mean(0)
    moment = sample.T @ sample / len(sample) - np.outer(mean, mean)
    spread, directions = np.linalg.eigh(moment)
    directions = directions[:, ::-1][:, :_COMPONENTS]
    spread = np.maximum(spread[::-1][:_COMPONENTS], 1e-6)
    projection = (directions / spread**0.25).astype(np.float32)
    offset = (mean @ projection).astype(np.float32)

    def projected(signs: np.ndarray) -> np.ndarray:
        values = points.descriptor @ (projection.T * signs).T - offset
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)

    return projected(np.ones_like(MIRROR)), projected(MIRROR)


def _likest(
    image: np.ndarray,
    queries: np.ndarray,
    described: np.ndarray,
    asking: np.ndarray,
    members: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Of the members of a cell the likest of each query, in other images: [M], [M] int."""
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    under, owner = described[members].T, image[members]
    for start in range(0, len(asking), 1024):
        part = asking[start : start + 1024]
        products = queries[part] @ under
        flat = np.flatnonzero(products >= _LEAST_PRODUCT)
        row, column = np.divmod(flat, len(members))
        other = np.flatnonzero(image[part][row] != owner[column])
        row, column, value = row[other], column[other], products.ravel()[flat[other]]
        order = np.argsort(row - value * 0.5, kind="stable")  # by row, the likest first
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, np.arange(len(part)))[row]
        likest = rank < _MOST_MATCHES
        rows.append(part[row[likest]])
        columns.append(members[column[likest]])
    return np.concatenate(rows), np.concatenate(columns)


def _centres(descriptors: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """[C,D] centres of cells, by k-means from evenly spaced descriptors."""
    cells = max(1, len(descriptors) // _CELL)
    sample = descriptors[:: max(1, len(descriptors) // (cells * _TRAINED_ON))]
    centres = sample[:: max(1, len(sample) // cells)][:cells]
    for _ in range(_ROUNDS if cells > 1 else 0):
        nearest = _nearest(sample, centres, 1, pool)[:, 0]
        order = np.argsort(nearest, kind="stable")
        labels, starts = np.unique(nearest[order], return_index=True)
        centres = centres.copy()
        centres[labels] = np.add.reduceat(sample[order], starts, axis=0)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres


def _nearest(
    descriptors: np.ndarray, centres: np.ndarray, most: int, pool: ThreadPoolExecutor
) -> np.ndarray:
    """[K,most] int: the nearest centres."""

    def part(start: int) -> np.ndarray:
        products = descriptors[start : start + 4096] @ centres.T
        if most == 1:
            return products.argmax(1)[:, None]
        # A copy: a view would keep the indices of all centres in memory.
        return np.argpartition(-products, most - 1, axis=1)[:, :most].copy()

    return np.concatenate(list(pool.map(part, range(0, len(descriptors), 4096))))


def _members(labels: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, count)))


# --- geometry -----------------------------------------------------------------------------------


def _agreeing(
    points: Keypoints,
    low: np.ndarray,
    high: np.ndarray,
    group: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
) -> Matches:
    """The largest agreeing sets of matches of G pairs, those that are large enough."""
    slots = np.arange(sizes.max())
    valid = slots < sizes[:, None]
    index = np.where(valid, starts[:, None] + slots, starts[:, None])
    mirrored = (group[starts] & 1).astype(bool)
    target, source = points.position[low[index]], points.position[high[index]]
    frame, own = points.frame[low[index]], points.frame[high[index]]
    source = np.where(mirrored[:, None], source.conj(), source)
    own = np.where(mirrored[:, None], own.conj(), own)
    scale = frame / own
    shift = target - scale * source
    placed = scale[:, :, None] * source[:, None] + shift[:, :, None]  # [G,hypothesis,match]
    agrees = np.abs(placed - target[:, None]) < _TOLERANCE
    agrees &= np.abs(np.log(scale[:, :, None] / scale[:, None])) < _FRAME_TOLERANCE
    agrees &= valid[:, None] & valid[:, :, None]
    best = agrees.sum(2).argmax(1)
    inliers = agrees[np.arange(len(best)), best]
    scale, shift = _fitted(source, target, inliers)
    count = np.minimum(_distinct(low[index], inliers), _distinct(high[index], inliers))
    first, second = points.image[low[starts]], points.image[high[starts]]
    fit = Matches(first.astype(np.int64), second.astype(np.int64), mirrored, scale, shift, count)
    return chosen(fit, np.flatnonzero(count >= FEWEST_MATCHES))


def _distinct(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """[G]: how many different values a row has where they count."""
    ordered = np.sort(np.where(counted, values, -1), axis=1)
    different = np.diff(ordered, axis=1, prepend=-1) != 0
    return different.sum(1)


def _fitted(
    source: np.ndarray, target: np.ndarray, inliers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of target = scale * source + shift: [G] complex128 each."""
    weights = inliers / np.maximum(inliers.sum(1, keepdims=True), 1)
    middle = (weights * source).sum(1, keepdims=True)
    goal = (weights * target).sum(1, keepdims=True)
    moment = (weights * (source - middle).conj() * (target - goal)).sum(1)
    scale = moment / np.maximum((weights * np.abs(source - middle) ** 2).sum(1), 1e-6)
    return scale, goal[:, 0] - scale * middle[:, 0]
