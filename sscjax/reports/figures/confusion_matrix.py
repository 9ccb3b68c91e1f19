"""Confusion matrices in colour, counts and percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sscjax.reports.figures.canvas import GREY, new_figure, require, short

# Above this many classes a confusion matrix shows counts only, and above the next only colours.
MOST_CLASSES_WITH_PERCENT = 12
MOST_CLASSES_WITH_COUNTS = 30


def confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str], title: str = ""
) -> Figure:
    """A confusion matrix: counts and, in colour and percent, the share of the row.

    Args:
      matrix: [C][C] counts, true class in rows.
      classes: the C names.
      title: a line above the matrix.
    """
    require(len(classes))
    counts = np.asarray(matrix, dtype=np.int64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = new_figure(5.6 if len(classes) <= 4 else 8.6, "compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [short(name) for name in classes]
    crowded = len(names) > 4 or max(map(len, names)) > 14
    ticks = range(len(names))
    axes.set_xticks(ticks, names, parse_math=False)
    if crowded:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(
        ticks,
        [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)],
        parse_math=False,
    )
    axes.tick_params(length=0, labelsize=12 if len(names) <= 12 else 8)
    axes.set_xlabel("predicted", fontsize=12)
    axes.set_ylabel("true (number)", fontsize=12)
    axes.set_title(title, fontsize=13, parse_math=False)
    _fill_cells(axes, counts, shares)
    bar = figure.colorbar(
        image, ax=axes, format=PercentFormatter(xmax=1, symbol=" %"), fraction=0.046
    )
    bar.set_label("share of the true class")
    return figure


def _fill_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = len(counts)
    if size > MOST_CLASSES_WITH_COUNTS:
        return
    fontsize = 13 if size <= 4 else 9 if size <= MOST_CLASSES_WITH_PERCENT else 6
    for true, predicted in np.ndindex(counts.shape):
        count, share = counts[true, predicted], shares[true, predicted]
        text = str(count)
        if size <= MOST_CLASSES_WITH_PERCENT and count:
            text += f"\n{100 * share:.1f} %"
        colour = "white" if share > 0.55 else "black" if count else GREY
        axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=fontsize)
