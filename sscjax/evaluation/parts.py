"""The parts that figures are made of: what each class's images contribute, as means by subject.

A figure first asks for the means that it needs; the limits of all means of a table are computed at
once; then each figure is put together. `sums` are figures that are weighted means of their parts.
Quadratic kappa, PPV, NPV, F1 and average precision are not: how far they move with a part is
computed by moving the class's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from sscjax.evaluation import area_limits, clustered, metrics, ranking
from sscjax.evaluation.clustered import Estimate, Interval, Means, Part
from sscjax.evaluation.predictions import Predictions

# `caution` of average precision (`limits.spread`): its derivatives of few subjects are skewed. With
# 1, intervals held the truth in 86 to 91 % of the tables of three designs of the grid of
# `scripts/evidence/interval_coverage.py`, with 2 in 92 % or more.
_CAUTION = 2.0

# A figure whose means have been asked for; called with the limits of all means.
Finish = Callable[[Sequence[Part | None]], Estimate]


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A figure that changes by `weight` times what its part changes by.

    Attributes:
      number: the part's, in `Means`.
      weight: not negative.
    """

    number: int
    weight: float


class Table:
    """A table whose figures are being computed.

    Attributes:
      values: of `metrics.figures`.
      means: collects all means, so that their limits are computed at once.
      own: of each class the rows that have it, [N] bool.
      present: the classes that occur.
    """

    def __init__(self, predictions: Predictions, ordered: bool) -> None:
        self.predictions = predictions
        self.values = metrics.figures(predictions, ordered)
        self.means = Means(predictions.subjects)
        classes = range(len(predictions.classes))
        self.own = [predictions.labels == index for index in classes]
        self.right = predictions.predicted == predictions.labels
        self.present = [index for index in classes if self.own[index].any()]

    def strata(self, classes: Sequence[int]) -> list[np.ndarray]:
        """The rows of each class; of all together where one has a single subject."""
        rows = [self.own[index] for index in classes if self.own[index].any()]
        if rows and min(map(self.means.subjects_of, rows)) < 2:
            return [np.logical_or.reduce(rows)]
        return rows


def weighted_sum(value: float | None, terms: Sequence[Weighted]) -> Finish:
    """A figure that is linear in its parts."""

    def finish(parts: Sequence[Part | None]) -> Estimate:
        known = [part for term in terms if (part := parts[term.number]) is not None]
        if value is None or len(known) < len(terms):
            return without(value, len(terms))
        if len(known) == 1 and terms[0].weight == 1:
            return clustered.of_part(value, known[0])
        scaled = [part.times(term.weight) for part, term in zip(known, terms, strict=True)]
        return clustered.combined(value, scaled)

    return finish


def without(value: float | None, parts: int) -> Estimate:
    """No value, or no interval of it."""
    if value is None:
        return Estimate(None, reason="it is undefined for these rows")
    return Estimate(value, reason=clustered.FEW if parts < 2 else clustered.FEW_OF_CLASS)


def mean_over(
    table: Table, value: float | None, values: np.ndarray, classes: Sequence[int]
) -> Finish:
    """A mean over all rows of several classes, as the sum of the classes' means."""
    rows = table.strata(classes)
    total = sum(int(counted.sum()) for counted in rows)
    return weighted_sum(
        value,
        [Weighted(table.means.add(values, one), int(one.sum()) / total) for one in rows],
    )


def balanced_accuracy(table: Table) -> Finish:
    """The mean sensitivity of the classes that occur."""
    weight = 1 / max(1, len(table.present))
    terms = [
        Weighted(table.means.add(table.right, table.own[index]), weight) for index in table.present
    ]
    return weighted_sum(table.values["balanced_accuracy"], terms)


# --- rankings -------------------------------------------------------------------------------------


def placements(table: Table) -> list[np.ndarray]:
    """Of each class its `ranking.placements` against the others; zeros where it has no others."""
    probabilities = table.predictions.probabilities
    return [
        ranking.placements(probabilities[:, index], own)
        if own.any() and not own.all()
        else np.zeros(len(own))
        for index, own in enumerate(table.own)
    ]


