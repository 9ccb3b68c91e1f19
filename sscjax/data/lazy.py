"""Arrays that are read by rows: in memory, in a file, or computed when they are read.

An image set, its augmented copies and the features of a network may each be larger than memory.
Their users read some rows at a time, `x[indices]`, as a NumPy array; a NumPy array is itself the
simplest such source.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import io
import math
import operator
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sscjax.errors import UserError

_CHUNK_BYTES = 2**24
"""Size of the chunks in which rows are processed."""


class Rows(Protocol):
    """What a NumPy array [N,...] and the classes here have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N,...]."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""

    def __len__(self) -> int:
        """N."""

    def __iter__(self) -> Iterator[Any]:
        """Each row."""

    def __getitem__(self, index: Any) -> Any:
        """The rows at an integer, a slice, or an array of integers or booleans."""


class Lazy(abc.ABC):
    """Rows that are read by their indices."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abc.abstractmethod
    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] at the indices [K] int64, 0 to N-1."""

    @abc.abstractmethod
    def update(self, digest: Any) -> None:
        """Update a hash with everything that the rows depend on."""

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dtype} [{', '.join(map(str, self.shape))}])"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self.read(np.arange(len(self))[index])
        indices = np.asarray(index)
        if indices.ndim == 0:
            number = range(len(self))[operator.index(indices)]
            return self.read(np.array([number]))[0]
        if indices.dtype == bool:
            if indices.shape != (len(self),):
                raise IndexError(f"boolean index of shape {indices.shape} for {len(self)} rows")
            return self.read(np.flatnonzero(indices))
        # As in NumPy: negative indices count from the end, others must be in range.
        return self.read(np.arange(len(self))[indices])

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in chunks(self):
            yield from self[part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        if copy is False:
            raise ValueError("rows that are not in memory cannot be read without a copy")
        rows = np.empty(self.shape, self.dtype)
        for part in chunks(self):
            rows[part] = self[part]
        return np.asarray(rows, dtype)


# --- views of other rows ------------------------------------------------------------------------


class View(Lazy):
    """Selected rows of another source, not copied."""

    def __init__(self, base: Rows, numbers: np.ndarray):
        """Select rows of `base` [N,...] by their indices [K], in this order."""
        numbers = np.asarray(numbers, np.int64)
        self.base: Rows = base.base if isinstance(base, View) else base
        self.numbers: np.ndarray = base.numbers[numbers] if isinstance(base, View) else numbers
        self.shape = (len(numbers), *base.shape[1:])
        self.dtype = np.dtype(base.dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] at these indices."""
        return self.base[self.numbers[numbers]]

    def update(self, digest: Any) -> None:
        """Hash the rows, or what they depend on if they would have to be computed."""
        if isinstance(self.base, Joined):
            digest.update(self.numbers.astype("<i8").tobytes())
            self.base.update(digest)
        else:
            update_rows(self, digest)


class Joined(Lazy):
    """Several sources with rows of one shape, concatenated."""

    def __init__(self, parts: Sequence[Rows]):
        """Concatenate at least one source; all have the same dtype and shape of row."""
        kinds = {(part.shape[1:], np.dtype(part.dtype)) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"found rows of {kinds}, expected one shape and dtype")
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = np.dtype(parts[0].dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] at these indices."""
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._ends, numbers, side="right")
        for index, part in enumerate(self.parts):
            mine = np.flatnonzero(owner == index)
            if len(mine):
                rows[mine] = part[numbers[mine] - (self._ends[index] - len(part))]
        return rows

    def update(self, digest: Any) -> None:
        """Hash each part."""
        for part in self.parts:
            _update(part, digest)


