"""What scores say as a ranking: the area under the ROC curve, average precision, their parts.

A score ranks rows of one class, the positives, above the others. All figures come from two counts:
the positives and the negatives at or above each threshold. Ties count half in the area, and enter
together in the precision. Figures that rest on a ranking are made here and nowhere else.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cumulated:
    """Counts at or above each distinct score, the highest first, beginning with none.

    Attributes:
      positive: [R,K+1] float64, of R weightings of the same rows.
      negative: [R,K+1] float64.
    """

    positive: np.ndarray
    negative: np.ndarray

    def area(self) -> np.ndarray:
        """AUROC [R], the Mann-Whitney statistic; NaN without positives or without negatives.

        The chance that a positive scores above a negative, ties counted half. Weights that are
        whole numbers are added exactly and divided once.
        """
        steps = np.diff(self.negative, axis=1)
        twice = (steps * (self.positive[:, 1:] + self.positive[:, :-1])).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return twice / (2 * self.positive[:, -1] * self.negative[:, -1])

    def average_precision(self) -> np.ndarray:
        """Precision weighted by the steps of recall, [R], as in scikit-learn; NaN if undefined."""
        steps = np.diff(self.positive, axis=1)
        called = self.positive[:, 1:] + self.negative[:, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(called > 0, self.positive[:, 1:] / called, 0.0)
            return (steps * precision).sum(axis=1) / self.positive[:, -1]


def cumulated(
    scores: np.ndarray,
    positives: np.ndarray,
    weights: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Cumulated:
    """The counts of a ranking.

    Args:
      scores: [N] float, a higher score means more likely positive.
      positives: [N] bool.
      weights: [R,G] float64, not negative, how often each group counts; None: once.
      group: [N] int, the group of each row, such as its subject; None: each row is one.
    """
    positives = np.asarray(positives, dtype=bool)
    _, level = np.unique(-np.asarray(scores), return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    if weights is None:
        counted = np.ones((1, len(order)))
    else:
        counted = weights[:, order if group is None else group[order]]

    def above(side: np.ndarray) -> np.ndarray:
        if not len(order):
            return np.zeros((len(counted), 1))
        sums = np.add.reduceat(counted * side[order], starts, axis=1)
        return np.pad(np.cumsum(sums, axis=1), ((0, 0), (1, 0)))

    return Cumulated(above(positives), above(~positives))


def auroc(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """Area under the ROC curve, the Mann-Whitney statistic with ties counted half.

    Args:
      scores: [N] float, a higher score means more likely positive.
      positives: [N] bool.

    Returns:
      The chance that a positive scores above a negative; None without both.

    Example:
      >>> auroc([0.1, 0.4, 0.4, 0.8], [False, True, False, True])
      0.875
    """
    return _defined(cumulated(scores, positives).area()[0])


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """Average precision of a ranking, None without positives; arguments as of `auroc`."""
    return _defined(cumulated(scores, positives).average_precision()[0])


def _defined(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None


def placements(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The share of the other side that each row is on the right side of: [N], 0..1.

    Of a positive the share of negatives that score below it, of a negative the share of positives
    that score above it, ties counted half (DeLong et al. 1988, Biometrics 44: 837-845). The mean
    over either side is the AUROC. Arguments as of `auroc`.

    Raises:
      ValueError: one side has no rows.
    """
    if positives.all() or not positives.any():
        raise ValueError("placements need positives and negatives")
    shares = np.empty(len(scores))
    for side, sign in ((positives, 1.0), (~positives, -1.0)):
        others = np.sort(sign * scores[~side])
        own = sign * scores[side]
        below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
        shares[side] = below / (2 * len(others))
    return shares


@dataclasses.dataclass(frozen=True)
class PrecisionParts:
    """Average precision and how it changes with the rows.

    Attributes:
      value: the average precision.
      derivative: [N], by the weight of each row.
      of_positive: (lowest, highest) derivative that a further positive could have: ranked below
        all rows, and above all.
      of_negative: likewise of a further negative: ranked above all rows, and below all.
    """

    value: float
    derivative: np.ndarray
    of_positive: tuple[float, float]
    of_negative: tuple[float, float]


def precision_parts(scores: np.ndarray, positives: np.ndarray) -> PrecisionParts:
    """The derivative of average precision by the weight of each row; arguments as of `auroc`.

    The value is the sum over distinct scores of positives there times the precision there, by all
    positives. A row changes the precision at its own score and at all lower ones.

    Raises:
      ValueError: there are no positives.
    """
    if not positives.any():
        raise ValueError("average precision needs positives")
    counts = cumulated(scores, positives)
    _, level = np.unique(-scores, return_inverse=True)
    positive, negative = counts.positive[0, 1:], counts.negative[0, 1:]
    total, called = positive[-1], positive + negative
    steps = np.diff(counts.positive[0])
    precision = positive / called
    value = float((steps * precision).sum() / total)
    # Of one positive, or one negative, more at this score or above: summed over all lower scores.
    gain = np.cumsum((steps * negative / called**2)[::-1])[::-1] / total
    loss = np.cumsum((steps * positive / called**2)[::-1])[::-1] / total
    own = (precision - value) / total
    derivative = np.where(positives, own[level] + gain[level], -loss[level])
    return PrecisionParts(
        value,
        derivative,
        (float((precision[-1] - value) / total), float((1 - value) / total + gain[0])),
        (float(-loss[0]), 0.0),
    )
