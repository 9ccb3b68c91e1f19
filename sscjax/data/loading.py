"""Image sets from a folder or a manifest.

A set on disk is first listed and checked (`sscjax.data.image_folder`), then decoded in threads. The
result does not depend on the order in which the file system names its files.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from sscjax.data import lazy, masks
from sscjax.data.dataset import ImageSet
from sscjax.data.image_folder import (
    MANIFEST,
    ImageRecord,
    Listing,
    existing_folder,
    list_folder,
    list_images,
    list_manifest,
)
from sscjax.data.image_io import read_image
from sscjax.data.lazy import Keep, Rows, Target
from sscjax.errors import UserError

__all__ = [
    "ImageRecord",
    "Listing",
    "decode_listing",
    "list_images",
    "load",
    "load_folder",
    "load_manifest",
    "merge_classes",
]

_LOG = logging.getLogger(__name__)

Policy = Literal["error", "skip"]
"""What an image that cannot be read does: 'error' ends the reading, 'skip' leaves it out."""

# Images that are handed to the threads at a time: a list of a million waits nowhere.
_PART = 256

# Names in a line for people.
_NAMED = 3


def load(
    path: Path | str,
    image_size: int,
    classes: Sequence[str] = (),
    corrupt: Policy = "error",
) -> ImageSet:
    """Loads a manifest (a csv file, or a folder holding `manifest.csv`) or a folder per class.

    Args:
      path: the folder or csv file.
      image_size: side of the square images in pixels.
      classes: class names in label order; empty: the names found, sorted.
      corrupt: what an image does that cannot be read.

    Returns:
      An `ImageSet` with images [N,image_size,image_size,3].

    Raises:
      UserError: anything wrong with the folder, the manifest or an image, in one line.
    """
    return decode_listing(list_images(path, classes), image_size, corrupt=corrupt)


def load_folder(path: Path | str, image_size: int, classes: Sequence[str] = ()) -> ImageSet:
    """Loads one folder per class, ignoring any manifest; see `list_images` for subjects."""
    return decode_listing(list_folder(existing_folder(path), classes), image_size)


def load_manifest(path: Path | str, image_size: int, classes: Sequence[str] = ()) -> ImageSet:
    """Loads what a manifest names; `path` is the csv file or the folder of a `manifest.csv`."""
    path = Path(path)
    manifest = path / MANIFEST if path.is_dir() else path
    return decode_listing(list_manifest(manifest, classes), image_size)


def merge_classes(image_set: ImageSet, merge: Mapping[str, str]) -> ImageSet:
    """Renames classes, joining those that get the same name.

    Args:
      image_set: any set.
      merge: new name by old name, such as {'early': 'ssc', 'late': 'ssc'}; classes that are not
        named keep their name.

    Returns:
      The set with new labels; classes in the order in which their names first appear.

    Raises:
      UserError: `merge` names a class that the set lacks, or fewer than two classes are left.
    """
    if not merge:
        return image_set
    known = ", ".join(image_set.classes)
    for name in merge:
        if name not in image_set.classes:
            raise UserError(
                f"merge of classes names {name!r}, expected one of {known}; correct the name"
            )
    renamed = [merge.get(name, name) for name in image_set.classes]
    classes = tuple(dict.fromkeys(renamed))
    if len(classes) < 2:
        raise UserError(
            f"merging leaves only the class {classes[0]!r} of {known}, expected at least two; "
            "leave one class out of config.data.merge, or empty it to keep the classes apart"
        )
    new_labels = np.array([classes.index(name) for name in renamed], np.int32)
    pairs = ", ".join(f"{old} as {new}" for old, new in merge.items())
    return dataclasses.replace(
        image_set,
        labels=new_labels[image_set.labels],
        classes=classes,
        source=f"{image_set.source}; merged {pairs}",
    )


# --- decoding -----------------------------------------------------------------------------------


def decode_listing(
    listing: Listing, image_size: int, keep: Keep = lazy.in_memory, corrupt: Policy = "error"
) -> ImageSet:
    """Decodes a listing in threads (Pillow lets other threads run while it works).

    Args:
      listing: what to decode.
      image_size: side of the square images in pixels.
      keep: where the images [N,image_size,image_size,3] go.
      corrupt: what an image does that cannot be read, or whose mask cannot.

    Raises:
      UserError: an image cannot be read and `corrupt` is 'error', or no image of a class can.
    """
    records = listing.records
    failed: dict[int, str] = {}
    filled = False

    def fill(target: Target) -> None:
        nonlocal filled
        filled = True

        def decode(index: int) -> str | None:
            try:
                target[index] = read_image(records[index].path, image_size)
            except UserError as error:
                target[index] = np.zeros((image_size, image_size, 3), np.uint8)
                return str(error)
            return None

        failed.update(_failures(decode, range(len(records)), corrupt))

    shape = (len(records), image_size, image_size, 3)
    images = keep(shape, np.uint8, fill)
    if not filled:
        failed, mended = _failures_before(images, records, image_size, corrupt)
        if mended:
            _LOG.info("%d image(s) can be read now: the images are decoded anew", mended)
            failed = {}
            _file_of(images).remove()
            images = keep(shape, np.uint8, fill)
    maps, failed = _decode_masks(records, image_size, failed, corrupt)
    good = [index for index in range(len(records)) if index not in failed]
    if failed:
        images = lazy.View(images, np.array(good, np.int64))
    left = [records[index] for index in good]
    _refuse_empty_classes(listing, left, failed)
    splits = [record.split for record in left if record.split is not None]
    labels = [listing.classes.index(record.label) for record in left]
    return ImageSet(
        images=images,
        labels=np.array(labels, np.int32),
        subjects=np.array([record.subject for record in left], dtype=np.str_),
        files=np.array([record.file for record in left], dtype=np.str_),
        classes=listing.classes,
        splits=np.array(splits, dtype=np.str_) if splits else None,
        masks=maps,
        source=listing.source,
        skipped={
            records[index].file: reason.removeprefix(f"{records[index].path}: ")
            for index, reason in sorted(failed.items())
        },
    )


def _failures(
    read: Callable[[int], str | None], indices: Sequence[int], corrupt: Policy
) -> dict[int, str]:
    """Why images could not be read, by their places; `read` gives None where one could.

    Raises:
      UserError: `corrupt` is 'error', and one could not: the rest is not read.
    """
    found: dict[int, str] = {}
    # One thread per core: each may hold a large image before it is reduced.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for start in range(0, len(indices), _PART):
            part = indices[start : start + _PART]
            reasons = pool.map(read, part)
            found |= {k: reason for k, reason in zip(part, reasons, strict=True) if reason}
            if found and corrupt == "error":
                raise UserError(_refusal(found, start + len(part), len(indices)))
    return found


def _refusal(found: Mapping[int, str], read: int, total: int) -> str:
    """The line for images that cannot be read: the first of them, and how many more."""
    reasons = list(found.values())
    more = ", ".join(reason.partition(": ")[0] for reason in reasons[1:_NAMED])
    more += f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    return (
        f"{reasons[0]}; or let data.corrupt=skip leave out what cannot be read: {len(reasons)} of "
        f"the first {read:,} of {total:,} images{', also ' + more if more else ''}"
    )


def _failures_before(
    images: Rows, records: Sequence[ImageRecord], image_size: int, corrupt: Policy
) -> tuple[dict[int, str], int]:
    """The same for images that an earlier start decoded into a file.

    What could not be read is black there, as few images are: those alone are tried again. The
    second value is how many of them can be read now and are not black: the file lacks them.
    """
    mended: list[int] = []

    def read(index: int) -> str | None:
        try:
            if read_image(records[index].path, image_size).any():
                mended.append(index)
        except UserError as error:
            return str(error)
        return None

    black = _file_of(images).like(np.zeros((image_size, image_size, 3), np.uint8))
    failed = _failures(read, black.tolist(), corrupt)
    return failed, len(mended)


def _file_of(images: Rows) -> lazy.FileRows:
    """Images that were there already: nothing but a file keeps them from start to start."""
    assert isinstance(images, lazy.FileRows)
    return images


def _decode_masks(
    records: Sequence[ImageRecord], image_size: int, failed: Mapping[int, str], corrupt: Policy
) -> tuple[np.ndarray | None, dict[int, str]]:
    """Masks [K,image_size,image_size] uint8 of the images that could be read, or None.

    Those of images without one are to be ignored. The second value is `failed`, with the images
    whose masks cannot be read.
    """
    failed = dict(failed)
    if all(record.mask is None for record in records):
        return None, failed
    found = np.full((len(records), image_size, image_size), masks.IGNORE, np.uint8)
    for index, record in enumerate(records):
        if record.mask is not None and index not in failed:
            try:
                found[index] = masks.read_mask(record.mask, record.path, image_size)
            except UserError as error:
                if corrupt == "error":
                    raise
                failed[index] = str(error)
    good = [index for index in range(len(records)) if index not in failed]
    return (found[good] if failed else found), failed


def _refuse_empty_classes(
    listing: Listing, left: Iterable[ImageRecord], failed: Mapping[int, str]
) -> None:
    """Raise a UserError where no image of a class could be read."""
    having = {record.label for record in left}
    for name in listing.classes:
        if name not in having:
            lost = [k for k in failed if listing.records[k].label == name]
            raise UserError(
                f"{listing.folder}: none of the {len(lost)} images of the class {name!r} can be "
                f"read (the first: {failed[min(lost)]}); restore some or remove the class"
            )
