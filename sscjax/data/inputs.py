"""Images to predict: files, folders and manifests, with or without labels."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sscjax.data import (
    columns,
    companion_names,
    csv_table,
    dicom,
    image_folder,
    image_table,
    layout,
    names,
    resolution,
    scan,
    sites,
    tables,
)
from sscjax.data.image_io import IMAGE_SUFFIXES, is_image_name, read_image
from sscjax.data.layout import FIND_OUT, Reading, split_of
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.data.table_files import Finder
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


def find(
    path: Path | str,
    classes: Sequence[str],
    merged: Mapping[str, str] | None = None,
    reading: Reading = FIND_OUT,
) -> list[InputImage]:
    """List the images at a path.

    An image file is one image. A table, or a folder with a `manifest.csv`, has the columns
    `file` (relative to it) and optionally `subject` (or `slide`), `label` and `site`, or what these
    are often called. A folder is labelled where one level of it has the names of the network's
    classes: `class/subject/image.jpg`, `subject/class/image.jpg`, also below train, val and test.
    In any other folder, each folder with images is one subject.

    Labels are compared without regard to capitals, white space and Unicode form; one that is read
    as a class of another spelling is logged. What is no class stays as it is.

    Args:
      path: an image, a table or a folder.
      classes: the network's class names.
      merged: labels that became one of the classes in training, with its name.
      reading: how the set of training was read; a layout holds where it fits every image and gives
        labels that are classes, columns where a table has them. Which of them held is logged.

    Returns:
      the images; those of folders in the order of their names, those of tables in row order.

    Raises:
      UserError: the path does not exist or holds no image, or a row or a name is unusable.
    """
    known = {names.key(old): new for old, new in (merged or {}).items()}
    known |= {names.key(name): name for name in classes}
    images = _list(Path(path), known, reading)
    for image in images:
        tables.refuse_undecodable(image.path)
        tables.refuse_undecodable(image.subject)
    return _understood(images, known)


def _understood(images: Sequence[InputImage], known: Mapping[str, str]) -> list[InputImage]:
    """The images with the network's names as labels, where they are understood."""
    read_as = {image.label: names.matched(image.label, known) for image in images}
    for label, name in read_as.items():
        if name is not None and label != name:
            _LOG.warning("the label %s is read as the class %s", names.shown(label), name)
    return [
        dataclasses.replace(image, label=read_as[image.label] or image.label) for image in images
    ]


def _list(path: Path, known: Mapping[str, str], reading: Reading) -> list[InputImage]:
    if path.is_dir():
        manifest = image_folder.manifest_in(path)
        if manifest is not None:
            return _from_table(manifest, reading)
        return _from_folder(path, known, reading)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file or folder; give images, folders, manifests or slides"
        )
    if path.suffix.lower() in tables.SUFFIXES:
        return _from_table(path, reading)
    return [InputImage(path, path.name, path.name)]


def _from_folder(folder: Path, known: Mapping[str, str], reading: Reading) -> list[InputImage]:
    visible = companion_names.sort(scan.walk(folder))
    files = [file for file in visible.others if is_image_name(file)]
    if not files:
        raise UserError(
            f"{folder}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give a folder with images"
        )
    parts = [file.relative_to(folder).parts for file in files]
    as_trained = _by_layout(files, parts, known, reading)
    if as_trained:
        return as_trained
    level = _label_level(parts, known)
    images = []
    patients = dicom.patient_ids(files)
    for file, names_of in zip(files, parts, strict=True):
        name = "/".join(names_of)
        if level is not None and len(names_of) > level + 1:
            subject = patients.get(file) or _subject(names_of, level) or name
            images.append(InputImage(file, name, subject, names_of[level]))
        else:
            inner = "/".join(names_of[:-1])
            subject = patients.get(file) or inner or folder.resolve().name
            images.append(InputImage(file, name, subject))
    return images


def _by_layout(
    files: Sequence[Path],
    parts: Sequence[tuple[str, ...]],
    known: Mapping[str, str],
    reading: Reading,
) -> list[InputImage]:
    """The images by the layout that the run was trained by; [] where it does not fit them all."""
    if not reading.layout:
        return []
    chosen = layout.parse(reading.layout)
    images = []
    for file, names_of in zip(files, parts, strict=True):
        name = "/".join(names_of)
        read = chosen.read(name)
        if read is None or names.key(read["label"]) not in known:
            _LOG.warning(
                "the layout of the run's training set (%s) does not fit these folders and is not "
                "used; labels and patients are read as far as the folders' names say them",
                chosen.text,
            )
            return []
        subject = read.get("subject", name)
        if subject != name and reading.shared_subjects == "different":
            subject = f"{read['label']}/{subject}"
        images.append(InputImage(file, name, subject, read["label"], read.get("site") or ""))
    _LOG.info("the folders are read as the run's training set was: %s", layout.option(chosen.text))
    return images


def _label_level(parts: Sequence[tuple[str, ...]], known: Mapping[str, str]) -> int | None:
    """The level of folders that names classes: all of them, or at the top at least half.

    A level of which only some are classes is taken all the same, so that the others are named as
    not understood, and not silently taken for patients.
    """
    for level in range(min(map(len, parts)) - 1):
        if all(names.key(one[level]) in known for one in parts):
            return level
    tops = {one[0] for one in parts}
    understood = {top for top in tops if names.key(top) in known}
    if understood and 2 * len(understood) >= len(tops):
        return 0
    if understood:
        _LOG.warning(
            "%s: named like a class, beside %d folders that are not: all are taken for subjects, "
            "and no label is known",
            ", ".join(sorted(understood)), len(tops) - len(understood),
        )  # fmt: skip
    return None


def _subject(parts: tuple[str, ...], level: int) -> str:
    """The subject of an image whose label is at a level of its path; '' if none is named."""
    above = [part for part in parts[:level] if not split_of(part)]
    if above:
        return above[0]
    return parts[level + 1] if len(parts) > level + 2 else ""


def _from_table(path: Path, reading: Reading) -> list[InputImage]:
    images = []
    finder = Finder(path.parent)
    table = tables.read(path)
    given = columns.fitting(table, reading.columns)
    if given:
        _LOG.info("columns are read as those of the run's training set were: %s", given)
    elif reading.columns:
        _LOG.warning(
            "the table has none of the columns that the run's training set was read by (%s); "
            "columns are read by their names",
            reading.columns,
        )
    for line, row in csv_table.rows_of(table, columns.match(table, given, ("file",))):
        location = f"{path}, row {line}"
        if not row["file"]:
            raise UserError(f"{location}: empty file; fill it in")
        file, name = finder.find(location, row["file"])
        subject = row.get("subject") or row.get("slide") or name
        site = sites.of_row(location, row) or ""
        mpp = image_table.mpp_of(location, row.get("mpp", ""))
        images.append(InputImage(file, name, subject, row.get("label", ""), site, mpp))
    if not images:
        raise UserError(f"{path}: has no rows; expected one row per image")
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
