"""ROC and precision-recall curves of each class against the others, with bands.

A band is pointwise: at each point of the axis a 95 % confidence interval of the curve, clustered by
subject. It is no band for the whole curve at once. It comes from the bootstrap of `resampling`:
whole subjects are drawn within each class, the same draws for every class and curve. The intervals
of the areas are those of `intervals`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from sscjax.evaluation import intervals, ranking, resampling
from sscjax.evaluation.clustered import Estimate, Interval
from sscjax.evaluation.predictions import Predictions

# Where bands are measured: false positive rates, or recalls.
GRID = np.linspace(0.0, 1.0, 101)

# Numbers in an array of one step of the bootstrap: about 8 MB each.
_CHUNK = 1_000_000


@dataclasses.dataclass(frozen=True)
class Band:
    """The pointwise interval [G] of a curve over `GRID`; NaN where there is none."""

    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve of one class against the others.

    Attributes:
      x: [P] false positive rate, or recall; not falling, 0..1.
      y: [P] true positive rate, or precision.
      estimate: AUROC, or average precision, with its interval.
      chance: of PR curves the share of positives, which is the precision of guessing.
      band: None with too few subjects.
    """

    x: np.ndarray
    y: np.ndarray
    estimate: Estimate
    chance: float
    band: Band | None

    @property
    def area(self) -> float:
        """The area's value."""
        assert self.estimate.value is not None, "curves are made where both sides are there"
        return self.estimate.value

    @property
    def interval(self) -> Interval | None:
        """The area's interval; None of fewer than two subjects in a class."""
        ends = self.estimate.interval
        return None if ends is None else (ends[0], ends[1])


def curves(predictions: Predictions, index: int, seed: int = 0) -> tuple[Curve, Curve] | None:
    """ROC and precision-recall of class `index` by its probability; None without both sides.

    Args:
      predictions: rows of images or of subjects.
      index: the class that counts as positive.
      seed: of the bootstrap, that draws the bands.
    """
    scores, positives = predictions.probabilities[:, index], predictions.labels == index
    if positives.all() or not positives.any():
        return None
    group, strata = resampling.subjects_of(predictions)
    once = ranking.cumulated(scores, positives)
    positive, negative = once.positive[0], once.negative[0]
    roc_x, roc_y = negative / negative[-1], positive / positive[-1]
    pr_y = positive[1:] / (positive[1:] + negative[1:])
    # Up to the first threshold's recall its precision holds: the curve begins at the axis.
    pr_y = np.concatenate([pr_y[:1], pr_y])
    roc_values: list[np.ndarray] = []
    pr_values: list[np.ndarray] = []
    for weights in _draws(predictions, strata, seed):
        drawn = ranking.cumulated(scores, positives, weights, group)
        for values, function in ((roc_values, _true_rates), (pr_values, _precisions)):
            values.append(_on_grid(drawn, function))
    number, classes = len(strata), len(np.unique(strata))
    roc_band = _band(np.concatenate(roc_values), number, classes) if roc_values else None
    pr_band = _band(np.concatenate(pr_values), number, classes) if pr_values else None
    area, precision = intervals.areas(predictions, index)
    share = float(positives.mean())
    return (
        Curve(roc_x, roc_y, area, 0.5, roc_band),
        Curve(roc_y, pr_y, precision, share, pr_band),
    )


def _draws(predictions: Predictions, strata: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Weights [r,S] of the subjects, in parts; nothing where a class has too few of them."""
    of_class = np.bincount(strata)
    if of_class[of_class > 0].min() < resampling.FEWEST_SUBJECTS:
        return
    rngs = [np.random.default_rng([seed, k]) for k in range(len(predictions.classes))]
    step = max(1, _CHUNK // max(1, len(predictions)))
    for start in range(0, resampling.RESAMPLES, step):
        count = min(step, resampling.RESAMPLES - start)
        yield resampling.subject_draws(strata, count, rngs).astype(np.float64)


def _on_grid(
    drawn: ranking.Cumulated, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Each resample's curve over `GRID` [R,G]; NaN where a resample lacks a side."""
    positive, negative = drawn.positive, drawn.negative
    values = np.full((len(positive), len(GRID)), np.nan)
    both = (positive[:, -1] > 0) & (negative[:, -1] > 0)
    for row in np.flatnonzero(both):
        values[row] = function(positive[row], negative[row])
    return values


def _true_rates(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """[G]: on an upright part of the curve its upper end."""
    return np.interp(GRID, negative / negative[-1], positive / positive[-1])


def _precisions(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """[G]: of the highest threshold that reaches the recall; at recall 0 as at the first hit."""
    recall = positive / positive[-1]
    reached = np.searchsorted(recall, np.maximum(GRID, 1e-9) - 1e-12, side="left")
    return positive[reached] / (positive[reached] + negative[reached])


def _band(values: np.ndarray, subjects: int, strata: int) -> Band | None:
    """Intervals at each point [R,G]; where all resamples agree the band has no width."""
    ends = np.full((2, len(GRID)), np.nan)
    for index, column in enumerate(values.T):
        interval = resampling.percentile(column, subjects, strata)
        if interval is not None:
            ends[:, index] = interval
        elif np.isfinite(column).all():
            ends[:, index] = column[0]
    if not np.isfinite(ends).any() or np.nanmax(ends[1] - ends[0]) < 1e-9:
        return None
    return Band(ends[0], ends[1])
