"""From probabilities to decisions: call an image diseased, or abstain; by stated rules.

Thresholds are chosen on the validation images and then applied to the test images; only the results
there describe new patients. A subject has the mean probabilities of its images, and the same
thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sscjax.evaluation import intervals, resampling
from sscjax.evaluation.predictions import Predictions

RULES = ("youden", "sensitivity")

# Images that have to remain where some are given no answer.
FEWEST_ANSWERED = 10

# Points of a coverage curve that are kept, at most.
_POINTS = 101

_ROUNDING = 1e-12


def disease_scores(predictions: Predictions, classes: int) -> np.ndarray:
    """Probability [N] of any class but the first, given that it is one of the classes.

    Args:
      predictions: rows to score.
      classes: how many of the columns stand for a class; the others are unused outputs.
    """
    used = predictions.probabilities[:, :classes]
    return used[:, 1:].sum(axis=1) / used.sum(axis=1)


def _candidates(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, ...]:
    """Thresholds, falling, halfway between neighbouring scores, with what each catches.

    Returns:
      thresholds [K] (the last is 0: everything is called positive), and the shares of positives
      and of negatives [K] at or above each.
    """
    distinct, level = np.unique(scores, return_inverse=True)
    thresholds = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2])[::-1]
    caught = np.cumsum(np.bincount(level, positives, len(distinct))[::-1])
    wrong = np.cumsum(np.bincount(level, ~positives, len(distinct))[::-1])
    return thresholds, caught / positives.sum(), wrong / (~positives).sum()


def youden(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """The threshold with the largest sensitivity + specificity - 1; of equals the lowest.

    Youden 1950, Cancer 3: 32-35. None where that is 0: no threshold separates the two.

    Args:
      scores: [N] float, higher speaks for positive; positive is what reaches the threshold.
      positives: [N] bool, with some of either kind.
    """
    thresholds, sensitivity, false_positive = _candidates(scores, positives)
    index = sensitivity - false_positive
    # Rounding must not decide between equals.
    if index.max() <= _ROUNDING:
        return None
    return float(thresholds[np.flatnonzero(index >= index.max() - _ROUNDING)[-1]])


def at_sensitivity(scores: np.ndarray, positives: np.ndarray, least: float) -> float:
    """The highest threshold with at least this sensitivity; arguments as of `youden`."""
    thresholds, sensitivity, _ = _candidates(scores, positives)
    return float(thresholds[np.flatnonzero(sensitivity >= least - _ROUNDING)[0]])


def _share(right: np.ndarray, counted: np.ndarray, subjects: np.ndarray) -> dict[str, Any]:
    interval = intervals.clustered_share(right, counted, subjects)
    total = int(counted.sum())
    return {
        "value": float(right[counted].mean()) if total else None,
        "interval": None if interval is None else list(interval),
        "n": total,
    }


def figures_at(predictions: Predictions, classes: int, threshold: float) -> dict[str, Any]:
    """Sensitivity, specificity, ppv, npv and accuracy: each value, interval and n, the images.

    Args:
      predictions: one row per image or per subject.
      classes: as of `disease_scores`.
      threshold: of the disease score; what reaches it is called diseased.
    """
    ill = predictions.labels > 0
    called = disease_scores(predictions, classes) >= threshold
    every, subjects = np.ones(len(ill), bool), predictions.subjects
    return {
        "sensitivity": _share(called, ill, subjects),
        "specificity": _share(~called, ~ill, subjects),
        "ppv": _share(ill, called, subjects),
        "npv": _share(~ill, ~called, subjects),
        "accuracy": _share(called == ill, every, subjects),
    }


def operating_point(
    predictions: Predictions, names: Sequence[str], rule: str, sensitivity: float
) -> dict[str, Any]:
    """A threshold for any disease, chosen on validation, and its figures; ready for JSON.

    Args:
      predictions: all images, calibrated.
      names: the classes, without unused outputs; the first is no disease.
      rule: one of `RULES`.
      sensitivity: least sensitivity on validation, in (0, 1]; for that rule.

    Returns:
      rule (for people), positive, value, val, test, and per_subject with val and test.
    """
    chosen = predictions.where("val")
    ill, scores = chosen.labels > 0, disease_scores(chosen, len(names))
    value, text = None, f"sensitivity of at least {100 * sensitivity:g} % on validation"
    if ill.all() or not ill.any():
        text = f"one half, because all validation images are {'' if ill.all() else 'not '}diseased"
    elif rule == "youden":
        value = youden(scores, ill)
        text = "largest sensitivity + specificity (Youden) on validation"
        if value is None:
            text = "one half, because no threshold separates the validation images"
    else:
        value = at_sensitivity(scores, ill, sensitivity)
    value = 0.5 if value is None else value
    return {
        "rule": text,
        "positive": " or ".join(names[1:]),
        "negative": names[0],
        "value": value,
        **_both(predictions, lambda table: figures_at(table, len(names), value)),
    }


def _both(
    predictions: Predictions, figures: Callable[[Predictions], dict[str, Any]]
) -> dict[str, Any]:
    """Figures of val and test by image, and under `per_subject` by subject."""
    tables = {split: predictions.where(split) for split in ("val", "test")}
    tables = {split: table for split, table in tables.items() if len(table)}
    by_image = {split: figures(table) for split, table in tables.items()}
    by_subject = {split: figures(table.by_subject()) for split, table in tables.items()}
    return {**by_image, "per_subject": by_subject}


# --- abstention ---------------------------------------------------------------------------------


def _curve(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling distinct confidences [K], how many rows reach each, and how many of these are right.

    Rows of equal confidence are answered together or not at all.
    """
    distinct, level = np.unique(confidence, return_inverse=True)
    count = np.cumsum(np.bincount(level, minlength=len(distinct))[::-1])
    hits = np.cumsum(np.bincount(level, right, len(distinct))[::-1])
    return distinct[::-1], count, hits


