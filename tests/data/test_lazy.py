"""Rows in memory, in files and made on demand: always what NumPy gives for the whole array."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscjax.data import lazy
from sscjax.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 256, (23, 5, 3), np.uint8)

INDICES: tuple[Any, ...] = (
    0,
    -1,
    np.int32(7),
    slice(None),
    slice(3, 20, 4),
    slice(50, 60),
    np.array([4, 4, 22, 0]),
    np.array([-1, -23]),
    [2, 1],
    ARRAY[:, 0, 0] > 100,
)


def in_file(tmp_path: Path, array: np.ndarray = ARRAY) -> lazy.FileRows:
    lazy.write(tmp_path / "array.npy", array)
    found = lazy.open_file(tmp_path / "array.npy", array.shape, array.dtype)
    assert found is not None
    return found


def sources(tmp_path: Path) -> dict[str, tuple[lazy.Rows, np.ndarray]]:
    """Each kind of rows, and the array that it stands for."""
    file = in_file(tmp_path)
    order = np.random.default_rng(1).permutation(23)
    twice = lazy.View(lazy.View(file, order), np.arange(22, -1, -1))
    joined = lazy.Joined([file, lazy.View(ARRAY, order[:6]), ARRAY[:0], ARRAY])
    assert twice.base is file
    return {
        "file": (file, ARRAY),
        "view": (lazy.View(ARRAY, order), ARRAY[order]),
        "view of a view": (twice, ARRAY[order][::-1]),
        "joined": (joined, np.concatenate([ARRAY, ARRAY[order[:6]], ARRAY])),
    }


@pytest.mark.parametrize("kind", ("file", "view", "view of a view", "joined"))
def test_indexing_is_numpys(tmp_path: Path, kind: str) -> None:
    found, array = sources(tmp_path)[kind]
    assert len(found) == len(array) and found.shape == array.shape and found.dtype == array.dtype
    for index in INDICES:
        if isinstance(index, np.ndarray) and index.dtype == bool and len(index) != len(array):
            continue
        np.testing.assert_array_equal(found[index], array[index])
    np.testing.assert_array_equal(np.asarray(found), array)
    np.testing.assert_array_equal(list(found), array)
    assert lazy.nbytes(found) == array.nbytes
    for wrong in (len(array), np.array([0, len(array)]), np.ones(3, bool)):
        with pytest.raises(IndexError):
            found[wrong]


def test_fingerprints_are_of_the_rows(tmp_path: Path) -> None:
    found, array = sources(tmp_path)["view of a view"]
    assert lazy.fingerprint(found) == hashlib.sha256(array.tobytes()).hexdigest()
    assert lazy.fingerprint(in_file(tmp_path)) == lazy.fingerprint(ARRAY)


def test_chunks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_CHUNK_BYTES", 4 * 15)
    assert [part.stop - part.start for part in lazy.chunks(ARRAY)] == [4, 4, 4, 4, 4, 3]
    assert lazy.fingerprint(ARRAY) == hashlib.sha256(ARRAY.tobytes()).hexdigest()


def test_a_file_is_numpys_own_with_sums_behind(tmp_path: Path) -> None:
    path = in_file(tmp_path).path
    np.testing.assert_array_equal(np.load(path), ARRAY)


def test_threads_write_a_file_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "array.npy"
    large = np.random.default_rng(2).normal(size=(200, 50)).astype(np.float32)
    with lazy.create(path, large.shape, np.float32) as file, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: file.__setitem__(k, large[k]), reversed(range(200))))
    written = lazy.open_file(path, large.shape, np.float32)
    assert written is not None
    np.testing.assert_array_equal(written[:], large)


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    with pytest.raises(ZeroDivisionError), lazy.create(path, ARRAY.shape, np.uint8) as file:
        file[:5] = ARRAY[:5]
        assert not path.exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(ValueError, match="3 rows were not written"),
        lazy.create(path, ARRAY.shape, np.uint8) as file,
    ):
        file[3:] = ARRAY[3:]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ("shape", "dtype", "shorter", "longer", "empty", "missing"))
def test_another_file_is_not_opened(tmp_path: Path, damage: str) -> None:
    path = in_file(tmp_path).path
    shape: tuple[int, ...] = ARRAY.shape
    dtype: type = np.uint8
    match damage:
        case "shape":
            shape = (23, 3, 5)
        case "dtype":
            dtype = np.int8
        case "shorter":
            path.write_bytes(path.read_bytes()[:-1])
        case "longer":
            path.write_bytes(path.read_bytes() + b"0")
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
    assert lazy.open_file(path, shape, dtype) is None


def test_a_flipped_bit_is_found_when_its_row_is_read(tmp_path: Path) -> None:
    path = in_file(tmp_path).path
    data = bytearray(path.read_bytes())
    data[-23 * 4 - 23 * 15 + 10 * 15] ^= 1  # in row 10
    path.write_bytes(data)
    found = lazy.open_file(path, ARRAY.shape, np.uint8)
    assert found is not None
    np.testing.assert_array_equal(found[:10], ARRAY[:10])
    with pytest.raises(UserError, match="row 10 is damaged.* run the same command again"):
        found[9:12]
    assert not path.exists()
