"""Files that are no images of a set but lie beside one, by their names: masks, and drawings.

A mask of `a.png` is called `a_mask.png`, `mask_a.png` or the like, or lies under the name of the
image in a folder `masks`. A drawing shows the image once more, with something on it:
`a_overlay.png`, `a_annotated.png`, `overlays/a.png`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from sscjax.data import image_formats
from sscjax.data.image_formats import is_image_name
from sscjax.errors import UserError

# Names (lower case) of folders; what lies in the first is a mask whether its image is there or not.
_CERTAIN_FOLDERS = ("masks", "mask")
_MASK_FOLDERS = (
    *_CERTAIN_FOLDERS,
    *("seg", "segs", "segmentation", "segmentations", "gt", "groundtruth", "ground_truth"),
    *("labels", "annotations"),
)
_DRAWN_FOLDERS = (
    *("overlay", "overlays", "annotated", "heatmap", "heatmaps", "thumbnail", "thumbnails"),
    *("preview", "previews", "visualization", "visualizations", "contours", "outlines"),
)
_IMAGE_FOLDERS = ("images", "Images", "image")

_MASK = r"(?P<mark>mask|seg|segmentation|gt|ground_?truth|annotation)"
_DRAWN = (
    r"(?P<mark>overlay|overlaid|annotated|annotations|marked|labell?ed|contours?|outlines?|heat_?map|"
    r"grad_?cam|bbox|boxes|preview|thumbnail|visuali[sz]ation|drawn)"
)
_NUMBER = r"(?:[_-]?\d+)?"
_MASK_NAMES, _DRAWN_NAMES = (
    (
        re.compile(rf"(?P<image>.+)[ _.-]{mark}{_NUMBER}", re.IGNORECASE),
        re.compile(rf"{mark}[ _.-](?P<image>.+)", re.IGNORECASE),
    )
    for mark in (_MASK, _DRAWN)
)

# What QuPath writes for a tile `SLIDE [x=0,y=0,w=512,h=512].jpg`: the classes of its pixels, under
# the same name as png, or with `-labelled` where the tile is a png as well.
_TILE = re.compile(r".+ \[(d=[\d.,]+,)?x=-?\d+,y=-?\d+,w=\d+,h=\d+[^\]]*\]")
_TILE_LABELS = "-labelled"

# `img_7.png` beside `mask_7.png`, `a_image.png` beside `a_mask.png`.
_IMAGE_WORDS = ("image", "img")


class Sorted(NamedTuple):
    """Files of a folder.

    Attributes:
      others: images, and what is none.
      masks: masks of these images.
      drawings: drawings on these images.
    """

    others: list[Path]
    masks: list[Path]
    drawings: list[Path]


def sort(files: Iterable[Path]) -> Sorted:
    """Sort the files of a folder, at any depth, by their names.

    A name is that of a companion where its image is there. A name that ends in `_seg`, `_overlay`
    or the like without such an image is that of an image, unless other images here have masks or
    drawings.

    Raises:
      UserError: there is a mask or a drawing without its image.
    """
    files = list(files)
    pictures = [path for path in files if is_image_name(path)]
    images = {path.with_suffix("") for path in pictures}
    labelled = set(labels_of_tiles(pictures))
    classes = _classes_of_masks({path.parent for path in files})
    found = Sorted([], [], [])
    lonely: list[tuple[Path, Path, str]] = []
    uncertain_paired = {"mask": False, "drawing": False}
    for path in files:
        if path.suffix.lower() not in image_formats.IMAGE_SUFFIXES:
            found.others.append(path)
            continue
        if path in labelled:
            found.masks.append(path)
            continue
        for kind, candidates in (("mask", _masked(path)), ("drawing", _drawn_on(path))):
            if images.intersection(candidates) - {path.with_suffix("")}:
                uncertain_paired[kind] |= not _is_certain(path)
                (found.masks if kind == "mask" else found.drawings).append(path)
                break
            if candidates and _may_lack_its_image(path, kind) and not _in(path, classes):
                lonely.append((path, candidates[0], kind))
                break
        else:
            found.others.append(path)
    for path, image, kind in lonely:
        if uncertain_paired[kind] or (kind == "mask" and _is_certain(path)):
            raise UserError(
                f"{path}: found a {kind} without its image, expected {image.name} with an image "
                f"suffix in {image.parent.name or image.parent}; restore that image, or rename the "
                f"file if it is no {kind}"
            )
        found.others.append(path)
    return found._replace(others=sorted(found.others)) if lonely else found


def is_folder(name: str) -> bool:
    """Whether a folder of this name holds masks of images that lie elsewhere."""
    return name.lower() in _MASK_FOLDERS


def holds_companions(name: str) -> bool:
    """Whether a folder of this name holds masks of images, or drawings on them."""
    return is_folder(name) or name.lower() in _DRAWN_FOLDERS


def masked_stems(stem: str) -> list[str]:
    """What the image may be called, without suffix, of which this is a mask; [] of other names."""
    tile = stem.removesuffix(_TILE_LABELS)
    if tile != stem and _TILE.fullmatch(tile):
        return [tile]
    return _stems(stem, _MASK_NAMES)


def _stems(stem: str, patterns: Iterable[re.Pattern[str]]) -> list[str]:
    stems: list[str] = []
    for first, pattern in enumerate(patterns):
        match = pattern.fullmatch(stem)
        if match:
            image = match["image"]
            stems.append(image)
            for word in _IMAGE_WORDS:
                stems.append(f"{word}_{image}" if first else f"{image}_{word}")
    return stems


def _masked(path: Path) -> list[Path]:
    """What the image of a mask may be called, without suffix; [] for a file that is no mask."""
    return _images_of(path, masked_stems(path.stem), _MASK_FOLDERS)


def labels_of_tiles(files: Iterable[Path]) -> list[Path]:
    """The png files of QuPath that hold the labels of a tile of another suffix beside them."""
    tiles = [path for path in files if _TILE.fullmatch(path.stem)]
    others = {path.with_suffix("") for path in tiles if path.suffix.lower() != ".png"}
    pngs = [path for path in tiles if path.suffix.lower() == ".png"]
    return [path for path in pngs if path.with_suffix("") in others]


def _drawn_on(path: Path) -> list[Path]:
    """What the image of a drawing may be called, without suffix; [] for a file that is none."""
    return _images_of(path, _stems(path.stem, _DRAWN_NAMES), _DRAWN_FOLDERS)


def _images_of(path: Path, stems: list[str], folders: Collection[str]) -> list[Path]:
    found = [path.with_name(stem) for stem in stems]
    parts = path.parent.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() in folders:
            for inner in ((), *((name,) for name in _IMAGE_FOLDERS)):
                folder = Path(*parts[:index], *inner, *parts[index + 1 :])
                found += [folder / stem for stem in (path.stem, *stems)]
    return found


def _is_certain(path: Path) -> bool:
    match = _MASK_NAMES[0].fullmatch(path.stem)
    return _in_certain_folder(path) or bool(match and match["mark"].lower() == "mask")


def _in_certain_folder(path: Path) -> bool:
    return any(part.lower() in _CERTAIN_FOLDERS for part in path.parent.parts)


def _may_lack_its_image(path: Path, kind: str) -> bool:
    """Whether a file may be a companion although no image is called as it says.

    `mask_7.png` may be any picture where no image is called `7`, and so may what lies in `labels`.
    """
    patterns = _MASK_NAMES if kind == "mask" else _DRAWN_NAMES
    return bool(patterns[0].fullmatch(path.stem)) or _in_certain_folder(path)


def _classes_of_masks(folders: Collection[Path]) -> set[Path]:
    """Folders that are classes of people with and without a mask over the face.

    These are called `with_mask`, or `mask` beside such as `no_mask`. Only what lies below the
    folder of all is looked at: what that is called says nothing.
    """
    if not any("mask" in str(folder).lower() for folder in folders):
        return set()
    top = Path(os.path.commonpath(folders))
    every = {folder for one in folders for folder in (one, *one.parents) if top in folder.parents}
    named = {folder for folder in every if "mask" in folder.name.lower()}
    worn = {folder for folder in named if folder.name.lower() not in _CERTAIN_FOLDERS}
    beside = {folder.parent for folder in worn}
    return worn | {folder for folder in named if folder.parent in beside}


def _in(path: Path, folders: Collection[Path]) -> bool:
    return bool(folders) and any(parent in folders for parent in path.parents)
