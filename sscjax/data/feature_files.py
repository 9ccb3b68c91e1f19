"""Features that another program computed, read from a file and joined to images by their names.

Rows are never matched by their order alone: a file whose rows stand in another order than the
images would give plausible figures that are wrong.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sscjax.data import names, tables
from sscjax.errors import UserError
from sscjax.system.files import read_npz

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".csv", ".tsv", ".xlsx", ".parquet")

# What programs call features and names in .npz and .h5 files; STAMP's are 'feats'.
_FEATURES = ("features", "feats", "embeddings", "x")
_NAMES = ("files", "file", "names", "name", "images", "filenames", "image")

_MOST_BYTES = 16 * 2**30  # of an array that is read into memory


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """Features by the names of images.

    Attributes:
      files: [M] names as the file has them.
      features: [M,D] float32.
    """

    files: Sequence[str]
    features: np.ndarray


def read(path: Path) -> Named:
    """Read features and the names of the images that they are of.

    Args:
      path: `.npz` or `.h5` with arrays `features` [M,D] and `files` [M]; a table (.csv, .tsv,
        .xlsx, .parquet) with a column of names, whose other columns are numbers; or `.npy` [M,D]
        beside a `.txt` of the same name with a file name in each line; or a folder with a file
        `SLIDE.h5` for each slide, as TRIDENT, CLAM and STAMP write them: its row is the mean of
        its tiles' features, and its name the file's.

    Raises:
      UserError: not readable, no names, rows that do not fit, or values that are not finite.

    Example:
      >>> read(Path("features.npz")).features.shape  # doctest: +SKIP
      (1501, 384)
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _checked(path, _slides(path))
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected a file of features ({_known()})")
    if suffix == ".npy":
        named = Named(_lines(path.with_suffix(".txt"), path), _load(path))
    elif suffix == ".npz":
        named = _from_arrays(path, _npz(path))
    elif suffix in (".h5", ".hdf5"):
        named = _from_arrays(path, _hdf5(path))
    elif suffix == ".parquet":
        named = _from_parquet(path)
    elif suffix in SUFFIXES:
        named = _from_table(path)
    else:
        raise UserError(f"{path} ends in {path.suffix!r}: expected a file of features ({_known()})")
    return _checked(path, named)


def join(path: Path, named: Named, files: Sequence[str]) -> np.ndarray:
    """The features of images, in their order: [N,D] float32.

    Names match as they are, else without their folders where that is unique, else without the
    suffix, too.

    Args:
      path: of the features, for messages.
      named: what `read` gave.
      files: names of the N images.

    Raises:
      UserError: an image has no features, or several.
    """
    for shorten in (_whole, _base, _stem):
        wanted = [shorten(file) for file in files]
        rows: dict[str, int] = {}
        twice = ""
        for row, file in enumerate(named.files):
            key = shorten(file)
            twice = file if key in rows else twice
            rows[key] = row
        missing = [file for file, key in zip(files, wanted, strict=True) if key not in rows]
        if missing and shorten is not _stem:
            continue
        if missing:
            raise UserError(
                f"{path} has no features of {len(missing)} of {len(files)} images, such as "
                f"{missing[0]}: expected a row for each; its names are like {named.files[0]}"
            )
        if twice or len(set(wanted)) < len(wanted):
            raise UserError(
                f"{path}: the name {twice or files[0]} stands for several rows or images: give "
                "names with their folders, as in the set of images"
            )
        return named.features[[rows[key] for key in wanted]]
    raise AssertionError("unreachable: the last way to shorten raises or returns")


def _whole(file: str) -> str:
    return names.normal(file.replace("\\", "/"))


def _base(file: str) -> str:
    return PurePosixPath(_whole(file)).name


def _stem(file: str) -> str:
    return PurePosixPath(_whole(file)).stem


def _known() -> str:
    return ", ".join(SUFFIXES)


def _checked(path: Path, named: Named) -> Named:
    features = named.features
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]
    if features.ndim != 2 or not features.size:
        raise UserError(
            f"{path}: features have shape {features.shape}, expected [images, features]"
        )
    if not np.issubdtype(features.dtype, np.number):
        raise UserError(f"{path}: features are {features.dtype}, expected numbers")
    if len(named.files) != len(features):
        raise UserError(
            f"{path}: {len(features)} rows of features and {len(named.files)} names, expected as "
            "many"
        )
    with np.errstate(over="ignore"):
        features = np.asarray(features, np.float32)
    wrong = ~np.isfinite(features).all(axis=1)
    if wrong.any():
        first = named.files[int(np.argmax(wrong))]
        raise UserError(
            f"{path}: {int(wrong.sum())} rows have values that are not finite, the first is "
            f"{first}: compute these features again"
        )
    return Named([str(file) for file in named.files], features)


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable .npy file ({error})") from error


