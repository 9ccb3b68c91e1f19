"""The bootstrap of subjects: differences of two models, bands of curves, areas over coverages.

It draws whole subjects, within each class so that no class is ever missing, with the percentiles
widened for few subjects (Hesterberg 2015, The American Statistician 69: 371-386, section 3.1).
Figures of one model have better intervals in `intervals`.

None stands where there is no interval: an undefined figure, a class of too few subjects, or
resamples that do not differ, which say how few the subjects are and not how sure the figure is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.random import Generator
from scipy import stats

from sscjax.evaluation import metrics, ranking
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions, most_frequent

RESAMPLES = 2000

# Subjects of each class that the bootstrap needs: with three, intervals of 95 % were found to hold
# the truth 85 to 91 times in a hundred, with four 93 to 96 times.
FEWEST_SUBJECTS = 4

# Subjects that the bootstrap needs where it does not draw within classes: with four, intervals of
# Brier's score held the truth 85 times in a hundred, with six 89, with nine and more 91 to 94.
FEWEST_OF_ALL = 8

Interval = tuple[float, float]

# Numbers in an array of one step of the bootstrap: resamples times rows. Some six such arrays stand
# at a time, so about 50 MB.
CHUNK = 1_000_000


def subject_draws(strata: np.ndarray, resamples: int, rngs: Sequence[Generator]) -> np.ndarray:
    """How often each subject stands in each resample, drawn within strata: [R,S] int64.

    Args:
      strata: [S] int, 0 to K-1.
      resamples: R.
      rngs: K generators, one for each stratum, so that R may be drawn in parts.
    """
    draws = np.zeros((resamples, len(strata)), np.int64)
    for stratum, rng in enumerate(rngs):
        members = np.flatnonzero(strata == stratum)
        if len(members):
            shares = np.full(len(members), 1 / len(members))
            draws[:, members] = rng.multinomial(len(members), shares, resamples)
    return draws


def bootstrap(
    predictions: Predictions, ordered: bool, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """The figures of resampled subjects, each [R] float64, NaN where a resample has none.

    Args:
      predictions: one row per image or per subject.
      ordered: whether quadratic kappa has a meaning.
      resamples: R.
      seed: the same seed draws the same subjects.

    Returns:
      accuracy, balanced_accuracy, macro_auroc, log_loss, quadratic_kappa where ordered, and of
      each class 'sensitivity 0', 'specificity 0', 'precision 0', 'f1 0', 'auroc 0' and so on.

    Raises:
      ValueError: there are no rows.
    """
    if not len(predictions):
        raise ValueError("there are no subjects to draw")
    group, strata = subjects_of(predictions)
    parts = [
        weighted(predictions, group, weights, ordered)
        for weights in _subject_weights(strata, len(predictions), resamples, seed)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _subject_weights(
    strata: np.ndarray, rows: int, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each subject stands in each resample, [r,S] float64, a part of them at a time."""
    rngs = [np.random.default_rng([seed, k]) for k in range(int(strata.max()) + 1)]
    step = max(1, CHUNK // max(1, rows))
    for start in range(0, resamples, step):
        yield subject_draws(strata, min(step, resamples - start), rngs).astype(np.float64)


def bootstrap_interval(
    predictions: Predictions,
    figure: Callable[[np.ndarray], np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The interval of a figure that needs no class to be there, by the bootstrap of subjects.

    Subjects are drawn from all, whatever their class: None for fewer than `FEWEST_OF_ALL`.

    Args:
      predictions: one row per image or per subject.
      figure: from weights [R,N] of the rows, how often each is drawn, to the figure [R].
      resamples: R in all.
      seed: the same seed draws the same subjects.
    """
    names, group = np.unique(predictions.subjects, return_inverse=True)
    if len(names) < FEWEST_OF_ALL:
        return None
    parts = _subject_weights(np.zeros(len(names), int), len(predictions), resamples, seed)
    drawn = np.concatenate([figure(weights[:, group]) for weights in parts])
    return percentile(drawn, len(names))


def subjects_of(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """The subject of each row [N], and each subject's class [S], in the order of their names."""
    names, group = np.unique(predictions.subjects, return_inverse=True)
    votes = np.zeros((len(names), len(predictions.classes)), np.int64)
    np.add.at(votes, (group, predictions.labels), 1)
    return group, most_frequent(votes)


def weighted(
    predictions: Predictions, group: np.ndarray, weights: np.ndarray, ordered: bool
) -> dict[str, np.ndarray]:
    """Every figure of a table whose subjects weigh more or less, as `bootstrap` returns them.

    Args:
      predictions: N rows.
      group: [N] int, each row's subject, 0 to S-1.
      weights: [R,S] float64, not negative.
      ordered: whether quadratic kappa has a meaning.
    """
    scores = predictions.probabilities
    classes, subjects = len(predictions.classes), weights.shape[1]
    cells = np.zeros((subjects, classes, classes))
    np.add.at(cells, (group, predictions.labels, predictions.predicted), 1)
    confusion = np.tensordot(weights, cells, 1)
    true, called = confusion.sum(2), confusion.sum(1)
    total = true.sum(1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = right / true
        values = {
            "accuracy": right.sum(1) / total,
            "balanced_accuracy": _mean_of_defined(sensitivity),
            "log_loss": _log_loss(predictions, group, weights) / total,
        }
        negatives = total[:, None] - true
        specificity = (negatives - (called - right)) / negatives
        precision, f1 = right / called, 2 * right / (true + called)
        if ordered:
            grade = np.arange(classes)
            cost = (grade[:, None] - grade[None, :]) ** 2
            chance = np.einsum("rt,rc,tc->r", true, called, cost)
            values["quadratic_kappa"] = 1 - (confusion * cost).sum((1, 2)) * total / chance
    areas = np.stack(
        [
            ranking.cumulated(scores[:, index], predictions.labels == index, weights, group).area()
            for index in range(classes)
        ],
        axis=1,
    )
    values["macro_auroc"] = _mean_of_defined(areas)
    for index in range(classes):
        values[f"sensitivity {index}"] = sensitivity[:, index]
        values[f"specificity {index}"] = specificity[:, index]
        values[f"precision {index}"] = precision[:, index]
        values[f"f1 {index}"] = f1[:, index]
        values[f"auroc {index}"] = areas[:, index]
    return values


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """[R,C] to [R], over the entries that are not NaN."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(1) / defined.sum(1)


def _log_loss(predictions: Predictions, group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of the rows' losses under the weights: [R]."""
    losses = metrics.log_losses(predictions.probabilities, predictions.labels)
    return weights @ np.bincount(group, losses, weights.shape[1])


def percentile(
    values: np.ndarray, subjects: int, strata: int = 1, level: float = LEVEL
) -> Interval | None:
    """The interval that resampled figures [R] give, or None.

    Args:
      values: the figure of each resample.
      subjects: how many were drawn from; resampling n of n in each stratum understates the variance
        by about (n - strata) / n, and the normal quantile by that of t.
      strata: how many classes these subjects were drawn within.
      level: nominal coverage of the interval.
    """
    freedom = subjects - strata
    if freedom < 1 or not np.isfinite(values).all() or np.ptp(values) < 1e-12:
        return None
    wide = np.sqrt(subjects / freedom) * stats.t.ppf((1 + level) / 2, freedom)
    tail = stats.norm.sf(wide)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
