"""Segmentation masks of images: files with the class of each pixel.

A mask has its image's own size, and its values are class numbers: grey, the indices of a palette, 1
bit, or colour with equal channels. `IGNORE` marks pixels of unknown class, as do all pixels of an
image without a mask. Where all masks of a set hold 0 and 255 alone, 255 is class 1. Masks lie
beside their image or in a folder `masks`, see `companion_names`; those of one image are joined.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from sscjax.data import companion_names, image_formats
from sscjax.data.image_io import opened, read_upright_size
from sscjax.data.pixel_range import Observed
from sscjax.errors import UserError

IGNORE = 255
"""The value of pixels that are ignored."""

SUFFIX = "_mask.png"
"""What the name of a mask beside its image usually ends with."""

# Pixels of a mask that are looked at a time.
_BAND = 2**21

MOST_VALUES = 64
"""Different values that a mask may hold; more are shades or what JPEG makes of edges."""


def beside_name(image: Path) -> Path:
    """The path of an image's mask, if there is one."""
    return image.with_name(image.stem + SUFFIX)


def beside(images: Sequence[Path], root: Path) -> dict[Path, tuple[Path, ...]]:
    """The masks of images, of those that have any, in the order of their names.

    Each folder is listed once, whatever the number of its images.

    Args:
      images: files in `root`.
      root: the folder of the set, which masks do not lie outside of.
    """
    listed = set(images)
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        by_folder[image.parent].append(image)
    found: dict[Path, tuple[Path, ...]] = {}
    for folder, members in by_folder.items():
        names = _names(folder)
        of_stem = _by_image(names, folder, named=True)
        for other in _mask_folders(folder, root):
            for stem, paths in _by_image(_names(other), other, named=False).items():
                of_stem.setdefault(stem, []).extend(paths)
        for labels in companion_names.labels_of_tiles(folder / name for name in names):
            of_stem.setdefault(labels.stem, []).append(labels)
        if not of_stem:
            continue
        for image in members:
            masks = [path for path in of_stem.get(image.stem, ()) if path not in listed]
            if masks:
                found[image] = tuple(masks)
    return found


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError:
        return []


def _by_image(names: Sequence[str], folder: Path, *, named: bool) -> dict[str, list[Path]]:
    """Masks by the stem of their image; `named`: only those whose names say that they are masks."""
    found: dict[str, list[Path]] = defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in image_formats.IMAGE_SUFFIXES:
            continue
        for image in companion_names.masked_stems(stem):
            found[image].append(folder / name)
        if not named:
            found[stem].append(folder / name)
    return found


def _mask_folders(folder: Path, root: Path) -> list[Path]:
    """Folders that may hold the masks of a folder's images, the nearest last."""
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    places = []
    for depth in range(len(parts) + 1):
        head, rest = root.joinpath(*parts[:depth]), parts[depth:]
        for name in _names(head):
            if companion_names.is_folder(name):
                places.append(head.joinpath(name, *rest))
                # images/a.png and masks/a.png.
                if rest and rest[0].lower() in ("images", "image", "img"):
                    places.append(head.joinpath(name, *rest[1:]))
    return [place for place in places if place.is_dir()]


def read_masks(
    paths: Sequence[Path],
    image: Path,
    size: int,
    *,
    observed: Observed | None = None,
    side: int = 0,
) -> np.ndarray:
    """The masks of an image joined, cut and reduced as the image is: [size,size] uint8.

    Reduced to the nearest pixel, because class numbers cannot be averaged.

    Args:
      paths: the masks.
      image: the image that they belong to, for its size.
      size: side of the result in pixels.
      observed: is told which values the masks hold.
      side: of the central square that is taken, in pixels; 0: as large as fits.

    Raises:
      UserError: a file is missing, damaged, of another size than the image, or holds no numbers of
        classes; or two masks say different things of a pixel.
    """
    shape = read_upright_size(image)
    joined: np.ndarray | None = None
    for path in paths:
        values = _values(path, shape, observed)
        if joined is None:
            joined = values
            continue
        pairs = zip(_bands(joined), _bands(values), strict=True)
        if any(((one != other) & (one > 0) & (other > 0)).any() for one, other in pairs):
            raise UserError(
                f"{path}: gives pixels another class than {paths[0].name} does; make one mask of "
                "both"
            )
        np.maximum(joined, values, out=joined)
    assert joined is not None
    return reduce(joined, size, side)


def read_mask(path: Path, image: Path, size: int) -> np.ndarray:
    """The only mask of an image, see `read_masks`."""
    return read_masks((path,), image, size)


