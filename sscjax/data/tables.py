"""Tables as spreadsheet programs save them: csv of any kind, tsv and xlsx, as rows of text."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import datetime
import io
import itertools
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sscjax.errors import UserError
from sscjax.system.files import escaped, undecodable

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm")
"""Files that are read as tables where they are given; beside images `.txt` is not looked at."""

_EXCEL = (".xlsx", ".xlsm")
_OTHERS = {
    ".xls": "an old Excel file: save it as .xlsx or as a UTF-8 csv file",
    ".ods": "an OpenDocument file: save it as .xlsx or as a UTF-8 csv file",
    ".numbers": "a Numbers file: export it as .xlsx or csv",
    ".json": "a JSON file: export a table with a row for each image as csv (Label Studio: CSV)",
    ".npz": (
        "a NumPy archive, as MedMNIST's: save its images as png into split/class folders "
        "(train/0/..., val/0/..., test/0/...), or give its arrays to sscjax.fit in Python"
    ),
    ".parquet": "a Parquet file: save it as csv",
}
BESIDE_IMAGES = (".csv", ".tsv", ".xlsx", *_OTHERS)
"""Suffixes of files beside images that may list them, whether or not they can be read."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

_BREAK = re.compile(r"\s*[\r\n]\s*")

# Lines above the header of a table that are looked at.
_MOST_ABOVE = 20

# Tables are small; a file that is larger is no table, and would be read into memory.
_MOST_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
      path: the file.
      header: names of the columns, without white space at their ends; '' for an empty cell.
      rows: number of the line, and a stripped cell for each column.
      damage: the first row that has another number of cells, as a message; '' if there is none.
        The rows end before it. It is for `rows_of` to raise, after the header is understood.
      how: what the file turned out to be, such as 'semicolons, Windows text (cp1252)'.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]
    how: str
    damage: str = ""


def read(path: Path) -> Table:
    """Read a table whatever its separator and encoding.

    Text is UTF-8 with or without a byte order mark, UTF-16, or else Windows' cp1252. Columns are
    separated by what occurs most in the first line: commas, semicolons, tabs or bars. Of an Excel
    file the only sheet with cells is read.

    Raises:
      UserError: no such file, or no such table; names the row.
    """
    refuse_undecodable(path)
    suffix = path.suffix.lower()
    if suffix in _OTHERS and path.is_file():
        raise UserError(f"{path}: is {_OTHERS[suffix]}")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not path.is_dir():
            # Opening a pipe would wait for who writes into it.
            raise UserError(f"{path}: is a pipe, socket or device, expected a table; remove it")
        if status.st_size > _MOST_BYTES:
            raise UserError(
                f"{path}: has {status.st_size / 2**20:,.0f} MB, expected a table of at most "
                f"{_MOST_BYTES / 2**20:.0f} MB; correct the path"
            )
        if suffix in _EXCEL:
            return _excel(path)
        text, encoding = _decoded(path, path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; correct the data path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    return _csv(path, text, encoding)


def refuse_undecodable(path: Path | str) -> None:
    """Raise a UserError where a name is not UTF-8: no table, record or page could hold it."""
    if str(path).isascii():  # quick: there may be very many
        return
    part = undecodable(path)
    if part:
        raise UserError(
            f"{escaped(str(path))}: the name {part} is not UTF-8 text (old archives hold such); "
            "rename it, to plain letters say"
        )


# --- text -----------------------------------------------------------------------------------------


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding where it is not UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _strictly(path, data, "utf-16"), "UTF-16"
    start = data[:4096]
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[0::2])):
        # Text of Latin letters in UTF-16 has a zero in every other byte.
        if len(zeros) > 8 and zeros.count(0) > 0.7 * len(zeros):
            return _strictly(path, data, encoding), "UTF-16"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        first = error
    try:
        return data.decode("cp1252"), "Windows text (cp1252)"
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {first.start}), nor UTF-16 or Windows text (cp1252); "
            "save it as a UTF-8 csv file"
        ) from error


def _strictly(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: damaged UTF-16 text (byte {error.start}); save it as a UTF-8 csv file"
        ) from error


def _csv(path: Path, text: str, encoding: str) -> Table:
    delimiter, skipped = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for _ in range(skipped):
            next(reader, None)
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{path}: not a csv file ({error}); save it as a csv file") from error
    notes = [] if delimiter == "," else [_DELIMITERS[delimiter]]
    return _table(path, lines, [*notes, encoding])


def _joined(cells: list[str]) -> list[str]:
    """The cells of a header, each in one line: Excel keeps the line breaks of a cell."""
    return [_BREAK.sub(" ", cell) if "\n" in cell or "\r" in cell else cell for cell in cells]


