"""Atomic writing, careful reading of files that may be damaged, hashes, and names as safe text."""

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
    """Write `data` to `path` atomically: the name holds the old file or the new one."""
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
            error.filename = str(path)  # for a full disk the system gives no name
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON atomically, keys in their order.

    Raises:
      ValueError: `value` contains NaN or infinity, which are not JSON.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_npz(path: Path, most: int) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file by name; nothing is unpickled.

    Args:
      path: the file.
      most: the largest total size of the arrays in bytes.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no .npz file, contains Python objects, or declares arrays larger than `most`
        or than its contents.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # The declared sizes suffice: zipfile reads no more than an entry declares.
            if (total := sum(entry.file_size for entry in archive.infolist())) > most:
                raise ValueError(f"{total:,} bytes of arrays, expected at most {most:,}")
            return {
                entry.filename.removesuffix(".npy"): _read_array(archive, entry)
                for entry in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    except (KeyError, RuntimeError, struct.error, TypeError) as error:  # encrypted or malformed
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
            raise ValueError(f"{entry.filename} is not in NumPy's format 1.0 or 2.0")
        shape, _, dtype = header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} declares {dtype} of shape {shape}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_sha256(named: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 in hexadecimal over the name, dtype, shape and values of each array, in order."""
    digest = hashlib.sha256()
    for name, array in named:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def escaped(text: str) -> str:
    r"""Escape what does not print in untrusted text, and marks that reverse its direction.

    In a file name that is not UTF-8 the invalid bytes are escaped.

    Example:
      >>> escaped("a\x1b[2J.png")
      'a\\x1b[2J.png'
    """
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # Python's surrogate for a byte that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def undecodable(path: Path | str) -> str:
    """The first part of a path that is not UTF-8, escaped; '' if there is none.

    Such a name cannot be written to any of our files.
    """
    for part in Path(path).parts:
        try:
            part.encode()
        except UnicodeEncodeError:
            return escaped(part)
    return ""


# A cell that begins so is a formula to spreadsheets, which might load or send data (CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_cell(text: str) -> str:
    """A name as a CSV cell that spreadsheets show and do not evaluate.

    A name that looks like a formula gets an apostrophe in front, which `csv_name` removes.
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV: text by `csv_cell`, None as an empty cell, numbers without loss.

    The standard library's writer does not quote a lone carriage return, where readers then end the
    row.
    """
    lines = (",".join(map(_cell, row)) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = csv_cell(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def csv_name(cell: str) -> str:
    """The name in a cell; the inverse of `csv_cell`."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA) else cell
