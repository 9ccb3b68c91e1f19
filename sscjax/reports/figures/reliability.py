"""Reliability diagrams, and accuracy by coverage, of what calibration.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscjax.reports.figures.canvas import (
    GREY,
    TRAIN_STYLE,
    VAL_STYLE,
    legend,
    panels,
    percent_axis,
)

# The panel that is no split: accuracy of the images that are answered, by how many are.
COVERAGE = "coverage"


def calibration_states(calibration: Mapping[str, Any]) -> tuple[str, ...]:
    """Before and after temperature scaling; where none was done, both are the same.

    Args:
      calibration: what calibration.json holds of a unit, see `reliability.unit_content`.
    """
    scaled = any(value != 1 for value in calibration.get("temperatures") or [])
    return ("after",) if calibration.get("reason") and not scaled else ("before", "after")


def calibration(
    calibration: Mapping[str, Any],
    shown: Sequence[str] = ("test", COVERAGE),
    title: str = "",
    rows: str = "images",
) -> Figure:
    """Reliability before and after temperature scaling, and accuracy by coverage.

    Args:
      calibration: what calibration.json holds of a unit, see `reliability.unit_content`.
      shown: the panels: names of splits for their reliability, or `COVERAGE`.
      title: a line above the panels.
      rows: what the rows are, 'subjects' or 'images'.
    """
    # A reliability diagram's legend has a line for each state, the ideal and the bars.
    lines = 0 if shown[0] == COVERAGE else 2 + len(calibration_states(calibration))
    figure, row = panels(len(shown), lines if len(shown) == 1 else None)
    for axes, panel in zip(row, shown, strict=True):
        if panel == COVERAGE:
            _draw_coverage(axes, coverage_points(calibration), rows)
        else:
            _draw_reliability(axes, calibration, panel, rows)
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
    legend(figure, row[0], columns=1)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def coverage_points(calibration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points of accuracy by coverage that have an accuracy, by rising coverage."""
    points = [
        point for point in calibration.get("coverage") or [] if point.get("accuracy") is not None
    ]
    return sorted(points, key=lambda point: point["coverage"])


def reliability_bins(calibration: Mapping[str, Any], split: str, state: str) -> list[Any]:
    """The bins of a split, 'before' or 'after' scaling, that hold images."""
    quality = (calibration.get("splits") or {}).get(split, {}).get(state, {})
    return [entry for entry in quality.get("bins", []) if entry["n"]]


def _draw_reliability(axes: Axes, calibration: Mapping[str, Any], split: str, rows: str) -> None:
    """Accuracy by mean confidence, a point for each bin; bars show the share of the rows."""
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="ideal")
    states = calibration_states(calibration)
    for state in states:
        bins = reliability_bins(calibration, split, state)
        if not bins:
            continue
        style = VAL_STYLE if state == "before" else TRAIN_STYLE
        scaling = f"{state} temperature scaling" if len(states) > 1 else "no scaling"
        error = calibration["splits"][split][state]["ece"]
        if state == states[-1]:
            _draw_shares(axes, bins, rows)
        confidence, accuracy = (
            [entry[key] for entry in bins] for key in ("confidence", "accuracy")
        )
        axes.plot(
            *(confidence, accuracy),
            label=f"{scaling}: calibration error {error:.3f}",
            marker="o",
            markersize=4,
            linewidth=1.4,
            **style,
        )
        for entry in bins:
            if entry.get("interval"):
                x = [entry["confidence"]] * 2
                axes.plot(x, entry["interval"], color=style["color"], linewidth=1, alpha=0.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="predicted probability", ylabel="correct")


def _draw_shares(axes: Axes, bins: Sequence[Mapping[str, Any]], rows: str) -> None:
    total = sum(entry["n"] for entry in bins)
    axes.bar(
        [entry["low"] for entry in bins],
        [entry["n"] / total for entry in bins],
        # Bins of equal counts may have no width of their own.
        [max(entry["high"] - entry["low"] - 0.004, 0.002) for entry in bins],
        align="edge",
        color=GREY,
        alpha=0.25,
        linewidth=0,
        label=f"share of the {rows}",
    )


def _draw_coverage(axes: Axes, points: Sequence[Mapping[str, Any]], rows: str) -> None:
    coverage, accuracy = ([point[key] for point in points] for key in ("coverage", "accuracy"))
    axes.plot(coverage, accuracy, linewidth=1.8, **TRAIN_STYLE)
    lowest = math.floor(5 * min(accuracy, default=0.0)) / 5 - 0.2
    axes.set(
        xlim=(0, 1.02),
        ylim=(max(0.0, lowest), 1.02),
        xlabel=f"{rows} answered, the most confident first",
        ylabel="correct among them",
    )
