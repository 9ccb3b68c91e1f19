"""Two models on the same images: is one better, and could the difference be chance?

How large is the difference? An interval by the bootstrap of subjects, the same ones drawn for both
models. Could it be chance? A permutation test that swaps the two models' predictions of whole
subjects, which changes nothing but the sign where the models are equal; it is exact where all swaps
are tried, however few the subjects. Beside these stand the two tests that readers look for:
McNemar's of the images that only one model has right, and DeLong's of areas under ROC curves.

McNemar's test assumes independent rows. It is valid for subjects, one row each, and not for several
images of one subject; the permutation of whole subjects is its counterpart there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from sscjax.evaluation import delong, intervals, metrics, resampling
from sscjax.evaluation.clustered import Estimate, Interval
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

# Swaps drawn where they are too many to try all; the least p-value is then 1 in 5,000.
PERMUTATIONS = 4999

# What two figures may differ by and still count as equal: sums in another order round otherwise.
_ROUNDING = 1e-12


# --- McNemar ------------------------------------------------------------------------------------


def mcnemar(first_only: int, second_only: int) -> dict[str, float]:
    """McNemar's test of paired rights and wrongs, from the pairs that differ.

    The mid-p value is the one to read, for any number of pairs: the exact value is too large (it
    rejects less often than it says), the asymptotic one too small where the pairs are few
    (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13: 91).

    Args:
      first_only: pairs that only the first model has right.
      second_only: pairs that only the second has right.

    Returns:
      'mid_p' and 'exact_p', two-sided.
    """
    least, pairs = min(first_only, second_only), first_only + second_only
    if pairs == 0:
        return {"mid_p": 1.0, "exact_p": 1.0}
    exact = min(1.0, 2 * float(stats.binom.cdf(least, pairs, 0.5)))
    # Half the chance of the very result, on both sides; with equal numbers the sides are one.
    at = float(stats.binom.pmf(least, pairs, 0.5))
    mid = 1 - at / 2 if first_only == second_only else exact - at
    return {"mid_p": mid, "exact_p": exact}


def mcnemar_bounds(
    first_right: Sequence[int], second_right: Sequence[int], totals: Sequence[int]
) -> Interval:
    """Least and greatest mid-p value of all pairings that agree with two tables of one set.

    Args:
      first_right: images of each true class that the first model has right.
      second_right: those that the second has right.
      totals: all images of each class.
    """
    sides = list(zip(first_right, second_right, totals, strict=True))
    fewest = sum(max(0, first + second - total) for first, second, total in sides)
    most = sum(min(first, second) for first, second, _ in sides)
    values = [
        mcnemar(sum(first_right) - both, sum(second_right) - both)["mid_p"]
        for both in range(fewest, most + 1)
    ]
    return min(values), max(values)


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
    """
    shares, spans = [], []
    for right, total in (first, second):
        span = stats.binomtest(right, total).proportion_ci(level, method="wilson")
        shares.append(right / total)
        spans.append((span.low, span.high))
    (one, other), ((low, high), (other_low, other_high)) = shares, spans
    below = math.hypot(one - low, other_high - other)
    above = math.hypot(high - one, other - other_low)
    return one - other - below, one - other + above


