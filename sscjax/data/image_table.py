"""The images that a table names: a manifest, or any csv or Excel file with a row for each."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from sscjax.data import (
    cells,
    companions,
    csv_table,
    names,
    resolution,
    scan,
    sites,
    tables,
    understood,
)
from sscjax.data import columns as roles
from sscjax.data.columns import Columns
from sscjax.data.image_io import IMAGE_SUFFIXES
from sscjax.data.layout import FIND_OUT, Reading, split_of
from sscjax.data.listing import (
    ImageRecord,
    Listing,
    ordered_classes,
    refuse_outside,
    refuse_shared_files,
    shown,
    source_line,
    target_of,
    with_one_spelling,
)
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

# What Label Studio puts in front of the name of an uploaded file.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")

# Tables beside images that name images and are none of labels.
_NO_LABELS = re.compile(r"submission", re.IGNORECASE)

# A folder with more tables than these holds something else.
_MOST_TABLES = 20


class Finder:
    """Finds the files that a table names, by their path or else by their name below the folder."""

    def __init__(self, folder: Path, tree: scan.Tree | None = None):
        """Args: the table's folder, and what lies below it where that is known already."""
        self.folder = folder
        self.by_name = 0
        self._tree = tree
        self._index: dict[str, list[str]] | None = None
        self._inside: dict[Path, bool] = {}

    def find(self, where: str, name: str) -> tuple[Path, str]:
        """An image, and its path relative to the folder.

        Raises:
          UserError: there is none, or there are several, or it lies elsewhere.
        """
        if self._is_file(name):
            return self.named(where, name)
        candidates = self._below(name)
        if len(candidates) > 1:
            raise UserError(
                f"{where}: {name} may be {' or '.join(candidates[:3])}; write the path from the "
                "table's folder"
            )
        if candidates:
            self.by_name += 1
            return self._checked(where, self.folder / candidates[0], candidates[0])
        return self.named(where, name)

    def named(self, where: str, name: str) -> tuple[Path, str]:
        """A file of exactly this path relative to the folder.

        Raises:
          UserError: it does not exist, or leaves the folder.
        """
        relative = _relative(name)
        if relative is None:
            raise UserError(
                f"{where}: {name} leaves the folder {self.folder}; give a path inside it, relative "
                "to the manifest"
            )
        if not self._is_file(name):
            kind = "is not a file" if self._exists(relative) else "does not exist"
            raise UserError(
                f"{where}: {name} {kind}{self._with_zeros(name)}; correct the row or restore the "
                "file"
            )
        return self._checked(where, self.folder / relative, relative.as_posix())

    def _with_zeros(self, name: str) -> str:
        """Says which image has the same number with zeros in front, which spreadsheets drop."""
        number = os.path.splitext(name)[0]
        if not number.isdecimal():
            return ""
        alike = [key for key in self._names() if key.isdecimal() and int(key) == int(number)]
        return f" ({alike[0]} does: format the column as text)" if alike else ""

    def holds(self, name: str) -> bool:
        """Whether a name of a table is that of an image here."""
        return self._is_file(name) or bool(self._below(name))

    def _checked(self, where: str, path: Path, file: str) -> tuple[Path, str]:
        # Only a link leads elsewhere: one look for each folder, and one for each file.
        parent = path.parent
        if parent not in self._inside:
            self._inside[parent] = target_of(parent).is_relative_to(target_of(self.folder))
        if not self._inside[parent] or path.is_symlink():
            refuse_outside(self.folder, path, where)
        return path, file

    def _is_file(self, name: str) -> bool:
        relative = _relative(name)
        try:
            return bool(name) and relative is not None and (self.folder / relative).is_file()
        except (OSError, ValueError):  # a name that this system cannot have
            return False

    def _exists(self, relative: PurePosixPath) -> bool:
        try:
            return (self.folder / relative).exists()
        except (OSError, ValueError):
            return False

    def _holds_folder(self, name: str) -> bool:
        relative = _relative(name)
        try:
            return relative is not None and (self.folder / relative).is_dir()
        except (OSError, ValueError):
            return False

    def _below(self, name: str) -> list[str]:
        """Images below the folder that a name may mean: by name, or by name without its suffix."""
        wanted = name.replace("\\", "/").rpartition("?d=")[2]
        if not wanted or ".." in wanted.split("/"):
            return []
        above, _, base = wanted.rpartition("/")
        is_there = above and self._holds_folder(above)
        decoded = urllib.parse.unquote(base)
        index = self._names()
        for spelling in dict.fromkeys((base, decoded, _UPLOAD.sub("", decoded))):
            candidates = index.get(_file_key(spelling), [])
            if is_there:  # and lacks it: an image of that name elsewhere is another
                candidates = [file for file in candidates if _is_in(file, above)]
            exact = [file for file in candidates if _ends_alike(file, wanted)]
            if candidates:
                return exact if len(exact) == 1 else candidates
        return []

    def _names(self) -> dict[str, list[str]]:
        """Images by their names with and without suffix."""
        if self._index is None:
            self._tree = self._tree or scan.scan(self.folder)
            self._index = {}
            for file in self._tree.files:
                name = file.rpartition("/")[2]
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    for key in {_file_key(name), _file_key(stem)}:
                        self._index.setdefault(key, []).append(file)
        return self._index


