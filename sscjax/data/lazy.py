"""Arrays that are read row by row: in memory, in a file, or made when they are read.

An image set, its augmented copies and the features of a network may each be larger than memory.
What works on them asks for some rows at a time, `x[numbers]`, and gets a NumPy array; a NumPy array
of everything is the simplest of such sources.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sscjax.errors import UserError

_CHUNK_BYTES = 2**24
"""Rows are gone through in chunks of about this size."""


class Rows(Protocol):
    """What a NumPy array [N,...] and the classes here have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N,...]."""

    @property
    def dtype(self) -> Any:
        """Of every row."""

    def __len__(self) -> int:
        """N."""

    def __iter__(self) -> Iterator[Any]:
        """Each row."""

    def __getitem__(self, index: Any) -> Any:
        """The rows that a number, a slice or an array of numbers or booleans names."""


Target = Any
"""What is filled by `target[slice] = rows` or `target[number] = row`."""

Keep = Callable[[tuple[int, ...], Any, Callable[[Target], None]], Rows]
"""f(shape, dtype, fill) -> rows: where an array is kept; `fill` is called with a target unless the
array is there already."""


class Lazy(abc.ABC):
    """Rows that are had by their numbers alone."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abc.abstractmethod
    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] by their numbers, [K] int64 from 0 to N-1."""

    @abc.abstractmethod
    def update(self, digest: Any) -> None:
        """Add what the rows depend on to a hash."""

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
        chosen = np.asarray(index)
        if chosen.ndim == 0:
            number = range(len(self))[operator.index(chosen)]
            return self.read(np.array([number]))[0]
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a choice of shape {chosen.shape} among {len(self)} rows")
            return self.read(np.flatnonzero(chosen))
        # As NumPy does: negative numbers count from the end, others must be there.
        return self.read(np.arange(len(self))[chosen])

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in chunks(self):
            yield from self[part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        if copy is False:
            raise ValueError("rows that are not in memory cannot be had without a copy")
        return np.asarray(self[:], dtype)


class View(Lazy):
    """Some rows of others, without a copy of them."""

    def __init__(self, base: Rows, numbers: np.ndarray):
        """`base` [N,...] and the numbers [K] of the rows wanted, in their order."""
        numbers = np.asarray(numbers, np.int64)
        self.base: Rows = base.base if isinstance(base, View) else base
        self.numbers: np.ndarray = base.numbers[numbers] if isinstance(base, View) else numbers
        self.shape = (len(numbers), *base.shape[1:])
        self.dtype = np.dtype(base.dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] by their numbers."""
        return self.base[self.numbers[numbers]]

    def update(self, digest: Any) -> None:
        """Add the rows themselves; of rows that would have to be made, what they depend on."""
        if isinstance(self.base, Joined):
            digest.update(self.numbers.astype("<i8").tobytes())
            self.base.update(digest)
        else:
            update_rows(self, digest)


class Joined(Lazy):
    """Several sources of equal rows, one behind the other."""

    def __init__(self, parts: Sequence[Rows]):
        """At least one source; all of one dtype and one shape of row."""
        kinds = {(part.shape[1:], np.dtype(part.dtype)) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"rows of one shape and dtype are expected, found {kinds}")
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = np.dtype(parts[0].dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,...] by their numbers."""
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._ends, numbers, side="right")
        for index, part in enumerate(self.parts):
            mine = np.flatnonzero(owner == index)
            if len(mine):
                found[mine] = part[numbers[mine] - (self._ends[index] - len(part))]
        return found

    def update(self, digest: Any) -> None:
        """Add each part."""
        for part in self.parts:
            _update(part, digest)


class Beside(Lazy):
    """Images [N,H,W,C] and their maps [N,H,W], a map as the last channel: [N,H,W,C+1]."""

    def __init__(self, images: Rows, maps: Rows):
        """Both of one dtype, as many, and as large."""
        if images.shape[:3] != maps.shape or np.dtype(images.dtype) != np.dtype(maps.dtype):
            raise ValueError(f"images {images.shape} and maps {maps.shape} do not fit")
        self._images, self._maps = images, maps
        self.shape = (*images.shape[:3], images.shape[3] + 1)
        self.dtype = np.dtype(images.dtype)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows [K,H,W,C+1] by their numbers."""
        return np.concatenate([self._images[numbers], self._maps[numbers][..., None]], axis=-1)

    def update(self, digest: Any) -> None:
        """Add both."""
        for part in (self._images, self._maps):
            _update(part, digest)


class DamagedError(UserError):
    """A row of a cache file is not what was written; the file is gone, and can be made anew."""


