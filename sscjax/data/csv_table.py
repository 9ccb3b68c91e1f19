"""Rows of the tables that users write, such as manifests, by what each column holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sscjax.data import columns as roles
from sscjax.data import names, tables
from sscjax.data.columns import Columns
from sscjax.data.tables import Table, refuse_undecodable
from sscjax.errors import UserError
from sscjax.system.files import csv_name

__all__ = ["read_rows", "refuse_undecodable", "rows_of"]

# Columns of names: `files.csv_text` may have written these with an apostrophe in front.
_NAMES = ("label", "subject", "slide")

Row = tuple[int, dict[str, str]]


def read_rows(path: Path, needed: Sequence[str], given: str = "") -> list[Row]:
    """Rows of a table as stripped cells by column and by role, each with its line number.

    The header is line 1. Labels, subjects and slides come in Unicode's composed form, without the
    apostrophe of `files.csv_cell`.

    Args:
      path: the file, see `tables.read`.
      needed: roles that it must have: 'file', 'label', 'subject'.
      given: `config.data.columns`.

    Raises:
      UserError: no such file, or no such table.
    """
    table = tables.read(path)
    return rows_of(table, roles.match(table, given, needed))


def rows_of(table: Table, columns: Columns) -> list[Row]:
    """The rows of a table whose columns are known, see `read_rows`."""
    if table.damage:
        raise UserError(table.damage)
    rows = []
    for line, cells in table.rows:
        row = dict(zip(table.header, cells, strict=True))
        row |= columns.row(cells, f"{table.path}, row {line}")
        row |= {name: names.normal(csv_name(row[name])) for name in _NAMES if name in row}
        rows.append((line, row))
    return rows
