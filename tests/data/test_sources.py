"""Keys of sources: they change with all that the images depend on, and with nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from image_folders import small_folder, small_manifest, write_images

from sscjax.data import image_folder, image_io, masks, sources, synthetic_canvas, synthetic_tissue
from sscjax.data.synthetic import SkinBiopsies

SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "data")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return small_manifest(tmp_path / "listed")


def test_same_folder_has_same_key_also_elsewhere(folder: Path, tmp_path: Path) -> None:
    key = sources.from_path(folder, SIZE).key
    assert sources.from_path(folder, SIZE).key == key
    shutil.move(folder, tmp_path / "moved")
    assert sources.from_path(tmp_path / "moved", SIZE).key == key


@pytest.mark.parametrize("change", ["add", "remove", "rename", "size", "touch", "subject"])
def test_changed_folder_has_another_key(folder: Path, change: str) -> None:
    key = sources.from_path(folder, SIZE).key
    image = folder / "b_late" / "s0" / "0.png"
    match change:
        case "add":
            write_images(folder, ["b_late/s0/new.png"])
        case "remove":
            image.unlink()
        case "rename":
            image.rename(image.with_name("00.png"))
        case "size":
            status = image.stat()
            image.write_bytes(image.read_bytes() + b"\0")
            os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "touch":
            os.utime(image, ns=(0, image.stat().st_mtime_ns + 1_000_000_000))
        case "subject":
            image.rename(folder / "b_late" / "s1" / "0.png")
    assert sources.from_path(folder, SIZE).key != key


def test_arguments_count(folder: Path) -> None:
    order = ("b_late", "a_early")
    keys = {
        sources.from_path(folder, SIZE).key,
        sources.from_path(folder, SIZE + 1).key,
        sources.from_path(folder, SIZE, order).key,
    }
    assert len(keys) == 3


def test_manifest_columns_count(manifest: Path) -> None:
    path = manifest / "manifest.csv"
    keys = {sources.from_path(manifest, SIZE).key}
    text = path.read_text(encoding="utf-8")
    for old, new in (("p2", "p9"), ("mild", "none"), (",val", ",test")):
        path.write_text(text.replace(old, new), encoding="utf-8")
        keys.add(sources.from_path(manifest, SIZE).key)
    assert len(keys) == 4


def test_synthetic_arguments_count() -> None:
    tiles, subjects = {"normal": 3, "early": 2}, {"normal": 2, "early": 1}

    def key(seed: int = 0, extra: int = 0, size: int = 32) -> str:
        return SkinBiopsies(
            image_size=size, seed=seed, tiles=tiles | {"early": 2 + extra}, subjects=subjects
        ).key

    assert len({key(), key(seed=1), key(extra=1), key(size=33)}) == 4


@pytest.mark.parametrize(
    ("changed", "of_folder", "of_drawn"),
    (
        (image_io, True, False),
        (masks, True, False),
        (synthetic_tissue, False, True),
        (synthetic_canvas, False, True),
        (image_folder, False, False),
    ),
)
def test_only_the_modules_that_decide_the_pixels_count(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: ModuleType,
    of_folder: bool,
    of_drawn: bool,
) -> None:
    def keys() -> tuple[str, str]:
        return sources.from_path(folder, SIZE).key, SkinBiopsies(image_size=32).key

    before = keys()
    copy = tmp_path / Path(str(changed.__file__)).name
    copy.write_bytes(Path(str(changed.__file__)).read_bytes() + b"# another version\n")
    monkeypatch.setattr(changed, "__file__", str(copy))
    differs = tuple(old != new for old, new in zip(before, keys(), strict=True))
    assert differs == (of_folder, of_drawn)
