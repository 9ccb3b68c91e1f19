"""Tables that lie beside images: which of them list the images, their labels and patients."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sscjax.data import cells, csv_table, layout, scan, tables
from sscjax.data import columns as roles
from sscjax.data.columns import Columns
from sscjax.data.layout import Layout, Reading
from sscjax.data.listing import shown
from sscjax.data.table_files import Finder
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

# Tables beside images that name images and are none of labels.
_NO_LABELS = re.compile(r"submission", re.IGNORECASE)

# A folder with more tables than these holds something else.
_MOST_TABLES = 20

# How many tables a message names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Beside:
    """A table in a folder of images.

    Attributes:
      path: the file.
      columns: what its columns hold; None where no column names images that are there.
      reason: why it cannot be read in place of the folders; '' if it can.
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
    columns = None
    try:
        table = tables.read(path)
        named = roles.match(table, reading.columns, ("file",))
        index = named.of["file"]
        first = [row[index] for _, row in table.rows[:3]]
        if not first or not all(map(finder.holds, first)):
            return Beside(path, None, "names no images that lie here")
        columns = named
        columns = roles.match(table, reading.columns)
        csv_table.rows_of(table, columns)
    except UserError as error:
        return Beside(path, columns, str(error).removeprefix(f"{path}: "))
    if _NO_LABELS.search(path.stem):
        return Beside(path, None, "is a form for submissions by its name")
    return Beside(path, columns, "")


@dataclasses.dataclass(frozen=True)
class Patients:
    """The patients of images that lie in folders of classes, by a table beside these.

    Attributes:
      of: the patient of each image, by its path relative to the set's folder.
      source: where they are read from, for reports; '' where no table names them.
    """

    of: Mapping[str, str]
    source: str


NOBODY = Patients({}, "")
"""No table names patients."""


def patients(
    tree: scan.Tree, images: Collection[str], guessed: Layout, beside: Sequence[Beside]
) -> Patients:
    """The patients that a table without labels names, where the folders name none.

    Args:
      tree: the set's folder.
      images: the images in it, relative to it.
      guessed: what its levels are.
      beside: the tables in it.

    Raises:
      UserError: several tables name patients, or one names those of some images only.
    """
    named = [
        one for one in beside if one.reason and one.columns and "subject" in one.columns.of
        and not one.columns.has_label
    ]  # fmt: skip
    if not named or "subject" in guessed.levels:
        return NOBODY
    path, columns = named[0].path, named[0].columns
    assert columns is not None
    without = f"{layout.option(guessed.text)} to read the folders without patients"
    if len(named) > 1:
        raise UserError(
            f"{path}: names the patient of each image, and so does {named[1].path.name}; remove "
            f"one, or give {without}"
        )
    of = _patients(path, columns, Finder(tree.folder, tree))
    lacking = sorted(set(images) - of.keys())
    if lacking:
        raise UserError(
            f"{path}: names the patient of {len(images) - len(lacking)} of {len(images)} images "
            f"(column {columns.name('subject')}), not of {lacking[0]}; complete it, or give "
            f"{without}"
        )
    _LOG.info("patients are read from the table beside the folders")
    return Patients(of, f"column {columns.name('subject')} of {path.name}")


def _patients(path: Path, columns: Columns, finder: Finder) -> dict[str, str]:
    of: dict[str, str] = {}
    for line, row in csv_table.rows_of(tables.read(path), columns):
        where = f"{path}, row {line}"
        if not finder.holds(row["file"]):
            continue  # of an image that was left out
        cells.refuse_empty(where, row, ("subject",))
        cells.refuse_nothing(where, {"subject": row["subject"]}, ())
        _, file = finder.find(where, row["file"])
        if of.setdefault(file, row["subject"]) != row["subject"]:
            raise UserError(
                f"{where}: {file} is of the patient {row['subject']}, and of {of[file]} by a row "
                "above; correct one"
            )
    return of


def offered(tables: Sequence[Beside]) -> str:
    """What an error says of the tables in the folder."""
    readable = [table.path for table in tables if not table.reason]
    if readable:
        return "; or read the table " + " or ".join(
            layout.path_option(path) for path in readable[:_NAMED]
        )
    if tables:
        return f"; the table {tables[0].path.name} is not read: {tables[0].reason}"
    return ""


def refuse_unused_patients(guessed: Layout, tables: Sequence[Beside], private: bool) -> None:
    """A table that names the patients must not lie unused beside folders that do not."""
    for table in tables:
        if table.reason or table.columns is None:
            continue
        if "subject" in table.columns.of and "subject" not in guessed.levels:
            raise UserError(
                f"{table.path}: names the patient of each image "
                f"(column {table.columns.name('subject')}), which the folders do not; give "
                f"{layout.path_option(table.path)} to read the table, or "
                f"{layout.option(guessed.text)} to read the folders without patients"
            )
        _LOG.warning(
            "%s names images and labels, too, and is not read: %s reads it in place of the folders",
            "a table beside the folders" if private else table.path.name,
            layout.path_option(shown(table.path, private)),
        )