def auroc(table: Table, index: int, placed: np.ndarray) -> Finish:
    """The mean placement of the class, and those of the other classes among the negatives."""
    value = table.values["per_class"][index]["auroc"]
    if value is None:
        return weighted_sum(None, [])
    others = table.strata([other for other in table.present if other != index])
    negatives = len(table.predictions) - int(table.own[index].sum())
    return _area(
        value,
        [Weighted(table.means.add(placed, table.own[index]), 1.0)],
        [Weighted(table.means.add(placed, one), int(one.sum()) / negatives) for one in others],
    )


def macro_auroc(table: Table, placed: Sequence[np.ndarray]) -> Finish:
    """A class takes part as positives in its own area, as negatives in those of the others."""
    value, present = table.values["macro_auroc"], table.present
    if value is None:
        return weighted_sum(None, [])
    counts = [int(own.sum()) for own in table.own]
    terms = []
    for index in present:
        shares = {
            other: 1.0 if other == index else counts[index] / (sum(counts) - counts[other])
            for other in present
        }
        total = sum(shares.values())
        mean = np.sum([share * placed[other] for other, share in shares.items()], axis=0) / total
        number = table.means.add(mean, table.own[index])
        terms.append(Weighted(number, total / len(present)))
    # Each class stands on both sides: with half of its weight on each, squared.
    return _area(value, terms, terms, share=0.5)


def _area(
    value: float, positives: Sequence[Weighted], negatives: Sequence[Weighted], share: float = 1.0
) -> Finish:
    """An area from the placements of its positives and its negatives.

    Args:
      value: the area.
      positives: of these the weights sum to 1, as do those of `negatives`, if `share` is 1.
      negatives: likewise.
      share: of each side's squared weights that count.
    """
    terms = list(dict.fromkeys([*positives, *negatives]))

    def subjects(side: Sequence[Weighted], parts: dict[int, Part]) -> float:
        return 1 / (share * sum(one.weight**2 / parts[one.number].effective for one in side))

    def finish(parts: Sequence[Part | None]) -> Estimate:
        known = {term.number: part for term in terms if (part := parts[term.number]) is not None}
        if len(known) < len(terms):
            return without(value, len(terms))
        scaled = [known[term.number].times(term.weight) for term in terms]
        variances = np.array([float((part.residuals**2).sum()) for part in scaled])
        variance = float((np.sum([part.residuals for part in scaled], axis=0) ** 2).sum())
        freedoms = np.array([part.freedom for part in scaled])
        varying = variances > 0
        uncertain = float((variances[varying] ** 2 / freedoms[varying]).sum())
        freedom = float(variances.sum()) ** 2 / uncertain if uncertain > 0 else np.inf
        low, high = area_limits.area_limits(
            value, variance, freedom, subjects(positives, known), subjects(negatives, known)
        )
        return Estimate(value, low, high, method=area_limits.METHOD)

    return finish


# --- figures that are no sums ---------------------------------------------------------------------


def moved(part: Part, ends: Interval) -> Interval:
    """The shares of a class's images that go to the worst, and the best, at the part's limits.

    Args:
      part: the mean of a quantity over the images.
      ends: the quantity of the worst and of the best.
    """
    worst, best = ends
    down = (part.value - part.low) / (part.value - worst) if part.value > worst else 0.0
    up = (part.high - part.value) / (best - part.value) if part.value < best else 0.0
    return min(1.0, down), min(1.0, up)


def of_confusion(
    table: Table,
    value: float,
    gain: np.ndarray,
    figure: Callable[[np.ndarray], float],
    least: float,
) -> Finish:
    """A figure of the confusion matrix.

    Images of each class go to the predictions that lower, or raise, the figure the most.

    Args:
      table: the rows.
      value: the figure.
      gain: [C,C] the figure's derivative by the count of each cell; what all cells of a row have in
        common does not matter.
      figure: of counts [C,C] that need not be whole.
      least: its least value.
    """
    counts = np.array(table.values["confusion"], np.float64)
    predicted = table.predictions.predicted
    moving = [index for index in table.present if np.ptp(gain[index]) > _ROUNDING / counts.sum()]
    numbers = [
        table.means.add(gain[index][predicted], table.own[index], _ends(gain[index]))
        for index in moving
    ]

    def finish(parts: Sequence[Part | None]) -> Estimate:
        known = [part for number in numbers if (part := parts[number]) is not None]
        if not numbers:
            return Estimate(value, reason="it is the same whatever is predicted")
        if len(known) < len(numbers):
            return without(value, len(table.present))
        reached = []
        for index, part in zip(moving, known, strict=True):
            steps = moved(part, _ends(gain[index]))
            cells = (int(gain[index].argmin()), int(gain[index].argmax()))
            both = []
            for step, cell in zip(steps, cells, strict=True):
                other = counts.copy()
                other[index] *= 1 - step
                other[index, cell] += step * counts[index].sum()
                both.append(figure(other))
            reached.append((both[0], both[1]))
        return clustered.combined(value, known, reached, ends=(least, 1.0))

    return finish


