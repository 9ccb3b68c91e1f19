"""Tables that lie beside images: which of them list the images, their labels and patients."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from sscjax.data import columns as roles
from sscjax.data import csv_table, layout, scan, tables
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