class Beside(Lazy):
    """Images [N,H,W,C] with their masks [N,H,W] as the last channel: [N,H,W,C+1]."""

    def __init__(self, images: Rows, maps: Rows):
        """Join images and masks of the same dtype, number, height and width."""
        if images.shape[:3] != maps.shape or np.dtype(images.dtype) != np.dtype(maps.dtype):
            raise ValueError(f"images {images.shape} and masks {maps.shape} do not match")
        self._images, self._maps = images, maps
        self.shape = (*images.shape[:3], images.shape[3] + 1)
        self.dtype = np.dtype(images.dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,H,W,C+1] at these indices."""
        return np.concatenate([self._images[numbers], self._maps[numbers][..., None]], axis=-1)

    def update(self, digest: Any) -> None:
        """Hash both."""
        for part in (self._images, self._maps):
            _update(part, digest)


# --- rows in a file -----------------------------------------------------------------------------


class DamagedError(UserError):
    """A row of a cache file is damaged; the file was removed and can be made again."""


class FileRows(Lazy):
    """Rows of a file that `create` wrote; each is checked against its CRC-32 when it is read."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        """Use `open_file` instead of calling this."""
        self.path, self.shape, self.dtype, self._offset = path, shape, dtype, offset
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self._row_bytes = _row_bytes(shape, dtype)
        sums = self._bytes(offset + shape[0] * self._row_bytes, 4 * shape[0])
        self._sums = np.frombuffer(sums, "<u4")

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] by their numbers.

        Raises:
          DamagedError: a row does not match its checksum; the file, a cache, is removed.
        """
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for position, number in enumerate(numbers.tolist()):
            data = self._bytes(self._offset + number * self._row_bytes, self._row_bytes)
            if len(data) != self._row_bytes or zlib.crc32(data) != self._sums[number]:
                fix = "so this cache file was removed: run the same command again to rebuild it"
                try:
                    self.remove()
                except OSError as error:
                    fix = f"and this cache file cannot be removed ({error.strerror}): delete it"
                raise DamagedError(f"{self.path}: row {number} is damaged, {fix}")
            rows[position] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
        return rows

    def remove(self) -> None:
        """Remove the file, which is a cache; the rows can no longer be read.

        Raises:
          OSError: it cannot be removed.
        """
        self._file.close()
        self.path.unlink(missing_ok=True)

    def update(self, digest: Any) -> None:
        """Hash the rows."""
        update_rows(self, digest)

    def matching(self, row: np.ndarray) -> np.ndarray:
        """Indices of the rows with the same checksum as `row`; no row is read."""
        data = np.ascontiguousarray(row, self.dtype).tobytes()
        return np.flatnonzero(self._sums == zlib.crc32(data))

    def _bytes(self, offset: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            parts, left = [], count
            while left > 0:
                part = self._file.read(left)
                if not part:
                    break
                parts.append(part)
                left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class RowWriter:
    """A file of rows that is being written; several threads may assign rows to it."""

    def __init__(self, file: io.BufferedRandom, shape: tuple[int, ...], dtype: Any, offset: int):
        self._file, self._shape, self._dtype, self._offset = file, shape, dtype, offset
        self._lock = threading.Lock()
        self.sums = np.zeros(shape[0], "<u4")
        self.written = np.zeros(shape[0], bool)

    def __setitem__(self, index: slice | int, rows: np.ndarray) -> None:
        numbers = np.atleast_1d(np.arange(self._shape[0])[index])
        rows = np.ascontiguousarray(rows, self._dtype).reshape(len(numbers), *self._shape[1:])
        size = _row_bytes(self._shape, self._dtype)
        for number, row in zip(numbers.tolist(), rows, strict=True):
            data = row.tobytes()
            with self._lock:
                self._file.seek(self._offset + number * size)
                self._file.write(data)
                self.sums[number] = zlib.crc32(data)
                self.written[number] = True


def write(path: Path, x: Rows) -> None:
    """Write rows to a file for `open_file`.

    Raises:
      OSError: the file cannot be written.
    """
    with create(path, tuple(x.shape), x.dtype) as file:
        for part in chunks(x):
            file[part] = x[part]


def open_file(path: Path, shape: tuple[int, ...], dtype: Any) -> FileRows | None:
    """The rows in a file; None if it is missing, truncated, or holds another array."""
    dtype = np.dtype(dtype)
    try:
        header = _header(shape, dtype)
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                return None
        size = len(header) + shape[0] * (_row_bytes(shape, dtype) + 4)
        return FileRows(path, shape, dtype, len(header)) if path.stat().st_size == size else None
    except OSError:
        return None


@contextlib.contextmanager
def create(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[RowWriter]:
    """Write rows to `path`, assigned in any order; the file gets its name when it is complete.

    The file is NumPy's .npy, followed by a CRC-32 for each row.

    Raises:
      ValueError: a row was not written.
      OSError: the file cannot be written.
    """
    dtype = np.dtype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            header = _header(shape, dtype)
            file.write(header)
            writer = RowWriter(file, shape, dtype, len(header))
            yield writer
            if not writer.written.all():
                raise ValueError(f"{path}: {(~writer.written).sum()} rows were not written")
            file.seek(0, io.SEEK_END)
            file.write(writer.sums.tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # for a full disk the system gives no name
        raise


# --- functions of any rows ----------------------------------------------------------------------


def chunks(x: Rows) -> Iterator[slice]:
    """All rows in order, a few megabytes at a time."""
    step = max(1, _CHUNK_BYTES // max(1, _row_bytes(x.shape, np.dtype(x.dtype))))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def nbytes(x: Rows) -> int:
    """Size of all rows in bytes."""
    return len(x) * _row_bytes(x.shape, np.dtype(x.dtype))


def fingerprint(x: Rows) -> str:
    """SHA-256 of what the rows depend on; for an array or a file, of the rows themselves."""
    digest = hashlib.sha256()
    _update(x, digest)
    return digest.hexdigest()


def _update(x: Rows, digest: Any) -> None:
    if isinstance(x, Lazy):
        x.update(digest)
    else:
        update_rows(x, digest)


def update_rows(x: Rows, digest: Any) -> None:
    """Hash the rows, a few megabytes at a time."""
    for part in chunks(x):
        digest.update(np.ascontiguousarray(x[part]))


def _row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape[1:]) * int(np.dtype(dtype).itemsize)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_2_0(file, described)
    return file.getvalue()