def coverage_curve(predictions: Predictions) -> list[dict[str, Any]]:
    """Accuracy of the most confident rows, from few of them to all, at about a hundred points.

    Each is a dict of coverage (share answered), threshold (lowest confidence answered), accuracy
    and n (rows answered).
    """
    right = predictions.predicted == predictions.labels
    thresholds, count, hits = _curve(predictions.confidence, right)
    shown = np.unique(np.linspace(0, len(count) - 1, min(_POINTS, len(count))).round().astype(int))
    return [
        {
            "coverage": float(count[index] / len(right)),
            "threshold": float(thresholds[index]),
            "accuracy": float(hits[index] / count[index]),
            "n": int(count[index]),
        }
        for index in shown.tolist()
    ]


def coverage_area(predictions: Predictions) -> tuple[float, resampling.Interval | None]:
    """Mean accuracy over all shares answered, 0..1, and its interval by subject.

    The mean over k of the accuracy of the k most confident rows; 1 minus what is called AURC
    (Geifman, Uziel and El-Yaniv 2019, ICLR). Rows of equal confidence count by their mean.
    """
    right = (predictions.predicted == predictions.labels).astype(np.float64)
    distinct, level = np.unique(-predictions.confidence, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(distinct)))

    def area(weights: np.ndarray) -> np.ndarray:
        rows = weights[:, order]
        count = np.add.reduceat(rows, starts, axis=1)
        hits = np.add.reduceat(rows * right[order], starts, axis=1)
        total, found = np.cumsum(count, axis=1), np.cumsum(hits, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            accuracy = found / total
        # Weighed by the rows that come in at each confidence; none, none.
        return np.where(count > 0, accuracy * count, 0.0).sum(1) / weights.sum(1)

    value = float(area(np.ones((1, len(predictions))))[0])
    return value, resampling.bootstrap_interval(predictions, area)


def confidence_threshold(predictions: Predictions, target: float) -> float | None:
    """The lowest confidence threshold whose answered rows reach an accuracy; None without one.

    Args:
      predictions: the validation images.
      target: accuracy 0..1 of the rows answered, at least `FEWEST_ANSWERED`.
    """
    right = predictions.predicted == predictions.labels
    thresholds, count, hits = _curve(predictions.confidence, right)
    good = np.flatnonzero((hits / count >= target - _ROUNDING) & (count >= FEWEST_ANSWERED))
    if not len(good):
        return None
    last = good[-1]
    # Halfway to the next row, which is not answered any more.
    below = thresholds[last + 1] if last + 1 < len(thresholds) else 0.0
    return float((thresholds[last] + below) / 2)


def abstention(predictions: Predictions, target: float) -> dict[str, Any]:
    """A confidence threshold, chosen on validation, below which is no answer; ready for JSON.

    Args:
      predictions: all images, calibrated.
      target: accuracy that the answered validation images are to have, 0..1.

    Returns:
      rule, target_accuracy, threshold (None: no confidence reaches the target), area and
      area_interval of the test images' coverage curve, and where there is a threshold val, test
      and per_subject, each with coverage and accuracy (value, interval, n).
    """
    threshold = confidence_threshold(predictions.where("val"), target)
    rule = f"accuracy of at least {100 * target:g} % of the validation images answered"
    if threshold is None:
        rule += f"; {FEWEST_ANSWERED} or more never reach it"
    test = predictions.where("test")
    area, area_interval = coverage_area(test) if len(test) else (None, None)
    content: dict[str, Any] = {
        "rule": rule,
        "target_accuracy": target,
        "threshold": threshold,
        "area": area,
        "area_interval": None if area_interval is None else list(area_interval),
    }
    if threshold is None:
        return content
    return {**content, **_both(predictions, lambda table: answered(table, threshold))}


def answered(predictions: Predictions, threshold: float) -> dict[str, Any]:
    """Share of the rows that reach a confidence, and their accuracy."""
    reached = predictions.confidence >= threshold
    right = predictions.predicted == predictions.labels
    every = np.ones(len(reached), bool)
    return {
        "coverage": _share(reached, every, predictions.subjects),
        "accuracy": _share(right, reached, predictions.subjects),
    }
