"""Two models on the same images: is one better, and could the difference be chance?

How large is the difference? An interval by the bootstrap of subjects, the same ones drawn for both
models; of areas under ROC curves DeLong's, clustered by subject. Could it be chance? A permutation
test that swaps the two models' predictions of all images of a subject, which changes nothing but
the sign where the models are equal; it is exact where all swaps are tried, however few the
subjects.

Every p-value comes from this one test. McNemar's test per image takes images for independent: with
images of patients it rejects a true null hypothesis in 35 to 51 % of studies instead of 5 %. With
one row per subject the swap test of the accuracy is McNemar's exact test. DeLong's test needs many
subjects. So neither has a p-value here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from sscjax.evaluation import delong, metrics, resampling
from sscjax.evaluation.clustered import Interval
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

# Swaps drawn where they are too many to try all; the least p-value is then 1 in 5,000.
PERMUTATIONS = 4999

# What two figures may differ by and still count as equal: sums in another order round otherwise.
_ROUNDING = 1e-12


# --- two shares without their pairing -----------------------------------------------------------


def unpaired_difference(
    first: tuple[int, int], second: tuple[int, int], level: float = LEVEL
) -> Interval:
    """Interval of a difference of independent shares: Newcombe's hybrid of Wilson's intervals.

    Newcombe 1998, Statistics in Medicine 17: 873-890, method 10.

    Args:
      first: successes and trials, of the share that is subtracted from.
      second: those of the share that is subtracted.
      level: nominal coverage of the interval.

    Raises:
      ValueError: a share of no trials.
    """
    if not (first[1] and second[1]):
        raise ValueError("a share of no trials is undefined")
    shares, spans = [], []
    for right, total in (first, second):
        span = stats.binomtest(right, total).proportion_ci(level, method="wilson")
        shares.append(right / total)
        spans.append((span.low, span.high))
    (one, other), ((low, high), (other_low, other_high)) = shares, spans
    below = math.hypot(one - low, other_high - other)
    above = math.hypot(high - one, other - other_low)
    return one - other - below, one - other + above


# --- several comparisons ------------------------------------------------------------------------


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for several tests (1979, Scandinavian Journal of Statistics 6: 65-70).

    Args:
      p_values: one per test; None, where a test could not be made, stays None and counts as none.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[index] = highest
    return corrected


# --- figures of two models ----------------------------------------------------------------------


def swap_test(
    first: Predictions, second: Predictions, ordered: bool, seed: int = 0
) -> tuple[dict[str, float], bool]:
    """Two-sided p-values of the differences of all figures, by swaps of whole subjects.

    The null hypothesis is that the two models' predictions of a subject could as well stand in each
    other's place; then the level is exact, for AUROC too. Between models of equal areas that differ
    in confidence the test of AUROC rejects more rarely than its level says. Ranking each model's
    probabilities before they are swapped (Bandos, Rockette and Gur 2005, Statistics in Medicine 24:
    2873-2893) would not care for confidence, but exceeds its level where subjects are few: a
    subject's ranks depend on all others of its model, so they are no longer its own to swap.

    Args:
      first: one model's predictions.
      second: another's, of the same rows in the same order.
      ordered: whether quadratic kappa has a meaning.
      seed: of the swaps that are drawn, where they are too many to try all.

    Returns:
      p by the figure's name, and whether all swaps were tried. No figure that is undefined.
    """
    if not len(first):
        return {}, True
    group, strata = resampling.subjects_of(first)
    number = len(strata)
    stacked = Predictions.join([first, second])
    groups = np.concatenate([group, group + number])

    def differences(swapped: np.ndarray) -> dict[str, np.ndarray]:
        mine = np.concatenate([~swapped, swapped], axis=1).astype(np.float64)
        one, other = (
            resampling.weighted(stacked, groups, weights, ordered) for weights in (mine, 1 - mine)
        )
        return {name: one[name] - other[name] for name in one}

    observed = differences(np.zeros((1, number), dtype=bool))
    changes = (first.probabilities != second.probabilities).any(axis=1)
    differing = np.unique(group[changes])
    # All signs reversed is the same distance from 0: one subject may stay as it is.
    free_swaps = max(0, len(differing) - 1)
    every = free_swaps <= math.log2(PERMUTATIONS)
    count = 2**free_swaps if every else PERMUTATIONS
    rng = np.random.default_rng(seed)
    extreme = dict.fromkeys(observed, 0)
    step = max(1, resampling.CHUNK // (4 * len(first)))
    for start in range(0, count, step):
        indices = np.arange(start, min(start + step, count))
        swapped = np.zeros((len(indices), number), dtype=bool)
        if every:
            free = np.arange(len(differing) - 1)
            swapped[:, differing[1:]] = (indices[:, None] >> free[None, :]) & 1
        else:
            swapped[:, differing] = rng.random((len(indices), len(differing))) < 0.5
        for name, values in differences(swapped).items():
            # A figure that a swap leaves undefined counts against the difference.
            less = np.abs(values) < np.abs(observed[name]) - _ROUNDING
            extreme[name] += int((~less).sum())
    defined = [name for name, value in observed.items() if np.isfinite(value[0])]
    if every:
        return {name: extreme[name] / count for name in defined}, True
    # The swap that was observed counts among those drawn, or p could be 0.
    return {name: (extreme[name] + 1) / (count + 1) for name in defined}, False


def difference_intervals(
    first: Predictions, second: Predictions, ordered: bool, seed: int = 0
) -> dict[str, Interval | None]:
    """Intervals of the first model's figures less the second's, by a bootstrap of subjects.

    Args:
      first: one model's predictions.
      second: another's, of the same rows in the same order.
      ordered: whether quadratic kappa has a meaning.
      seed: of the subjects that are drawn, the same ones for both models.

    Returns:
      the interval by the figure's name, None where no resample differs from another; {} without
      rows, or where a class has too few subjects (`resampling.FEWEST_SUBJECTS`).
    """
    _, strata = resampling.subjects_of(first)
    of_class = np.bincount(strata)
    of_class = of_class[of_class > 0]
    if not len(of_class) or of_class.min() < resampling.FEWEST_SUBJECTS:
        return {}
    of_first = resampling.bootstrap(first, ordered, seed=seed)
    of_second = resampling.bootstrap(second, ordered, seed=seed)
    return {
        name: resampling.percentile(of_first[name] - of_second[name], len(strata), len(of_class))
        for name in of_first
    }


def compare(
    first: Predictions, second: Predictions, ordered: bool, seed: int = 0
) -> dict[str, Any]:
    """Everything about two models on the same images, ready for JSON.

    Args:
      first: one model's predictions.
      second: another's, of the same rows in the same order and with the same classes.
      ordered: whether quadratic kappa has a meaning.
      seed: of resamples and swaps.

    Returns:
      n, n_subjects, level, resamples, swaps ('all' or their number); figures: a list of name,
      first, second, difference, interval, p in the order of `metrics.OVERALL`, then of each class
      'auroc NAME' where there are more than two; correct: rows that both models have right, both,
      those of one alone, first_only and second_only, and neither. What is undefined is None.

    Raises:
      ValueError: the two tables do not hold the same rows, or hold none.
    """
    if not len(first):
        raise ValueError("the two tables have no rows to compare")
    for name in ("files", "subjects", "labels"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise ValueError(f"the two tables differ in {name}")
    if first.classes != second.classes:
        raise ValueError(f"the classes are {first.classes} and {second.classes}")
    p_values, every = swap_test(first, second, ordered, seed)
    rights = [table.predicted == table.labels for table in (first, second)]
    return {
        "n": len(first),
        "n_subjects": len(set(first.subjects.tolist())),
        "level": LEVEL,
        "resamples": resampling.RESAMPLES,
        "swaps": "all" if every else PERMUTATIONS,
        "figures": _figures(first, second, ordered, seed, p_values),
        "correct": {
            "both": int((rights[0] & rights[1]).sum()),
            "first_only": int((rights[0] & ~rights[1]).sum()),
            "second_only": int((rights[1] & ~rights[0]).sum()),
            "neither": int((~rights[0] & ~rights[1]).sum()),
        },
    }


def _figures(
    first: Predictions,
    second: Predictions,
    ordered: bool,
    seed: int,
    p_values: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Value, difference, interval and p of each figure."""
    both = (first, second)
    values = [metrics.figures(table, ordered) for table in both]
    ranges = difference_intervals(first, second, ordered, seed)
    areas = [delong.macro_area(table.probabilities, table.labels, table.subjects) for table in both]
    ranges["macro_auroc"] = _area_interval(areas)
    entries = [
        _entry(name, [one[name] for one in values], ranges.get(name), p_values.get(name))
        for name in metrics.OVERALL
    ]
    occurring = np.unique(first.labels).tolist()
    # Of two classes the one's area is the other's.
    for index in occurring if len(occurring) > 2 else []:
        areas = [
            delong.area(table.probabilities[:, index], table.labels == index, table.subjects)
            for table in both
        ]
        pair = [one["per_class"][index]["auroc"] for one in values]
        name = f"auroc {first.classes[index]}"
        entries.append(_entry(name, pair, _area_interval(areas), p_values.get(f"auroc {index}")))
    return entries


def _area_interval(areas: Sequence[delong.Area | None]) -> Interval | None:
    """DeLong's interval of a difference; None where the clusters are too few for a variance."""
    first, second = areas
    difference = delong.compare(first, second, LEVEL) if first and second else None
    return difference.interval if difference else None


def _entry(
    name: str, values: Sequence[float | None], interval: Interval | None, p: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "first": values[0],
        "second": values[1],
        "difference": _less(values[0], values[1]),
        "interval": None if interval is None else list(interval),
        "p": p,
    }


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
