"""Segmentation maps of images: files that say of each pixel what it shows.

A mask is a PNG of the image's own size whose values are numbers of classes, not colours to look at:
8-bit grey, or a palette image whose indices are meant. `IGNORE` marks pixels of which nothing is
known; an image without a mask is such throughout.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from sscjax.data.image_io import IMAGE_SUFFIXES, read_upright_size
from sscjax.errors import BUSY, UserError

IGNORE = 255
"""The value of pixels that count for nothing."""

SUFFIX = "_mask.png"
"""What the name of a mask beside its image ends with: `a_mask.png` is the mask of `a.jpg`."""


def beside_name(image: Path) -> Path:
    """Where the mask of an image lies, if there is one."""
    return image.with_name(image.stem + SUFFIX)


def beside(image: Path) -> Path | None:
    """The mask that lies beside an image, or None."""
    found = beside_name(image)
    # Unlike `Path.is_file`, False where the name is longer than the file system allows.
    return found if os.path.isfile(found) else None


def without(files: Iterable[Path]) -> list[Path]:
    """The files of a folder, any depth, that are no masks.

    Raises:
      UserError: a mask lies there without its image.
    """
    files = list(files)
    images = {path.with_suffix("") for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    found = []
    for path in files:
        if not path.name.endswith(SUFFIX):
            found.append(path)
        elif path.with_name(path.name.removesuffix(SUFFIX)) not in images:
            raise UserError(
                f"{path}: found a mask without its image, expected "
                f"{path.name.removesuffix(SUFFIX)} with an image suffix beside it; restore that "
                f"image, or rename the file if it is no mask"
            )
    return found


def read_mask(path: Path, image: Path, size: int) -> np.ndarray:
    """The mask of an image, cut and reduced as the image is: [size,size] uint8.

    Reduced by the nearest pixel: between two classes there is no third.

    Args:
      path: the mask.
      image: the image that it belongs to, for its size.
      size: side of the result in pixels.

    Raises:
      UserError: the file is missing, no PNG, damaged, of another size than the image, or holds
        colours.
    """
    width, height = read_upright_size(image)
    try:
        with path.open("rb") as file:
            found = PngImagePlugin.PngImageFile(file, str(path))
            if found.mode not in ("1", "L", "P"):
                raise UserError(
                    f"{path}: found pixels of Pillow mode {found.mode!r}, expected numbers of "
                    "classes; save the mask as 8-bit grey, or with a palette"
                )
            if found.size != (width, height):
                raise UserError(
                    f"{path}: the mask is {found.width}x{found.height} pixels and its image "
                    f"{width}x{height}; draw the mask on the image as it is"
                )
            # Pillow gives 1-bit pixels as booleans, and of palette images the indices.
            return reduce(np.asarray(found).astype(np.uint8), size)
    except UserError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        if isinstance(error, OSError) and error.errno in BUSY:
            raise
        raise UserError(
            f"{path}: cannot be read as a mask ({' '.join(str(error).split())}), expected a PNG; "
            "replace or remove it"
        ) from error


def reduce(values: np.ndarray, size: int) -> np.ndarray:
    """The central square of [H,W] uint8 at [size,size], each pixel the nearest one's."""
    height, width = values.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(values[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.NEAREST))


def enlarge(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """The way back: [S,S] of an image's central square as [height,width], else `IGNORE`."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    found = np.full((height, width), IGNORE, np.uint8)
    square = Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST)
    found[top : top + side, left : left + side] = np.asarray(square)
    return found


def png(values: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
    """The file of a mask [H,W] uint8, which programs read as indices and people see in colours.

    Args:
      values: class indices.
      palette: RGB of the values from 0 on; others are black.
    """
    image = Image.fromarray(values)
    # Of all values: Pillow keeps no more bits of each than the palette has colours for.
    black = [(0, 0, 0)] * (256 - len(palette))
    image.putpalette([value for colour in [*palette, *black] for value in colour])
    memory = io.BytesIO()
    image.save(memory, "PNG")
    return memory.getvalue()
