"""Subjects that may be one patient under two names: each image's nearest image elsewhere.

Tiles of one biopsy share their stain. For each image the nearest one of another subject is looked
up in a space of its stain, scaled by how much they differ within subjects
(as linear discriminant analysis does, Fisher 1936, Annals of Eugenics). Where most images of A have
theirs at B, and most of B at A, the two may be one. That two patients whose slides were made alike
come near as well cannot be ruled out from pixels: the finding is a hint, with how sure it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

FEWEST_IMAGES = 5
"""Of each subject; fewer say nothing."""

LEAST_SHARE = 0.4
"""Of the images of both subjects that must have their nearest at the other."""

LEVEL = 0.001
"""Of the p values, corrected for all pairs of subjects (Holm 1979)."""

FEATURES = 21
"""Numbers that describe the stain of an image."""

_PIXELS = 32  # along each axis of an image, for its stain
_TISSUE = 0.1  # mean optical density: background lies below
_SHRINKAGE = 0.05  # of the covariance towards a multiple of the identity
_IMAGES = 1024  # compared with all others at a time


@dataclasses.dataclass(frozen=True)
class Twins:
    """Two subjects that may be one.

    Attributes:
      first, second: their names.
      first_near, second_near: how many images of each have their nearest at the other.
      first_images, second_images: of how many.
      p: that so many would fall there if the nearest were any other subject's image, at random,
        times the number of pairs compared (Holm).
    """

    first: str
    second: str
    first_near: int
    second_near: int
    first_images: int
    second_images: int
    p: float

    @property
    def share(self) -> float:
        """Of the images, the smaller of both subjects'."""
        return min(self.first_near / self.first_images, self.second_near / self.second_images)


def describe(pixels: np.ndarray) -> np.ndarray:
    """Stain of images: [N,H,W,3] uint8 to [N,FEATURES] float32.

    Means and covariances of the optical densities, and means and deviations of each channel's
    share in them, of tissue; and the share of tissue.
    """
    height, width = pixels.shape[1:3]
    rows = np.unique(np.linspace(0, height - 1, _PIXELS).astype(int))
    columns = np.unique(np.linspace(0, width - 1, _PIXELS).astype(int))
    few = pixels[:, rows][:, :, columns].reshape(len(pixels), len(rows) * len(columns), 3)
    density = -np.log((few.astype(np.float32) + 1) / 256)
    tissue = (density.mean(2) > _TISSUE).astype(np.float32)
    tissue[tissue.sum(1) < 16] = 1  # an empty image is described as a whole
    weights = (tissue / tissue.sum(1, keepdims=True))[:, :, None]

    def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (values * weights).sum(1)
        centred = values - mean[:, None]
        return mean, (centred * weights).swapaxes(1, 2) @ centred

    mean, covariance = moments(density)
    share_mean, share_covariance = moments(density / np.maximum(density.sum(2), 1e-3)[:, :, None])
    upper = np.triu_indices(3)
    diagonal = np.arange(3)
    spread = np.sqrt(np.maximum(share_covariance[:, diagonal, diagonal], 0))
    values, vectors = np.linalg.eigh(covariance)
    main = vectors[:, :, 2] * np.sign(vectors[:, :1, 2] + 1e-9)
    parts = [
        mean,
        covariance[:, upper[0], upper[1]],
        share_mean,
        spread,
        main,
        np.log(np.maximum(values, 1e-5)),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def find(features: np.ndarray, subjects: np.ndarray) -> list[Twins]:
    """The pairs of subjects that may be one, the surest first.

    Args:
      features: [N,D] float, of `describe` or any other, such as a network's.
      subjects: [N].
    """
    names, group, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    if len(names) < 3 or len(features) <= len(names):
        return []
    values = _whitened(features, group, sizes)
    near, distance = _nearest(values, group)
    # Of subjects that lie far apart one is still the nearest: count only what is as near as own.
    close = distance <= _own_distance(values, group)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (group[close], group[near[close]]), 1)
    first, second = np.nonzero(np.triu(np.minimum(counts, counts.T) > 0, 1))
    enough = np.minimum(sizes[first], sizes[second]) >= FEWEST_IMAGES
    first, second = first[enough], second[enough]
    total = len(features)
    p_values = np.maximum(
        stats.binom.sf(
            counts[first, second] - 1, sizes[first], sizes[second] / (total - sizes[first])
        ),
        stats.binom.sf(
            counts[second, first] - 1, sizes[second], sizes[first] / (total - sizes[second])
        ),
    )
    large = int((sizes >= FEWEST_IMAGES).sum())
    p_values = _holm(p_values, large * (large - 1) // 2)
    share = np.minimum(counts[first, second] / sizes[first], counts[second, first] / sizes[second])
    chosen = np.flatnonzero((share >= LEAST_SHARE) & (p_values <= LEVEL))
    return [
        Twins(
            str(names[first[k]]),
            str(names[second[k]]),
            int(counts[first[k], second[k]]),
            int(counts[second[k], first[k]]),
            int(sizes[first[k]]),
            int(sizes[second[k]]),
            float(p_values[k]),
        )
        for k in chosen[np.argsort(-share[chosen], kind="stable")]
    ]


def _whitened(features: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Features in units of their spread within subjects, without correlation there."""
    values = features - features.mean(0)
    values = values / np.maximum(values.std(0), 1e-6)
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, group, values)
    within = values - (means / sizes[:, None])[group]
    moment = within.T @ within / max(len(values) - len(sizes), 1)
    size = np.trace(moment) / len(moment)
    spread, directions = np.linalg.eigh(moment + _SHRINKAGE * size * np.eye(len(moment)))
    return values @ (directions / np.sqrt(np.maximum(spread, 1e-9)))


def _own_distance(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[N]: of each row's subject, the median squared distance of two of its rows."""
    typical = np.zeros(group.max() + 1)
    for subject in range(len(typical)):
        own = values[group == subject][:_IMAGES]
        squares = np.square(own).sum(1)
        distance = squares[:, None] + squares - 2 * own @ own.T
        if len(own) > 1:
            typical[subject] = np.median(distance[np.triu_indices(len(own), 1)])
    return typical[group]


def _nearest(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] int, [N]: the nearest row of another subject, and its squared distance."""
    squares = np.square(values).sum(1)
    near = np.empty(len(values), np.int64)
    nearest = np.empty(len(values))
    for start in range(0, len(values), _IMAGES):
        part = slice(start, start + _IMAGES)
        distance = squares - 2 * values[part] @ values.T
        distance[group[part, None] == group] = np.inf
        near[part] = distance.argmin(1)
        nearest[part] = distance.min(1) + squares[part]
    return near, nearest


def _holm(p_values: np.ndarray, comparisons: int) -> np.ndarray:
    """Adjusted p values; those not given count as 1."""
    order = np.argsort(p_values)
    factors = comparisons - np.arange(len(p_values))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
