"""Images to predict: files, folders and manifests, with or without labels."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sscjax.data import csv_table, dicom, image_folder, masks, resolution, sites
from sscjax.data.image_io import IMAGE_SUFFIXES, is_image_name, read_image
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

_PLAIN = Decoding()

# Batches decoded ahead of the one in use: the network then never waits, and memory is bounded.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class InputImage:
    """One image to predict, not decoded yet.

    Attributes:
      path: the file.
      file: its name in the results.
      subject: the patient, biopsy or slide it comes from.
      label: its class, or '' where it is unknown.
      site: the hospital or scanner, or '' where it is unknown.
      mpp: micrometres per pixel, 0 where they are unknown.
    """

    path: Path
    file: str
    subject: str
    label: str = ""
    site: str = ""
    mpp: float = 0.0


def find(path: Path | str, classes: Sequence[str]) -> list[InputImage]:
    """List the images at a path.

    An image file is one image. A csv file, or a folder with a `manifest.csv`, has the columns
    `file` (relative to it) and optionally `subject` (or `slide`), `label` and `site`. A folder that
    contains only folders named after the network's classes is labelled, as for training:
    `class/subject/image.jpg`. In any other folder, each folder with images is one subject.

    Args:
      path: an image, a csv file or a folder.
      classes: the network's class names.

    Returns:
      the images; those of folders in the order of their names, those of manifests in row order.

    Raises:
      UserError: the path does not exist or holds no image, or a row or a name is unusable.
    """
    images = _list(Path(path), classes)
    for image in images:
        csv_table.refuse_undecodable(image.path)
        csv_table.refuse_undecodable(image.subject)
    return images


def _list(path: Path, classes: Sequence[str]) -> list[InputImage]:
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
    files = [file for file in visible if is_image_name(file)]
    if not files:
        raise UserError(
            f"{folder}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give a folder with images"
        )
    tops = {file.relative_to(folder).parts[0] for file in files}
    labelled = tops <= set(classes)
    images = []
    patients = dicom.patient_ids(files)
    for file in files:
        parts = file.relative_to(folder).parts
        name = "/".join(parts)
        if labelled:
            subject = patients.get(file) or (parts[1] if len(parts) > 2 else name)
            images.append(InputImage(file, name, subject, parts[0]))
        else:
            inner = "/".join(parts[:-1])
            subject = patients.get(file) or inner or folder.resolve().name
            images.append(InputImage(file, name, subject))
    return images


def _from_manifest(manifest: Path) -> list[InputImage]:
    images = []
    for line, row in csv_table.read_rows(manifest, ("file",)):
        location = f"{manifest}, row {line}"
        if not row["file"]:
            raise UserError(f"{location}: empty file; fill it in")
        path, name = image_folder.named_file(manifest.parent, location, row["file"])
        subject = row.get("subject") or row.get("slide") or name
        site = sites.of_row(location, row) or ""
        mpp = image_folder.mpp_of(location, row.get("mpp", ""))
        images.append(InputImage(path, name, subject, row.get("label", ""), site, mpp))
    if not images:
        raise UserError(f"{manifest}: has no rows; expected one row per image")
    return images


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One batch of decoded images.

    Attributes:
      rows: their indices in the list given to `decode`.
      images: uint8 [n,size,size,3], in this order.
      failed: index and reason of each image that could not be decoded.
    """

    rows: list[int]
    images: np.ndarray
    failed: list[tuple[int, str]]


def decode(
    inputs: Sequence[InputImage], size: int, batch: int, decoding: Decoding = _PLAIN
) -> Iterator[Batch]:
    """Decode images in threads, a few batches ahead of their use; memory stays bounded.

    Args:
      inputs: the images to decode.
      size: side of the square images in pixels; they are cropped and reduced as for training.
      batch: images at a time; an image that cannot be decoded makes its batch shorter.
      decoding: what white is in 16-bit files, and so on, as for training.

    Yields:
      batches in the order of `inputs`.
    """
    observed = Observed()

    def read(row: int) -> np.ndarray | str:
        image = inputs[row]
        try:
            side = resolution.side(image.mpp, decoding, size, image.path)
            return read_image(image.path, size, decoding=decoding, observed=observed, side=side)
        except UserError as error:
            return str(error)

    starts = iter(range(0, len(inputs), batch))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

        def submit(start: int) -> list:
            stop = min(start + batch, len(inputs))
            return [pool.submit(read, row) for row in range(start, stop)]

        waiting = [(start, submit(start)) for start in itertools.islice(starts, _AHEAD)]
        while waiting:
            start, futures = waiting.pop(0)
            decoded = [future.result() for future in futures]
            waiting += [(following, submit(following)) for following in itertools.islice(starts, 1)]
            good = [k for k, image in enumerate(decoded) if not isinstance(image, str)]
            yield Batch(
                [start + k for k in good],
                np.array([decoded[k] for k in good], np.uint8).reshape(-1, size, size, 3),
                [(start + k, image) for k, image in enumerate(decoded) if isinstance(image, str)],
            )
    _say(observed, decoding)


def _say(observed: Observed, decoding: Decoding) -> None:
    """Log what was noticed while the images were read."""
    if decoding.bits in (0, 16) and 0 < observed.bits < 16:
        _LOG.warning(
            "16-bit files hold values of %d bits alone and look dark: white is 65,535, as it was "
            "for the images of training; train again with --config.data.pixel_bits=%d if these are "
            "meant",
            observed.bits, observed.bits,
        )  # fmt: skip
    for line in observed.notes():
        _LOG.warning("%s", line)
