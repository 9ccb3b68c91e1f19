"""Prediction sets: of each patient the classes that cannot be excluded, at a stated level.

Split-conformal prediction (Vovk, Gammerman and Shafer 2005; Papadopoulos et al. 2002, ECML). Of
held-out patients the score is 1 minus the probability of their true class; a class stays in the set
of a new patient unless its score is above the limit, a quantile of these scores with the
finite-sample correction. The set then holds the true class of at least the stated share of new
patients, whatever the network, if they are exchangeable with the held-out ones: drawn in the same
way from the same population. The share is over held-out and new patients together, not for these
held-out ones.

Why this score: its sets are the smallest on average (Sadinle, Lei and Wasserman 2019, JASA 114:
223-234). Adaptive sets (Romano, Sesia and Candès 2020, NeurIPS) hold the level more evenly over
easy and hard patients, but need a random number to be exact, so that the same patient gets
different answers, and are larger; of two to four classes they say little more.

Images of a patient are not exchangeable with those of others: for images each held-out patient
counts once, its images with equal parts of that weight, which holds for a random image of a new
patient (Lee, Barber and Willett 2023, arXiv:2306.06342; Dunn, Wasserman and Ramdas 2023, JASA 118:
2491-2502).

Scores of out-of-fold predictions give cross-conformal sets (Vovk 2015, Ann. Math. Artif. Intell.
74: 9-28): about as valid in practice, in theory only at twice the error.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from sscjax.evaluation import intervals, resampling
from sscjax.evaluation.predictions import Predictions

# Said wherever sets are shown.
CONDITION = (
    "holds on average for patients exchangeable with the held-out ones: the same hospital, stain "
    "and kind of patient"
)

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Sets:
    """A rule that gives a set of classes for a row of probabilities.

    Attributes:
      level: share of new patients, in (0, 1), whose set is to hold their class.
      limits: of each class, the largest 1 - probability with which it stays in the set; None: it is
        in every set, because there are too few held-out subjects to exclude it.
      by_class: whether each class has a limit of its own, so that the level holds within classes.
      subjects: how many held-out subjects the limits rest on.
      cross: whether these are out-of-fold predictions.
    """

    level: float
    limits: tuple[float | None, ...]
    by_class: bool
    subjects: int
    cross: bool

    def members(self, probabilities: np.ndarray) -> np.ndarray:
        """[N,C] bool, the classes in each row's set; the most probable class always is.

        Args:
          probabilities: [N,K], calibrated as those that the limits were fitted on; columns beyond
            the C classes are unused outputs.
        """
        used = np.asarray(probabilities, np.float64)[:, : len(self.limits)]
        limits = np.array([math.inf if limit is None else limit for limit in self.limits])
        inside = 1 - used <= limits + _ROUNDING
        inside[np.arange(len(used)), used.argmax(axis=1)] = True
        return inside

    @property
    def says_nothing(self) -> bool:
        """Whether every set holds all classes."""
        return all(limit is None for limit in self.limits)

    @property
    def rule(self) -> str:
        """How the sets are made, for people."""
        kind = "cross-conformal" if self.cross else "split-conformal"
        if self.says_nothing:
            return (
                f"{self.subjects} held-out subjects are too few ({needed(self.level)} are needed "
                f"for {100 * self.level:g} %): every set holds all classes"
            )
        within = "within each class" if self.by_class else "over all classes together"
        return (
            f"{kind} sets of {100 * self.level:g} % {within}, from {self.subjects} held-out "
            f"subjects; {CONDITION}"
        )


def needed(level: float) -> int:
    """The fewest held-out subjects whose scores can exclude a class at this level, 9 for 0.9."""
    return math.ceil(level / (1 - level) - _ROUNDING)


def quantile(scores: np.ndarray, subjects: np.ndarray, level: float) -> float | None:
    """The limit that a new subject's score exceeds at most with probability 1 - level.

    Each of the n subjects has the weight 1 / (n + 1), in equal parts on its rows, and the new one
    the same weight at infinity. With a row per subject it is the ceil((n + 1) level)-th score.

    Args:
      scores: [N] float.
      subjects: [N], whose rows share a weight.
      level: in (0, 1).

    Returns:
      None where the subjects are too few.

    >>> quantile(np.arange(9.0), np.arange(9), 0.9)
    8.0
    >>> quantile(np.arange(8.0), np.arange(8), 0.9) is None
    True
    """
    _, group, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weights = 1 / sizes[group] / (len(sizes) + 1)
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - _ROUNDING)
    return float(scores[order[reached[0]]]) if len(reached) else None


def fit(predictions: Predictions, classes: int, level: float, *, cross: bool) -> Sets:
    """The rule from held-out rows, by class where each class has enough subjects.

    Classes with fewer than `needed` subjects share one limit, from all their subjects; where these
    are too few as well, all classes do. Which it is depends on the labels alone, so that the level
    holds in each case.

    Args:
      predictions: rows of held-out images, or of held-out subjects; calibrated.
      classes: how many of the columns stand for a class.
      level: see `Sets`.
      cross: whether the predictions are out-of-fold.
    """
    labels, subjects = predictions.labels, predictions.subjects
    scores = 1 - predictions.probabilities[np.arange(len(labels)), labels]
    fewest = needed(level)
    count = [len(set(subjects[labels == index].tolist())) for index in range(classes)]
    groups = [[index] for index in range(classes) if count[index] >= fewest]
    rest = [index for index in range(classes) if count[index] < fewest]
    if rest:
        groups.append(rest)
        if len(set(subjects[np.isin(labels, rest)].tolist())) < fewest:
            groups = [list(range(classes))]
    limits: list[float | None] = [None] * classes
    for group in groups:
        rows = np.isin(labels, group)
        limit = quantile(scores[rows], subjects[rows], level)
        for index in group:
            limits[index] = limit
    return Sets(
        level=level,
        limits=tuple(limits),
        by_class=len(groups) == classes,
        subjects=len(set(subjects.tolist())),
        cross=cross,
    )


def figures(predictions: Predictions, members: np.ndarray) -> dict[str, Any]:
    """How good the sets of some rows are, ready for JSON.

    Args:
      predictions: N rows that no limit was fitted on.
      members: [N,C] bool, see `Sets.members`.

    Returns:
      coverage, the share of sets that hold the true class, of_one, the share of sets with one
      class, and right_of_one, the share of these that is right: each value, interval and n;
      mean_size and its interval; coverage_by_class, a list in the order of the classes.
    """
    size = members.sum(axis=1).astype(np.float64)
    covered = members[np.arange(len(size)), predictions.labels]
    every, single = np.ones(len(size), bool), size == 1

    def share(right: np.ndarray, counted: np.ndarray) -> dict[str, Any]:
        interval = intervals.clustered_share(right, counted, predictions.subjects)
        total = int(counted.sum())
        return {
            "value": float(right[counted].mean()) if total else None,
            "interval": None if interval is None else list(interval),
            "n": total,
        }

    interval = None
    if len(size):
        interval = resampling.bootstrap_interval(
            predictions, lambda weights: weights @ size / weights.sum(1)
        )
    return {
        "coverage": share(covered, every),
        "of_one": share(single, every),
        "right_of_one": share(covered, single),
        "mean_size": float(size.mean()) if len(size) else None,
        "mean_size_interval": None if interval is None else list(interval),
        "coverage_by_class": [
            share(covered, predictions.labels == index) for index in range(members.shape[1])
        ],
    }
