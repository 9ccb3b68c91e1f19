"""Segmentation masks of images: files with the class of each pixel.

A mask is a PNG of the image's own size whose values are class numbers: 8-bit grey, or the indices
of a palette image. `IGNORE` marks pixels of unknown class, as do all pixels of an image without a
mask.
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
"""The value of pixels that are ignored."""

SUFFIX = "_mask.png"
"""What the name of a mask beside its image ends with: `a_mask.png` is the mask of `a.jpg`."""


def beside_name(image: Path) -> Path:
    """The path of an image's mask, if there is one."""
    return image.with_name(image.stem + SUFFIX)


def beside(image: Path) -> Path | None:
    """The mask beside an image, or None."""
    path = beside_name(image)
    # Unlike `Path.is_file`, False where the name is longer than the file system allows.
    return path if os.path.isfile(path) else None


def without(files: Iterable[Path]) -> list[Path]:
    """The files of a folder, at any depth, that are not masks.

    Raises:
      UserError: there is a mask without its image.
    """
    files = list(files)
    images = {path.with_suffix("") for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    others = []
    for path in files:
        if not path.name.endswith(SUFFIX):
            others.append(path)
        elif path.with_name(path.name.removesuffix(SUFFIX)) not in images:
            raise UserError(
                f"{path}: found a mask without its image, expected "
                f"{path.name.removesuffix(SUFFIX)} with an image suffix beside it; restore that "
                f"image, or rename the file if it is no mask"
            )
    return others


def read_mask(path: Path, image: Path, size: int) -> np.ndarray:
    """The mask of an image, cut and reduced as the image is: [size,size] uint8.

    Reduced to the nearest pixel, because class numbers cannot be averaged.

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
            mask = PngImagePlugin.PngImageFile(file, str(path))
            if mask.mode not in ("1", "L", "P"):
                raise UserError(
                    f"{path}: found pixels of Pillow mode {mask.mode!r}, expected numbers of "
                    "classes; save the mask as 8-bit grey, or with a palette"
                )
            if mask.size != (width, height):
                raise UserError(
                    f"{path}: the mask is {mask.width}x{mask.height} pixels and its image "
                    f"{width}x{height}; draw the mask on the image as it is"
                )
            # Pillow gives 1-bit pixels as booleans, and of palette images the indices.
            return reduce(np.asarray(mask).astype(np.uint8), size)
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
    """The central square of [H,W] uint8 at [size,size], by nearest pixel."""
    height, width = values.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(values[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.NEAREST))


def enlarge(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Inverse of `reduce`: [S,S] of the central square as [height,width], `IGNORE` outside."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    enlarged = np.full((height, width), IGNORE, np.uint8)
    square = Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST)
    enlarged[top : top + side, left : left + side] = np.asarray(square)
    return enlarged


def png(values: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
    """The file of a mask [H,W] uint8, which programs read as indices and viewers show in colours.

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
