"""A figure over the number of training subjects: intervals, fit and extrapolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sscjax.evaluation import metrics, power_law, resampling
from sscjax.evaluation.predictions import Predictions

# Of the bootstrap over subjects and repeats.
RESAMPLES = 500

# How far the curve is extrapolated, in multiples of the largest number measured.
REACH = (1.5, 2.0)

# Points of the fitted curve in a picture.
_DRAWN = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Predictions of classifiers that were fitted to fewer and more subjects.

    Attributes:
      sizes: [P] int, numbers of training subjects, rising.
      tables: for each repeat and size the predictions of all images, each by a classifier that was
        fitted to subjects of other folds.
    """

    sizes: np.ndarray
    tables: list[list[Predictions]]


@dataclasses.dataclass(frozen=True)
class Point:
    """A figure with so many training subjects, and its 95 % interval, None where there is none."""

    subjects: int
    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Curve:
    """One figure over the number of training subjects.

    Attributes:
      figure: 'balanced_accuracy' or 'log_loss'.
      unit: 'image' or 'subject'.
      points: measured.
      limit: what endless data would give by the fit, with its interval; `subjects` is 0.
      gain, exponent: b and c of the fit, see `power_law`.
      forecast: by the fit, at each multiple of `REACH`.
      drawn: by the fit, from the smallest size to the largest forecast.
    """

    figure: str
    unit: str
    points: list[Point]
    limit: Point
    gain: float
    exponent: float
    forecast: list[Point]
    drawn: list[Point]


def curve_of(measured: Measured, figure: str, unit: str, rises: bool, seed: int = 0) -> Curve:
    """One figure over the number of training subjects, with intervals and extrapolation.

    Intervals are a bootstrap of the tested subjects, within classes, and of the repeats: whom the
    classifiers were trained on differs from repeat to repeat. The curve is fitted in each resample.
    """
    tables = [
        [table if unit == "image" else table.by_subject() for table in row]
        for row in measured.tables
    ]
    plain = np.array([[metrics.figures(table, False)[figure] for table in row] for row in tables])
    drawn, freedom = _resampled(tables, figure, seed)
    sizes, values = measured.sizes, plain.mean(axis=0)
    variances = np.maximum(drawn.var(axis=0, ddof=1), 1e-8)
    bounds = (0.0, 1.0) if figure == "balanced_accuracy" else (0.0, np.inf)
    best = power_law.fit(sizes, values[None], variances, rises=rises, bounds=bounds)
    fits = power_law.fit(sizes, drawn, variances, rises=rises, bounds=bounds)

    def point(subjects: int, value: float, resampled: np.ndarray) -> Point:
        ends = resampling.percentile(resampled, *freedom)
        return Point(int(subjects), float(value), *(ends or (None, None)))

    def along(numbers: np.ndarray) -> list[Point]:
        middle, spread = best.at(numbers)[0], fits.at(numbers)
        return [point(n, middle[k], spread[:, k]) for k, n in enumerate(numbers.tolist())]

    ahead = np.array([round(times * int(sizes[-1])) for times in REACH])
    grid = np.unique(np.round(np.geomspace(sizes[0], ahead[-1], _DRAWN)).astype(int))
    return Curve(
        figure=figure,
        unit=unit,
        points=[point(n, values[k], drawn[:, k]) for k, n in enumerate(sizes.tolist())],
        limit=point(0, best.limit[0], fits.limit),
        gain=float(best.gain[0]),
        exponent=float(best.exponent[0]),
        forecast=along(ahead),
        drawn=along(grid),
    )


def _resampled(
    tables: Sequence[Sequence[Predictions]], figure: str, seed: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """[B,P] means over drawn repeats of the figure of drawn subjects; subjects and classes."""
    group, strata = resampling.subjects_of(tables[0][0])
    occurring = np.unique(strata)
    rngs = [np.random.default_rng([seed, k]) for k in range(int(strata.max()) + 1)]
    weights = resampling.subject_draws(strata, RESAMPLES, rngs).astype(np.float64)
    values = np.array(
        [
            [resampling.weighted(table, group, weights, False)[figure] for table in row]
            for row in tables
        ]
    )
    repeats = np.random.default_rng([seed, 1000]).integers(0, len(tables), (RESAMPLES, len(tables)))
    means = np.stack([values[repeats[b], :, b].mean(axis=0) for b in range(RESAMPLES)])
    return means, (len(strata), len(occurring))
