"""Image sets from sources: every image decoded once, in threads, and stored.

Images are stored in memory, in a .npy file of the cache if they would take too much memory, or as
ArrayRecord. The resulting `ImageSet` is the same.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import array_record, lazy, pixel_range, settling, sources
from sscjax.data.dataset import ImageSet
from sscjax.data.lazy import Rows
from sscjax.data.masks import IGNORE
from sscjax.data.pixel_range import Decoding
from sscjax.data.sources import Policy, Source
from sscjax.errors import UserError
from sscjax.system import files, whole_run

_LOG = logging.getLogger(__name__)

_PLAIN = Decoding()

# Images that are queued for the threads at a time, after which errors are reported.
_PART = 256

# How many file names an error lists.
_NAMED = 3


def load(
    path: Path | str,
    image_size: int,
    classes: Sequence[str] = (),
    corrupt: Policy = "few",
    *,
    decoding: Decoding = _PLAIN,
) -> ImageSet:
    """Load a manifest (a csv file, or a folder with `manifest.csv`) or a folder per class.

    Args:
      path: the folder or csv file.
      image_size: side of the square images in pixels.
      classes: class names in label order; empty: the names in the set, sorted.
      corrupt: what happens when an image cannot be read.
      decoding: how files are read where there is a choice.

    Returns:
      An `ImageSet` in memory with images [N,image_size,image_size,3].

    Raises:
      UserError: the folder, the manifest or an image has a mistake.
    """
    return in_memory(sources.from_path(path, image_size, classes, corrupt, decoding=decoding))


def from_source(
    source: Source, folder: Path, storage: str = "direct", max_bytes: float = math.inf
) -> ImageSet:
    """Decode the images of a source, or read them from the cache; this is where storage is chosen.

    Args:
      source: which images.
      folder: cache of decoded images, created when it is needed.
      storage: 'direct' decodes at every start, unless the images are stored in a file; with
        'array_record' they are decoded once and read from ArrayRecord files later, on systems that
        have array_record.
      max_bytes: larger sets are not held in memory.

    Raises:
      UserError: an image or the cache cannot be read or written.
    """
    if storage == "array_record" and array_record.is_available():
        return _in_array_record(source, folder, max_bytes)
    if math.prod(source.shape) <= max_bytes:
        return in_memory(source)
    return in_file(source, folder / f"{source.name}.npy")


def in_memory(source: Source) -> ImageSet:
    """Decode all images of a source into memory.

    Raises:
      UserError: an image cannot be read and the source's policy is 'error', or no image of a class
        can be read.
    """
    images, masks = np.empty(source.shape, np.uint8), _empty_masks(source)
    failed = _decode(source, images, masks)
    return _image_set(source, images, masks, failed)


def in_file(source: Source, path: Path) -> ImageSet:
    """Decode all images of a source into a file, or use the file of an earlier start.

    The masks are held in memory.

    Raises:
      UserError: as `in_memory`, or the file cannot be written.
    """
    masks = _empty_masks(source)
    failed: dict[int, str] = {}
    images = _adopted(source, path)
    if images is not None:
        failed, repaired = _decode_missing(source, images, masks)
        if repaired:
            _LOG.info("%d image(s) can be read now: all images are decoded again", repaired)
            images.remove()
            source.adopt(0)
            images = None
    if images is None:
        try:
            with lazy.create(path, source.shape, np.uint8) as file:
                failed = _decode(source, file, masks)
            files.write_json(path.with_suffix(".json"), {"pixel_bits": source.pixel_bits})
        except OSError as error:
            raise unwritable(path, source.shape, error) from error
        images = lazy.open_file(path, source.shape, np.uint8)
        if images is None:
            raise UserError(f"{path}: was removed right after it was written; run again")
    return _image_set(source, images, masks, failed)


def unwritable(path: Path, shape: tuple[int, ...], error: OSError) -> UserError:
    """The error for decoded images of a shape that cannot be written to a file."""
    return UserError(
        f"{path}: {math.prod(shape) / 2**20:.0f} MB of decoded images cannot be "
        f"written there ({error.strerror}); free the space, set SSCJAX_CACHE to a folder "
        "elsewhere, or raise config.data.max_megabytes to hold them in memory"
    )


def _adopted(source: Source, path: Path) -> lazy.FileRows | None:
    """The rows in the file of an earlier start, and what white was then; None without either."""
    try:
        source.adopt(int(files.read_json(path.with_suffix(".json"))["pixel_bits"]))
    except (OSError, KeyError, TypeError, ValueError, UserError):
        return None
    return lazy.open_file(path, source.shape, np.uint8)


def _in_array_record(source: Source, folder: Path, max_bytes: float) -> ImageSet:
    """Read the images of a source from ArrayRecord files, which are written first if need be."""
    stored = array_record.open_set(source, folder)
    if stored is None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".preparing-") as temporary:
            # Decoded here: the builder would bury a UserError in messages of its own.
            image_set = from_source(source, Path(temporary), max_bytes=max_bytes)
            array_record.write_set(source, image_set, Path(temporary), folder)
            del image_set  # Windows cannot delete a folder with open files
        stored = array_record.open_set(source, folder)
        if stored is None:
            raise UserError(f"{folder}: was changed right after it was written; run again")
    source.adopt(stored.pixel_bits)
    masks = None if stored.masks is None else np.asarray(stored.masks)
    in_memory = math.prod(stored.images.shape) <= max_bytes
    images = np.asarray(stored.images) if in_memory else stored.images
    return _labelled(source, images, masks, stored.skipped)


# --- decoding -----------------------------------------------------------------------------------


def _empty_masks(source: Source) -> np.ndarray | None:
    """[N,S,S] uint8 for the masks of a source; images without a mask are ignored throughout."""
    return np.full(source.shape[:3], IGNORE, np.uint8) if source.with_masks else None


def _decode(source: Source, images: Any, masks: np.ndarray | None) -> dict[int, str]:
    """Decode all images and masks; an image that cannot be read becomes black.

    Args:
      source: what is decoded.
      images: an array [N,S,S,3] or a file that is being written.
      masks: [N,S,S], or None.

    Returns:
      why images could not be read, by index.
    """
    black = np.zeros(source.shape[1:], np.uint8)

    def decode(index: int) -> None:
        try:
            example = source[index]
        except UserError:
            images[index] = black
            raise
        images[index] = example.image
        if masks is not None and example.mask is not None:
            masks[index] = example.mask

    failed = _failures(decode, range(len(source)), source)
    again = source.settle()
    failed |= _failures(decode, [index for index in again if index not in failed], source)
    settling.settle_masks(source, masks)
    settling.say(source)
    return failed


def _decode_missing(
    source: Source, images: lazy.FileRows, masks: np.ndarray | None
) -> tuple[dict[int, str], int]:
    """Decode what the file of an earlier start lacks: masks, and images that are black in it.

    Few images are black that could be read then.

    Returns:
      why images could not be read, by index; how many can be read now and are not black.
    """
    black = set(images.matching(np.zeros(source.shape[1:], np.uint8)).tolist())
    repaired: list[int] = []

    def decode(index: int) -> None:
        image, mask = source[index] if index in black else (None, source.mask(index))
        if image is not None and image.any():
            repaired.append(index)
        if masks is not None and mask is not None:
            masks[index] = mask

    indices = range(len(source)) if source.with_masks else sorted(black)
    failed = _failures(decode, indices, source)
    settling.settle_masks(source, masks)
    return failed, len(repaired)


def _failures(
    decode: Callable[[int], None], indices: Sequence[int], source: Source
) -> dict[int, str]:
    """Call `decode` for all indices in threads, and collect the reasons of its UserErrors by index.

    Pillow releases the interpreter's lock while it decodes.

    Raises:
      UserError: there were more than the source's policy allows. All are read all the same, so that
        their true number is said.
    """

    def reason(index: int) -> str | None:
        try:
            decode(index)
        except UserError as error:
            return str(error)
        return None

    failed: dict[int, str] = {}
    whole = whole_run.active()
    # One thread per core: each may hold a large image before it is reduced.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for start in range(0, len(indices), _PART):
            part = indices[start : start + _PART]
            reasons = pool.map(reason, part)
            failed |= {index: text for index, text in zip(part, reasons, strict=True) if text}
            if whole:
                whole.inside("", (start + len(part)) / len(indices))
    allowed = {"error": 0.0, "few": sources.FEW, "skip": 1.0}[source.corrupt]
    if len(failed) > allowed * len(source):
        raise UserError(_refusal(failed, len(source), source.corrupt))
    return failed


def _refusal(failed: Mapping[int, str], total: int, corrupt: Policy) -> str:
    """The error for images that cannot be read: the first of them, and how many others."""
    reasons = list(failed.values())
    more = ", ".join(reason.partition(": ")[0] for reason in reasons[1:_NAMED])
    more += f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    limit = f", more than {sources.FEW:.0%}" if corrupt == "few" else ""
    return (
        f"{reasons[0]}; or leave out what cannot be read by --config.data.corrupt=skip: "
        f"{len(reasons):,} of {total:,} images{limit}{', also ' + more if more else ''}"
    )


# --- labels -------------------------------------------------------------------------------------


def _image_set(
    source: Source, images: Rows, masks: np.ndarray | None, failed: Mapping[int, str]
) -> ImageSet:
    """The set without the images that `failed`, given all `images` [N,S,S,3] and `masks`."""
    records = source.listing.records
    if failed:
        readable = np.array([k for k in range(len(source)) if k not in failed], np.int64)
        images = lazy.View(images, readable)
        masks = None if masks is None else masks[readable]
    skipped = {
        records[index].file: reason.removeprefix(f"{records[index].path}: ")
        for index, reason in sorted(failed.items())
    }
    return _labelled(source, images, masks, skipped)


def _labelled(
    source: Source, images: Rows, masks: np.ndarray | None, skipped: Mapping[str, str]
) -> ImageSet:
    """The set of `images` [K,S,S,3], all of the source but those of the `skipped` files.

    Raises:
      UserError: no image of a class is left.
    """
    listing = source.listing
    records = [record for record in listing.records if record.file not in skipped]
    readable = {record.label for record in records}
    for name in listing.classes:
        if name not in readable:
            lost = [record.file for record in listing.records if record.label == name]
            raise UserError(
                f"{listing.folder}: none of the {len(lost)} images of the class {name!r} can be "
                f"read (the first: {lost[0]}: {skipped[lost[0]]}); restore some or remove the class"
            )
    splits = [record.split for record in records if record.split is not None]
    labels = [listing.classes.index(record.label) for record in records]
    return ImageSet(
        images=images,
        labels=np.array(labels, np.int32),
        subjects=np.array([record.subject for record in records], np.str_),
        files=np.array([record.file for record in records], np.str_),
        classes=listing.classes,
        splits=np.array(splits, np.str_) if splits else None,
        masks=masks,
        source="; ".join(filter(None, (listing.source, pixel_range.describe(source.pixel_bits)))),
        skipped=skipped,
        sites=listing.sites(records),
        pixel_bits=source.pixel_bits,
        understood=listing.understood,
    )


def merge_classes(image_set: ImageSet, merge: Mapping[str, str]) -> ImageSet:
    """Rename classes, joining those that get the same name.

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
    classes = merged_names(image_set.classes, merge)
    renamed = [merge.get(name, name) for name in image_set.classes]
    new_labels = np.array([classes.index(name) for name in renamed], np.int32)
    pairs = ", ".join(f"{old} as {new}" for old, new in merge.items())
    return dataclasses.replace(
        image_set,
        labels=new_labels[image_set.labels],
        classes=classes,
        source=f"{image_set.source}; merged {pairs}",
    )


def merged_names(present: Sequence[str], merge: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that merging leaves, in the order in which their names first appear.

    Raises:
      UserError: `merge` names a class that is not present, or fewer than two classes are left.
    """
    known = ", ".join(present)
    for name in merge:
        if name not in present:
            raise UserError(
                f"merge of classes names {name!r}, expected one of {known}; correct the name"
            )
    classes = tuple(dict.fromkeys(merge.get(name, name) for name in present))
    if len(classes) < 2:
        raise UserError(
            f"merging leaves only the class {classes[0]!r} of {known}, expected at least two; "
            "leave one class out of config.data.merge, or empty it to keep the classes apart"
        )
    return classes
