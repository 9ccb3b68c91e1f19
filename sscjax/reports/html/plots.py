"""The charts of the page, drawn from a run's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.evaluation import curves as roc
from sscjax.evaluation.predictions import Predictions
from sscjax.reports.html.charts import COLOURS, Axis, Chart, Line, nice_axis, share_axis
from sscjax.reports.html.evidence import calibration_states
from sscjax.reports.html.run_data import Folder
from sscjax.reports.html.sections import SPLIT_TITLES, judged
from sscjax.system import formatting

# Of more classes than this, curves are drawn of the first ones; the table has all.
MOST_CLASSES = 8


def roc_charts(folder: Folder) -> list[dict[str, Any]]:
    """For each unit the ROC and precision-recall charts of each class."""
    split = judged(folder)
    images = folder.predictions.where(split)
    found = []
    for unit, table in (("image", images), ("subject", images.by_subject())):
        # Of several repeats they are the intervals of all tests, and not of what is drawn.
        kept = {} if folder.repeated else folder.metrics.get("test_intervals") or {}
        ranges = kept.get(unit, {})
        aurocs = [entry["auroc"] for entry in ranges.get("per_class", [])]
        charts: list[Chart] = []
        for index in _positives(table):
            curves = roc.curves(table, index)
            if curves is not None:
                interval = aurocs[index] if split == "test" and index < len(aurocs) else None
                charts += _pair(f"{unit}-{index}", table.classes[index], curves, interval)
        with_band = any(len(line.band_x) for chart in charts for line in chart.lines)
        found.append({"unit": unit, "charts": charts, "bands": with_band, "n": len(table)})
    return found


def _positives(table: Predictions) -> list[int]:
    """Classes that have a curve of their own: of two, the second, for the first is its mirror."""
    present = [index for index in range(len(table.classes)) if (table.labels == index).any()]
    return present[1:] if len(table.classes) == 2 else present[:MOST_CLASSES]


def _pair(
    key: str, name: str, curves: tuple[roc.Curve, roc.Curve], interval: Any
) -> tuple[Chart, Chart]:
    shown = formatting.clean_name(name)
    first, second = curves
    area = f"AUROC {formatting.number(first.area)}" + _span(interval)
    precision = f"average precision {formatting.number(second.area)}" + _span(second.interval)
    return (
        Chart(
            f"roc-{key}",
            f"ROC: {shown} against the others",
            f"True positive rate over false positive rate; {area}. Diagonal: guessing.",
            share_axis("false positive rate"),
            share_axis("true positive rate"),
            (_line(f"{shown}: {area}", first, 0),),
            diagonal=True,
        ),
        Chart(
            f"pr-{key}",
            f"Precision-recall: {shown} against the others",
            f"Precision over recall; {precision}. Dotted: the share of this class, which is the "
            f"precision of guessing.",
            share_axis("recall"),
            share_axis("precision"),
            (_line(f"{shown}: {precision}", second, 0, steps=True),),
            level=second.chance,
        ),
    )


def _span(interval: Any) -> str:
    return f" ({formatting.span('', interval)})" if interval else ""


def _line(label: str, curve: roc.Curve, kind: int, steps: bool = False) -> Line:
    x, y = (curve.x.tolist(), curve.y.tolist()) if steps else _corners(curve.x, curve.y)
    if curve.band is None:
        return Line(label, x, y, kind, steps=steps)
    low, high = curve.band.low.tolist(), curve.band.high.tolist()
    return Line(label, x, y, kind, roc.GRID.tolist(), low, high, steps=steps)


def learning_curves(folder: Folder) -> list[Chart]:
    """Accuracy and loss by epoch; of a protocol the validation curve of each fold."""
    if folder.is_protocol:
        curves = {name: fold.curves for name, fold in folder.folds.items() if fold.curves}
        # Beyond that lines would share colours, and no one could follow any of them.
        draw = _fold_curves if len(curves) <= COLOURS else _range_of_folds
        return draw(curves)
    if not folder.curves:
        return []
    rows = folder.curves
    best = _best_epoch(folder)
    found = []
    for quantity in ("accuracy", "loss"):
        lines = []
        for kind, split in enumerate(("train", "val")):
            y = _finite([row.get(f"{split}_{quantity}") for row in rows])
            if np.isfinite(y).any():
                x = [row["epoch"] for row in rows]
                lines.append(Line(SPLIT_TITLES[split].lower(), x, y, kind, points=len(rows) < 20))
        value = next((row.get(f"val_{quantity}") for row in rows if row["epoch"] == best), None)
        mark = None if best is None or value is None else (best, value)
        starts = [(name, epoch - 0.5) for name, epoch in _stage_starts(rows)]
        found.append(_course(quantity, tuple(lines), starts, mark))
    return [chart for chart in found if chart.lines]


def _best_epoch(folder: Folder) -> float | None:
    """Epoch, over all stages, that the chosen model comes from; None for the last."""
    before = 0
    for name, kept in folder.stages.items():
        if name == folder.metrics.get("final_stage"):
            return before + kept["course"]["best_epoch"] if kept["course"]["best_epoch"] else None
        before += kept["course"]["epoch"]
    return None


def _stage_starts(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    starts: dict[str, float] = {}
    for row in rows:
        starts.setdefault(row["stage"], row["epoch"])
    return list(starts.items())


def _fold_curves(folds: Mapping[str, list[dict[str, Any]]]) -> list[Chart]:
    found = []
    for quantity in ("accuracy", "loss"):
        lines = tuple(
            Line(
                f"{formatting.clean_name(name)}, validation",
                [row["epoch"] for row in rows],
                _finite([row.get(f"val_{quantity}") for row in rows]),
                kind,
            )
            for kind, (name, rows) in enumerate(folds.items())
        )
        found.append(_course(quantity, lines, [], None))
    return [chart for chart in found if chart.lines]


def _range_of_folds(folds: Mapping[str, list[dict[str, Any]]]) -> list[Chart]:
    """The median of many folds, at each epoch that any reached, within their lowest and highest."""
    epochs = sorted({row["epoch"] for rows in folds.values() for row in rows})
    found = []
    for quantity in ("accuracy", "loss"):
        values: dict[float, list[float]] = {epoch: [] for epoch in epochs}
        for row in (row for rows in folds.values() for row in rows):
            value = row.get(f"val_{quantity}")
            if value is not None and math.isfinite(value):
                values[row["epoch"]].append(value)
        x = [epoch for epoch in epochs if values[epoch]]
        if x:
            some = [np.array(values[epoch]) for epoch in x]
            line = Line(
                f"validation, median of {len(folds)} folds (band: lowest to highest)",
                x,
                [float(np.median(one)) for one in some],
                band_x=x,
                low=[float(one.min()) for one in some],
                high=[float(one.max()) for one in some],
            )
            found.append(_course(quantity, (line,), [], None))
    return found


def _course(
    quantity: str,
    lines: tuple[Line, ...],
    starts: list[tuple[str, float]],
    best: tuple[float, float] | None,
) -> Chart:
    epochs = [x for line in lines for x in line.x] or [0, 1]
    values = [y for line in lines for y in line.y if np.isfinite(y)] or [0, 1]
    highest = max([*values, *(y for line in lines for y in line.high)])
    low, high = min(epochs) - 0.5, max(epochs) + 0.5
    is_share = quantity == "accuracy"
    y = share_axis(quantity) if is_share else nice_axis(quantity, 0, 1.05 * highest)
    return Chart(
        f"course-{quantity}",
        f"{quantity.capitalize()} by epoch",
        f"{quantity.capitalize()} over {len(set(epochs))} epochs, from {values[0]:.3g} "
        f"to {values[-1]:.3g} for the last line.",
        nice_axis("epoch", low, high, whole=True),
        y,
        lines,
        marks=tuple((epoch, name) for name, epoch in starts) if len(starts) > 1 else (),
        best=best,
    )


def reliability(folder: Folder) -> list[Chart]:
    """Reliability diagrams of the calibration, validation and test, before and after."""
    calibration = folder.optional["calibration"] or {}
    splits, states = calibration.get("splits") or {}, calibration_states(calibration)
    found = []
    for split in ("test", "val"):
        for state in states:
            bins = [one for one in splits.get(split, {}).get(state, {}).get("bins", []) if one["n"]]
            if bins:
                scaled = f", {state} temperature scaling" if len(states) > 1 else ""
                found.append(_reliability(split, state, scaled, bins))
    return found


def _reliability(split: str, state: str, scaled: str, bins: list[dict[str, Any]]) -> Chart:
    total = sum(one["n"] for one in bins)
    whiskers = [(one["confidence"], *one["interval"]) for one in bins if one.get("interval")]
    x, y = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
    return Chart(
        f"reliability-{split}-{state}",
        f"Reliability on {SPLIT_TITLES[split].lower()} images{scaled}",
        "; ".join(
            f"said {formatting.percent(one['confidence'])}, "
            f"right {formatting.percent(one['accuracy'])} "
            f"of {one['n']}"
            for one in bins
        ),
        share_axis("probability of the answer"),
        share_axis("share of right answers"),
        (Line("", x, y, 0, points=True),),
        diagonal=True,
        bars=tuple((one["low"], one["high"], one["n"] / total) for one in bins),
        whiskers=tuple(whiskers),
    )


def coverage(folder: Folder) -> Chart | None:
    """Accuracy of what is answered, over how much is answered."""
    rows = [
        row
        for row in (folder.optional["calibration"] or {}).get("coverage") or []
        if row.get("accuracy") is not None
    ]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row["coverage"])
    values = [row["accuracy"] for row in rows]
    low = max(0.0, np.floor(5 * min(values)) / 5 - 0.2)
    return Chart(
        "coverage",
        "Accuracy of the images that are answered, by how many are",
        f"With {formatting.percent(rows[0]['coverage'])} answered "
        f"{formatting.percent(values[0])} right, "
        f"with {formatting.percent(rows[-1]['coverage'])} {formatting.percent(values[-1])}.",
        Axis("images answered, %", 0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1.0), percent=True),
        share_axis("right among them", float(low)),
        (Line("accuracy", [row["coverage"] for row in rows], values, 0),),
    )


def _finite(values: Sequence[float | None]) -> list[float]:
    """The values with NaN where there is none."""
    return [math.nan if value is None else float(value) for value in values]


def _corners(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """The points of a line without those that lie on the way between their neighbours."""
    if len(x) < 3:
        return x.tolist(), y.tolist()
    before = np.diff(x)[:-1] * np.diff(y)[1:] - np.diff(y)[:-1] * np.diff(x)[1:]
    keep = np.concatenate([[True], np.abs(before) > 1e-12, [True]])
    return x[keep].tolist(), y[keep].tolist()
