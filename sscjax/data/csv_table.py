"""CSV tables that users write, such as manifests: read and checked for the expected columns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sscjax.errors import UserError
from sscjax.system.files import csv_name, escaped, undecodable

# Columns of names: `files.csv_text` may have written these with an apostrophe in front.
_NAMES = ("label", "subject", "slide")


def refuse_undecodable(path: Path | str) -> None:
    """Raise a UserError where a name is not UTF-8: no table, record or page could hold it."""
    part = undecodable(path)
    if part:
        raise UserError(
            f"{escaped(str(path))}: the name {part} is not UTF-8 text (old archives hold such); "
            "rename it, to plain letters say"
        )


def read_rows(manifest: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a csv file as stripped cells by column, each with its line number (header: line 1).

    Labels, subjects and slides come without the apostrophe of `files.csv_cell`.

    Args:
      manifest: the file.
      columns: those that it must have.

    Raises:
      UserError: no such file, or no such table.
    """
    refuse_undecodable(manifest)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(manifest, header, columns)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{manifest}, row {reader.line_num}: {len(cells)} cells, expected "
                        f"{len(header)}; quote cells that hold a comma"
                    )
                row = {key: cell.strip() for key, cell in zip(header, cells, strict=True)}
                row |= {key: csv_name(row[key]) for key in _NAMES if key in row}
                rows.append((reader.line_num, row))
    except FileNotFoundError as error:
        raise UserError(f"{manifest}: no such file; correct the data path") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{manifest}: not UTF-8 text (byte {error.start}); save it as a UTF-8 csv file"
        ) from error
    except csv.Error as error:
        raise UserError(f"{manifest}: not a csv file ({error}); save it as a csv file") from error
    return rows


def _check_header(manifest: Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        optional = " and optionally subject, split" if "label" in columns else ""
        raise UserError(
            f"{manifest}: missing column(s) {', '.join(missing)}, found "
            f"{', '.join(header) or 'an empty first line'}; expected the first line to name "
            f"{','.join(columns)}{optional}, separated by commas"
        )
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise UserError(f"{manifest}: column {repeated[0]!r} appears twice; remove one")
