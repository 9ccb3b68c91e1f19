"""The charts of the page: a run's tables as figures within the HTML, each with its texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from sscjax.evaluation import curves as class_curves
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import figures
from sscjax.reports.figures.reliability import COVERAGE, coverage_points, reliability_bins
from sscjax.reports.figures.roc_curves import area_label
from sscjax.reports.figures.training import QUANTITIES
from sscjax.reports.html.run_data import Folder
from sscjax.reports.html.sections import evaluated_split
from sscjax.reports.tables import UNITS
from sscjax.system import formatting

# Subjects of a class, and of the others, below which a curve would show these few alone.
FEWEST = 5

# Subjects or images below which figures by confidence would.
FEWEST_BY_CONFIDENCE = 10

# Of more classes than this, curves are drawn of the first ones; the table has all.
MOST_CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of the page: its heading, and an element `svg`."""

    title: str
    svg: Markup


def _chart(name: str, title: str, description: str, figure: Figure) -> Chart:
    return Chart(title, Markup(figures.svg(figure, name, title, description)))


# ---- ROC and precision-recall -------------------------------------------------------------------


def roc_charts(folder: Folder) -> list[dict[str, Any]]:
    """For each unit the ROC and precision-recall charts of each class."""
    split = evaluated_split(folder)
    tables = {"subject": folder.subjects.where(split), "image": folder.predictions.where(split)}
    groups = []
    for unit, table in tables.items():
        # Of several repeats they are the intervals of all tests, and not of what is drawn.
        every = {} if folder.repeated else folder.metrics.get("test_intervals") or {}
        aurocs = [entry["auroc"] for entry in every.get(unit, {}).get("per_class", [])]
        charts: list[Chart] = []
        too_few: list[str] = []
        bands = False
        for index in _positives(table):
            if _fewest(table, index) < FEWEST:
                too_few.append(formatting.clean_name(table.classes[index]))
                continue
            pair = class_curves.curves(table, index)
            if pair is not None:
                interval = aurocs[index] if split == "test" and index < len(aurocs) else None
                charts += _roc_pair(f"{unit}-{index}", table.classes[index], pair, interval)
                bands |= any(curve.band is not None for curve in pair)
        groups.append(
            {"unit": unit, "charts": charts, "bands": bands, "n": len(table), "too_few": too_few}
        )
    return groups


def _fewest(table: Predictions, index: int) -> int:
    """Subjects of a class or of all others, whichever are fewer."""
    of_class = table.labels == index
    return min(len(set(table.subjects[side].tolist())) for side in (of_class, ~of_class))


def _positives(table: Predictions) -> list[int]:
    """Classes that have a curve of their own: of two, the second, for the first is its mirror."""
    present = [index for index in range(len(table.classes)) if (table.labels == index).any()]
    return present[1:] if len(table.classes) == 2 else present[:MOST_CLASSES]


def _roc_pair(
    key: str, name: str, pair: tuple[class_curves.Curve, class_curves.Curve], interval: Any
) -> tuple[Chart, Chart]:
    shown = formatting.clean_name(name)
    roc, recall = pair
    area = area_label("AUROC", roc.area, interval)
    precision = area_label("average precision", recall.area, recall.interval)
    return (
        _chart(
            f"roc-{key}",
            f"ROC: {shown} against the others",
            f"True positive rate over false positive rate; {area}. Dotted: guessing.",
            figures.roc(roc, interval),
        ),
        _chart(
            f"pr-{key}",
            f"Precision-recall: {shown} against the others",
            f"Precision over recall; {precision}. Dotted: the share of this class, which is the "
            "precision of guessing.",
            figures.precision_recall(recall),
        ),
    )


# ---- training -----------------------------------------------------------------------------------


def learning_curves(folder: Folder) -> list[Chart]:
    """Accuracy and loss by epoch; of several folds the validation curves; none without epochs."""
    if folder.is_cross_validation:
        folds = {
            formatting.clean_name(name): fold.curves
            for name, fold in folder.folds.items()
            if fold.curves and _has_epochs(fold)
        }
        every = [row for rows in folds.values() for row in rows]
        return [
            _by_epoch(quantity, every, ("val",), figures.fold_curves(folds, (quantity,)))
            for quantity in QUANTITIES
            if _several_epochs(every) and _values(every, quantity, ("val",))
        ]
    if not _has_epochs(folder):
        return []
    best = _best_epoch(folder)
    return [
        _by_epoch(
            *(quantity, folder.curves, ("train", "val")),
            figures.learning_curves(folder.curves, best, quantities=(quantity,)),
        )
        for quantity in QUANTITIES
        if _several_epochs(folder.curves) and _values(folder.curves, quantity, ("train", "val"))
    ]


