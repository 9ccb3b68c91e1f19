"""95 % confidence intervals of the metrics in `metrics`, for images clustered by subject.

Images of one patient resemble each other, so a hundred images of ten patients carry less
information than a hundred patients would. Proportions (accuracy, sensitivity, ...) get the interval
of Korn and Graubard (1998, Survey Methodology 24: 193-201): Clopper and Pearson's, for the number
of independent images that would vary as much as these clusters do. It stays valid where all or none
are right, and is Clopper and Pearson's own where every subject has one image.

Areas under ROC curves get DeLong's interval, by subject (`delong`): where subjects are few its
coverage was better than the bootstrap's.

All other metrics get a bootstrap that draws whole subjects, within each class so that no class is
ever missing, with the percentiles widened for few subjects (Hesterberg 2015, The American
Statistician 69: 371-386, section 3.1).

None stands for an interval that cannot be computed: of an undefined metric, of a class of too few
subjects, or where the resamples do not differ, because the subjects are too few to vary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy import stats

from sscjax.evaluation import delong, metrics
from sscjax.evaluation.predictions import Predictions, most_frequent

LEVEL = 0.95
RESAMPLES = 2000

# Subjects of each class that the bootstrap needs: with three, the simulated coverage of 95 %
# intervals was 85 to 91 %, with four 93 to 96 %.
FEWEST_SUBJECTS = 4

# Subjects that the bootstrap needs where it does not draw within classes: with four, the coverage
# of intervals of Brier's score was 85 %, with six 89 %, with nine and more 91 to 94 %.
FEWEST_OF_ALL = 8

Interval = tuple[float, float]

# Numbers in an array of one step of the bootstrap: resamples times rows. Some six such arrays stand
# at a time, so about 50 MB.
CHUNK = 1_000_000


def clopper_pearson(right: float, total: float, level: float = LEVEL) -> Interval:
    """Exact interval of a share of independent trials; counts need not be whole.

    Args:
      right: successes, 0 to `total`.
      total: trials, above 0.
      level: coverage of the interval, at least.
    """
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, right, total - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(1 - tail, right + 1, total - right) if right < total else 1.0
    return float(low), float(high)


def clustered_share(
    right: np.ndarray, counted: np.ndarray, clusters: np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Korn and Graubard's interval of the share right among the rows that count.

    Args:
      right: [N] bool.
      counted: [N] bool, the rows of the denominator.
      clusters: [N], the cluster of each row, within which rows are not independent.
      level: nominal coverage of the interval.
    """
    right, clusters = right[counted], clusters[counted]
    total = len(right)
    _, group = np.unique(clusters, return_inverse=True)
    number = int(group.max()) + 1 if total else 0
    if number < 2:
        return None
    hits = float(right.sum())
    if number == total:
        return clopper_pearson(hits, total, level)
    share = hits / total
    # The ratio estimator's variance by its residuals in each cluster.
    residuals = np.bincount(group, right, number) - share * np.bincount(group, minlength=number)
    variance = number / (number - 1) * float((residuals**2).sum()) / total**2
    hits_of = np.bincount(group, right, number)
    sizes = np.bincount(group, minlength=number)
    if min((hits_of > 0).sum(), (hits_of < sizes).sum()) < 2:
        # All right or all wrong, but for one cluster: nothing to estimate the variation from, so
        # as if a cluster carried no more information than one image.
        effective = float(number)
    else:
        # Rounding must not decide whether clusters that are all alike vary.
        variance = max(variance, share * (1 - share) / total)
        tail = (1 + level) / 2
        effective = share * (1 - share) / variance
        effective *= (stats.t.ppf(tail, total - 1) / stats.t.ppf(tail, number - 1)) ** 2
    return clopper_pearson(share * effective, effective, level)


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
      ordered: whether kappa has a meaning.
      resamples: R.
      seed: the same seed draws the same subjects.

    Returns:
      accuracy, balanced_accuracy, macro_auroc, log_loss, quadratic_kappa where ordered, and of
      each class 'sensitivity 0', 'specificity 0', 'precision 0', 'f1 0', 'auroc 0' and so on.
    """
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
    *,
    raised_by_chance: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The interval of a figure that needs no class to be there, by the bootstrap of subjects.

    Subjects are drawn from all, whatever their class: None for fewer than `FEWEST_OF_ALL`.

    Args:
      predictions: one row per image or per subject.
      figure: from weights [R,N] of the rows, how often each is drawn, to the figure [R].
      raised_by_chance: for a figure that scatter alone makes larger, as it does a sum of absolute
        differences. Resampling adds scatter once more, so the percentiles lie too high. The lower
        end is then the mirror image of the upper one about the figure itself, not below 0.
      resamples: R in all.
      seed: the same seed draws the same subjects.
    """
    names, group = np.unique(predictions.subjects, return_inverse=True)
    if len(names) < FEWEST_OF_ALL:
        return None
    parts = _subject_weights(np.zeros(len(names), int), len(predictions), resamples, seed)
    drawn = np.concatenate([figure(weights[:, group]) for weights in parts])
    ends = percentile(drawn, len(names))
    if ends is None or not raised_by_chance:
        return ends
    value = float(figure(np.ones((1, len(predictions))))[0])
    high = max(ends[1], value)
    return max(0.0, 2 * value - high), high


