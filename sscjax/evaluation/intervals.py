"""Every figure of a table with its 95 % interval, for images that come in clusters: their subjects.

Images of one patient resemble each other, so a hundred images of ten patients carry less
information than a hundred patients would. One way serves most figures (`limits` has the formulas
and their sources):

1. A figure is written by what each image adds to it, a number between a worst and a best. Of
   accuracy that is wrong and right; of quadratic kappa, PPV, NPV, F1 and average precision the
   derivative by the image's weight.
2. The mean of these numbers over the images of a class gets the limits of Korn and Graubard, with a
   variance by subject.
3. The images of a class are moved towards the worst, or the best, until their mean is at its limit.
   How far the figure moves is the distance of that class; MOVER combines those of all classes.

AUROC is in `area_limits`, losses are in `clustered.mean_loss`, the calibration error in
`calibration_error`.

Per image, an interval is of the mean over images, in a set with as many images of each class as
this one; per subject, each subject counts once. `scripts/evidence/interval_coverage.py` measures
how often intervals hold the true value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sscjax.evaluation import calibration_error, clustered, limits, metrics, parts
from sscjax.evaluation.clustered import Estimate, Interval, Means
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

# Figures of each class, in the order in which they are given.
PER_CLASS = (
    *("sensitivity", "specificity", "precision", "npv", "f1", "auroc", "average_precision"),
)

_NO_VALUE = {
    "sensitivity": "no row has this class",
    "specificity": "no row has another class",
    "precision": "no row was predicted as this class",
    "npv": "every row was predicted as this class",
    "f1": "no row has this class or was predicted as it",
    "auroc": "needs rows of this class and of others",
    "average_precision": "needs rows of this class and of others",
    "macro_auroc": "needs rows of two classes",
    "quadratic_kappa": "all rows have one class and were predicted as it",
}


def clustered_share(
    right: np.ndarray, counted: np.ndarray, clusters: np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Interval of the share right among the rows that count; None of fewer than two clusters.

    Args:
      right: [N] bool.
      counted: [N] bool, the rows of the denominator.
      clusters: [N], what rows are not independent within.
      level: nominal coverage of the interval.
    """
    means = Means(clusters)
    means.add(right, counted)
    [part] = means.parts(level)
    return None if part is None else (part.low, part.high)


def clopper_pearson(right: float, total: float, level: float = LEVEL) -> Interval:
    """Exact interval of a share of independent trials; counts need not be whole.

    Args:
      right: successes, 0 to `total`.
      total: trials, above 0.
      level: coverage of the interval, at least.
    """
    low, high = limits.beta_limits(right / total, total, level)
    return float(low), float(high)


def estimates(predictions: Predictions, ordered: bool) -> dict[str, Estimate]:
    """Every figure with its interval, or with the reason why there is none.

    Args:
      predictions: one row per image or per subject.
      ordered: whether quadratic kappa has a meaning.

    Returns:
      by name: accuracy, balanced_accuracy, macro_auroc, quadratic_kappa where ordered, log_loss,
      brier, ece, and of each class 'sensitivity NAME' and so on, in the order of `PER_CLASS`.
    """
    found = without_losses(predictions, ordered)
    overall = [name for name in metrics.OVERALL if name in found]
    return {
        **{name: found.pop(name) for name in overall},
        "log_loss": _loss(predictions, metrics.log_losses, metrics.GREATEST_LOG_LOSS),
        "brier": brier(predictions),
        "ece": calibration_error.estimate(predictions),
        **found,
    }


def without_losses(predictions: Predictions, ordered: bool) -> dict[str, Estimate]:
    """`estimates` but for log loss, Brier score and calibration error."""
    table = parts.Table(predictions, ordered)
    found: dict[str, Estimate] = {}
    finishes = _asked(table, ordered)
    known = table.means.parts()
    for name, finish in finishes.items():
        kind = name.partition(" ")[0]
        estimate = finish(known)
        if estimate.value is None:
            estimate = Estimate(None, reason=_NO_VALUE.get(kind, "there are no rows"))
        found[name] = estimate
    return found


def areas(predictions: Predictions, index: int) -> tuple[Estimate, Estimate]:
    """AUROC and average precision of class `index` against the others, with their intervals."""
    table = parts.Table(predictions, ordered=False)
    finishes = (
        parts.auroc(table, index, parts.placements(table)[index]),
        parts.average_precision(table, index),
    )
    known = table.means.parts()
    area, precision = (finish(known) for finish in finishes)
    return area, precision


def brier(predictions: Predictions) -> Estimate:
    """Brier's score, 0..2, with its interval."""
    return _loss(predictions, metrics.brier_scores, 2.0)


def _asked(table: parts.Table, ordered: bool) -> dict[str, parts.Finish]:
    """The figures in their order, each after asking for its means."""
    predictions, values = table.predictions, table.values["per_class"]
    placed = parts.placements(table)
    result = {
        "accuracy": parts.mean_over(table, table.values["accuracy"], table.right, table.present),
        "balanced_accuracy": parts.balanced_accuracy(table),
        "macro_auroc": parts.macro_auroc(table, placed),
    }
    if ordered:
        result["quadratic_kappa"] = parts.quadratic_kappa(table)
    for kind in PER_CLASS:
        for index, name in enumerate(predictions.classes):
            others = [other for other in table.present if other != index]
            value = values[index][kind]
            if kind == "sensitivity":
                finish = parts.mean_over(table, value, table.right, [index])
            elif kind == "specificity":
                finish = parts.mean_over(table, value, predictions.predicted != index, others)
            elif kind == "auroc":
                finish = parts.auroc(table, index, placed[index])
            elif kind == "average_precision":
                finish = parts.average_precision(table, index)
            else:
                finish = parts.ratio(table, kind, index)
            result[f"{kind} {name}"] = finish
    return result


def _loss(
    predictions: Predictions,
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray],
    most: float,
) -> Estimate:
    """A mean loss; of a row that is right, beside what it would be with the next class."""
    probabilities, labels = predictions.probabilities, predictions.labels
    right = predictions.predicted == labels
    following = np.argsort(probabilities, axis=1)[:, -2]
    return clustered.mean_loss(
        losses(probabilities, labels),
        losses(probabilities, np.where(right, following, labels)),
        ~right,
        predictions.subjects,
        most,
    )


def figures(predictions: Predictions, ordered: bool) -> dict[str, Any]:
    """An interval for each figure of `metrics.figures`, ready for JSON.

    Args:
      predictions: one row per image or per subject.
      ordered: whether quadratic kappa has a meaning.

    Returns:
      the names and the shape of `metrics.figures` with [low, high] or None in place of values;
      n_subjects and level; methods, the name and source of each interval's method, and reasons, why
      there is no interval, both by the names of `estimates`.
    """
    known = estimates(predictions, ordered)

    def interval(name: str) -> list[float] | None:
        return known[name].interval if name in known else None

    return {
        "level": LEVEL,
        "n_subjects": len(set(predictions.subjects.tolist())),
        **{name: interval(name) for name in (*metrics.OVERALL, *metrics.PROBABILITIES)},
        "per_class": [
            {"name": name, **{kind: interval(f"{kind} {name}") for kind in PER_CLASS}}
            for name in predictions.classes
        ],
        "methods": {name: one.method for name, one in known.items() if one.method},
        "reasons": {name: one.reason for name, one in known.items() if one.reason},
    }


def test_figures(
    predictions: Predictions, ordered: bool, subjects: Predictions | None = None
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
    return {"subject": figures(by_subject, ordered), "image": figures(table, ordered)}