def _has_epochs(folder: Folder) -> bool:
    """Whether any stage was trained in epochs, and not fitted to convergence at once."""
    courses = [about["progress"] for about in folder.stages.values()]
    return not courses or any(course.get("l2") is None for course in courses)


def _several_epochs(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a curve: one epoch is a point."""
    return len({row["epoch"] for row in rows}) > 1


def _by_epoch(
    quantity: str, rows: Sequence[Mapping[str, Any]], splits: Sequence[str], figure: Figure
) -> Chart:
    values = _values(rows, quantity, splits)
    epochs = len({row["epoch"] for row in rows})
    return _chart(
        f"epochs-{quantity}",
        f"{quantity.capitalize()} by epoch",
        f"{quantity.capitalize()} over {epochs} epochs: lowest {min(values):.3g}, highest "
        f"{max(values):.3g}.",
        figure,
    )


def _values(rows: Sequence[Mapping[str, Any]], quantity: str, splits: Sequence[str]) -> list[float]:
    values = [row.get(f"{split}_{quantity}") for row in rows for split in splits]
    return [value for value in values if value is not None and math.isfinite(value)]


def _best_epoch(folder: Folder) -> int | None:
    """Epoch, over all stages, that the chosen model comes from; None for the last."""
    before = 0
    for name, about in folder.stages.items():
        if name == folder.metrics.get("final_stage"):
            return (
                before + about["progress"]["best_epoch"]
                if about["progress"]["best_epoch"]
                else None
            )
        before += about["progress"]["epoch"]
    return None


# ---- calibration --------------------------------------------------------------------------------


def reliability(folder: Folder) -> dict[str, list[Chart]]:
    """Reliability diagrams by unit, of the test rows first."""
    content = folder.optional["calibration"] or {}
    charts: dict[str, list[Chart]] = {}
    for unit, rows in UNITS.items():
        block = content.get(unit) or {}
        states = figures.calibration_states(block)
        charts[unit] = []
        for table, title in (("test", "test"), ("held_out", "held-out")):
            bins = {state: reliability_bins(block, table, state) for state in states}
            rows_in = [sum(entry["n"] for entry in of_state) for of_state in bins.values()]
            if max(rows_in, default=0) >= FEWEST_BY_CONFIDENCE:
                charts[unit].append(
                    _chart(
                        f"reliability-{unit}-{table}",
                        f"Reliability on {title} {rows}",
                        " ".join(_describe(state, bins[state], len(states)) for state in states),
                        figures.calibration(block, (table,), rows=rows),
                    )
                )
    return charts


def _describe(state: str, bins: Sequence[Mapping[str, Any]], states: int) -> str:
    points = "; ".join(
        f"predicted {formatting.percent(entry['confidence'])}, correct "
        f"{formatting.percent(entry['accuracy'])} of {entry['n']}"
        for entry in bins
    )
    return f"{state.capitalize()} temperature scaling: {points}." if states > 1 else f"{points}."


def coverage(folder: Folder) -> dict[str, Chart | None]:
    """By unit: accuracy of what is answered, over how much is answered."""
    content = folder.optional["calibration"] or {}
    return {unit: _coverage(content.get(unit) or {}, unit) for unit in UNITS}


def _coverage(block: Mapping[str, Any], unit: str) -> Chart | None:
    points = coverage_points(block)
    if max((point["n"] for point in points), default=0) < FEWEST_BY_CONFIDENCE:
        return None
    first, last = (
        f"with {formatting.percent(point['coverage'])} answered "
        f"{formatting.percent(point['accuracy'])} correct"
        for point in (points[0], points[-1])
    )
    return _chart(
        f"coverage-{unit}",
        f"Accuracy of the {UNITS[unit]} that are answered, by how many are",
        f"{first.capitalize()}, {last}.",
        figures.calibration(block, (COVERAGE,), rows=UNITS[unit]),
    )
