"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscjax.system import files


def names(folder: Path) -> list[str]:
    """All entries, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_write_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "data.bin"
    files.write_bytes(path, b"\x00\r\n\xff")
    assert path.read_bytes() == b"\x00\r\n\xff"
    files.write_bytes(str(path), b"shorter")
    assert path.read_bytes() == b"shorter"
    assert names(path.parent) == ["data.bin"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX'")
def test_others_may_read(tmp_path: Path) -> None:
    """A temporary file is its owner's alone; the finished one must not be."""
    files.write_bytes(tmp_path / "a", b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_write_text_is_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "Größe\nκ\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\nκ\n".encode()


def test_long_name(tmp_path: Path) -> None:
    """As long as file systems allow (255 bytes): the temporary name must not be longer."""
    path = tmp_path / ("n" * 255)
    files.write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_write_json(tmp_path: Path) -> None:
    value = {"b": [1, 0.1, None, True], "a": "µm"}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.startswith('{\n  "b": [') and text.endswith('"a": "µm"\n}\n')


@pytest.mark.parametrize("value", (float("nan"), float("inf"), {"a": {1, 2}}))
def test_refused_json_leaves_the_old_file(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        files.write_json(path, {"new": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, b"old")
    with pytest.raises(TypeError):
        files.write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", (OSError(28, "No space left on device"), KeyboardInterrupt()))
def test_interrupted_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk shows when data is forced to it; an interrupt may come there as well."""
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def fail(handle: int) -> None:
        # The data is in the temporary file by now, under a name of its own.
        assert len(names(tmp_path)) == 2 and path.read_bytes() == b"old"
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_name_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    with pytest.raises(OSError):
        files.write_bytes(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["inner"]


def test_hash_of_arrays_sees_every_change() -> None:
    values = np.arange(6, dtype=np.float32)
    trees: list[list[tuple[str, np.ndarray]]] = [
        [("a", values)],
        [("b", values)],
        [("a", values.reshape(2, 3))],
        [("a", values.view(np.int32))],
        [("a", values + 1)],
        [("a", values), ("b", values)],
    ]
    hashes = [files.arrays_sha256(tree) for tree in trees]
    assert len(set(hashes)) == len(trees)
    # The layout in memory is no part of an array's value.
    transposed = np.asfortranarray(values.reshape(2, 3))
    assert files.arrays_sha256([("a", transposed)]) == hashes[2]