class FileRows(Lazy):
    """Rows of a file that `create` wrote; each is checked against its sum when it is read."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        """`open_file` is the way to call this."""
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
          DamagedError: a row is not what was written; the file is removed, for it is a cache.
        """
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, number in enumerate(numbers.tolist()):
            data = self._bytes(self._offset + number * self._row_bytes, self._row_bytes)
            if len(data) != self._row_bytes or zlib.crc32(data) != self._sums[number]:
                mend = (
                    "so this cache file was removed: give the same command again, and it is made "
                    "anew"
                )
                try:
                    self.remove()
                except OSError as error:
                    mend = f"and this cache file cannot be removed ({error.strerror}): delete it"
                raise DamagedError(f"{self.path}: row {number} is damaged, {mend}")
            found[place] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
        return found

    def remove(self) -> None:
        """Remove the file, which is a cache; the rows can no longer be read.

        Raises:
          OSError: it cannot be removed.
        """
        self._file.close()
        self.path.unlink(missing_ok=True)

    def update(self, digest: Any) -> None:
        """Add the rows themselves."""
        update_rows(self, digest)

    def like(self, row: np.ndarray) -> np.ndarray:
        """Numbers of the rows that have the checksum of this one, nothing read."""
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


class _Filling:
    """The target of a file that is being written; several threads may fill it."""

    def __init__(self, file: io.BufferedRandom, shape: tuple[int, ...], dtype: Any, offset: int):
        self._file, self._shape, self._dtype, self._offset = file, shape, dtype, offset
        self._lock = threading.Lock()
        self.sums = np.zeros(shape[0], "<u4")
        self.filled = np.zeros(shape[0], bool)

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
                self.filled[number] = True


def in_memory(shape: tuple[int, ...], dtype: Any, fill: Callable[[Target], None]) -> Rows:
    """A `Keep` that makes a NumPy array."""
    found = np.empty(shape, dtype)
    fill(found)
    return found


def in_file(path: Path) -> Keep:
    """A `Keep` that makes the file `path`, or takes it as it is where it holds such an array."""

    def keep(shape: tuple[int, ...], dtype: Any, fill: Callable[[Target], None]) -> Rows:
        found = open_file(path, shape, dtype)
        if found is None:
            with create(path, shape, dtype) as target:
                fill(target)
            found = open_file(path, shape, dtype)
            if found is None:
                raise UserError(f"{path}: is gone just after it was written; run again")
        return found

    return keep


def write(path: Path, x: Rows) -> None:
    """Write rows to a file for `open_file`.

    Raises:
      OSError: the file cannot be written.
    """
    with create(path, tuple(x.shape), x.dtype) as target:
        for part in chunks(x):
            target[part] = x[part]


def open_file(path: Path, shape: tuple[int, ...], dtype: Any) -> FileRows | None:
    """The rows in a file; None where it is missing, shortened, or holds another array."""
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
def create(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[_Filling]:
    """Write an array of rows to `path`: a target to fill in any order; named when it is whole.

    The file is NumPy's .npy, followed by a CRC-32 for each row.

    Raises:
      ValueError: a row was not filled.
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
            filling = _Filling(file, shape, dtype, len(header))
            yield filling
            if not filling.filled.all():
                raise ValueError(f"{path}: {(~filling.filled).sum()} rows were not filled")
            file.seek(0, io.SEEK_END)
            file.write(filling.sums.tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk the system says no name
        raise


def chunks(x: Rows) -> Iterator[slice]:
    """All rows in order, a few megabytes at a time."""
    step = max(1, _CHUNK_BYTES // max(1, _row_bytes(x.shape, np.dtype(x.dtype))))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def nbytes(x: Rows) -> int:
    """Bytes of all rows together."""
    return len(x) * _row_bytes(x.shape, np.dtype(x.dtype))


def fingerprint(x: Rows) -> str:
    """SHA-256 of what the rows depend on: of an array or a file, the rows themselves."""
    digest = hashlib.sha256()
    _update(x, digest)
    return digest.hexdigest()


def _update(x: Rows, digest: Any) -> None:
    if isinstance(x, Lazy):
        x.update(digest)
    else:
        update_rows(x, digest)


def update_rows(x: Rows, digest: Any) -> None:
    """Add the rows themselves to a hash, a few at a time."""
    for part in chunks(x):
        digest.update(np.ascontiguousarray(x[part]))


def _row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape[1:]) * int(np.dtype(dtype).itemsize)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_2_0(file, described)
    return file.getvalue()
