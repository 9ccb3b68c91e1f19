"""Copies of images in a set: identical ones, and flipped, turned, re-encoded or cropped ones.

All pairs are compared by a few low frequencies (`thumbnails.signatures`): each window of one image
that a crop may be, against every orientation of the other. What is most alike is laid one over the
other (`alignment.align`) and judged by its details, part by part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sscjax.data import thumbnails as small
from sscjax.data.alignment import align
from sscjax.rows import Rows

LIKENESS, LIKENESS_OF_PART = 0.75, 0.85
"""Median correlation of details from which two images count as copies: the whole, and a part.
Set with `scripts/audit_recall.py`: 95 % of planted crops lie above 0.94, different tiles of real
tissue below 0.7. Drawn bundles of parallel fibres reach 0.9, but stretched (see below)."""

# A copy is as wide as it is high; laid over other stripes, an image stretches.
_STRETCHED = 0.03

# Windows of an image that another may show enlarged: share of the side, and where they begin.
_WINDOWS = [
    (top, left, share)
    for share, starts in (
        (1.0, (0.0,)),
        (0.9, (0.0, 0.05, 0.1)),
        (0.8, (0.0, 0.067, 0.133, 0.2)),
    )
    for top in starts
    for left in starts
]
# Correlation of signatures from which a pair is looked at, and the most for one image: in sets of
# very like tiles, copies are still the likest.
_SIGNATURE = 0.85
_MOST_PAIRS = 12
_ROWS = 128  # images compared with all others at a time
_PAIRS = 256  # pairs aligned at a time
# A placed image that fills at least this share of the other is no crop of it.
_WHOLE = 0.96


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images of which one is a copy of the other.

    Attributes:
      first, second: their numbers in the set, first < second.
      relation: 'identical', 're-encoded', 'flipped', 'turned', 'cropped' and so on.
      likeness: 1 for a perfect copy.
    """

    first: int
    second: int
    relation: str
    likeness: float


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      pairs: every pair of copies once, the likest relation of each.
      blank: [N] bool, images that hold too little to be told from others.
      colours: [N,3] float32, the mean of red, green and blue.
    """

    pairs: list[Pair]
    blank: np.ndarray
    colours: np.ndarray


def find(images: Rows, progress: Callable[[int], Any] = lambda count: None) -> Found:
    """Search a set for copies.

    Blank images are compared by their pixels alone: empty tiles are alike without being copies.

    Args:
      images: [N,H,W,3] uint8, read once, in parts.
      progress: called with the number of images done since the last call.
    """
    digests: list[bytes] = []
    colours: list[np.ndarray] = []

    def each(pixels: np.ndarray) -> None:
        colours.append(pixels.mean((1, 2), dtype=np.float64).astype(np.float32))
        for image in pixels:
            data = np.ascontiguousarray(image).data
            digests.append(hashlib.blake2b(data, digest_size=16).digest())

    grey = small.grey_thumbnails(images, each)
    blank = ~small.recognisable(grey)
    pairs = {(pair.first, pair.second): pair for pair in _identical(digests)}
    seen = np.flatnonzero(~blank)
    for pair in _similar(grey[seen], progress):
        key = (int(seen[pair.first]), int(seen[pair.second]))
        old = pairs.get(key)
        if old is None or pair.likeness > old.likeness:
            pairs[key] = dataclasses.replace(pair, first=key[0], second=key[1])
    progress(int(blank.sum()))
    return Found(sorted(pairs.values(), key=lambda p: (p.first, p.second)), blank, _all(colours))


def _all(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, 3), np.float32)


def _identical(digests: list[bytes]) -> list[Pair]:
    """Each image with the first of the same pixels."""
    first: dict[bytes, int] = {}
    found = []
    for index, digest in enumerate(digests):
        other = first.setdefault(digest, index)
        if other != index:
            found.append(Pair(other, index, "identical", 1.0))
    return found


def _similar(grey: np.ndarray, progress: Callable[[int], Any]) -> list[Pair]:
    """Pairs of like thumbnails [N,S,S]."""
    if len(grey) < 2:
        progress(len(grey))
        return []
    # [windows][N,K] of what lies under, [orientations][N,K] of what is laid over.
    under = [small.signatures(grey, *window) for window in _WINDOWS]
    over = [small.signatures(small.orient(grey, o), 0, 0, 1) for o in range(small.ORIENTATIONS)]

    def search(start: int) -> list[Pair]:
        part = slice(start, min(start + _ROWS, len(grey)))
        first, second = _candidates([one[part] for one in under], over, start)
        pairs: list[Pair] = []
        for low in range(0, len(first), _PAIRS):
            some = first[low : low + _PAIRS], second[low : low + _PAIRS]
            pairs += _judged(grey, *some, _placing(under, over, *some))
        progress(part.stop - part.start)
        return pairs

    # NumPy lets other threads run while it works.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [pair for some in pool.map(search, range(0, len(grey), _ROWS)) for pair in some]


def _candidates(
    under: list[np.ndarray], over: list[np.ndarray], start: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs worth a look: first image (`start` is the first of `under`), and second."""
    rows, count = len(under[0]), len(over[0])
    best = np.full((rows, count), -1.0, np.float32)
    found = np.empty_like(best)
    for other in over:
        for one in under:
            np.maximum(best, np.matmul(one, other.T, out=found), out=best)
    best[np.arange(rows), start + np.arange(rows)] = -1.0  # an image and itself
    most = min(_MOST_PAIRS, count)
    column = np.argpartition(-best, most - 1, axis=1)[:, :most].ravel()
    row = np.repeat(np.arange(rows), most)
    good = best[row, column] >= _SIGNATURE
    return start + row[good], column[good]


def _placing(
    under: list[np.ndarray], over: list[np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """The likest window and orientation of each pair: [P], window * orientations + orientation."""
    windows = np.stack([one[first] for one in under], axis=1)
    turned = np.stack([one[second] for one in over], axis=1)
    return (windows @ turned.swapaxes(1, 2)).reshape(len(first), -1).argmax(1)


def _judged(
    grey: np.ndarray, first: np.ndarray, second: np.ndarray, code: np.ndarray
) -> list[Pair]:
    windows, orientations = np.divmod(code, small.ORIENTATIONS)
    likeness, placed = align(grey, first, second, orientations, np.array(_WINDOWS)[windows])
    sides = np.stack([placed.height, placed.width])
    whole = (np.abs(sides - 1) <= 1 - _WHOLE).all(0) & (placed.overlap >= _WHOLE)
    like = likeness >= np.where(whole, LIKENESS, LIKENESS_OF_PART)
    even = np.abs(sides[0] - sides[1]) <= _STRETCHED * sides[0]
    found = []
    for k in np.flatnonzero(like & even):
        relation = _relation(int(orientations[k]), whole=bool(whole[k]))
        low, high = sorted((int(first[k]), int(second[k])))
        found.append(Pair(low, high, relation, round(float(likeness[k]), 4)))
    return found


def _relation(orientation: int, *, whole: bool) -> str:
    turned = {0: "", 1: "flipped", 4: "turned", 5: "flipped"}.get(orientation)
    if turned is None:
        turned = "turned and flipped" if orientation % 2 else "turned"
    if whole:
        return turned or "re-encoded"
    return f"cropped and {turned}" if turned else "cropped"