def _values(path: Path, shape: tuple[int, int], observed: Observed | None) -> np.ndarray:
    try:
        with opened(path) as file:
            mask = image_formats.parse_header(path, file)
            if mask.size != shape:
                raise UserError(
                    f"{path}: the mask is {mask.width}x{mask.height} pixels and its image "
                    f"{shape[0]}x{shape[1]}; draw the mask on the image as it is"
                )
            values = _numbers(path, mask, observed)
    except UserError as error:
        if str(error).startswith(f"{path}: the mask is") or "expected numbers" in str(error):
            raise
        raise UserError(f"{path}: cannot be read as a mask ({error}), expected a PNG") from error
    except Exception as error:  # a parser of damaged bytes may fail in any way
        image_formats.raise_if_busy(error)
        raise UserError(
            f"{path}: cannot be read as a mask ({image_formats.one_line(error)}), expected a PNG; "
            "replace or remove it"
        ) from error
    counts = np.zeros(256, np.int64)
    for band in _bands(values):
        counts += np.bincount(band.ravel(), minlength=256)
    distinct = np.flatnonzero(counts)
    if len(distinct) > MOST_VALUES:
        raise UserError(
            f"{path}: holds {len(distinct)} different values, expected numbers of classes: shades "
            "and the blocks of JPEG are none; save the mask as PNG without smoothing"
        )
    if observed is not None:
        observed.see_mask(path, distinct.tolist())
    return values


def _numbers(path: Path, mask: Image.Image, observed: Observed | None) -> np.ndarray:
    """The numbers in an opened mask: [H,W] uint8."""
    if isinstance(mask, TiffImagePlugin.TiffImageFile) and mask.tag_v2.next:
        raise UserError(f"{path}: holds several pages, expected numbers of classes on one")
    mask.load()
    values = np.asarray(mask)
    if mask.mode in ("LA", "PA", "RGBA"):
        if (values[..., -1] != 255).any() and mask.mode != "RGBA":
            raise UserError(f"{path}: is transparent in parts, expected numbers of classes alone")
        values = values[..., 0] if mask.mode != "RGBA" else values[..., :3]
    if mask.mode == "1" or mask.mode in ("L", "P", "LA", "PA"):
        # Pillow gives 1-bit pixels as booleans, and of palette images the indices.
        return values.astype(np.uint8)
    if mask.mode.startswith("I") and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)
    if mask.mode in ("RGB", "RGBA"):
        if all((band == band[..., :1]).all() for band in _bands(values)):
            return np.ascontiguousarray(values[..., 0])
        colour = _one_colour(values)
        if colour is not None:
            if observed is not None:
                observed.see_mask_colour(path, colour)
            return np.concatenate(
                [
                    np.where(band.any(axis=2), np.uint8(IGNORE), np.uint8(0))
                    for band in _bands(values)
                ]
            )
    raise UserError(
        f"{path}: found pixels of Pillow mode {mask.mode!r}, expected numbers of classes; save the "
        "mask as 8-bit grey, or with a palette"
    )


def _one_colour(values: np.ndarray) -> tuple[int, int, int] | None:
    """The colour of a mask [H,W,3] that is black and one colour."""
    colour: np.ndarray | None = None
    for band in _bands(values):
        painted = band[band.any(axis=2)]
        if not len(painted):
            continue
        colour = painted[0] if colour is None else colour
        if (painted != colour).any():
            return None
    if colour is None:
        return None
    red, green, blue = colour.tolist()
    return red, green, blue


def _bands(values: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time: what is computed of all pixels at once takes many times their room."""
    step = max(1, _BAND // max(1, values.shape[1]))
    for top in range(0, len(values), step):
        yield values[top : top + step]


def white_is_one(values: Mapping[Path, Sequence[int]]) -> bool:
    """Whether the masks of a set, by the values that each holds, have 0 and 255 alone."""
    union = {value for of_one in values.values() for value in of_one}
    return IGNORE in union and union <= {0, IGNORE}


def doubtful(values: Mapping[Path, Sequence[int]]) -> list[Path]:
    """Masks of 0 and 255 alone in a set where others hold numbers: 255 may be meant as a class."""
    others = any(0 < value < IGNORE for of_one in values.values() for value in of_one)
    if not others or any(
        IGNORE in of_one and any(0 < v < IGNORE for v in of_one) for of_one in values.values()
    ):
        return []
    return sorted(path for path, of_one in values.items() if IGNORE in of_one)


def reduce(values: np.ndarray, size: int, side: int = 0) -> np.ndarray:
    """The central square of [H,W] uint8 at [size,size], by nearest pixel."""
    height, width = values.shape
    side = side or min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(values[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.NEAREST))


def enlarge(values: np.ndarray, width: int, height: int, side: int = 0) -> np.ndarray:
    """Inverse of `reduce`: [S,S] of the central square as [height,width], `IGNORE` outside."""
    side = side or min(width, height)
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