def _relative(name: str) -> PurePosixPath | None:
    """A path of a table as one relative to its folder; None where it leads elsewhere."""
    # Tables are carried between systems: both kinds of slash, either kind of absolute path.
    relative = PurePosixPath(name.replace("\\", "/"))
    windows = PureWindowsPath(name)
    elsewhere = relative.is_absolute() or windows.drive or windows.root or ".." in relative.parts
    return None if elsewhere else relative


def _is_in(file: str, folder: str) -> bool:
    parent = PurePosixPath(folder).as_posix()
    return _file_key(file.rpartition("/")[0]) == _file_key(parent)


def _file_key(name: str) -> str:
    return names.normal(name).casefold()


def _ends_alike(file: str, wanted: str) -> bool:
    """Whether one path is the end of the other, their suffixes aside."""
    one, other = (os.path.splitext(text)[0].casefold().strip("/") for text in (file, wanted))
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


# --- listing --------------------------------------------------------------------------------------


def list_table(
    path: Path,
    classes: Sequence[str],
    *,
    private: bool = False,
    reading: Reading = FIND_OUT,
    tree: scan.Tree | None = None,
) -> Listing:
    """Lists the images that a table names, as `image_folder.list_images` does.

    Args:
      path: the table; its folder is that of the images.
      classes: class names in label order; empty: the names found, sorted.
      private: name the folder only in errors.
      reading: how columns and names are read.
      tree: what lies below the folder, where it is known.

    Raises:
      UserError: the table has a mistake; names the row.
    """
    table = tables.read(path)
    columns = roles.match(table, reading.columns)
    finder = Finder(path.parent, tree)
    records: list[ImageRecord] = []
    places: list[str] = []
    for line, row in csv_table.rows_of(table, columns):
        places.append(f"{path}, row {line}")
        records.append(_record(finder, places[-1], row, classes))
    if not records:
        raise UserError(f"{path}: has no rows; expected one row per image")
    if "subject" not in columns.of:
        records = companions.with_patients(records)
    records = companions.with_masks(path.parent, records)
    records, merged = with_one_spelling(str(path), records, classes, reading)
    labels = list(dict.fromkeys(record.label for record in records))
    for record, place in zip(records, places, strict=True):
        if classes and record.label not in classes:
            raise UserError(
                f"{place}: unknown label {record.label!r}, expected one of {', '.join(classes)}; "
                "correct the row or add the class"
            )
    cells.refuse_joined(str(path), labels, classes)
    ordered = ordered_classes(path, labels, classes)
    refuse_shared_files(records, places)
    _refuse_half_split(records, places)
    _warn_of_columns(columns)
    source = source_line(f"manifest {shown(path, private)}", records)
    origin = understood.Origin(
        read=f"table {shown(path, private)}" + (f" ({table.how})" if table.how else ""),
        columns=columns.shown(),
        patients=_from(columns, "subject"),
        splits=_from(columns, "split"),
        masks=_from(columns, "mask") if "mask" in columns.of else "beside the images",
        skipped=_not_named(tree, records),
        merged={} if private else merged,
        by_name=finder.by_name,
    )
    described = understood.describe(records, ordered, origin)
    return Listing(path.parent, ordered, tuple(records), source, "manifest", described)


