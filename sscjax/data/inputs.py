"""Images that a network is asked about: files, folders and manifests, with or without labels."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sscjax.data import image_folder, masks
from sscjax.data.image_io import IMAGE_SUFFIXES, read_image
from sscjax.errors import UserError

# Batches that are decoded ahead of the one that is computed.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class InputImage:
    """One image, not decoded yet.

    Attributes:
      path: the file.
      file: its name in the results.
      subject: patient, biopsy or slide that it belongs to.
      label: its class where that is known, else ''.
    """

    path: Path
    file: str
    subject: str
    label: str = ""


def find(path: Path | str, classes: Sequence[str]) -> list[InputImage]:
    """The images that a path stands for.

    An image file stands for itself. A csv file, or a folder with a `manifest.csv`, has the columns
    `file` (relative to it) and optionally `subject` (or `slide`) and `label`. A folder with nothing
    but folders that are named after the network's classes is labelled, as for training:
    `class/subject/image.jpg`. Of any other folder each folder that holds images is one subject.

    Args:
      path: as above.
      classes: of the network.

    Raises:
      UserError: nothing is there, or no image, or a row or a name that cannot be used.
    """
    found = _found(Path(path), classes)
    for one in found:
        image_folder.refuse_undecodable(one.path)
        image_folder.refuse_undecodable(one.subject)
    return found


def _found(path: Path, classes: Sequence[str]) -> list[InputImage]:
    if path.is_dir():
        manifest = path / image_folder.MANIFEST
        return _from_manifest(manifest) if manifest.is_file() else _from_folder(path, classes)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file or folder; give images, folders, manifests or slides"
        )
    if path.suffix.lower() == ".csv":
        return _from_manifest(path)
    return [InputImage(path, path.name, path.name)]


def _from_folder(folder: Path, classes: Sequence[str]) -> list[InputImage]:
    visible = masks.without(image_folder.walk(folder))
    files = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(
            f"{folder}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give a folder with images"
        )
    tops = {file.relative_to(folder).parts[0] for file in files}
    labelled = tops <= set(classes)
    found = []
    for file in files:
        parts = file.relative_to(folder).parts
        name = "/".join(parts)
        if labelled:
            found.append(InputImage(file, name, parts[1] if len(parts) > 2 else name, parts[0]))
        else:
            inner = "/".join(parts[:-1])
            found.append(InputImage(file, name, inner or folder.resolve().name))
    return found


def _from_manifest(manifest: Path) -> list[InputImage]:
    found = []
    for line, row in image_folder.read_rows(manifest, ("file",)):
        place = f"{manifest}, row {line}"
        if not row["file"]:
            raise UserError(f"{place}: empty file; fill it in")
        path, name = image_folder.named_file(manifest.parent, place, row["file"])
        subject = row.get("subject") or row.get("slide") or name
        found.append(InputImage(path, name, subject, row.get("label", "")))
    if not found:
        raise UserError(f"{manifest}: has no rows; expected one row per image")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some of the images, decoded.

    Attributes:
      rows: their places in the list that was asked for.
      images: uint8 [n,size,size,3], in this order.
      failed: place and reason of each image that could not be decoded.
    """

    rows: list[int]
    images: np.ndarray
    failed: list[tuple[int, str]]


def decode(asked: Sequence[InputImage], size: int, batch: int) -> Iterator[Batch]:
    """Decode images in threads, a few batches ahead of who uses them; memory stays bounded.

    Args:
      asked: what to decode.
      size: side of the square images in pixels; they are cut and reduced as for training.
      batch: images at a time; an image that cannot be decoded leaves its batch shorter.
    """

    def one(row: int) -> np.ndarray | str:
        try:
            return read_image(asked[row].path, size)
        except UserError as error:
            return str(error)

    starts = iter(range(0, len(asked), batch))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

        def begin(start: int) -> list:
            return [pool.submit(one, row) for row in range(start, min(start + batch, len(asked)))]

        waiting = [(start, begin(start)) for start in itertools.islice(starts, _AHEAD)]
        while waiting:
            start, futures = waiting.pop(0)
            found = [future.result() for future in futures]
            waiting += [(start, begin(start)) for start in itertools.islice(starts, 1)]
            good = [k for k, image in enumerate(found) if not isinstance(image, str)]
            yield Batch(
                [start + k for k in good],
                np.array([found[k] for k in good], np.uint8).reshape(-1, size, size, 3),
                [(start + k, image) for k, image in enumerate(found) if isinstance(image, str)],
            )
