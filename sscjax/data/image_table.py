"""The images that a table names: a manifest, or any csv or Excel file with a row for each."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sscjax.data import cells, companions, csv_table, resolution, scan, sites, tables, understood
from sscjax.data import columns as roles
from sscjax.data.columns import Columns
from sscjax.data.image_io import IMAGE_SUFFIXES
from sscjax.data.layout import FIND_OUT, Reading, split_of
from sscjax.data.listing import (
    ImageRecord,
    Listing,
    ordered_classes,
    refuse_shared_files,
    refuse_unlearnable,
    shown,
    source_line,
    warn_of_restarts,
    with_one_spelling,
)
from sscjax.data.table_files import Finder
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)


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
    warn_of_restarts(shown(path, private), records, reading)
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
    refuse_unlearnable(str(path), records)
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
