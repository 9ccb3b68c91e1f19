"""Subjects that may be one patient under two names: means of stain and texture, compared.

Tiles of one biopsy share their stain, their scanner and their tissue. What differs within subjects
and what differs between them is estimated from the set itself (the two-covariance model of speaker
verification, Brümmer and de Villiers 2010, Odyssey: 194-201; with means in place of single images).
For each pair of subjects it gives how much more probable their means are if they are one patient
than if they are two. Two subjects are named if each is the other's most probable twin, and if the
odds hold against all pairs of the set. That two patients whose slides were made alike come near as
well cannot be ruled out from pixels: the finding is a hint, with its odds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

FEWEST_IMAGES = 5
"""Of each subject; of real patients with 3 under one name four in ten would be noticed."""

FEWEST_SUBJECTS = 10
"""With fewer it is not known how much patients differ."""

LEAST_ODDS = 10.0
"""That two subjects are one, if one pair of the set is."""

# Of the variance between images of a subject the part that more images do not average out: they
# come from one region of one slide. Of real biopsies split in two, 0.3 found the most.
_COMMON = 0.3

_SHRINKAGE = 0.02  # of the covariance within subjects towards a multiple of the identity
_LEAST_BETWEEN = 1e-3  # variance between subjects, in units of that within


@dataclasses.dataclass(frozen=True)
class Twins:
    """Two subjects that may be one.

    Attributes:
      first, second: their names.
      first_images, second_images: of how many images each.
      odds: that they are one patient, if one pair of the set is.
    """

    first: str
    second: str
    first_images: int
    second_images: int
    odds: float

    @property
    def probability(self) -> float:
        """The odds as a probability, 0 to 1."""
        return self.odds / (1 + self.odds)


def find(features: np.ndarray, subjects: np.ndarray) -> list[Twins]:
    """The pairs of subjects that may be one, the surest first.

    Args:
      features: [N,D] float, of `appearance.describe` or any other, such as a network's.
      subjects: [N].
    """
    names, group, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    large = sizes >= FEWEST_IMAGES
    count = int(large.sum())
    if count < FEWEST_SUBJECTS:
        return []
    model = _Model.fit(features, group, sizes)
    scores = np.full((len(names), len(names)), -np.inf, np.float32)
    scores[np.ix_(large, large)] = model.scores(large)
    np.fill_diagonal(scores, -np.inf)
    nearest = scores.argmax(axis=1)
    first = np.flatnonzero(large & (nearest[nearest] == np.arange(len(names))))
    first = first[first < nearest[first]]
    logs = scores[first, nearest[first]] - np.log(count * (count - 1) / 2)
    order = np.argsort(-logs, kind="stable")
    return [
        Twins(
            str(names[one]),
            str(names[other]),
            int(sizes[one]),
            int(sizes[other]),
            float(np.exp(min(log, 700.0))),
        )
        for one, other, log in zip(first[order], nearest[first[order]], logs[order], strict=True)
        if log >= np.log(LEAST_ODDS)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """Means of subjects on axes along which images of a subject have unit variance.

    Attributes:
      means: [S,D].
      sizes: [S] images of each.
      between: [D] variance between subjects.
    """

    means: np.ndarray
    sizes: np.ndarray
    between: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> _Model:
        """The two covariances, within subjects and between their means."""
        values = features - features.mean(0)
        values = values / np.maximum(values.std(0), 1e-6)
        means = np.zeros((len(sizes), values.shape[1]))
        np.add.at(means, group, values)
        means /= sizes[:, None]
        residuals = values - means[group]
        width = values.shape[1]
        within = residuals.T @ residuals / max(len(values) - len(sizes), 1)
        shrinkage = max(_SHRINKAGE * np.trace(within) / width, 1e-9)
        spread, directions = np.linalg.eigh(within + shrinkage * np.eye(width))
        means = (means - means.mean(0)) @ (directions / np.sqrt(spread))
        scatter = means.T @ means / (len(sizes) - 1) - np.mean(1 / sizes) * np.eye(width)
        between, directions = np.linalg.eigh(scatter)
        return cls(means @ directions, sizes, np.maximum(between, _LEAST_BETWEEN))

    def scores(self, chosen: np.ndarray) -> np.ndarray:
        """[C,C] of the chosen subjects [S] bool: log of the likelihood ratio, one against two."""
        means, sizes = self.means[chosen], self.sizes[chosen]
        result = np.empty((len(means), len(means)))
        for rows, columns, first, second in _blocks(sizes):
            result[np.ix_(rows, columns)] = self._block(means[rows], means[columns], first, second)
        return result

    def _block(self, one: np.ndarray, other: np.ndarray, first: int, second: int) -> np.ndarray:
        """Of means [R,D] of `first` images each, and means [C,D] of `second` images each: [R,C]."""
        own, theirs = (
            self.between + _COMMON + (1 - _COMMON) / number for number in (first, second)
        )
        determinant = own * theirs - self.between**2
        constant = 0.5 * np.log(own * theirs / determinant).sum()
        of_one = np.square(one) @ (1 / own - theirs / determinant) / 2
        of_other = np.square(other) @ (1 / theirs - own / determinant) / 2
        both = (one * (self.between / determinant)) @ other.T
        return np.asarray(constant + of_one[:, None] + of_other + both)


def _blocks(sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Rows and columns of subjects with equally many images, and these numbers."""
    numbers = np.unique(sizes).tolist()
    members = {number: np.flatnonzero(sizes == number) for number in numbers}
    for first in numbers:
        for second in numbers:
            yield members[first], members[second], first, second