def unpaired_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Fisher's exact test of two independent shares, two-sided; each is successes and trials."""
    table = [[right, total - right] for right, total in (first, second)]
    return float(stats.fisher_exact(table).pvalue)


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

    AUROC is of ranks: each model's probabilities are ranked among its own before they are swapped
    (Bandos, Rockette and Gur 2005, Statistics in Medicine 24: 2873-2893), or models of equal areas
    of different confidence would seem to differ.

    Args:
      first: one model's predictions.
      second: another's, of the same rows in the same order.
      ordered: whether quadratic kappa has a meaning.
      seed: of the swaps that are drawn, where they are too many to try all.

    Returns:
      p by the figure's name, and whether all swaps were tried. No figure that is undefined.
    """
    group, strata = resampling.subjects_of(first)
    number = len(strata)
    stacked = Predictions.join([first, second])
    groups = np.concatenate([group, group + number])
    ranks = np.concatenate([stats.rankdata(one.probabilities, axis=0) for one in (first, second)])

    def differences(swapped: np.ndarray) -> dict[str, np.ndarray]:
        mine = np.concatenate([~swapped, swapped], axis=1).astype(np.float64)
        one, other = (
            resampling.weighted(stacked, groups, weights, ordered, ranks)
            for weights in (mine, 1 - mine)
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
      the interval by the figure's name, None where no resample differs from another; {} where a
      class has too few subjects (`resampling.FEWEST_SUBJECTS`).
    """
    _, strata = resampling.subjects_of(first)
    of_class = np.bincount(strata)
    of_class = of_class[of_class > 0]
    if of_class.min() < resampling.FEWEST_SUBJECTS:
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
      n, n_subjects, level, resamples, swaps ('all' or their number), figures: a list of name,
      first, second, difference, interval, p in the order of `metrics.OVERALL`; mcnemar: both,
      first_only, second_only, neither, mid_p, exact_p; delong: a list, of the mean and of each
      class, of name, first, first_interval, second, second_interval, difference, interval, z, p.
      What is undefined is None.

    Raises:
      ValueError: the two tables do not hold the same rows.
    """
    for name in ("files", "subjects", "labels"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise ValueError(f"the two tables differ in {name}")
    if first.classes != second.classes:
        raise ValueError(f"the classes are {first.classes} and {second.classes}")
    values = [metrics.figures(table, ordered) for table in (first, second)]
    ranges = difference_intervals(first, second, ordered, seed)
    p_values, every = swap_test(first, second, ordered, seed)
    rights = [table.predicted == table.labels for table in (first, second)]
    first_only, second_only = (rights[0] & ~rights[1]).sum(), (rights[1] & ~rights[0]).sum()
    return {
        "n": len(first),
        "n_subjects": values[0]["n_subjects"],
        "level": LEVEL,
        "resamples": resampling.RESAMPLES,
        "swaps": "all" if every else PERMUTATIONS,
        "figures": [
            {
                "name": name,
                "first": values[0][name],
                "second": values[1][name],
                "difference": _less(values[0][name], values[1][name]),
                "interval": _listed(ranges.get(name)),
                "p": p_values.get(name),
            }
            for name in metrics.OVERALL
        ],
        "mcnemar": {
            "both": int((rights[0] & rights[1]).sum()),
            "first_only": int(first_only),
            "second_only": int(second_only),
            "neither": int((~rights[0] & ~rights[1]).sum()),
            **mcnemar(int(first_only), int(second_only)),
        },
        "delong": _areas(first, second),
    }


def _areas(first: Predictions, second: Predictions) -> list[dict[str, Any]]:
    """DeLong's comparison of the mean area, and of each class's where these are not all one."""
    labels, both = first.labels, (first, second)
    alone = [intervals.estimates(table, ordered=False) for table in both]
    areas = [delong.macro_area(table.probabilities, labels, table.subjects) for table in both]
    entries = [_area_entry("macro", [known["macro_auroc"] for known in alone], areas)]
    occurring = np.unique(labels).tolist()
    for index in occurring if len(occurring) > 2 else []:
        areas = [
            delong.area(table.probabilities[:, index], labels == index, table.subjects)
            for table in both
        ]
        name = first.classes[index]
        entries.append(_area_entry(name, [known[f"auroc {name}"] for known in alone], areas))
    return entries


def _area_entry(
    name: str, alone: Sequence[Estimate], areas: Sequence[delong.Area | None]
) -> dict[str, Any]:
    """One comparison; the areas are None where the clusters are too few for a variance."""
    first, second = areas
    difference = delong.compare(first, second, LEVEL) if first and second else None
    return {
        "name": name,
        "first": alone[0].value,
        "first_interval": alone[0].interval,
        "second": alone[1].value,
        "second_interval": alone[1].interval,
        "difference": _less(alone[0].value, alone[1].value),
        "interval": _listed(difference.interval if difference else None),
        "z": difference.z if difference else None,
        "p": difference.p if difference else None,
    }


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
