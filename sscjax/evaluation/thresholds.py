"""From probabilities to decisions: call a row diseased by a stated rule.

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
from sscjax.evaluation.predictions import LEAST, Predictions

RULES = ("youden", "sensitivity")

# Parts of the held-out subjects, each left out once, for the figures of Youden's threshold.
_PARTS = 10

_ROUNDING = 1e-12


def disease_scores(predictions: Predictions, classes: int) -> np.ndarray:
    """Probability [N] of any class but the first, given that it is one of the classes.

    Args:
      predictions: rows to score.
      classes: how many of the columns stand for a class; the others are unused outputs.
    """
    # Where all classes have the probability 0, they are equally probable, not undefined.
    used = np.maximum(predictions.probabilities[:, :classes], LEAST)
    return used[:, 1:].sum(axis=1) / used.sum(axis=1)


def _candidates(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, ...]:
    """Thresholds, falling, halfway between neighbouring scores, with what each catches.

    Returns:
      thresholds [K] (the last is 0: everything is called positive), and the shares of positives
      and of negatives [K] at or above each.

    Raises:
      ValueError: there are no positives, or no negatives.
    """
    if positives.all() or not positives.any():
        raise ValueError("a threshold needs positives and negatives")
    distinct, level = np.unique(scores, return_inverse=True)
    thresholds = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2])[::-1]
    caught = np.cumsum(np.bincount(level, positives, len(distinct))[::-1])
    wrong = np.cumsum(np.bincount(level, ~positives, len(distinct))[::-1])
    return thresholds, caught / positives.sum(), wrong / (~positives).sum()


def youden(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """The threshold with the largest sensitivity + specificity - 1; of equals the lowest.

    Youden 1950, Cancer 3: 32-35. None where that is 0: no threshold separates the two.

    Args:
      scores: [N] float, higher means more likely positive; positive is what reaches the threshold.
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


def share_of(right: np.ndarray, counted: np.ndarray, subjects: np.ndarray) -> dict[str, Any]:
    """The share right of the rows that count: value, interval by subject and n, ready for JSON."""
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
        "sensitivity": share_of(called, ill, subjects),
        "specificity": share_of(~called, ~ill, subjects),
        "ppv": share_of(ill, called, subjects),
        "npv": share_of(~ill, ~called, subjects),
        "accuracy": share_of(called == ill, every, subjects),
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
    if not len(ill):
        return Choice(0.5, f"one half, because there are no {rows}")
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
            name: shown(name, figures_at(table, len(names), threshold))
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


def shown(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Without intervals of the rows on which the threshold was chosen."""
    if name != "held_out":
        return figures
    return {key: {**figure, "interval": None} for key, figure in figures.items()}
