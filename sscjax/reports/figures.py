"""How a run went, for the eye: PNG figures, and the learning curves as CSV.

Everything is drawn from rows and counts; nothing here needs JAX. The figures use matplotlib's
object interface with the Agg canvas, never pyplot, so no display and no global state are involved.

A row of the learning curves is a mapping with `epoch` (1, 2, ... over all stages), `stage` (name)
and figures such as `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`; a figure may be
missing or None.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sscjax.system.files import write_bytes, write_text

Row = Mapping[str, Any]

# Pixels per inch; all figures are about 1000 pixels wide.
DPI = 100

# Okabe and Ito's colours, told apart with any kind of colour vision; the dashes differ as well.
TRAIN_STYLE: dict[str, Any] = {"color": "#0072B2", "linestyle": "-"}
VAL_STYLE: dict[str, Any] = {"color": "#D55E00", "linestyle": "--"}
BEST_COLOUR = "#009E73"
_MASK_COLOURS = (
    *("#F0E442", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"),
)
# Of pixels of which a mask says nothing.
_UNKNOWN = "#D9D9D9"
GREY = "#555555"

# Above this many classes a confusion matrix shows counts only, and above the next only colours.
MOST_CLASSES_WITH_PERCENT = 12
MOST_CLASSES_WITH_COUNTS = 30

# Names of short stages stand on up to so many lines above a panel; for more there is no room.
STAGE_NAME_LEVELS = 6

# Longer class names are cut in figures.
NAME_WIDTH = 18


def _write_png(path: Path | str, figure: Figure) -> None:
    """Render and write atomically; without the version stamp the same figure is the same file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script the font lacks becomes boxes; that is no reason to stop a run.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[attr-defined]
    write_bytes(path, buffer.getvalue())