def _lines(path: Path, of: Path) -> list[str]:
    if not path.is_file():
        raise UserError(
            f"{of} has no names: expected {path.name} beside it, with the file name of each row in "
            "its line, or a .npz file with arrays 'features' and 'files'"
        )
    return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]


def _npz(path: Path) -> dict[str, Any]:
    try:
        return dict(read_npz(path, most=_MOST_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from error


def _hdf5(path: Path) -> dict[str, Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            known = {*_FEATURES, *_NAMES}
            found = {name: file[name] for name in file if name.lower() in known}
            arrays = {
                name: item[()] for name, item in found.items() if isinstance(item, h5py.Dataset)
            }
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error})") from error
    return arrays


# Tiles of a slide that are read at a time.
_TILES = 65536


def _slides(folder: Path) -> Named:
    """The mean of the tiles of each slide [S,D]; a slide's own features [D] as they are.

    TRIDENT and CLAM call them 'features', STAMP 'feats'; coordinates lie beside and are not used.
    """
    found: dict[str, np.ndarray] = {}
    for path in sorted((*folder.glob("*.h5"), *folder.glob("*.hdf5"))):
        found[path.name] = _mean_of_tiles(path)
    if not found:
        raise UserError(
            f"{folder} holds no .h5 files: expected a file SLIDE.h5 for each slide, as TRIDENT, "
            "CLAM and STAMP write them"
        )
    widths = {len(row) for row in found.values()}
    if len(widths) > 1:
        raise UserError(
            f"{folder}: its slides have {' and '.join(map(str, sorted(widths)))} features: "
            "expected those of one encoder"
        )
    return Named(list(found), np.stack(list(found.values())))


def _mean_of_tiles(path: Path) -> np.ndarray:
    """[D] float64."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            by_name = {name.lower(): file[name] for name in file}
            data = next((by_name[name] for name in _FEATURES if name in by_name), None)
            if not isinstance(data, h5py.Dataset):
                raise UserError(
                    f"{path} holds {', '.join(sorted(by_name)) or 'nothing'}: expected 'features' "
                    "(TRIDENT, CLAM) or 'feats' (STAMP) of a slide's tiles"
                )
            shape = data.shape[1:] if data.ndim == 3 and data.shape[0] == 1 else data.shape
            if not 1 <= len(shape) <= 2 or 0 in shape:
                raise UserError(
                    f"{path}: features have shape {data.shape}, expected [tiles, features]"
                )
            rows = data[0] if data.ndim == 3 else data
            if len(shape) == 1:
                return np.asarray(rows[()], np.float64)
            total = np.zeros(shape[1])
            for start in range(0, shape[0], _TILES):
                total += np.asarray(rows[start : start + _TILES], np.float64).sum(axis=0)
            return total / shape[0]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error})") from error


def _from_arrays(path: Path, arrays: dict[str, Any]) -> Named:
    by_name = {name.lower(): array for name, array in arrays.items()}
    features = next((by_name[name] for name in _FEATURES if name in by_name), None)
    files = next((by_name[name] for name in _NAMES if name in by_name), None)
    if features is None or files is None:
        lacking = "features" if features is None else "files (the name of each row's image)"
        raise UserError(
            f"{path} holds {', '.join(sorted(arrays)) or 'no arrays'}: expected 'features' and "
            f"'files', and there is no {lacking}"
        )
    texts = [f.decode("utf-8", "replace") if isinstance(f, bytes) else str(f) for f in files]
    return Named(texts, np.asarray(features))


def _from_table(path: Path) -> Named:
    table = tables.read(path)
    if table.damage:
        raise UserError(table.damage)
    columns = list(zip(*(cells for _, cells in table.rows), strict=True))
    return _split_columns(path, table.header, [list(column) for column in columns])


def _from_parquet(path: Path) -> Named:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"{path}: reading .parquet needs pyarrow, which is not installed; pip install pyarrow, "
            "or save the table as .csv"
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable .parquet file ({error})") from error
    columns = [
        [str(cell) for cell in table.column(name).to_pylist()] for name in table.column_names
    ]
    return _split_columns(path, list(table.column_names), columns)


def _split_columns(path: Path, header: Sequence[str], columns: list[list[str]]) -> Named:
    """The one column of names, and the columns of numbers."""
    numbers: list[np.ndarray] = []
    texts: list[tuple[str, list[str]]] = []
    for name, column in zip(header, columns, strict=True):
        try:
            numbers.append(np.array(column, np.float64))
        except ValueError:
            texts.append((name, column))
    named = [column for name, column in texts if name.strip().lower() in _NAMES] or [
        column for _, column in texts
    ]
    if len(named) != 1 or not numbers:
        shown = ", ".join(name for name, _ in texts) or "none"
        raise UserError(
            f"{path}: expected a column 'file' with the names of images and columns of numbers; "
            f"its columns of text are {shown}"
        )
    return Named(named[0], np.stack(numbers, axis=1))
