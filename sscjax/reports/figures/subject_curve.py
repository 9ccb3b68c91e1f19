"""Learning curves over the number of training subjects, with their extrapolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sscjax.reports.figures.canvas import GREY, SERIES, legend, panels, percent_axis


def subject_curves(shown: Sequence[Sequence[Mapping[str, Any]]], most: int) -> Figure:
    """A panel for each group of figures, such as shares and losses.

    Args:
      shown: for each panel, at least one, its curves; each has `title`, `is_share`, `points`
        (mappings with `subjects`, `value`, `low`, `high`) and `forecast` (the same, in rising
        numbers of subjects, from the first point on).
      most: the largest number of training subjects that was measured; beyond it is extrapolation.
    """
    figure, row = panels(len(shown), legend_lines=max(map(len, shown), default=0))
    for axes, curves in zip(row, shown, strict=True):
        for style, curve in zip(SERIES, curves, strict=False):
            points, forecast = curve["points"], curve["forecast"]
            numbers = [point["subjects"] for point in points]
            values = [point["value"] for point in points]
            ends = [
                [point["value"] - point["low"] for point in points],
                [point["high"] - point["value"] for point in points],
            ]
            colour = style["color"]
            axes.errorbar(numbers, values, ends, fmt="o", color=colour, capsize=3, linewidth=1.2)
            along = [point["subjects"] for point in forecast]
            axes.plot(along, [point["value"] for point in forecast], label=curve["title"], **style)
            axes.fill_between(
                *(along, [point["low"] for point in forecast]),
                [point["high"] for point in forecast],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        axes.axvline(most, color=GREY, linestyle=":", linewidth=1.2)
        axes.set(xlabel="training subjects (right of the dotted line: extrapolation)")
        if curves[0]["is_share"]:
            percent_axis(axes.yaxis)
        else:
            axes.set_ylabel("log loss")
    _legends(figure, row)
    return figure


def _legends(figure: Figure, row: Sequence[Any]) -> None:
    """A legend in each panel: the panels show different curves of the same colours."""
    if len(row) == 1:
        legend(figure, row[0], columns=1)
        return
    for axes in row:
        axes.legend(frameon=False, fontsize=9, handlelength=3)
