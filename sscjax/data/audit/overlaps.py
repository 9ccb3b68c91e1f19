"""Images that show the same area in part: rotated, cropped to half, or cut from one slide.

Keypoints propose (`keypoints`, `matching`), pixels decide (`registration`). Where image A was laid
over B and B over C, A over C follows: those pairs are tried too, and how many of them the search
had found by itself says how many it misses.
"""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sscjax.data.audit import keypoints
from sscjax.data.audit.matching import Matches, chosen, joined, match
from sscjax.data.audit.registration import Registered, register

SIDE = 128
"""Pixels of the grey images' side; of smaller images their own, in multiples of 16."""

LIKENESS = 0.6
"""Agreement of details from which two images show the same area. On real tiles (docs/results.md)
pairs that do reach 0.9 and others 0.1."""

EXPECTED_OVERLAP = 0.25
"""Common share of the smaller image's area from which the search should find a pair."""

# Images described, and pairs registered, at a time: the arrays stay in the processor's cache.
_IMAGES = 4
_PAIRS = 16
# Pairs that follow from others: at most so many are looked at.
_MOST_IMPLIED = 200_000
# From this share on, the common area is the whole image, and a scale is the same.
_WHOLE = 0.96


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """P pairs of images that show the same area.

    Attributes:
      first, second: [P] int, first < second.
      relation: [P] text, such as 'rotated by 10 degrees' or 'overlapping by 30 %'.
      likeness: [P] float64, agreement of details, at most 1.
      implied: how many pairs follow from two others with an image in common.
      implied_found: how many of those the keypoints had found by themselves.
    """

    first: np.ndarray
    second: np.ndarray
    relation: list[str]
    likeness: np.ndarray
    implied: int
    implied_found: int


NONE = Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), [], np.zeros(0), 0, 0)


def search(grey: np.ndarray) -> Overlaps:
    """Search images for common areas.

    Args:
      grey: [N,S,S] uint8, S a multiple of 16.
    """
    if len(grey) < 2:
        return NONE
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        starts = range(0, len(grey), _IMAGES)
        points = keypoints.join(
            list(pool.map(lambda k: keypoints.detect(grey[k : k + _IMAGES], k), starts))
        )
        pairs, fits = _registered(grey, match(points, pool), pool)
        implied = implied_pairs(pairs, grey.shape[-1])
        known = _keys(pairs)
        fresh = chosen(implied, np.flatnonzero(~np.isin(_keys(implied), known)))
        more, more_fits = _registered(grey, fresh, pool)
    # A pair that follows from two others but does not agree in its pixels was never one.
    implied_found = len(implied.first) - len(fresh.first)
    pairs = joined([pairs, more])
    likeness = np.concatenate([fits.likeness, more_fits.likeness])
    overlap = np.concatenate([fits.overlap, more_fits.overlap])
    return Overlaps(
        pairs.first,
        pairs.second,
        _relations(pairs, overlap),
        likeness,
        implied_found + len(more.first),
        implied_found,
    )


def _registered(
    grey: np.ndarray, pairs: Matches, pool: ThreadPoolExecutor
) -> tuple[Matches, Registered]:
    """The pairs that agree, with their improved transforms."""
    parts = [slice(k, k + _PAIRS) for k in range(0, len(pairs.first), _PAIRS)]
    fits = list(pool.map(lambda part: register(grey, chosen(pairs, part)), parts))
    names = [field.name for field in dataclasses.fields(Registered)]
    columns = {
        name: np.concatenate([np.zeros(0), *(getattr(fit, name) for fit in fits)]) for name in names
    }
    agreeing = np.flatnonzero(columns["likeness"] >= LIKENESS)
    fit = Registered(**{name: values[agreeing] for name, values in columns.items()})
    kept = dataclasses.replace(chosen(pairs, agreeing), scale=fit.scale, shift=fit.shift)
    return kept, fit


def _keys(pairs: Matches) -> np.ndarray:
    return (pairs.first << 32) | pairs.second


def _conjugated(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values.conj(), values)


def implied_pairs(pairs: Matches, side: int) -> Matches:
    """Pairs (A, C) that follow from (A, B) and (B, C), with enough in common, each once.

    Args:
      pairs: those that agree, with their transforms.
      side: pixels of the images.
    """
    # Both directions of every pair: z_head = scale * z_tail + shift.
    inverse = 1 / pairs.scale
    head = np.concatenate([pairs.first, pairs.second])
    tail = np.concatenate([pairs.second, pairs.first])
    mirrored = np.tile(pairs.mirrored, 2)
    back = (
        _conjugated(inverse, pairs.mirrored),
        _conjugated(-pairs.shift * inverse, pairs.mirrored),
    )
    scale = np.concatenate([pairs.scale, back[0]])
    shift = np.concatenate([pairs.shift, back[1]])
    order = np.argsort(head, kind="stable")  # those that begin with B
    begin, end = (np.searchsorted(head[order], tail, side=s) for s in ("left", "right"))
    sizes = end - begin
    sizes[np.cumsum(sizes) > _MOST_IMPLIED] = 0
    one = np.repeat(np.arange(len(head)), sizes)
    within = np.arange(len(one)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    other = order[np.repeat(begin, sizes) + within]
    ahead = head[one] < tail[other]
    one, other = one[ahead], other[ahead]
    composed = Matches(
        head[one],
        tail[other],
        mirrored[one] ^ mirrored[other],
        scale[one] * _conjugated(scale[other], mirrored[one]),
        scale[one] * _conjugated(shift[other], mirrored[one]) + shift[one],
        np.zeros(len(one), np.int64),
    )
    enough = np.flatnonzero(_common(composed, side) >= EXPECTED_OVERLAP)
    composed = chosen(composed, enough)
    return chosen(composed, np.unique(_keys(composed), return_index=True)[1])


def _common(pairs: Matches, side: int) -> np.ndarray:
    """[P]: the share of the smaller image's area that both show, by a grid of 16 x 16 points."""
    axis = (np.arange(16) + 0.5) / 16 * side - 0.5
    grid = (axis + 1j * axis[:, None]).ravel()
    source = np.where(pairs.mirrored[:, None], grid.conj(), grid)
    placed = pairs.scale[:, None] * source + pairs.shift[:, None]
    inside = (np.abs(placed.real - (side - 1) / 2) <= side / 2) & (
        np.abs(placed.imag - (side - 1) / 2) <= side / 2
    )
    return inside.mean(1) * np.maximum(np.abs(pairs.scale) ** 2, 1)


def _relations(pairs: Matches, overlap: np.ndarray) -> list[str]:
    """How the second image of each pair lies to the first, in words."""
    relations = []
    for scale, mirrored, common in zip(
        pairs.scale.tolist(), pairs.mirrored.tolist(), overlap.tolist(), strict=True
    ):
        degrees = abs(np.degrees(np.angle(scale)))
        turned = f"rotated by {degrees:.0f} degrees" if degrees >= 1.5 else ""
        parts = ["flipped" if mirrored else "", turned]
        enlarged = max(abs(scale), 1 / abs(scale))
        # A square rotated about its centre has lost no more than its corners: 83 % are left.
        whole = common >= (0.8 if turned else _WHOLE)
        if not whole or enlarged * _WHOLE > 1:
            parts.insert(0, "cropped" if common >= _WHOLE else f"overlapping by {common:.0%}")
        said = [part for part in parts if part] or ["re-encoded"]
        relations.append(" and ".join([*([", ".join(said[:-1])] if said[1:] else []), said[-1]]))
    return relations
