"""Copies of images in a set: identical ones, and flipped, turned, re-encoded or cropped ones.

Near copies are looked for in three steps of rising cost. All pairs are compared by a few low
frequencies (`thumbnails.signatures`): each window of one image that a crop may be, against every
orientation of the other. The few most similar ones to each image are compared by more frequencies
and windows. What is then most alike is laid one over the other (`alignment.align`) and judged by
its details, part by part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sscjax.data.audit import appearance, overlaps
from sscjax.data.audit import thumbnails as small
from sscjax.data.audit.alignment import align
from sscjax.data.lazy import Rows

LIKENESS = 0.7
"""Agreement of details (`alignment.align`) from which two images count as copies.
Set on real tiles (docs/results.md): of planted crops of real tiles nine in ten reach 0.9 (of images
of 32 pixels, 0.7), and no two of 1,501 different tiles 0.3; drawn parallel fibres seldom 0.6."""

# A copy is as wide as it is high; laid over other stripes, an image stretches.
_STRETCHED = 0.03

# Windows of an image that another may show enlarged: share of the side, and how many along an axis.
_COARSE = ((1.0, 1), (0.84, 3), (0.7, 4))
_FINE = ((1.0, 1), (0.95, 2), (0.9, 3), (0.85, 4), (0.8, 5), (0.75, 6), (0.7, 7))
_WINDOWS = np.array(
    [
        (top, left, share)
        for share, places in _FINE
        for top in np.linspace(0, 1 - share, places)
        for left in np.linspace(0, 1 - share, places)
    ]
)
# Cells and power of the signatures (see there), and the least correlation, in both steps. Of 2,000
# copies of real tiles, crops mostly, all but one reached 0.67 in the second, and 1 in 100 of the
# most similar different tiles does.
_COARSE_SHAPE, _COARSE_LEAST = (8, 0.5), 0.4
_FINE_SHAPE, _FINE_LEAST = (16, 1.0), 0.55
# The most for one image that the first step leaves: among very similar tiles, copies are still the
# most similar.
_MOST_PAIRS = 8
_ROWS = 64  # images compared with all others at a time: the table stays in the processor's cache
_IMAGES = 32  # images whose windows are compared more closely at a time
_PAIRS = 256  # pairs aligned at a time
# Images below this side have too few keypoints.
_LEAST_SIDE = 32
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
      pairs: every pair of copies once, with the relation that fits it best.
      blank: [N] bool, images with too little content to be distinguished.
      colours: [N,3] float32, the mean of red, green and blue.
      stains: [N,D] float32, `appearance.describe`.
      implied, implied_found: see `overlaps.Overlaps`.
    """

    pairs: list[Pair]
    blank: np.ndarray
    colours: np.ndarray
    stains: np.ndarray
    implied: int
    implied_found: int


def find(images: Rows, progress: Callable[[int], Any] = lambda count: None) -> Found:
    """Search a set for copies.

    Blank images are compared by their pixels alone: empty tiles are alike without being copies.
    Several copies of one image are linked to each other, but not every one with every other: a
    group of copies that stands in two splits has a pair across them. Two crops of one image are
    found where they share most of it, or through the image itself.

    Args:
      images: [N,H,W,3] uint8, read once, in parts.
      progress: called with the number of images done since the last call.
    """
    digests: list[bytes] = []
    colours = [np.zeros((0, 3), np.float32)]
    stains = [np.zeros((0, appearance.FEATURES), np.float32)]

    def each(pixels: np.ndarray) -> None:
        colours.append(pixels.mean((1, 2), dtype=np.float64).astype(np.float32))
        stains.append(appearance.describe(pixels))
        for image in pixels:
            data = np.ascontiguousarray(image).data
            digests.append(hashlib.blake2b(data, digest_size=16).digest())

    # The matrices are small: threads of the library's own would mostly wait for each other.
    side = small.side_of(images, overlaps.SIDE, 16)
    # Smaller images are searched by their thumbnails alone.
    sides = [small.side_of(images, small.SIDE, 8), *([side] if side >= _LEAST_SIDE else [])]
    with threadpool_limits(1, "blas"):
        grey, *larger = small.grey_thumbnails(images, each, sides)
        blank = ~small.recognisable(grey)
        identical = _identical(digests)
        # Of identical images the first stands for all.
        skipped = blank.copy()
        skipped[[pair.second for pair in identical]] = True
        seen = np.flatnonzero(~skipped)
        similar: dict[tuple[int, int], Pair] = {}
        for pair in _similar(grey[seen], progress):
            key = (int(seen[pair.first]), int(seen[pair.second]))
            old = similar.get(key)  # met from both sides
            if old is None or pair.likeness > old.likeness:
                similar[key] = dataclasses.replace(pair, first=key[0], second=key[1])
        common = overlaps.search(larger[0][seen]) if larger else overlaps.NONE
    for pair in _partial(common, seen):
        similar.setdefault((pair.first, pair.second), pair)
    progress(len(grey) - len(seen))
    pairs = sorted([*identical, *similar.values()], key=lambda p: (p.first, p.second))
    return Found(
        pairs,
        blank,
        np.concatenate(colours),
        np.concatenate(stains),
        common.implied,
        common.implied_found,
    )


