"""From probabilities to decisions: call a row diseased, or abstain; by stated rules.

Thresholds are chosen on held-out rows, of images or of subjects, each unit its own, and then
applied to the test rows, for which alone they say something of new patients: figures of the rows on
which a threshold was chosen have no interval. Each rule with a target comes with the odds that new
patients miss it (`odds`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sscjax.evaluation import intervals, odds
from sscjax.evaluation.predictions import Predictions

RULES = ("youden", "sensitivity")

# Subjects that have to be answered, by a row or more, where others are given no answer.
FEWEST_ANSWERED = 5

# Resamples of the held-out subjects by which the optimism of a confidence threshold is measured.
_RESAMPLES = 100

# Parts of the held-out subjects, each left out once, for the figures of Youden's threshold.
_PARTS = 10

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


def figures_at(
    predictions: Predictions, classes: int, threshold: float | np.ndarray
) -> dict[str, Any]:
    """Sensitivity, specificity, ppv, npv and accuracy: each value, interval and n, the images.

    Args:
      predictions: one row per image or per subject.
      classes: as of `disease_scores`.
      threshold: of the disease score, one for all or of each row; what reaches it is called
        diseased.
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


@dataclasses.dataclass(frozen=True)
class Choice:
    """A threshold, and what is known of it.

    Attributes:
      value: 0 to 1; None where none could be chosen.
      rule: how it was chosen, for people.
      miss_odds: the odds, 0 to 1, that new patients miss the rule's target, see `odds`; None
        without a target or a threshold.
      index: of Youden's rule sensitivity + specificity - 1 of the rows where it was chosen, and by
        cross-validation over their subjects; None for other rules.
    """

    value: float | None
    rule: str
    miss_odds: float | None = None
    index: tuple[float, float | None] | None = None

    @property
    def text(self) -> str:
        """The rule and how much it is to be trusted, for people."""
        if self.miss_odds is not None:
            return f"{self.rule}; odds that new ones miss it: {100 * self.miss_odds:.0f} %"
        chosen, validated = self.index or (None, None)
        if chosen is not None and validated is not None:
            return f"{self.rule}; {1 + chosen:.2f}, by cross-validation {1 + validated:.2f}"
        return self.rule


def choose_disease(
    held_out: Predictions, classes: int, rule: str, sensitivity: float, rows: str
) -> Choice:
    """A threshold for any disease, which is every class but the first.

    Args:
      held_out: rows on which it is chosen, calibrated.
      classes: how many of the columns stand for a class.
      rule: one of `RULES`.
      sensitivity: least sensitivity of these rows, in (0, 1]; for that rule.
      rows: what the rows are called, such as 'validation subjects'.
    """
    ill, scores = held_out.labels > 0, disease_scores(held_out, classes)
    if ill.all() or not ill.any():
        kind = "" if ill.all() else "not "
        return Choice(0.5, f"one half, because all {rows} are {kind}diseased")
    if rule == "youden":
        value = youden(scores, ill)
        if value is None:
            return Choice(0.5, f"one half, because no threshold separates the {rows}")
        index = (_index(scores >= value, ill), _cross_validated_index(scores, ill, held_out))
        text = f"largest sensitivity + specificity (Youden) of the {rows}"
        return Choice(value, text, index=index)
    value = at_sensitivity(scores, ill, sensitivity)
    return Choice(
        value,
        f"sensitivity of at least {100 * sensitivity:g} % of the {rows}",
        miss_odds=odds.miss((scores >= value)[ill], held_out.subjects[ill], sensitivity),
    )


def _index(called: np.ndarray, ill: np.ndarray) -> float:
    return float(called[ill].mean() - called[~ill].mean())


def _cross_validated_index(
    scores: np.ndarray, ill: np.ndarray, held_out: Predictions
) -> float | None:
    """Youden's index where each subject is called by a threshold of the others; None: undefined."""
    _, group = np.unique(held_out.subjects, return_inverse=True)
    part, called = group % _PARTS, np.zeros(len(ill), bool)
    for excluded in sorted(set(part.tolist())):
        inside = part == excluded
        others = ill[~inside]
        if others.all() or not others.any():
            return None
        value = youden(scores[~inside], others)
        called[inside] = scores[inside] >= (0.5 if value is None else value)
    return _index(called, ill)


def operating_point(
    choice: Choice, tables: dict[str, Predictions], names: Sequence[str]
) -> dict[str, Any]:
    """A threshold for any disease with its figures, ready for JSON.

    Args:
      choice: of `choose_disease`.
      tables: calibrated rows by name, 'held_out' where it was chosen, and 'test'.
      names: the classes, without unused outputs; the first is no disease.

    Returns:
      rule (for people), miss_odds, index, positive, negative, value, and the figures of each table
      that has rows; those of 'held_out' without intervals.
    """
    assert choice.value is not None
    threshold = choice.value
    return {
        **described(choice),
        "positive": " or ".join(names[1:]),
        "negative": names[0],
        **{
            name: _shown(name, figures_at(table, len(names), threshold))
            for name, table in tables.items()
            if len(table)
        },
    }


def described(choice: Choice) -> dict[str, Any]:
    """A choice without its figures, ready for JSON."""
    index = None if choice.index is None else list(choice.index)
    return {
        "rule": choice.text,
        "value": choice.value,
        "miss_odds": choice.miss_odds,
        "youden_index": index,
    }


def _shown(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Without intervals of the rows on which the threshold was chosen."""
    if name != "held_out":
        return figures
    return {key: {**figure, "interval": None} for key, figure in figures.items()}


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


def coverage_area(predictions: Predictions) -> tuple[float, intervals.Interval | None]:
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
    return value, intervals.bootstrap_interval(predictions, area)


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


def abstention(choice: Choice, tables: dict[str, Predictions], target: float) -> dict[str, Any]:
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
    area, area_interval = coverage_area(test) if len(test) else (None, None)
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
        name: _shown(name, answered(table, threshold))
        for name, table in tables.items()
        if len(table)
    }


def answered(predictions: Predictions, threshold: float | np.ndarray) -> dict[str, Any]:
    """Share of the rows that reach a confidence, one for all or of each, and their accuracy."""
    reached = predictions.confidence >= threshold
    right = predictions.predicted == predictions.labels
    every = np.ones(len(reached), bool)
    return {
        "coverage": _share(reached, every, predictions.subjects),
        "accuracy": _share(right, reached, predictions.subjects),
    }
