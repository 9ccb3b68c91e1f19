"""Labels that come with images to predict: which were understood, and figures against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.data import names
from sscjax.data.layout import Reading
from sscjax.data.settings import parse_pairs
from sscjax.evaluation import calibration, conformal, intervals, metrics, predictions
from sscjax.evaluation.rules import Unit
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble

# Labels that a message names.
_NAMED = 5


def merged_names(record: Mapping[str, Any]) -> dict[str, str]:
    """The class that each label became in training, by the run's `config.data.merge`."""
    config = record.get("config") or {}
    return parse_pairs(str((config.get("data") or {}).get("merge", "")), "=", "data.merge")


def reading(record: Mapping[str, Any]) -> Reading:
    """How the folder or table of the run's training set was read."""
    asked = (record.get("config") or {}).get("data") or {}
    layout, columns, shared = (
        str(asked.get(name, "")) for name in ("layout", "columns", "shared_subjects")
    )
    return Reading(layout, columns, shared_subjects=shared)


def problem(labels: Sequence[str], classes: Sequence[str]) -> str:
    """Why labels give no figures, in one line; '' where they do, or where there are none.

    Args:
      labels: of the images, '' where unknown.
      classes: of the run.
    """
    counts = Counter(labels)
    total, without = len(labels), counts.pop("", 0)
    if not counts:
        return ""
    strange = {label: number for label, number in counts.items() if label not in classes}
    parts = []
    if strange:
        number = sum(strange.values())
        listed = [
            f"{names.shown(label)} ({count})" for label, count in sorted(strange.items())[:_NAMED]
        ]
        more = f" and {len(strange) - _NAMED} others" if len(strange) > _NAMED else ""
        parts.append(
            f"the label of {number} of {total} images is not understood: "
            f"{', '.join(listed)}{more}; the run's classes are {', '.join(classes)}"
        )
    if without:
        parts.append(f"{without} of {total} images have no label")
    if not parts:
        return ""
    return (
        f"no figures: {'; '.join(parts)}; correct the labels, or leave out these images or all "
        "labels"
    )


def against_labels(
    opened: Classifier | Ensemble, table: Decisions, trained_on: np.ndarray | None
) -> dict[str, Any] | None:
    """Figures and intervals where all labels are known; of images the run has not seen, if any.

    A subject's label is the one of most of its images.

    Args:
      opened: the run.
      table: its decisions for N images, with their labels.
      trained_on: [N] bool, images that the run has seen; None where that is not known.
    """
    if not set(table.labels.tolist()) <= set(opened.classes):
        return None
    chosen = np.ones(len(table), bool) if trained_on is None or trained_on.all() else ~trained_on
    labels = [opened.classes.index(name) for name in table.labels[chosen].tolist()]
    predicted = predictions.Predictions(
        files=table.names[chosen],
        subjects=table.subjects[chosen],
        splits=np.full(int(chosen.sum()), "test"),
        labels=np.array(labels, np.int32),
        probabilities=table.probabilities[chosen],
        classes=opened.columns,
    )
    rules = opened.rules
    subjects = calibration.apply(predicted.by_subject(rules.aggregation), rules.subject.temperature)
    by_unit: dict[Unit, predictions.Predictions] = {"subject": subjects, "image": predicted}
    return {
        "subjects": len(subjects),
        "images": len(predicted),
        "figures": metrics.figures_by_split(predicted, opened.ordered, subjects)["test"],
        "intervals": intervals.test_figures(predicted, opened.ordered, subjects=subjects),
        "prediction_sets": {
            unit: conformal.figures(table, rules.of(unit).sets.members(table.probabilities))
            for unit, table in by_unit.items()
        },
    }