def _partial(common: overlaps.Overlaps, seen: np.ndarray) -> Iterator[Pair]:
    """Pairs that show the same area, by their numbers in the set."""
    first, second = seen[common.first].tolist(), seen[common.second].tolist()
    rows = zip(first, second, common.relation, common.likeness.tolist(), strict=True)
    for one, other, relation, likeness in rows:
        yield Pair(one, other, relation, round(min(likeness, 1.0), 4))


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
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        first, second = _candidates(grey, pool, progress)
        first, second, windows, orientations = _closer(grey, first, second, pool)

        def judge(start: int) -> list[Pair]:
            part = slice(start, start + _PAIRS)
            return _judged(grey, first[part], second[part], windows[part], orientations[part])

        # NumPy lets other threads run while it works.
        return [pair for some in pool.map(judge, range(0, len(first), _PAIRS)) for pair in some]


def _candidates(
    grey: np.ndarray, pool: ThreadPoolExecutor, progress: Callable[[int], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """For each second image the few first ones that it may be a part of: [P], [P] int."""
    count = len(grey)
    under = [
        np.ascontiguousarray(windows.T)
        for share, places in _COARSE
        for windows in _signed(grey, share, places, *_COARSE_SHAPE).swapaxes(0, 1)
    ]
    most = min(_MOST_PAIRS, count - 1)

    def search(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = np.arange(start, min(start + _ROWS, count))
        best = np.full((len(part), count), -1.0, np.float32)
        found = np.empty_like(best)
        for orientation in range(small.ORIENTATIONS):
            turned = small.orient(grey[part], orientation)
            over = small.signatures(turned, 1.0, 1, *_COARSE_SHAPE)[:, 0]
            for one in under:
                np.maximum(best, np.matmul(over, one, out=found), out=best)
        best[np.arange(len(part)), part] = -1.0  # an image and itself
        likest = np.argpartition(-best, most - 1, axis=1)[:, :most]
        row, place = np.nonzero(np.take_along_axis(best, likest, axis=1) >= _COARSE_LEAST)
        progress(len(part))
        return likest[row, place], part[row]

    parts = list(pool.map(search, range(0, count, _ROWS)))
    first, second = (np.concatenate(one) for one in zip(*parts, strict=True))
    return first, second


def _signed(grey: np.ndarray, share: float, places: int, cells: int, power: float) -> np.ndarray:
    """`signatures` in parts: the cells of all windows at once would take many times the room."""
    parts = [
        small.signatures(grey[part], share, places, cells, power)
        for part in small.chunks(len(grey))
    ]
    return np.concatenate(parts)


def _closer(
    grey: np.ndarray, first: np.ndarray, second: np.ndarray, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs that stay likely: first, second, numbers of window and of orientation, [P] each."""
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    over = np.concatenate(
        [
            _signed(small.orient(grey, orientation), 1.0, 1, *_FINE_SHAPE)
            for orientation in range(small.ORIENTATIONS)
        ],
        axis=1,
    )
    best = np.zeros(len(first), np.int64)
    likely = np.zeros(len(first), bool)
    images = np.unique(first)

    def search(start: int) -> None:
        some = images[start : start + _IMAGES]
        parts = [small.signatures(grey[some], *grid, *_FINE_SHAPE) for grid in _FINE]
        for image, under in zip(some, np.concatenate(parts, axis=1), strict=True):
            mine = slice(*np.searchsorted(first, [image, image + 1]))
            # [pairs, windows * orientations]
            table = (under @ over[second[mine]].swapaxes(1, 2)).reshape(mine.stop - mine.start, -1)
            best[mine] = table.argmax(1)
            likely[mine] = table.max(1) >= _FINE_LEAST

    list(pool.map(search, range(0, len(images), _IMAGES)))
    windows, orientations = np.divmod(best[likely], small.ORIENTATIONS)
    return first[likely], second[likely], windows, orientations


def _judged(
    grey: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    windows: np.ndarray,
    orientations: np.ndarray,
) -> list[Pair]:
    likeness, placed = align(grey, first, second, orientations, _WINDOWS[windows])
    sides = np.stack([placed.height, placed.width])
    whole = (np.abs(sides - 1) <= 1 - _WHOLE).all(0) & (placed.overlap >= _WHOLE)
    even = np.abs(sides[0] - sides[1]) <= _STRETCHED * sides[0]
    found = []
    for k in np.flatnonzero((likeness >= LIKENESS) & even):
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
