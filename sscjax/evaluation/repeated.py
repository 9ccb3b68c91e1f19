"""Several models, each cross-validated several times on the same folds: paired differences.

A model is a list of tables, one for each repeat, with the same rows in the same order. Its figure
is the mean over the repeats. Subjects are resampled and swapped with all their repeats, which test
the same patients again and are no new evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from sscjax.evaluation import paired_tests, resampling
from sscjax.evaluation.clustered import Interval
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

# What two figures may differ by and still count as equal: sums in another order round otherwise.
_ROUNDING = 1e-12

FIGURES = ("balanced_accuracy", "macro_auroc", "log_loss")
"""What models are compared by."""


def figures(tables: Sequence[Predictions], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Figures [R] of subjects weighted by `weights` [R,S], as means over the repeats."""
    found = [
        resampling.weighted(table, resampling.subjects_of(table)[0], weights, False)
        for table in tables
    ]
    return {name: np.mean([one[name] for one in found], axis=0) for name in FIGURES}


def draws(
    tables: Sequence[Predictions], resamples: int, seed: int
) -> tuple[np.ndarray, int] | None:
    """How often each subject is drawn [R,S], within classes, and the number of classes.

    None where a class has too few subjects for a bootstrap.
    """
    strata = resampling.subjects_of(tables[0])[1]
    counts = np.bincount(strata)
    counts = counts[counts > 0]
    if counts.min() < resampling.FEWEST_SUBJECTS:
        return None
    rngs = [np.random.default_rng([seed, index]) for index in range(int(strata.max()) + 1)]
    return resampling.subject_draws(strata, resamples, rngs).astype(np.float64), len(counts)


def intervals(
    first: Sequence[Predictions],
    second: Sequence[Predictions] | None,
    resamples: int = resampling.RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Intervals of the first model's figures, or of these less the second's.

    Args:
      first: one model's tables.
      second: another's, of the same rows; None: of the first model alone.
      resamples: of subjects.
      seed: the same seed draws the same subjects.
    """
    drawn = draws(first, resamples, seed)
    if drawn is None:
        return dict.fromkeys(FIGURES)
    weights, classes = drawn
    values = figures(first, weights)
    if second is not None:
        others = figures(second, weights)
        values = {name: values[name] - others[name] for name in FIGURES}
    return {
        name: resampling.percentile(values[name], weights.shape[1], classes) for name in FIGURES
    }


def swap_p_values(
    first: Sequence[Predictions], second: Sequence[Predictions], seed: int = 0
) -> dict[str, float]:
    """Two-sided p-values by swaps of whole subjects, in all repeats at once.

    As `paired_tests.swap_test`, whose null hypothesis and limits hold here, too.

    Args:
      first: one model's tables.
      second: another's, of the same rows.
      seed: of the swaps that are drawn, where they are too many to try all.
    """
    group, strata = resampling.subjects_of(first[0])
    number = len(strata)
    pairs = [Predictions.join(list(pair)) for pair in zip(first, second, strict=True)]
    groups = np.concatenate([group, group + number])

    def differences(swapped: np.ndarray) -> dict[str, np.ndarray]:
        mine = np.concatenate([~swapped, swapped], axis=1).astype(np.float64)
        total = {name: np.zeros(len(swapped)) for name in FIGURES}
        for pair in pairs:
            one, other = (
                resampling.weighted(pair, groups, weights, False) for weights in (mine, 1 - mine)
            )
            for name in FIGURES:
                total[name] += (one[name] - other[name]) / len(pairs)
        return total

    observed = differences(np.zeros((1, number), dtype=bool))
    every = number - 1 <= math.log2(paired_tests.PERMUTATIONS)
    count = 2 ** (number - 1) if every else paired_tests.PERMUTATIONS
    rng = np.random.default_rng(seed)
    extreme = dict.fromkeys(FIGURES, 0)
    step = max(1, resampling.CHUNK // (4 * len(first[0])))
    for start in range(0, count, step):
        indices = np.arange(start, min(start + step, count))
        swapped = np.zeros((len(indices), number), dtype=bool)
        if every:
            # All signs reversed is the same distance from 0: one subject may stay as it is.
            swapped[:, 1:] = (indices[:, None] >> np.arange(number - 1)[None]) & 1
        else:
            swapped = rng.random(swapped.shape) < 0.5
        for name, values in differences(swapped).items():
            less = np.abs(values) < np.abs(observed[name]) - _ROUNDING
            extreme[name] += int((~less).sum())
    drawn = 0 if every else 1
    return {name: (extreme[name] + drawn) / (count + drawn) for name in FIGURES}


def subjects_to_tell(difference: float, interval: Interval | None, subjects: int) -> int | None:
    """How many subjects it takes until an interval as this one excludes 0, with odds of 80 %.

    The variance of the difference of S subjects is that of the interval, and falls as 1 / S; the
    difference that was seen is taken for the true one, which makes this a rough number.

    Args:
      difference: of the two figures.
      interval: its interval at `LEVEL`, from so many subjects.
      subjects: how many.

    Returns:
      None where the difference is 0 or there is no interval.

    Example:
      >>> subjects_to_tell(0.05, (-0.05, 0.15), 40)
      327
    """
    if interval is None or abs(difference) < 1e-9:
        return None
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))
    error = (interval[1] - interval[0]) / (2 * quantile)
    wanted = abs(difference) / (quantile + float(stats.norm.ppf(0.8)))
    return math.ceil(subjects * (error / wanted) ** 2)
