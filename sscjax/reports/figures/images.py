"""Sheets of images: side by side under their names, with their masks, or with a map over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sscjax.reports.figures.canvas import new_figure, require, short

_MASK_COLOURS = (
    *("#F0E442", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"),
)
# Of pixels of which a mask says nothing.
_UNKNOWN = "#D9D9D9"


def mask_palette(classes: int) -> list[tuple[int, int, int]]:
    """RGB of the values 0 to 255 of a mask of so many classes; values of none are grey."""
    colours = [_MASK_COLOURS[k % len(_MASK_COLOURS)] for k in range(classes)]
    shades = [*colours, *(_UNKNOWN for _ in range(256 - classes))]
    return [(int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)) for colour in shades]


def mask_sheet(
    images: np.ndarray, true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> Figure:
    """Images, their masks, and the masks that the network predicted, side by side.

    Args:
      images: [N,H,W,3] uint8, a few, at least one.
      true: [N,H,W] class indices; what is no index is not known, and stays grey.
      predicted: [N,H,W] class indices.
      classes: names of the K classes.
    """
    require(len(images))
    colours = [_MASK_COLOURS[k % len(_MASK_COLOURS)] for k in range(len(classes))]
    shown = ListedColormap(colours).with_extremes(bad=_UNKNOWN)
    figure = new_figure(0.6 + 2.2 * len(images), "compressed", width=6.8)
    grid = figure.subplots(len(images), 3, squeeze=False)
    for row, panels in enumerate(grid):
        panels[0].imshow(images[row])
        for axes, mask in ((panels[1], true[row]), (panels[2], predicted[row])):
            known = np.ma.masked_where(mask >= len(classes), mask)
            axes.imshow(known, cmap=shown, vmin=0, vmax=len(classes), interpolation="nearest")
        for axes in panels:
            axes.set_axis_off()
    for axes, title in zip(grid[0], ("image", "mask", "predicted"), strict=True):
        axes.set_title(title, fontsize=12)
    patches = [
        Patch(facecolor=colour, label=short(name).replace("$", r"\$"))
        for colour, name in zip(colours, classes, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def image_sheet(
    title: str, panels: Sequence[tuple[str, np.ndarray]], columns: int | None = None
) -> Figure:
    """Pictures side by side, each under its name.

    Args:
      title: above all of them.
      panels: name and pixels, uint8 [H,W,3], at least one.
      columns: in a row; None: all.
    """
    require(len(panels))
    wide = columns or len(panels)
    high = math.ceil(len(panels) / wide)
    figure = new_figure(2.7 * high + 0.3, "constrained", width=2.5 * wide)
    figure.suptitle(title, fontsize=11, parse_math=False)
    grid = figure.subplots(high, wide, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (name, pixels) in zip(grid, panels, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(name, fontsize=10, parse_math=False)
    return figure


def heat_map(
    picture: np.ndarray,
    corners: np.ndarray,
    side: float,
    values: np.ndarray,
    *,
    title: str,
    label: str,
    threshold: float,
) -> Figure:
    """Squares in colour over a picture, beside the picture as it is.

    Args:
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
    figure = new_figure(inches + 0.6, "constrained", width=11.0)
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
    return figure
