"""Writing files so that a final name never holds half a file; reading those that may be damaged."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


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


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      OSError: it cannot be read.
      ValueError: it holds something else.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_npz(path: Path, most: int) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name; never a pickle, and never more than the file has.

    Args:
      path: the file.
      most: bytes that they may have together.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no such file, holds objects, or claims more than `most` or than is there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile stops at the size that an entry declares, whatever it inflates to.
            if (total := sum(entry.file_size for entry in archive.infolist())) > most:
                raise ValueError(f"{total:,} bytes of arrays, expected at most {most:,}")
            return {
                entry.filename.removesuffix(".npy"): _read_array(archive, entry)
                for entry in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    except (KeyError, RuntimeError, struct.error, TypeError) as error:  # encrypted, or nonsense
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    import numpy as np  # here, so that the help of a command does not wait for it

    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(entry) as file:
        header = headers.get(np.lib.format.read_magic(file))
        if header is None:
            raise ValueError(f"{entry.filename} has another format than arrays are saved in")
        shape, _, dtype = header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} claims {dtype} of the shape {shape}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_sha256(named: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 in hexadecimal over each array's name, dtype, shape and values, in their order."""
    digest = hashlib.sha256()
    for name, array in named:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def spelt(text: str) -> str:
    """Foreign text in which nothing is hidden: what is not printed, or turns text about, is spelt.

    Of a file's name that is not UTF-8 these are the bytes that are not.
    """
    return "".join(letter if letter.isprintable() else _spelling(letter) for letter in text)


def _spelling(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python has a byte that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def undecodable(path: Path | str) -> str:
    """The first part of a path that is not UTF-8, spelt; '' where there is none.

    No file that is written could name it.
    """
    for part in Path(path).parts:
        try:
            part.encode()
        except UnicodeEncodeError:
            return spelt(part)
    return ""


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