def _new_figure(
    height: float, layout: Literal["constrained", "compressed"], width: float = 10
) -> Figure:
    """A white figure, in inches; 'compressed' is for panels of fixed proportions."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


def write_learning_curves(
    path: Path | str, rows: Sequence[Row], best_epoch: int | None = None, title: str = ""
) -> None:
    """Draw accuracy and loss of train and validation by epoch into a PNG.

    Stage boundaries are vertical lines with the stage's name above, as in the paper's figure 4.

    Args:
      path: the PNG.
      rows: the learning curves, in order of `epoch`.
      best_epoch: the epoch whose parameters were kept, or None.
      title: a line above the panels.
    """
    figure = _new_figure(4.6, "constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("accuracy", "loss"), strict=True):
        _draw_curves(axes, rows, quantity)
        _mark_stages(axes, rows)
        _mark_best(axes, rows, quantity, best_epoch)
    panels[0].yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    _scale_loss(panels[1], rows)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, handlelength=3
        )
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    _write_png(path, figure)


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
    if epochs:
        axes.set_xlim(epochs[0] - 0.5 - len(rows) / 50, epochs[-1] + 0.5 + len(rows) / 50)
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


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
        text = _short(name)
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


def _scale_loss(axes: Axes, rows: Sequence[Row]) -> None:
    """From 0 up; logarithmic where one spike would press everything else flat."""
    values = np.concatenate([_values(rows, "train_loss"), _values(rows, "val_loss")])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if values.min() > 0 and values.max() > 20 * np.median(values):
        axes.set_yscale("log")
        axes.set_ylabel("loss (log scale)")
    else:
        axes.set_ylim(0, 1.06 * values.max() or 1.0)


def _short(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def mask_palette(classes: int) -> list[tuple[int, int, int]]:
    """RGB of the values 0 to 255 of a mask of so many classes; values of none are grey."""
    colours = [_MASK_COLOURS[k % len(_MASK_COLOURS)] for k in range(classes)]
    shades = [*colours, *(_UNKNOWN for _ in range(256 - classes))]
    return [(int(one[1:3], 16), int(one[3:5], 16), int(one[5:7], 16)) for one in shades]


def write_masks(
    path: Path | str,
    images: np.ndarray,
    true: np.ndarray,
    told: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Draw images, their masks, and what the network told of them side by side into a PNG.

    Args:
      path: the PNG.
      images: [N,H,W,3] uint8, a few.
      true: [N,H,W] class indices; what is no index is not known, and stays grey.
      told: [N,H,W] class indices.
      classes: names of the K classes.
    """
    colours = [_MASK_COLOURS[k % len(_MASK_COLOURS)] for k in range(len(classes))]
    shown = ListedColormap(colours).with_extremes(bad=_UNKNOWN)
    rows = len(images)
    figure = _new_figure(0.6 + 2.2 * rows, "compressed", width=6.8)
    grid = figure.subplots(rows, 3, squeeze=False)
    for row, axes in enumerate(grid):
        axes[0].imshow(images[row])
        for place, maps in ((axes[1], true[row]), (axes[2], told[row])):
            known = np.ma.masked_where(maps >= len(classes), maps)
            place.imshow(known, cmap=shown, vmin=0, vmax=len(classes), interpolation="nearest")
        for place in axes:
            place.set_axis_off()
    for place, title in zip(grid[0], ("image", "mask", "told"), strict=True):
        place.set_title(title, fontsize=12)
    patches = [
        Patch(facecolor=colour, label=_short(name).replace("$", r"\$"))
        for colour, name in zip(colours, classes, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    _write_png(path, figure)


def write_confusion(
    path: Path | str,
    confusion: Sequence[Sequence[int]] | np.ndarray,
    classes: Sequence[str],
    title: str = "",
) -> None:
    """Draw a confusion matrix into a PNG: counts and, in colour and figures, the share of the row.

    Args:
      path: the PNG.
      confusion: [C][C] counts, true class in rows.
      classes: the C names.
      title: a line above the matrix.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = _new_figure(5.6 if len(classes) <= 4 else 8.6, "compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in classes]
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
    _write_png(path, figure)


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


def write_calibration(path: Path | str, found: Mapping[str, Any]) -> None:
    """Draw the test images' reliability before and after calibration, and accuracy by coverage.

    Args:
      path: the PNG.
      found: the content of calibration.json, see `reliability.assess`.
    """
    figure = _new_figure(4.9, "constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.5, label="ideal")
    states = found["splits"].get("test", {})
    for state, style in (("before", VAL_STYLE), ("after", TRAIN_STYLE)):
        if state in states:
            label = f"{state} calibration, error {states[state]['ece']:.3f}"
            _draw_reliability(left, states[state]["bins"], {**style, "label": label})
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence of the images", ylabel="right")
    left.legend(frameon=False, loc="upper left", fontsize=9)
    curve = found["coverage"]
    shares = [point["coverage"] for point in curve]
    right.plot(shares, [point["accuracy"] for point in curve], lw=1.8, **TRAIN_STYLE)
    right.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="answered, the surest first", ylabel="right")
    for axes in (left, right):
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("test images: probabilities, and answers", fontsize=12)
    _write_png(path, figure)


def _draw_reliability(
    axes: Axes, bins: Sequence[Mapping[str, Any]], style: Mapping[str, Any]
) -> None:
    """Accuracy by mean confidence, a point for each bin, with its interval where it has one."""
    sure, accuracy = ([one[name] for one in bins] for name in ("confidence", "accuracy"))
    axes.plot(sure, accuracy, marker="o", markersize=4, lw=1.4, **style)
    for one in bins:
        if one["interval"]:
            x = [one["confidence"]] * 2
            axes.plot(x, one["interval"], color=style["color"], lw=1, alpha=0.5)


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


def write_sheet(
    path: Path | str,
    title: str,
    panels: Sequence[tuple[str, np.ndarray]],
    columns: int | None = None,
) -> None:
    """Draw pictures side by side, each under its name.

    Args:
      path: of the PNG.
      title: above all of them.
      panels: name and pixels, uint8 [H,W,3].
      columns: in a row; None: all.
    """
    wide = columns or len(panels)
    high = math.ceil(len(panels) / wide)
    figure = Figure(figsize=(2.5 * wide, 2.7 * high + 0.3), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    places = figure.subplots(high, wide, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, (name, pixels) in zip(places, panels, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(name, fontsize=10, parse_math=False)
    _write_png(path, figure)


def write_heat_map(
    path: Path | str,
    picture: np.ndarray,
    corners: np.ndarray,
    side: float,
    values: np.ndarray,
    *,
    title: str,
    label: str,
    threshold: float,
) -> None:
    """Lay squares in colour over a picture, beside the picture as it is.

    Args:
      path: of the PNG.
      picture: uint8 [H,W,3].
      corners: [N,2] left and upper edges of the squares, in pixels of the picture.
      side: of a square, likewise.
      values: [N], 0 to 1; the colour.
      title: above both.
      label: of the colours.
      threshold: marked on their scale.
    """
    height, width = picture.shape[:2]
    inches = min(7.0, 5.0 * height / width)
    figure = Figure(figsize=(11.0, inches + 0.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    grey = picture @ np.array([0.299, 0.587, 0.114])
    right.imshow(grey, cmap="gray", vmin=0, vmax=255)
    squares = PatchCollection(
        [Rectangle((x, y), side, side) for x, y in corners.tolist()],
        cmap="viridis",
        alpha=0.65,
        linewidth=0,
    )
    squares.set_array(np.asarray(values, float))
    squares.set_clim(0, 1)
    right.add_collection(squares)
    for axes in (left, right):
        axes.set_axis_off()
    scale = figure.colorbar(squares, ax=right, fraction=0.046)
    scale.set_label(label, parse_math=False)
    scale.ax.axhline(threshold, color="black", linewidth=2)
    _write_png(path, figure)
