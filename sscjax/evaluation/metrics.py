"""The metrics of a table of predictions (`figures`): counts and sums, divided once.

Only numpy. A metric that is undefined for a table (the sensitivity of a class that never occurs) is
None, never NaN, so that everything here can be written as JSON and shown as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import calibration_error, ranking
from sscjax.evaluation.predictions import SPLITS, Predictions


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """[C,C] int64 counts, rows the true class, columns the predicted one.

    Args:
      labels: [N] int, 0..C-1.
      predicted: [N] int, 0..C-1.
      num_classes: C.
    """
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def _ratio(numerator: int | np.integer, denominator: int | np.integer) -> float | None:
    return int(numerator) / int(denominator) if denominator else None


def accuracy(confusion: np.ndarray) -> float | None:
    """Share of all rows that are right, 0..1; None for an empty table."""
    return _ratio(np.trace(confusion), confusion.sum())


def sensitivity(confusion: np.ndarray, index: int) -> float | None:
    """Share of the rows of class `index` that are called so (recall); None if it has no rows."""
    return _ratio(confusion[index, index], confusion[index].sum())


def specificity(confusion: np.ndarray, index: int) -> float | None:
    """Share of the rows of other classes that are not called `index`; None if there are none."""
    others = confusion.sum() - confusion[index].sum()
    false_positives = confusion[:, index].sum() - confusion[index, index]
    return _ratio(others - false_positives, others)


def precision(confusion: np.ndarray, index: int) -> float | None:
    """Share right among the rows called `index` (PPV); None if nothing was called so."""
    return _ratio(confusion[index, index], confusion[:, index].sum())


def npv(confusion: np.ndarray, index: int) -> float | None:
    """Share of other classes among the rows not called `index`; None if all were called so."""
    not_called = confusion.sum() - confusion[:, index].sum()
    missed = confusion[index].sum() - confusion[index, index]
    return _ratio(not_called - missed, not_called)


def f1(confusion: np.ndarray, index: int) -> float | None:
    """Harmonic mean of precision and sensitivity; None if the class is neither true nor called."""
    both = confusion[index].sum() + confusion[:, index].sum()
    return _ratio(2 * confusion[index, index], both)


def balanced_accuracy(confusion: np.ndarray) -> float | None:
    """Mean sensitivity over the classes that occur, 0..1; None for an empty table."""
    values = [sensitivity(confusion, index) for index in range(len(confusion))]
    return _mean_of_defined(values)


def _mean_of_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def quadratic_kappa(confusion: np.ndarray) -> float | None:
    """Cohen's kappa with weights (i-j)^2 over ordered classes, -1..1.

    1 is full agreement, 0 what the two margins give by chance. None where chance leaves no
    disagreement to compare with: an empty table, or all rows of one class and called that.
    """
    steps = np.arange(len(confusion))
    weights = (steps[:, None] - steps[None, :]) ** 2
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0))
    observed = int((weights * confusion).sum()) * int(confusion.sum())
    ratio = _ratio(observed, int((weights * by_chance).sum()))
    return None if ratio is None else 1.0 - ratio


def class_aurocs(predictions: Predictions) -> list[float | None]:
    """Each class against all others by its probability; None for a class without both sides."""
    return [
        ranking.auroc(predictions.probabilities[:, index], predictions.labels == index)
        for index in range(len(predictions.classes))
    ]


def macro_auroc(predictions: Predictions) -> float | None:
    """Mean of `class_aurocs` over the classes that have one; None if no class has."""
    return _mean_of_defined(class_aurocs(predictions))


# Of one row: a probability of 0 counts as float64's epsilon, as in scikit-learn.
GREATEST_LOG_LOSS = -math.log(np.finfo(np.float64).eps)


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-ln(probability of the class) of each row [N], in nats.

    At most `GREATEST_LOG_LOSS`, so the loss stays finite.

    Args:
      probabilities: [N,C] float.
      labels: [N] int.
    """
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(chosen, np.finfo(np.float64).eps))


def log_loss(predictions: Predictions) -> float | None:
    """Mean of `log_losses` for the true classes; None for an empty table."""
    return _mean(log_losses(predictions.probabilities, predictions.labels))


