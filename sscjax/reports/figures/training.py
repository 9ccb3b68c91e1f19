"""Learning curves: accuracy and loss by epoch, as figures and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sscjax.reports.figures.canvas import (
    BEST_COLOUR,
    GREY,
    SERIES,
    TRAIN_STYLE,
    VAL_STYLE,
    legend,
    panels,
    percent_axis,
    short,
)
from sscjax.system.files import write_text

Row = Mapping[str, Any]

QUANTITIES = ("accuracy", "loss")

# Names of short stages stand on up to so many lines above a panel; for more there is no room.
STAGE_NAME_LEVELS = 6


def learning_curves(
    rows: Sequence[Row],
    best_epoch: int | None = None,
    title: str = "",
    quantities: Sequence[str] = QUANTITIES,
) -> Figure:
    """Accuracy and loss of train and validation by epoch.

    Stage boundaries are vertical lines with the stage's name above, as in the paper's figure 4.

    Args:
      rows: the learning curves, in order of `epoch`.
      best_epoch: the epoch whose parameters were kept, or None.
      title: a line above the panels.
      quantities: a panel for each, 'accuracy' or 'loss'.
    """
    figure, row = panels(len(quantities))
    for axes, quantity in zip(row, quantities, strict=True):
        _draw_curves(axes, rows, quantity)
        _mark_stages(axes, rows)
        _mark_best(axes, rows, quantity, best_epoch)
        _scale(axes, rows, quantity)
    legend(figure, row[0], columns=3)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def fold_curves(
    folds: Mapping[str, Sequence[Row]], quantities: Sequence[str] = QUANTITIES
) -> Figure:
    """Validation accuracy and loss of each fold by epoch.

    Of more folds than there are colours the median is drawn, at each epoch that any of them
    reached, within their lowest and highest: no one could follow any of so many lines.

    Args:
      folds: the learning curves by the fold's name.
      quantities: a panel for each, 'accuracy' or 'loss'.
    """
    figure, row = panels(len(quantities))
    for axes, quantity in zip(row, quantities, strict=True):
        if len(folds) <= len(SERIES):
            for (name, rows), style in zip(folds.items(), SERIES, strict=False):
                epochs, values = [row["epoch"] for row in rows], _values(rows, f"val_{quantity}")
                axes.plot(epochs, values, label=short(name), linewidth=1.8, **style)
        else:
            _draw_range(axes, list(folds.values()), quantity)
        axes.set_ylabel(f"validation {quantity}")
        _scale_epochs(axes, [row for rows in folds.values() for row in rows])
        _scale(axes, [row for rows in folds.values() for row in rows], quantity, ("val",))
    legend(figure, row[0], columns=3 if len(folds) <= len(SERIES) else 1)
    return figure


def _draw_range(axes: Axes, folds: Sequence[Sequence[Row]], quantity: str) -> None:
    """The median of all folds at each epoch that any reached, within their lowest and highest."""
    of_epoch: dict[int, list[float]] = {}
    for rows in folds:
        for row, value in zip(rows, _values(rows, f"val_{quantity}").tolist(), strict=True):
            if math.isfinite(value):
                of_epoch.setdefault(row["epoch"], []).append(value)
    epochs = sorted(of_epoch)
    values = [of_epoch[epoch] for epoch in epochs]
    label = f"median of {len(folds)} folds (band: lowest to highest)"
    axes.plot(epochs, list(map(np.median, values)), label=label, linewidth=1.8, **SERIES[0])
    axes.fill_between(
        *(epochs, list(map(min, values)), list(map(max, values))),
        color=SERIES[0]["color"],
        alpha=0.18,
        linewidth=0,
    )


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    """[N] float64 of one figure, NaN (a gap in the line) where a row lacks it."""
    values = [row.get(key) for row in rows]
    return np.array([math.nan if value is None else float(value) for value in values])


def _draw_curves(axes: Axes, rows: Sequence[Row], quantity: str) -> None:
    epochs = [row["epoch"] for row in rows]
    # A single point or a gap between points leaves no line to see.
    marker = "o" if len(rows) <= 30 else None
    for split, style, label in (
        ("train", TRAIN_STYLE, "training"),
        ("val", VAL_STYLE, "validation"),
    ):
        values = _values(rows, f"{split}_{quantity}")
        if np.isfinite(values).any():
            axes.plot(epochs, values, label=label, marker=marker, markersize=4, lw=1.8, **style)
    axes.set_ylabel(quantity)
    _scale_epochs(axes, rows)


def _scale_epochs(axes: Axes, rows: Sequence[Row]) -> None:
    epochs = [row["epoch"] for row in rows]
    if epochs:
        margin = 0.5 + len(set(epochs)) / 50
        axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def stage_starts(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """The name and first epoch of each stage, in order."""
    starts: list[tuple[str, int]] = []
    for row in rows:
        if not starts or starts[-1][0] != row["stage"]:
            starts.append((row["stage"], row["epoch"]))
    return starts


def _mark_stages(axes: Axes, rows: Sequence[Row]) -> None:
    """A line at each boundary; names above the panel, raised where they would run together."""
    low, high = axes.get_xlim()
    free_from = [-math.inf] * STAGE_NAME_LEVELS
    for position, (name, epoch) in enumerate(stage_starts(rows)):
        start = low if position == 0 else epoch - 0.5
        if position:
            axes.axvline(start, color=GREY, linestyle=":", linewidth=1.5)
        share = (start - low) / (high - low)
        level = next((k for k, free in enumerate(free_from) if share >= free), None)
        if level is None:
            continue
        text = short(name)
        # At 9 points in half of a 10-inch figure a letter takes about 1/60 of the panel.
        free_from[level] = share + (len(text) + 2) / 60
        axes.annotate(
            text,
            (share, 1),
            xycoords="axes fraction",
            xytext=(2, 3 + 12 * level),
            textcoords="offset points",
            fontsize=9,
            color=GREY,
            parse_math=False,
        )


def _mark_best(axes: Axes, rows: Sequence[Row], quantity: str, best: int | None) -> None:
    for row in rows:
        value = row.get(f"val_{quantity}")
        if best is not None and row["epoch"] == best and value is not None:
            axes.plot(
                [best],
                [value],
                marker="D",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=BEST_COLOUR,
                markeredgewidth=2,
                linestyle="none",
                label=f"best epoch ({best})",
                zorder=5,
            )


def _scale(
    axes: Axes, rows: Sequence[Row], quantity: str, splits: Sequence[str] = ("train", "val")
) -> None:
    """Accuracy in percent; loss from 0 up, or logarithmic where a spike would flatten the rest."""
    if quantity == "accuracy":
        percent_axis(axes.yaxis)
        return
    values = np.concatenate([_values(rows, f"{split}_{quantity}") for split in splits])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if values.min() > 0 and values.max() > 20 * np.median(values):
        axes.set_yscale("log")
        axes.set_ylabel(f"{axes.get_ylabel()} (log scale)")
    else:
        axes.set_ylim(0, 1.06 * values.max() or 1.0)


def write_curves_csv(path: Path | str, rows: Sequence[Row]) -> None:
    """Write the learning curves atomically, a column per key in the order keys first appear.

    Floats are written so that reading them gives the same number; None and missing are empty.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(column) for column in columns)
        writer.writerow([_cell(value) for value in values])
    write_text(path, text.getvalue())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value)
