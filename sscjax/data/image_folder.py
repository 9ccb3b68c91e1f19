"""What a folder holds, listed and checked before any image is decoded.

`list_images` is the way in: it reads a table where there is one, and else the levels of a folder.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sscjax.data import (
    companion_names,
    companions,
    folder_report,
    image_table,
    layout,
    layout_guess,
    scan,
    tables_beside,
    understood,
)
from sscjax.data.folder_view import NoClassesError, refuse_copies
from sscjax.data.image_io import IMAGE_SUFFIXES, is_image_name
from sscjax.data.layout import FIND_OUT, Layout, Reading, split_of
from sscjax.data.listing import (
    ImageRecord,
    Listing,
    ordered_classes,
    refuse_outside,
    refuse_restarts,
    refuse_shared_files,
    refuse_unlearnable,
    shown,
    source_line,
    with_one_spelling,
)
from sscjax.data.tables import refuse_undecodable
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
MANIFESTS = (MANIFEST, "manifest.tsv", "manifest.xlsx")
"""Names of a table that is read in place of the folders around it."""

# What whole slides end in; they are cut into tiles first.
_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi")

_PLACE = re.compile(r"(d=[\d.]+,)?x=-?\d+,y=-?\d+,w=")

# How many names of a folder level are shown.
_NAMED = 3


def list_images(
    path: Path | str,
    classes: Sequence[str] = (),
    *,
    private: bool = False,
    reading: Reading = FIND_OUT,
) -> Listing:
    """Lists and checks an image set without decoding any image.

    A table (csv, tsv, xlsx) or a folder with a `manifest.csv` is read as a list of images: columns
    `file` (relative to the table's folder), `label` and optionally `subject`, `split` and `mask`,
    or what such columns are often called (`columns.SYNONYMS`). Of any other folder the levels are
    read as `reading.layout` says, or as far as they are certain: train, val and test become splits,
    and in `class/subject/image.jpg` the second folder names the subject (the same name under two
    classes is the same subject). What is ambiguous is refused with the options. An image without a
    subject is a subject of its own, which is logged as a warning. Hidden files and those of systems
    are passed over, as are files without an image suffix. A file `name_mask.png` beside an image is
    its mask; a table with a column `mask` names all masks there, and an empty cell is none.

    Args:
      path: the folder or table.
      classes: class names in label order; empty: the names found, sorted.
      private: name the folder only in errors.
      reading: how layout, columns and names are read.

    Raises:
      UserError: one line that names the file or row, what was expected and how to fix it.
    """
    path = Path(path)
    if path.is_file():
        return image_table.list_table(path, classes, private=private, reading=reading)
    folder = existing_folder(path)
    manifest = manifest_in(folder)
    if manifest is not None:
        if not reading.layout:
            return image_table.list_table(manifest, classes, private=private, reading=reading)
        _LOG.warning("%s is not read: config.data.layout says to read the folders", manifest.name)
    return list_folder(folder, classes, private=private, reading=reading)


def manifest_in(folder: Path) -> Path | None:
    """The manifest in a folder, in any capitals; None where there is none.

    Raises:
      UserError: there are several: which of them is meant cannot be known.
    """
    found = [path for path in folder.iterdir() if path.name.lower() in MANIFESTS]
    found = sorted(path for path in found if path.is_file())
    if len(found) > 1:
        options = " or ".join(layout.path_option(path) for path in found)
        raise UserError(
            f"{folder}: holds {' and '.join(path.name for path in found)}, and one is read; remove "
            f"the others, or give {options}"
        )
    return found[0] if found else None


def existing_folder(path: Path | str) -> Path:
    """`path` as a folder that exists, or a `UserError`."""
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder or manifest; correct the data path")
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give a folder or a csv manifest")
    return folder


def list_folder(
    folder: Path,
    classes: Sequence[str],
    *,
    private: bool = False,
    reading: Reading = FIND_OUT,
) -> Listing:
    """Lists the images of a folder by its levels, as `list_images` does where there is no manifest.

    A table beside the images is read where the folders have no classes.
    """
    tree = scan.scan(folder)
    if not tree.files and not tree.tops:
        raise UserError(
            f"{folder}: the folder is empty; expected one folder per class or a {MANIFEST}"
        )
    files = _images(tree)
    refuse_copies(tree.folder, files, classes)
    if reading.layout:
        folder_set = _Set(tree, files, layout.parse(reading.layout))
        return _by_layout(folder_set, classes, private, reading)
    tables = tables_beside.beside_images(tree, reading)
    try:
        guessed = _guess(tree, files, classes, reading)
    except NoClassesError as error:
        readable = [table for table in tables if not table.reason]
        if len(readable) != 1:
            raise UserError(f"{error}{tables_beside.offered(tables)}") from error
        _LOG.info(
            "the images are read from the table %s: the folders have no classes",
            shown(readable[0].path, private),
        )
        return image_table.list_table(
            readable[0].path, classes, private=private, reading=reading, tree=tree
        )
    except UserError as error:
        raise UserError(f"{error}{tables_beside.offered(tables)}") from error
    tables_beside.refuse_unused_patients(guessed, tables, private)
    patients = tables_beside.patients(tree, files, guessed, tables)
    return _by_layout(_Set(tree, files, guessed, patients), classes, private, reading)


def _images(tree: scan.Tree) -> dict[str, Path]:
    """The images of a folder, without masks and drawings, by their path relative to it."""
    files = {tree.path(file): file for file in tree.files}
    found = companion_names.sort(files)
    if found.drawings:
        tree.skipped["picture drawn on an image"] += len(found.drawings)
        _LOG.warning(
            "%d file(s) show another image once more by their names (overlay, annotated, ...) "
            "and are not read",
            len(found.drawings),
        )
    return {files[path]: path for path in found.others if is_image_name(path)}


def _guess(
    tree: scan.Tree, files: Collection[str], classes: Sequence[str], reading: Reading
) -> Layout:
    """The layout of a folder, which nobody gave."""
    dirs = {tuple(file.split("/")[:-1]) for file in files} - {()}
    tops = {parts[0] for parts in dirs}
    if any(file.upper() == "DICOMDIR" for file in tree.files):
        raise NoClassesError(
            f"{tree.folder}: is the export of a PACS by its DICOMDIR, whose folders name patients, "
            "studies and series and no classes; expected a table beside the DICOMDIR with columns "
            "for image and label (patients are read from the files), or the files in class folders"
        )
    if len(tops) < 2 and set(tree.tops) - tops and not _slides(tree):
        raise UserError(_no_image(tree.folder / min(set(tree.tops) - tops)))
    if dirs and all(map(_is_tile_of_its_folder, files)):
        raise NoClassesError(
            f"{tree.folder}: the folders ({', '.join(sorted(tops)[:_NAMED])}, ...) are slides, of "
            "which the files are tiles by their names, and nothing names the classes; expected "
            "class/slide/tile.png, or a table with columns for image, label and patient"
        )
    if dirs:
        return layout_guess.guess(str(tree.folder), dirs, classes, reading.shared_subjects)
    slides = _slides(tree)
    if slides and not files:
        raise UserError(
            f"{tree.folder}: holds {slides} whole slide(s) and no images; cut them into tiles: "
            f"sscjax slides {tree.folder} TILES, and give TILES"
        )
    if tree.tops and not files:
        raise UserError(_no_image(tree.folder / tree.tops[0]))
    raise NoClassesError(
        f"{tree.folder}: found no class folders and {len(files)} image(s); expected one folder per "
        f"class or a {MANIFEST}; sort the images into folders named after their classes"
    )


def _is_tile_of_its_folder(file: str) -> bool:
    """Whether a file is a tile that QuPath exports: `SLIDE/SLIDE [x=0,y=0,w=512,h=512].png`."""
    parts = file.split("/")
    name, mark, place = parts[-1].partition(" [")
    return bool(mark) and len(parts) == 2 and name == parts[0] and _PLACE.match(place) is not None


def _slides(tree: scan.Tree) -> int:
    return sum(file.lower().endswith(_SLIDES) for file in tree.files)


def _no_image(folder: Path) -> str:
    return (
        f"{folder}: the class folder holds no image ({' '.join(IMAGE_SUFFIXES)}); add images or "
        "remove the folder"
    )


# --- one layout -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Set:
    """A folder whose levels are known.

    Attributes:
      tree: what lies in it.
      files: the images, by their path relative to it.
      chosen: what the levels are.
      patients: by a table, where the levels name none.
    """

    tree: scan.Tree
    files: Mapping[str, Path]
    chosen: Layout
    patients: tables_beside.Patients = tables_beside.NOBODY


def _by_layout(
    folder_set: _Set, classes: Sequence[str], private: bool, reading: Reading
) -> Listing:
    """Lists the images of a folder whose levels are known."""
    tree, files, chosen = folder_set.tree, folder_set.files, folder_set.chosen
    folder = tree.folder
    refuse_undecodable(folder)
    inner = [file for file in files if "/" in file or not chosen.levels]
    records = [_record(folder_set, file) for file in inner]
    if not records:
        raise UserError(
            f"{folder}: holds no image in folders; expected {chosen.text} with files of "
            f"{' '.join(IMAGE_SUFFIXES)}"
        )
    records = companions.with_patients(records)
    records, merged = with_one_spelling(str(folder), records, classes, reading)
    if not _is_before(chosen, "subject", "label"):
        refuse_restarts(str(folder), records, reading)
    refuse_unlearnable(str(folder), records)
    if not chosen.given and chosen.levels[0] == "label":
        _refuse_empty_class(tree, records, merged)
    ordered = ordered_classes(folder, sorted({record.label for record in records}), classes)
    records.sort(key=lambda record: record.file)
    records = companions.with_masks(folder, records)
    if tree.links:
        refuse_shared_files(records, [record.file for record in records])
    loose = len(files) - len(inner)
    other = folder_report.others(tree)
    ignored_files = sum(number for (_, is_loose), number in other.items() if not is_loose)
    said = folder_report.say_skipped(tree, ignored_files, loose, private)
    source = source_line(
        f"folder {shown(folder, private)}", records, "" if private else _hint(records, chosen)
    )
    origin = understood.Origin(
        read=f"folder {shown(folder, private)}",
        layout=f"{chosen.text} ({'given' if chosen.given else 'found out'})",
        patients=folder_set.patients.source or chosen.source("subject"),
        splits=chosen.source("split"),
        skipped=folder_report.skipped(tree, other, loose),
        ignored=folder_report.ignored_levels(records, chosen, private),
        merged={} if private else merged,
    )
    described = understood.describe(records, ordered, origin)
    return Listing(folder, ordered, tuple(records), source + said, "folder", described)


def _is_before(chosen: Layout, one: str, other: str) -> bool:
    levels = chosen.levels
    return one in levels and other in levels and levels.index(one) < levels.index(other)


def _record(folder_set: _Set, file: str) -> ImageRecord:
    tree, path, chosen = folder_set.tree, folder_set.files[file], folder_set.chosen
    refuse_undecodable(file)
    read = chosen.read(file)
    if read is None:
        raise UserError(
            f"{path}: does not fit the layout {chosen.text}; move it away, or give another "
            "--config.data.layout ('**/' stands for any number of levels)"
        )
    split = read.get("split")
    if split is not None and split_of(split) is None:
        raise UserError(
            f"{path}: unknown split {split!r} by the layout {chosen.text}, expected train, val or "
            "test; rename the folder or correct the layout"
        )
    if file in tree.links:
        refuse_outside(tree.folder, path, str(path))
    subject = read.get("subject") or folder_set.patients.of.get(file, file)
    split = split and split_of(split)
    return ImageRecord(path, file, read["label"], subject, split, site=read.get("site"))


def _refuse_empty_class(
    tree: scan.Tree, records: Sequence[ImageRecord], merged: Mapping[str, str]
) -> None:
    """A class folder without images is a mistake: of a copy, or of the suffixes."""
    present = {record.label for record in records} | set(merged)
    for top in tree.tops:
        if top not in present and not companion_names.holds_companions(top):
            raise UserError(_no_image(tree.folder / top))


def _hint(records: Sequence[ImageRecord], chosen: Layout) -> str:
    """The option that reads patients from file names that begin with one, or ''."""
    if "subject" in chosen.levels or chosen.given:
        return ""
    for mark in ("_", " [", "-"):
        starts = [
            (record.file.rpartition("/")[2].partition(mark), record.label) for record in records
        ]
        named = {start[0] for start, _ in starts if start[1]}
        classes = {label.casefold() for _, label in starts}
        whole = all(start[1] for start, _ in starts)
        if whole and len(classes) < len(named) <= len(records) // 2:
            if not {name.casefold() for name in named} & classes:
                pattern = "{split}/{label}" if chosen.levels[0] == "split" else "{label}"
                option = layout.option(f"{pattern}/{{subject}}{mark}*")
                return f"if the file names begin with the patient ({min(named)}), give {option}"
    return ""