def subjects_of(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """The subject of each row [N], and each subject's class [S], in the order of their names."""
    names, group = np.unique(predictions.subjects, return_inverse=True)
    votes = np.zeros((len(names), len(predictions.classes)), np.int64)
    np.add.at(votes, (group, predictions.labels), 1)
    return group, most_frequent(votes)


def weighted(
    predictions: Predictions,
    group: np.ndarray,
    weights: np.ndarray,
    ordered: bool,
    scores: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every figure of a table whose subjects weigh more or less, as `bootstrap` returns them.

    Args:
      predictions: N rows.
      group: [N] int, each row's subject, 0 to S-1.
      weights: [R,S] float64, not negative.
      ordered: whether kappa has a meaning.
      scores: [N,C] float, what AUROC ranks the rows by; None takes the probabilities.
    """
    if scores is None:
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
            _weighted_auroc(scores[:, index], predictions.labels == index, group, weights)
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
    chosen = predictions.probabilities[np.arange(len(predictions)), predictions.labels]
    losses = -np.log(np.maximum(chosen, np.finfo(np.float64).eps))
    return weights @ np.bincount(group, losses, weights.shape[1])


def _weighted_auroc(
    scores: np.ndarray, positives: np.ndarray, group: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AUROC under weights [R,S] of the subjects: [R], NaN where one side is missing."""
    _, level = np.unique(scores, return_inverse=True)
    order = np.argsort(level, kind="stable")
    # One entry per row in the order of the scores; ties are then added up by their level.
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    drawn = weights[:, group[order]]
    positive = np.add.reduceat(drawn * positives[order], starts, axis=1)
    negative = np.add.reduceat(drawn * ~positives[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


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


def figures(predictions: Predictions, ordered: bool, seed: int = 0) -> dict[str, Any]:
    """An interval for each figure of `metrics.figures`, ready for JSON.

    Args:
      predictions: one row per image or per subject.
      ordered: whether kappa has a meaning.
      seed: of the bootstrap.

    Returns:
      the names and the shape of `metrics.figures` with [low, high] or None in place of values;
      `n_subjects`, `level` and `resamples` say what they rest on.
    """
    subjects, labels = predictions.subjects, predictions.labels
    predicted, probabilities = predictions.predicted, predictions.probabilities
    _, strata = subjects_of(predictions)
    of_class = np.bincount(strata)
    enough = of_class[of_class > 0].min() >= FEWEST_SUBJECTS
    drawn = bootstrap(predictions, ordered, seed=seed) if enough else {}

    def resampled(name: str, value: float | None) -> list[float] | None:
        if value is None or name not in drawn:
            return None
        return _listed(percentile(drawn[name], len(strata), int((of_class > 0).sum())))

    def share(right: np.ndarray, counted: np.ndarray) -> list[float] | None:
        return _listed(clustered_share(right, counted, subjects))

    def of_area(area: delong.Area | None) -> list[float] | None:
        return None if area is None else _listed(delong.interval(area, LEVEL))

    plain = metrics.figures(predictions, ordered)
    every = np.ones(len(predictions), dtype=bool)
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "n_subjects": plain["n_subjects"],
        "accuracy": share(predicted == labels, every),
        **{name: resampled(name, plain[name]) for name in metrics.OVERALL[1:]},
        "macro_auroc": of_area(delong.macro_area(probabilities, labels, subjects)),
        "per_class": [
            {
                "name": entry["name"],
                "sensitivity": share(predicted == index, labels == index),
                "specificity": share(predicted != index, labels != index),
                "precision": share(labels == index, predicted == index),
                "f1": resampled(f"f1 {index}", entry["f1"]),
                "auroc": of_area(delong.area(probabilities[:, index], labels == index, subjects)),
            }
            for index, entry in enumerate(plain["per_class"])
        ],
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def test_figures(
    predictions: Predictions, ordered: bool, seed: int = 0, subjects: Predictions | None = None
) -> dict[str, Any]:
    """`figures` of the test split: {'subject': intervals, 'image': intervals}; {} without rows.

    Only of the test split: an interval says something of new patients, and those of training were
    learnt from, those of validation used for model selection. `subjects` as of
    `metrics.figures_by_split`.
    """
    table = predictions.where("test")
    if not len(table):
        return {}
    by_subject = table.by_subject() if subjects is None else subjects.where("test")
    return {
        "subject": figures(by_subject, ordered, seed),
        "image": figures(table, ordered, seed),
    }
