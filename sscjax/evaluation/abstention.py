"""From probabilities to decisions: give no answer to rows of low confidence.

The confidence threshold is chosen on held-out rows, of images or of subjects, each unit its own, as
`thresholds` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sscjax.evaluation import odds, resampling
from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.thresholds import Choice, described, share_of, shown

# Subjects that have to be answered, by a row or more, where others are given no answer.
FEWEST_ANSWERED = 5

# Resamples of the held-out subjects by which the optimism of a confidence threshold is measured.
_RESAMPLES = 100

# Points of a coverage curve that are kept, at most.
_POINTS = 101

_ROUNDING = 1e-12


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


def coverage_area(predictions: Predictions) -> tuple[float | None, resampling.Interval | None]:
    """Mean accuracy over all shares answered, 0..1, and its interval by subject.

    The mean over k of the accuracy of the k most confident rows; 1 minus what is called AURC
    (Geifman, Uziel and El-Yaniv 2019, ICLR). Rows of equal confidence count by their mean. None
    without rows.
    """
    if not len(predictions):
        return None, None
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
      predictions: held-out rows.
      target: accuracy 0..1 of the rows answered, which are of `FEWEST_ANSWERED` subjects or more.
    """
    _, group = np.unique(predictions.subjects, return_inverse=True)
    right = predictions.predicted == predictions.labels
    return _confidence_threshold(predictions.confidence, right, group, target)


def _confidence_threshold(
    confidence: np.ndarray, right: np.ndarray, group: np.ndarray, target: float
) -> float | None:
    """As `confidence_threshold`, of columns [N]; `group` are the subjects, from 0."""
    thresholds, count, hits = _curve(confidence, right)
    # A subject is answered as soon as its most confident row is.
    highest = np.zeros(int(group.max(initial=-1)) + 1)
    np.maximum.at(highest, group, confidence)
    answered_subjects = len(highest) - np.searchsorted(np.sort(highest), thresholds)
    good = np.flatnonzero(
        (hits / count >= target - _ROUNDING) & (answered_subjects >= FEWEST_ANSWERED)
    )
    if not len(good):
        return None
    last = good[-1]
    # Halfway to the next row, which is not answered any more.
    below = thresholds[last + 1] if last + 1 < len(thresholds) else 0.0
    return float((thresholds[last] + below) / 2)


def choose_confidence(
    held_out: Predictions, target: float, rows: str, *, with_odds: bool = True
) -> Choice:
    """A confidence threshold, below which is no answer.

    Args:
      held_out: rows on which it is chosen, calibrated.
      target: accuracy that the answered ones are to have, 0..1.
      rows: what the rows are called, such as 'validation subjects'.
      with_odds: whether the odds of missing the target are computed.
    """
    value = confidence_threshold(held_out, target)
    rule = f"accuracy of at least {100 * target:g} % of the {rows} answered"
    if value is None:
        return Choice(None, f"{rule}; those of {FEWEST_ANSWERED} or more subjects never reach it")
    if not with_odds:
        return Choice(value, rule)
    reached = held_out.confidence >= value
    right = (held_out.predicted == held_out.labels)[reached]
    missed = odds.miss(right, held_out.subjects[reached], target, _optimism(held_out, target))
    return Choice(value, rule, miss_odds=missed)


def _optimism(held_out: Predictions, target: float) -> float:
    """By how much the accuracy of the rows answered is too good where the threshold was chosen.

    The lowest of many thresholds that reach the target owes something to chance. Subjects are
    resampled, the threshold is chosen again, and its accuracy there is compared with that of the
    same threshold on the rows themselves (Efron 1983, JASA 78: 316-331). 0 or more.
    """
    confidence, right = held_out.confidence, held_out.predicted == held_out.labels
    names, group = np.unique(held_out.subjects, return_inverse=True)
    members = [np.flatnonzero(group == index) for index in range(len(names))]
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(_RESAMPLES):
        drawn = [members[index] for index in rng.integers(0, len(names), len(names))]
        rows = np.concatenate(drawn)
        # A subject that is drawn twice stands for two.
        owner = np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
        threshold = _confidence_threshold(confidence[rows], right[rows], owner, target)
        if threshold is None:
            continue
        original = right[confidence >= threshold]
        chosen = right[rows][confidence[rows] >= threshold]
        if len(original):
            differences.append(chosen.mean() - original.mean())
    return max(0.0, float(np.mean(differences))) if differences else 0.0


def report(choice: Choice, tables: dict[str, Predictions], target: float) -> dict[str, Any]:
    """A confidence threshold with its figures, ready for JSON.

    Args:
      choice: of `choose_confidence`.
      tables: as of `operating_point`.
      target: as of `choose_confidence`.

    Returns:
      rule, miss_odds, target_accuracy, value (None: no confidence reaches the target), area and
      area_interval of the coverage curve of 'test', and where there is a threshold the coverage and
      accuracy (value, interval, n) of each table that has rows.
    """
    test = tables["test"]
    area, area_interval = coverage_area(test)
    content: dict[str, Any] = {
        **described(choice),
        "target_accuracy": target,
        "area": area,
        "area_interval": None if area_interval is None else list(area_interval),
    }
    if choice.value is None:
        return content
    threshold = choice.value
    return content | {
        name: shown(name, answered(table, threshold))
        for name, table in tables.items()
        if len(table)
    }


def answered(predictions: Predictions, threshold: float | np.ndarray) -> dict[str, Any]:
    """Share of the rows that reach a confidence, one for all or of each, and their accuracy."""
    reached = predictions.confidence >= threshold
    right = predictions.predicted == predictions.labels
    every = np.ones(len(reached), bool)
    return {
        "coverage": share_of(reached, every, predictions.subjects),
        "accuracy": share_of(right, reached, predictions.subjects),
    }