# Derivatives below, times the number of images, are rounding.
_ROUNDING = 1e-9


def _ends(values: np.ndarray) -> Interval:
    return float(values.min()), float(values.max())


def quadratic_kappa(table: Table) -> Finish:
    """Kappa by its derivative; of rows of one class it says nothing."""
    value = table.values["quadratic_kappa"]
    if value is None:
        return weighted_sum(None, [])
    if len(table.present) < 2:
        # Such rows agree with the predictions as often as by chance, whatever these are.
        return lambda _: Estimate(value, reason="needs rows of two classes")
    counts = np.array(table.values["confusion"], np.float64)
    grade = np.arange(len(counts))
    cost = (grade[:, None] - grade[None, :]) ** 2
    chance = cost @ counts.sum(1) / counts.sum()
    by_chance = float(chance @ counts.sum(0))
    gain = (-cost + (1 - value) * chance[None, :]) / by_chance

    def kappa(other: np.ndarray) -> float:
        expected = float(other.sum(1) @ cost @ other.sum(0)) / other.sum()
        return 1 - float((cost * other).sum()) / expected if expected > 0 else 1.0

    return of_confusion(table, value, gain, kappa, -1.0)


def ratio(table: Table, name: str, index: int) -> Finish:
    """PPV ('precision'), 'npv' and 'f1': a weighted count of right cells by one of all cells."""
    value = table.values["per_class"][index][name]
    if value is None:
        return weighted_sum(None, [])
    right, counted = np.zeros((2, *np.shape(table.values["confusion"])))
    if name == "npv":
        counted[:] = 1
        counted[:, index] = 0
        right[:] = counted
        right[index] = 0
    else:
        counted[:, index] = 1
        right[index, index] = 1
    if name == "f1":
        counted[index] += 1
        right *= 2
    total = float((counted * np.array(table.values["confusion"])).sum())

    def share(other: np.ndarray) -> float:
        below = float((counted * other).sum())
        # Where nothing is predicted as the class any more, the worst that can be said.
        return float((right * other).sum()) / below if below > 0 else 0.0

    return of_confusion(table, value, (right - value * counted) / total, share, 0.0)


def average_precision(table: Table, index: int) -> Finish:
    """Positives go to the bottom or the top of the ranking, negatives to the top or the bottom."""
    value = table.values["per_class"][index]["average_precision"]
    own = table.own[index]
    if value is None or own.all():
        return weighted_sum(None, [])
    scores = table.predictions.probabilities[:, index]
    of = ranking.precision_parts(scores, own)
    strata = [own, *table.strata([other for other in table.present if other != index])]
    asked = []
    for counted in strata:
        limits = of.of_positive if counted is own else of.of_negative
        slopes = of.derivative[counted]
        ends = (min(limits[0], float(slopes.min())), max(limits[1], float(slopes.max())))
        if ends[1] > ends[0]:
            asked.append((counted, ends, table.means.add(of.derivative, counted, ends, _CAUTION)))

    def finish(parts: Sequence[Part | None]) -> Estimate:
        known = [part for _, _, number in asked if (part := parts[number]) is not None]
        if len(known) < len(asked) or not known:
            return without(value, len(asked))
        reached = []
        for (counted, ends, _), part in zip(asked, known, strict=True):
            down, up = moved(part, ends)
            extra = np.array([-np.inf, np.inf] if counted is own else [np.inf, -np.inf])
            weights = np.ones((2, len(own) + 2))
            weights[:, :-2][:, counted] = [[1 - down], [1 - up]]
            weights[:, -2:] = np.diag([down, up]) * counted.sum()
            both = ranking.cumulated(
                np.concatenate([scores, extra]),
                np.concatenate([own, np.full(2, counted is own)]),
                weights,
            ).average_precision()
            reached.append((float(both[0]), float(both[1])))
        return clustered.combined(value, known, reached)

    return finish