def _table(path: Path, lines: list[tuple[int, list[str]]], notes: list[str]) -> Table:
    """The table in the lines of a file, without titles above it and comments in it."""
    lines, above = _without_title(lines)
    header = [cell.strip() for cell in _joined(lines[0][1])] if lines else []
    while len(header) > 1 and not header[-1]:
        header.pop()
    _check_header(path, header)
    rows, damage = _fitted(path, lines[1:], header)
    notes = [*notes, f"{above} line(s) above the header not read" if above else ""]
    return Table(path, header, rows, ", ".join(filter(None, notes)), damage)


def _without_title(
    lines: list[tuple[int, list[str]]],
) -> tuple[list[tuple[int, list[str]]], int]:
    """The lines from the header on, and how many stood above: titles and comments in one cell."""
    filled = [[cell for cell in cells if cell.strip()] for _, cells in lines[: _MOST_ABOVE + 1]]
    above = next((k for k, cells in enumerate(filled) if len(cells) > 1), 0)
    while above + 1 < len(filled) and filled[above][0].startswith("#"):
        # `#file,label` is a header, `# made by A, on Monday` above one of more cells is none.
        word = filled[above][0].strip("# ")
        if len(filled[above]) == len(filled[above + 1]) and " " not in word:
            break
        above += 1
    return lines[above:], above


def _delimiter(text: str) -> tuple[str, int]:
    """What separates columns, and how many lines before the header say so (Excel's `sep=;`)."""
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    if first.lower().startswith("sep=") and first[4:5] in _DELIMITERS:
        return first[4], 1
    start = io.StringIO(text.lstrip("\r\n"))
    for line in itertools.islice(start, _MOST_ABOVE + 1):  # a title has none
        outside = "".join(line.split('"')[0::2])  # not within quotes
        counts = {delimiter: outside.count(delimiter) for delimiter in _DELIMITERS}
        best = max(counts, key=lambda delimiter: counts[delimiter])
        if counts[best] and not line.startswith("# "):
            return best, 0
    return ",", 0


def _fitted(
    path: Path, lines: list[tuple[int, list[str]]], header: list[str]
) -> tuple[list[tuple[int, list[str]]], str]:
    """Stripped cells, as many as the header has, and the message for the first row of others.

    Empty cells at the end of a row do not count, nor do comments.
    """
    rows: list[tuple[int, list[str]]] = []
    for line, raw in lines:
        cells = [cell.strip() for cell in raw]
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(header) > 1 and [cell[:2] for cell in cells if cell] == ["# "]:
            continue
        if len(cells) == 1 < len(header):
            return rows, (
                f"{path}, row {line}: one cell ({cells[0]!r:.60}), expected {len(header)}; if it "
                "is a title, a total or a remark, delete the row, else quote cells that hold the "
                "separator"
            )
        if len(cells) != len(header):
            return rows, (
                f"{path}, row {line}: {len(cells)} cells, expected {len(header)}; quote cells that "
                "hold the separator"
            )
        rows.append((line, cells))
    return rows, ""


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse a column that is named twice."""
    seen: set[str] = set()
    for name in header:
        if name and name in seen:
            raise UserError(f"{path}: column {name!r} appears twice; remove one")
        seen.add(name)


# --- Excel ----------------------------------------------------------------------------------------


def _excel(path: Path) -> Table:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: Excel files are read with openpyxl, which is not installed; "
            "pip install 'sscjax[tables]', or save the sheet as a UTF-8 csv file"
        ) from error
    try:
        # A read-only book keeps its file open: Windows could not replace it.
        with path.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = {sheet.title: list(_sheet(sheet)) for sheet in book.worksheets}
    except OSError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        raise UserError(
            f"{path}: cannot be read as an Excel file ({' '.join(str(error).split())[:100]}); "
            "save it again as .xlsx, or as a UTF-8 csv file"
        ) from error
    filled = {name: rows for name, rows in sheets.items() if rows}
    if len(filled) > 1:
        raise UserError(
            f"{path}: has several sheets with cells ({', '.join(filled)}); save the one that lists "
            "the images as a file of its own"
        )
    lines = next(iter(filled.values()), [])
    # A sheet's row has no end of its own: empty cells at its end may be missing.
    width = max((len(cells) for _, cells in lines), default=0)
    padded = [(number, cells + [""] * (width - len(cells))) for number, cells in lines]
    return _table(path, padded, ["Excel"])


def _sheet(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [_text(value) for value in row]
        if any(cells):
            yield number, cells


def _text(value: Any) -> str:
    """A cell as it would stand in a csv file: whole numbers without point, ISO dates."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(value).strip()