def brier_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Brier's score of each row [N]: squared distances from the truth, summed over the classes.

    It lies in 0..2 (Brier 1950, Monthly Weather Review 78: 1-3). For two classes it is twice
    the score of the positive class alone, which scikit-learn's `brier_score_loss` gives. Arguments
    as of `log_losses`.
    """
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(labels)), labels] = 1
    return np.asarray(((probabilities - truth) ** 2).sum(axis=1))


def brier(predictions: Predictions) -> float | None:
    """Mean of `brier_scores`; None for an empty table."""
    return _mean(brier_scores(predictions.probabilities, predictions.labels))


def ece(predictions: Predictions) -> float | None:
    """Expected calibration error in up to ten bins of equally many rows; None for no rows."""
    if not len(predictions):
        return None
    edges = calibration_error.bin_edges(predictions.confidence)
    return calibration_error.expected_calibration_error(predictions, edges)


def _mean(values: np.ndarray) -> float | None:
    return math.fsum(values.tolist()) / len(values) if len(values) else None


def _confusion_of(predictions: Predictions) -> np.ndarray:
    return confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))


def figures(predictions: Predictions, ordered: bool) -> dict[str, Any]:
    """All figures of a table, ready for JSON.

    Args:
      predictions: one row per image or per subject.
      ordered: the classes are a scale (normal, early, late), so quadratic kappa has a meaning.

    Returns:
      n, n_subjects, accuracy, balanced_accuracy, macro_auroc, quadratic_kappa (None unless
      ordered), log_loss, brier, ece, classes, confusion (rows true), and per_class: a list in class
      order of name, support, sensitivity, specificity, precision (PPV), npv, f1, auroc,
      average_precision. Shares are 0..1.
    """
    confusion = _confusion_of(predictions)
    aurocs = class_aurocs(predictions)
    return {
        "n": len(predictions),
        "n_subjects": len(set(predictions.subjects.tolist())),
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_auroc": _mean_of_defined(aurocs),
        "quadratic_kappa": quadratic_kappa(confusion) if ordered else None,
        "log_loss": log_loss(predictions),
        "brier": brier(predictions),
        "ece": ece(predictions),
        "classes": list(predictions.classes),
        "confusion": confusion.tolist(),
        "per_class": [
            {
                "name": name,
                "support": int(confusion[index].sum()),
                "sensitivity": sensitivity(confusion, index),
                "specificity": specificity(confusion, index),
                "precision": precision(confusion, index),
                "npv": npv(confusion, index),
                "f1": f1(confusion, index),
                "auroc": aurocs[index],
                "average_precision": ranking.average_precision(
                    predictions.probabilities[:, index], predictions.labels == index
                ),
            }
            for index, name in enumerate(predictions.classes)
        ],
    }


def figures_by_split(
    predictions: Predictions, ordered: bool, subjects: Predictions | None = None
) -> dict[str, dict[str, Any]]:
    """`figures` of each split that has rows: {split: {'subject': figures, 'image': figures}}.

    Args:
      predictions: a row per image.
      ordered: as of `figures`.
      subjects: a row per subject and split; None takes `predictions.by_subject()`.
    """
    by_subject = predictions.by_subject() if subjects is None else subjects
    return {
        split: {
            "subject": figures(by_subject.where(split), ordered),
            "image": figures(predictions.where(split), ordered),
        }
        for split in SPLITS
        if (predictions.splits == split).any()
    }


VALIDATION_METRICS: dict[str, Callable[[Predictions], float | None]] = {
    "accuracy": lambda predictions: accuracy(_confusion_of(predictions)),
    "balanced_accuracy": lambda predictions: balanced_accuracy(_confusion_of(predictions)),
    "macro_auroc": macro_auroc,
    "log_loss": log_loss,
}

# Figures of a whole table, in the order in which they are shown.
OVERALL = ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss")

# Figures of the probabilities of a whole table, beside those.
PROBABILITIES = ("brier", "ece")

# Of masks, not of predictions: `segmentation.mean_dice`.
MASK_METRIC = "mean_dice"

HIGHER_IS_BETTER: dict[str, bool] = {
    MASK_METRIC: True,
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_auroc": True,
    "log_loss": False,
}


def validation_metric(name: str, predictions: Predictions) -> float:
    """The figure that picks the best epoch; `HIGHER_IS_BETTER[name]` is its direction.

    Args:
      name: a key of `VALIDATION_METRICS`.
      predictions: the rows to judge by, normally those of the validation split.

    Raises:
      UserError: the name is unknown, or the figure is undefined for these rows.
    """
    if name not in VALIDATION_METRICS:
        known = ", ".join(VALIDATION_METRICS)
        raise UserError(f"validation metric {name!r} is unknown; choose one of {known}")
    value = VALIDATION_METRICS[name](predictions)
    if value is None:
        occurring = len(set(predictions.labels.tolist()))
        rows = f"{len(predictions)} validation images of {occurring} classes"
        raise UserError(f"{name} is undefined for {rows}; enlarge the validation split")
    return value