def _record(
    finder: Finder, where: str, row: Mapping[str, str], classes: Sequence[str]
) -> ImageRecord:
    cells.refuse_empty(where, row, ("file", "label", "subject"))
    cells.refuse_nothing(where, row, classes)
    split = row.get("split", "")
    if split and not split_of(split):
        raise UserError(
            f"{where}: unknown split {split!r}, expected train, val or test; correct the row"
        )
    path, file = finder.find(where, row["file"])
    named = None
    if "mask" in row:
        named = (finder.named(where, row["mask"])[0],) if row["mask"] else ()
    mpp, site = mpp_of(where, row.get("mpp", "")), sites.of_row(where, row)
    subject = row.get("subject", file)
    return ImageRecord(path, file, row["label"], subject, split_of(split), named, mpp, site)


def mpp_of(where: str, text: str) -> float:
    """Micrometres per pixel in a table's row, 0 where it has none.

    Raises:
      UserError: it is no number, or none that a microscope has.
    """
    try:
        mpp = float(text.replace(",", ".") or 0)
    except ValueError:
        mpp = -1.0
    if mpp and not resolution.believable(mpp):
        raise UserError(
            f"{where}: mpp {text!r}, expected {resolution.LOWEST:g} to {resolution.HIGHEST:g} "
            "micrometres per pixel, or an empty cell where it is not known"
        )
    return mpp


def _refuse_half_split(records: Sequence[ImageRecord], places: Sequence[str]) -> None:
    has_split = [record.split is not None for record in records]
    if any(has_split) and not all(has_split):
        raise UserError(
            f"{places[has_split.index(False)]}: empty split, while {sum(has_split)} of "
            f"{len(has_split)} rows have one; fill all of them or remove the column"
        )


def _warn_of_columns(columns: Columns) -> None:
    """Warn of a column that may mean something else than what it is read as."""
    folds = [name for name in columns.header if roles.plain(name) in roles.SYNONYMS["split"]]
    if folds and "split" not in columns.of:
        _LOG.warning(
            "the numbers in the table's column %s are not used: only train, val and test are "
            "splits; write these if the numbers say which images are for testing",
            folds[0],
        )  # fmt: skip
    column = columns.name("subject")
    if roles.plain(column) == "lesionid":
        _LOG.warning(
            "the table's column %s counts as the patient: lesions of one patient may stand in two "
            "splits; add a column with the patient if it is known",
            column,
        )  # fmt: skip


def _from(columns: Columns, role: str) -> str:
    return f"column {columns.name(role)}" if role in columns.of else "none"


def _not_named(tree: scan.Tree | None, records: Sequence[ImageRecord]) -> dict[str, int]:
    """Images below the folder that the table does not name, and what systems put there."""
    if tree is None:
        return {}
    known = {record.file for record in records}
    known |= {_posix(tree.folder, mask) for record in records for mask in record.masks or ()}
    others = sum(
        file not in known and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
        for file in tree.files
    )
    skipped = {"image (not in the table)": others} if others else {}
    return {**skipped, **tree.skipped}


def _posix(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


# --- tables beside images -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Beside:
    """A table in a folder of images.

    Attributes:
      path: the file.
      columns: what its columns hold; None where no column names images that are there.
      reason: why it cannot be read as it is; '' if it can.
    """

    path: Path
    columns: Columns | None
    reason: str


def beside_images(tree: scan.Tree, reading: Reading) -> list[Beside]:
    """The tables right in a folder: those that name its images and their labels come first."""
    paths = [
        tree.path(file)
        for file in tree.files
        if "/" not in file and os.path.splitext(file)[1].lower() in tables.BESIDE_IMAGES
    ]
    finder = Finder(tree.folder, tree)
    beside = [_look(path, finder, reading) for path in paths[:_MOST_TABLES]]
    return sorted(beside, key=lambda one: (bool(one.reason), one.columns is None))


def _look(path: Path, finder: Finder, reading: Reading) -> Beside:
    try:
        table = tables.read(path)
        columns = roles.match(table, reading.columns, ("file",))
        index = columns.of["file"]
        first = [row[index] for _, row in table.rows[:3]]
        if not first or not all(map(finder.holds, first)):
            return Beside(path, None, "names no images that lie here")
        columns = roles.match(table, reading.columns)
        csv_table.rows_of(table, columns)
    except UserError as error:
        return Beside(path, None, str(error).removeprefix(f"{path}: "))
    if _NO_LABELS.search(path.stem):
        return Beside(path, None, "is a form for submissions by its name")
    return Beside(path, columns, "")
