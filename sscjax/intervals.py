"""95 % intervals of the figures in `metrics`, for images that come in clusters: their subjects.

Images of one patient resemble each other, so a hundred images of ten patients tell less than a
hundred patients would. Shares (accuracy, sensitivity, ...) get the interval of Korn and Graubard
(1998, Survey Methodology 24: 193-201): Clopper and Pearson's, for the number of independent images
that would vary as much as these clusters do. It stays honest where all or none are right, and is
Clopper and Pearson's own where every subject has one image. All other figures get the percentile
interval of a bootstrap that draws whole subjects.

None stands for an interval that cannot be had: a figure that is undefined, or a single subject.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from sscjax import metrics
from sscjax.metrics import Predictions

LEVEL = 0.95
RESAMPLES = 2000

Interval = tuple[float, float]

# Figures of a whole table, in the order in which they are shown.
OVERALL = ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss")

# Numbers in one step of the bootstrap: resamples times rows. Bounds its memory to about 100 MB.
_CHUNK = 4_000_000


def clopper_pearson(right: float, total: float, level: float = LEVEL) -> Interval:
    """Exact interval of a share of independent trials; counts need not be whole.

    Args:
      right: successes, 0 to `total`.
      total: trials, above 0.
      level: share of intervals that are to hold the truth, at least.
    """
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, right, total - right + 1) if right > 0 else 0.0
    high = stats.beta.ppf(1 - tail, right + 1, total - right) if right < total else 1.0
    return float(low), float(high)


def wilson(right: int, total: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval (1927) of a share of independent trials."""
    found = stats.binomtest(right, total).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def clustered_share(
    right: np.ndarray, counted: np.ndarray, clusters: np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Korn and Graubard's interval of the share right among the rows that count.

    Args:
      right: [N] bool.
      counted: [N] bool, the rows of the denominator.
      clusters: [N], what rows are not independent within.
      level: share of intervals that are to hold the truth.
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
    if variance > 0 and 0 < share < 1:
        effective = min(float(total), share * (1 - share) / variance)
        tail = (1 + level) / 2
        effective *= (stats.t.ppf(tail, total - 1) / stats.t.ppf(tail, number - 1)) ** 2
    else:
        # No variation to estimate from: as if a cluster told no more than one image.
        effective = float(number)
    return clopper_pearson(share * effective, effective, level)


def delong(scores: np.ndarray, positives: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Interval of the AUROC of independent rows (DeLong et al. 1988), on the logit scale.

    Args:
      scores: [N] float, higher speaks for positive.
      positives: [N] bool.
      level: share of intervals that are to hold the truth.

    Returns:
      None without two rows of either kind; (area, area) where the ranks leave no variance.
    """
    positives = np.asarray(positives, dtype=bool)
    first, second = scores[positives], scores[~positives]
    if len(first) < 2 or len(second) < 2:
        return None
    wins = np.sign(first[:, None] - second[None, :]) / 2 + 0.5
    area = float(wins.mean())
    variance = wins.mean(1).var(ddof=1) / len(first) + wins.mean(0).var(ddof=1) / len(second)
    if not 0 < area < 1 or variance == 0:
        return area, area
    middle, spread = np.log(area / (1 - area)), np.sqrt(variance) / (area * (1 - area))
    ends = middle + np.array([-1, 1]) * stats.norm.ppf((1 + level) / 2) * spread
    low, high = 1 / (1 + np.exp(-ends))
    return float(low), float(high)


def subject_draws(subjects: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each subject stands in each resample: [R,S] int64, every row sums to S."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(subjects, np.full(subjects, 1 / subjects), resamples)


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
    names, group = np.unique(predictions.subjects, return_inverse=True)
    parts = []
    draws = subject_draws(len(names), resamples, seed)
    step = max(1, _CHUNK // max(1, len(predictions)))
    for start in range(0, resamples, step):
        weights = draws[start : start + step].astype(np.float64)
        parts.append(_weighted(predictions, group, weights, ordered))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weighted(
    predictions: Predictions, group: np.ndarray, weights: np.ndarray, ordered: bool
) -> dict[str, np.ndarray]:
    """Every figure under [R,S] weights of the subjects; `group` [N] is each row's subject."""
    classes, subjects = len(predictions.classes), weights.shape[1]
    cells = np.zeros((subjects, classes, classes))
    np.add.at(cells, (group, predictions.labels, predictions.predicted), 1)
    confusion = np.tensordot(weights, cells, 1)
    true, called = confusion.sum(2), confusion.sum(1)
    total = true.sum(1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = right / true
        found = {
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
            found["quadratic_kappa"] = 1 - (confusion * cost).sum((1, 2)) * total / chance
    areas = np.stack(
        [
            _weighted_auroc(
                predictions.probabilities[:, index], predictions.labels == index, group, weights
            )
            for index in range(classes)
        ],
        axis=1,
    )
    found["macro_auroc"] = _mean_of_defined(areas)
    for index in range(classes):
        found[f"sensitivity {index}"] = sensitivity[:, index]
        found[f"specificity {index}"] = specificity[:, index]
        found[f"precision {index}"] = precision[:, index]
        found[f"f1 {index}"] = f1[:, index]
        found[f"auroc {index}"] = areas[:, index]
    return found


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
    rows = weights[:, group[order]]
    positive = np.add.reduceat(rows * positives[order], starts, axis=1)
    negative = np.add.reduceat(rows * ~positives[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def percentile(values: np.ndarray, level: float = LEVEL) -> Interval | None:
    """The middle `level` of resampled figures; None if more than one in twenty is undefined."""
    defined = values[np.isfinite(values)]
    if len(defined) < 0.95 * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
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
    predicted = predictions.predicted
    several = len(set(subjects.tolist())) > 1
    drawn = bootstrap(predictions, ordered, seed=seed) if several else {}

    def resampled(name: str, value: float | None) -> list[float] | None:
        if value is None or name not in drawn:
            return None
        return _listed(percentile(drawn[name]))

    def share(right: np.ndarray, counted: np.ndarray) -> list[float] | None:
        return _listed(clustered_share(right, counted, subjects))

    plain = metrics.figures(predictions, ordered)
    every = np.ones(len(predictions), dtype=bool)
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "n_subjects": plain["n_subjects"],
        "accuracy": share(predicted == labels, every),
        **{name: resampled(name, plain[name]) for name in OVERALL[1:]},
        "per_class": [
            {
                "name": entry["name"],
                "sensitivity": share(predicted == index, labels == index),
                "specificity": share(predicted != index, labels != index),
                "precision": share(labels == index, predicted == index),
                "f1": resampled(f"f1 {index}", entry["f1"]),
                "auroc": resampled(f"auroc {index}", entry["auroc"]),
            }
            for index, entry in enumerate(plain["per_class"])
        ],
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def figures_by_split(predictions: Predictions, ordered: bool, seed: int = 0) -> dict[str, Any]:
    """`figures` of validation and test: {split: {'image': intervals, 'subject': intervals}}.

    Training has none: an interval would say something of new patients, and these are not.
    """
    result = {}
    for split in ("val", "test"):
        table = predictions.where(split)
        if len(table):
            result[split] = {
                "image": figures(table, ordered, seed),
                "subject": figures(table.by_subject(), ordered, seed),
            }
    return result
