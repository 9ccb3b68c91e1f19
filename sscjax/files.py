"""Writing files so that a final name never holds half a file, and naming them by what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically: under that name is the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk the system says no name
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON atomically; NaN and infinity are refused.

    Keys keep their order: curves that went through a file and back are written as before.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What spreadsheets take for the start of a formula, which might fetch or send something.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_cell(text: str) -> str:
    """A name as a cell of a CSV file that spreadsheets show and do not compute.

    One that they would take for a formula gets an apostrophe in front. `csv_name` takes it off.
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV: text by `csv_cell`, None as nothing, numbers so that they come back to the bit.

    The standard library's writer leaves a lone carriage return unquoted, at which readers then end
    the row.
    """
    lines = (",".join(map(_cell, row)) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = csv_cell(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def csv_name(cell: str) -> str:
    """The name that `csv_cell` made a cell of."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA) else cell
