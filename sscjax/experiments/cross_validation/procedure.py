"""Intervals of the training procedure, beside those of the fixed models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.evaluation.training_variance import procedure_interval
from sscjax.reports import tables
from sscjax.system import formatting
from sscjax.training.settings import Settings

# Kinds whose folds are tested on equal shares of the patients.
_KINDS = ("kfold", "nested")

# Figures, with their bounds, and whether a fold without one of the classes has none.
_FIGURES = {
    "accuracy": ((0.0, 1.0), False),
    "balanced_accuracy": ((0.0, 1.0), True),
    "macro_auroc": ((0.0, 1.0), True),
    "log_loss": ((0.0, math.inf), False),
}


def intervals_of(
    settings: Settings, tests: Sequence[Mapping[str, Any]], classes: int
) -> dict[str, dict[str, list[float] | None]] | None:
    """95 % intervals of the folds' mean figures, by unit and figure; None for other kinds.

    Args:
      settings: of the cross-validation.
      tests: of each fold, {'image': figures, 'subject': figures} of its test images.
      classes: how many there are.
    """
    if settings.protocol not in _KINDS or settings.split.by != "subject":
        return None
    found: dict[str, dict[str, list[float] | None]] = {}
    for unit in ("image", "subject"):
        found[unit] = {}
        for name, (bounds, of_all) in _FIGURES.items():
            values = [_value(test[unit], name, classes if of_all else 0) for test in tests]
            interval = procedure_interval(values, settings.cv.folds, bounds=bounds)
            found[unit][name] = None if interval is None else list(interval)
    return found


def _value(figures: Mapping[str, Any], name: str, classes: int) -> float | None:
    """A figure; None where one of so many classes is missing."""
    complete = all(entry["support"] for entry in figures["per_class"][:classes])
    return figures[name] if complete else None


def text(
    over_folds: Mapping[str, Any], procedure: Mapping[str, Mapping[str, Any]] | None
) -> str | None:
    """The intervals as a table; None where there are none.

    Args:
      over_folds: means of the folds by unit and figure, as in metrics.json.
      procedure: as `intervals_of` gives them.
    """
    if procedure is None or not any(any(unit.values()) for unit in procedure.values()):
        return None
    rows = [["mean of folds, trained again", "per image", "95 %", "per subject", "95 %"]]
    for name in _FIGURES:
        cells = [tables.figure_title(name)]
        for unit in ("image", "subject"):
            is_share = name in formatting.SHARES
            show = formatting.percent if is_share else formatting.number
            cells += [show(over_folds[unit][name]["mean"])]
            cells += [formatting.span(name, procedure[unit][name])]
        rows.append(cells)
    note = formatting.paragraph(
        "95 % confidence intervals of the procedure: how well do models do that are trained in "
        "this way on as many other subjects? By the folds' scatter, corrected for the training "
        "subjects that folds share (Nadeau and Bengio 2003). The intervals above take the trained "
        "models as they are."
    )
    return f"{formatting.align(rows, together=2)}\n{note}"
