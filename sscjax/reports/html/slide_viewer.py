"""A slide with its heat map in a page that pans and zooms, from the disk, by OpenSeadragon.

The slide lies beside the page as a pyramid of JPEG tiles (Deep Zoom). Its description stands in the
page: a page that was opened from the disk may show pictures and read no other file.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sscjax.reports import overlays
from sscjax.reports.html.openseadragon import PACKAGE
from sscjax.reports.html.render import render
from sscjax.system import files

SIDE = 8192
"""Pixels of the longer side to which a slide is reduced: some 300 tiles, some 20 MB."""

TILE, _QUALITY = 512, 80

# Pixels of the heat map's longer side at most: it has no detail but the squares.
_HEAT_SIDE = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Heat:
    """Squares over a slide.

    Attributes:
      corners: [N,2] left and upper edges, as shares of the slide's width.
      side: of a square, likewise.
      values: [N] float, 0 to 1.
      label: what they are.
      threshold: from which on a value is called positive.
    """

    corners: np.ndarray
    side: float
    values: np.ndarray
    label: str
    threshold: float


def write(
    folder: Path,
    key: str,
    title: str,
    pixels: np.ndarray,
    heat: Heat,
    places: Sequence[tuple[str, int]],
    library: Mapping[str, bytes],
) -> str:
    """Write the page, the tiles and the library; returns the page's name.

    Args:
      folder: of all viewers of a call.
      key: of the slide, a plain name unlike any other's.
      title: the slide's name, for people.
      pixels: uint8 [H,W,3], the slide, reduced to `SIDE`.
      heat: the squares and their values.
      places: buttons that zoom to a square: text and its number.
      library: OpenSeadragon's files by name, see `openseadragon.PACKAGE`.
    """
    for name, content in library.items():
        if not (folder / name).is_file():
            files.write_bytes(folder / name, content)
    _write_tiles(folder / f"{key}_files", pixels)
    picture = io.BytesIO()
    Image.fromarray(heat_pixels(heat, pixels.shape[0] / pixels.shape[1])).save(picture, "PNG")
    files.write_bytes(folder / f"{key}_heat.png", picture.getvalue())
    about = {
        "tiles": f"{key}_files/",
        "size": TILE,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "heat": f"{key}_heat.png",
        "places": [[*heat.corners[number].tolist(), heat.side] for _, number in places],
    }
    context: dict[str, Any] = {
        "title": title,
        "label": heat.label,
        "threshold": heat.threshold,
        "buttons": [text for text, _ in places],
        "script": next(name for name in PACKAGE.files if name.endswith(".js")),
        # No name from a file is in it, and nothing that could end the script.
        "about": json.dumps(about),
        "colours": ", ".join(
            f"rgb({', '.join(map(str, overlays.colour_table()[place].tolist()))})"
            for place in (0, 64, 128, 191, 255)
        ),
    }
    page = f"{key}.html"
    files.write_text(folder / page, render("slide_viewer.html.j2", context))
    return page


def _write_tiles(folder: Path, pixels: np.ndarray) -> None:
    """The pyramid: each level half as large as the next, the smallest of one pixel."""
    image = Image.fromarray(pixels)
    for level in range((max(image.size) - 1).bit_length(), -1, -1):
        of_level = folder / str(level)
        of_level.mkdir(parents=True)
        for top in range(0, image.height, TILE):
            for left in range(0, image.width, TILE):
                box = (left, top, min(left + TILE, image.width), min(top + TILE, image.height))
                path = of_level / f"{left // TILE}_{top // TILE}.jpg"
                image.crop(box).save(path, "JPEG", quality=_QUALITY)
        half = [(side + 1) // 2 for side in image.size]
        image = image.resize((half[0], half[1]), Image.Resampling.BOX)


def heat_pixels(heat: Heat, ratio: float) -> np.ndarray:
    """The squares as a picture, uint8 [h,w,4], transparent where there are none.

    Args:
      heat: the squares.
      ratio: the slide's height by its width.
    """
    # A square has some 8 pixels, unless the picture would be too large for that.
    width = min(round(8 / heat.side), round(_HEAT_SIDE / max(1.0, ratio)))
    height = max(1, round(width * ratio))
    drawn = np.zeros((height, width, 4), np.uint8)
    colours = overlays.colour_table()[np.round(255 * heat.values).astype(int)]
    starts = np.round(heat.corners * width).astype(int)
    ends = np.maximum(np.round((heat.corners + heat.side) * width).astype(int), starts + 1)
    for (left, top), (right, bottom), colour in zip(starts, ends, colours, strict=True):
        drawn[top:bottom, left:right, :3], drawn[top:bottom, left:right, 3] = colour, 255
    return drawn
