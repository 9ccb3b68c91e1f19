"""What a folder or a manifest holds, listed and checked before any image is decoded."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from sscjax.data import dicom, masks, resolution, sites
from sscjax.data.csv_table import read_rows, refuse_undecodable
from sscjax.data.image_io import IMAGE_SUFFIXES, is_image_name
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
COLUMNS = ("file", "label")
"""What a manifest must have; without `subject` each image is a subject of its own."""

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Accepted spellings of a split, and the name used everywhere after loading."""


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image that is not decoded yet.

    Attributes:
      path: the file; of a drawn image its name.
      file: the same, relative to the set's folder with forward slashes.
      label: the class name.
      subject: patient or biopsy; the file itself if the source names none.
      split: 'train', 'val' or 'test', or None if the source prescribes no split.
      masks: its segmentation maps, which are joined; None: not looked for yet.
      mpp: micrometres per pixel, 0 where the source does not say.
      site: the hospital or scanner, or None if the source names none.
    """

    path: Path
    file: str
    label: str
    subject: str
    split: str | None = None
    masks: tuple[Path, ...] | None = None
    mpp: float = 0.0
    site: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """A checked list of images: at least two classes, each with at least one image.

    Attributes:
      folder: the folder that all `file` names are relative to.
      classes: class names in label order.
      records: the images; by file name for folders, in the manifest's order for manifests. Either
        all of them have a split or none has.
      source: one line for reports.
      kind: 'folder', 'manifest' or 'synthetic'.
    """

    folder: Path
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    source: str
    kind: str

    def sites(self, records: Sequence[ImageRecord] | None = None) -> np.ndarray | None:
        """[N] str, the sites of all or some of the records, see `sites.column`."""
        chosen = self.records if records is None else records
        subjects = [record.subject for record in chosen]
        return sites.column(str(self.folder), [record.site for record in chosen], subjects)


def list_images(
    path: Path | str, classes: Sequence[str] = (), *, private: bool = False, site_level: int = 0
) -> Listing:
    """Lists and checks an image set without decoding any image.

    A csv file or a folder with a `manifest.csv` is read as a manifest: columns `file` (relative
    to the csv's folder), `label` and optionally `subject`, `split`, `mask` and `site`. Any other
    folder holds one folder per class, with images at any depth: in `class/subject/image.jpg` the
    second folder names the subject (the same name under two classes is the same subject). An image
    without a subject is a subject of its own, which is logged as a warning. Hidden files and
    files without an image suffix are ignored. A file `name_mask.png` beside an image is its
    mask; a manifest with a column `mask` names all masks there, and an empty cell is none.

    Args:
      path: the folder or csv file.
      classes: class names in label order; empty: the names found, sorted.
      private: name the folder only in errors.
      site_level: which folder below a class names the site, see `sites.of_folders`.

    Raises:
      UserError: one line that names the file or row, what was expected and how to fix it.
    """
    path = Path(path)
    if path.is_file():
        return list_manifest(path, classes, private=private)
    folder = existing_folder(path)
    if (folder / MANIFEST).is_file():
        return list_manifest(folder / MANIFEST, classes, private=private)
    return list_folder(folder, classes, private=private, site_level=site_level)


# --- folder per class ---------------------------------------------------------------------------


def existing_folder(path: Path | str) -> Path:
    """`path` as a folder that exists, or a `UserError`."""
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder or manifest; correct the data path")
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give a folder or a csv manifest")
    return folder


def list_folder(
    folder: Path, classes: Sequence[str], *, private: bool = False, site_level: int = 0
) -> Listing:
    """Lists one folder per class, as `list_images` does where there is no manifest."""
    entries = _visible(folder)
    if not entries:
        raise UserError(
            f"{folder}: the folder is empty; expected one folder per class or a {MANIFEST}"
        )
    folders = [e.name for e in entries if e.is_dir() and not masks.is_folder(e.name)]
    loose = sum(_is_image(entry) for entry in entries if entry.is_file())
    if not folders:
        raise UserError(
            f"{folder}: found no class folders and {loose} image(s); expected one folder per class "
            f"or a {MANIFEST}; sort the images into folders named after their classes"
        )
    names = ordered_classes(folder, folders, classes)
    records: list[ImageRecord] = []
    skipped = 0
    for name in names:
        images = []
        for entry in masks.without(walk(folder / name)):
            if _is_image(entry):
                images.append(_folder_record(folder, entry, name, site_level))
            else:
                skipped += 1
        if not images:
            raise UserError(
                f"{folder / name}: the class folder holds no image ({' '.join(IMAGE_SUFFIXES)}); "
                "add images or remove the folder"
            )
        records += images
    records.sort(key=lambda record: record.file)
    records = _with_masks(folder, _with_patients(records))
    _refuse_shared_files(records, [record.file for record in records])
    if skipped or loose:
        _LOG.warning(
            "%s: ignored %d file(s) in class folders that are not %s, and %d image(s) outside "
            "class folders",
            _shown(folder, private), skipped, " ".join(IMAGE_SUFFIXES), loose,
        )  # fmt: skip
    source = _source(f"folder {_shown(folder, private)}", records)
    if skipped or loose:
        source += f"; ignored: {skipped} other file(s), {loose} image(s) outside class folders"
    return Listing(folder, names, tuple(records), source, "folder")


def _shown(path: Path, private: bool) -> str:
    """The name of a folder or manifest for messages that are no errors."""
    return "(private)" if private else str(path)


def _source(name: str, records: Sequence[ImageRecord]) -> str:
    """The line for reports; warns if images have no subject to split by."""
    without_subject = sum(record.subject == record.file for record in records)
    if not without_subject:
        subjects = {record.subject for record in records}
        return f"{name} ({len(records)} images of {len(subjects)} subjects)"
    _LOG.warning(
        "%s: %d of %d images name no subject, so each counts as its own: the split cannot be "
        "by patient and the figures are optimistic; use class/subject/image.jpg folders or a "
        "%s with a subject column",
        name, without_subject, len(records), MANIFEST,
    )  # fmt: skip
    return (
        f"{name} ({len(records)} images; {without_subject} without a subject, taken as one "
        "subject each: the split is not by patient and the figures are optimistic)"
    )


def _folder_record(folder: Path, path: Path, label: str, site_level: int = 0) -> ImageRecord:
    refuse_undecodable(path)
    file = path.relative_to(folder).as_posix()
    inner: Sequence[str] = path.relative_to(folder / label).parts
    site, inner = sites.of_folders(str(path), site_level, inner)
    _refuse_outside(folder, path, str(path))
    subject = inner[0] if len(inner) > 1 else file
    return ImageRecord(path, file, label, subject, site=site)


def _with_masks(folder: Path, records: list[ImageRecord]) -> list[ImageRecord]:
    """The records with the masks beside their images, which must not lead out of the folder."""
    found = masks.beside([one.path for one in records if one.masks is None], folder)
    for paths in found.values():
        for path in paths:
            _refuse_outside(folder, path, str(path))
    return [
        dataclasses.replace(one, masks=found[one.path])
        if one.masks is None and one.path in found
        else one
        for one in records
    ]


def _with_patients(records: list[ImageRecord]) -> list[ImageRecord]:
    """The records of DICOM files with PatientID as their subject, where it tells patients apart."""
    patients = dicom.patient_ids([record.path for record in records])
    if len(set(patients.values()) - {""}) < 2:
        return records
    _LOG.info("subjects of %d DICOM files are their PatientID", len(patients))
    return [
        dataclasses.replace(record, subject=patients.get(record.path) or record.subject)
        for record in records
    ]


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def walk(folder: Path) -> Iterator[Path]:
    """All visible files below. Links to folders are refused: they may leave it or form rings."""
    if folder.is_symlink():
        raise UserError(
            f"{folder}: is a link to a folder, which is not followed; put the folder itself there "
            f"or list its images in a {MANIFEST}"
        )
    for entry in _visible(folder):
        if entry.is_dir():
            yield from walk(entry)
        else:
            yield entry


def _is_image(path: Path) -> bool:
    return is_image_name(path)


def ordered_classes(
    where: Path | str, present: Sequence[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """`wanted` if given, after checking that it and `found` are the same names; else sorted."""
    names = tuple(wanted) or tuple(sorted(present))
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"the list of classes names {repeated[0]!r} twice; name each class once")
    for name in sorted(set(present) - set(names)):
        raise UserError(
            f"{where}: unknown class {name!r}, expected one of {', '.join(names)}; remove it or "
            "add it to the classes"
        )
    for name in names:
        if name not in present:
            raise UserError(
                f"{where}: no image of the class {name!r}, found {', '.join(sorted(present))}; add "
                "some or take it off the classes"
            )
    if len(names) < 2:
        raise UserError(
            f"{where}: found only one class ({names[0]!r}), expected at least two; add images of "
            "another class"
        )
    return names


# --- manifest -----------------------------------------------------------------------------------


def list_manifest(manifest: Path, classes: Sequence[str], *, private: bool = False) -> Listing:
    """Lists what a csv file names, as `list_images` does."""
    folder = manifest.parent
    records: list[ImageRecord] = []
    rows: list[str] = []
    for line, row in read_rows(manifest, COLUMNS):
        where = f"{manifest}, row {line}"
        records.append(_manifest_record(folder, where, row, classes))
        rows.append(where)
    if not records:
        raise UserError(f"{manifest}: has no rows; expected one row per image")
    if all(record.subject == record.file for record in records):
        records = _with_patients(records)
    records = _with_masks(folder, records)
    labels = list(dict.fromkeys(record.label for record in records))
    names = ordered_classes(manifest, labels, classes)
    _refuse_shared_files(records, rows)
    has_split = [record.split is not None for record in records]
    if any(has_split) and not all(has_split):
        raise UserError(
            f"{rows[has_split.index(False)]}: empty split, while {sum(has_split)} of "
            f"{len(has_split)} rows have one; fill all of them or remove the column"
        )
    source = _source(f"manifest {_shown(manifest, private)}", records)
    return Listing(folder, names, tuple(records), source, "manifest")


def _manifest_record(
    folder: Path, where: str, row: Mapping[str, str], classes: Sequence[str]
) -> ImageRecord:
    for column in (*COLUMNS, "subject"):
        if not row.get(column, "-"):
            raise UserError(f"{where}: empty {column}; fill it in")
    label, split = row["label"], row.get("split", "")
    if classes and label not in classes:
        raise UserError(
            f"{where}: unknown label {label!r}, expected one of {', '.join(classes)}; correct the "
            "row or add the class"
        )
    if split and split not in SPLIT_NAMES:
        raise UserError(
            f"{where}: unknown split {split!r}, expected train, val or test; correct the row"
        )
    path, file = named_file(folder, where, row["file"])
    named = None
    if "mask" in row:
        named = (named_file(folder, where, row["mask"])[0],) if row["mask"] else ()
    mpp = mpp_of(where, row.get("mpp", ""))
    subject, site = row.get("subject", file), sites.of_row(where, row)
    return ImageRecord(path, file, label, subject, SPLIT_NAMES.get(split), named, mpp, site)


def mpp_of(where: str, text: str) -> float:
    """Micrometres per pixel in a manifest's row, 0 where it has none.

    Raises:
      UserError: it is no number, or none that a microscope has.
    """
    try:
        mpp = float(text or 0)
    except ValueError:
        mpp = -1.0
    if mpp and not resolution.believable(mpp):
        raise UserError(
            f"{where}: mpp {text!r}, expected {resolution.LOWEST:g} to {resolution.HIGHEST:g} "
            "micrometres per pixel, or an empty cell where it is not known"
        )
    return mpp


def named_file(folder: Path, where: str, name: str) -> tuple[Path, str]:
    """The file that a manifest names, and its name relative to the manifest's folder.

    Raises:
      UserError: it does not exist, or leaves the folder.
    """
    # Manifests are carried between systems: both kinds of slash, either kind of absolute path.
    relative = PurePosixPath(name.replace("\\", "/"))
    windows = PureWindowsPath(name)
    if relative.is_absolute() or windows.drive or windows.root or ".." in relative.parts:
        raise UserError(
            f"{where}: {name} leaves the folder {folder}; give a path inside it, relative "
            "to the manifest"
        )
    path = folder / relative
    try:
        is_file, exists = path.is_file(), path.exists()
    except (OSError, ValueError):  # a name that this system cannot have
        is_file = exists = False
    if not is_file:
        kind = "is not a file" if exists else "does not exist"
        raise UserError(f"{where}: {name} {kind}; correct the row or restore the file")
    _refuse_outside(folder, path, where)
    return path, relative.as_posix()


def _refuse_outside(folder: Path, path: Path, where: str) -> None:
    target = target_of(path)
    if not target.is_relative_to(target_of(folder)):
        raise UserError(
            f"{where}: {path.name} leaves the folder {folder} (it links to {target}); copy the "
            "file into the folder"
        )


def target_of(path: Path) -> Path:
    """The target of a path, with links resolved; a circular link is returned as it is.

    `Path.resolve` raises an error for these in some versions of Python. Here the image cannot be
    read later, which is handled as for any other.
    """
    return Path(os.path.realpath(path))


def _refuse_shared_files(records: Sequence[ImageRecord], places: Sequence[str]) -> None:
    first: dict[Path, str] = {}
    for record, place in zip(records, places, strict=True):
        target = target_of(record.path)
        if target in first:
            raise UserError(
                f"{place}: duplicate, the file {record.file} is already given by {first[target]}; "
                "remove one of them"
            )
        first[target] = place
