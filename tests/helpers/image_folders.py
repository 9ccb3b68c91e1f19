"""Folders of small images with random pixels, for tests of loading."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscjax.errors import UserError


def write_image(path: Path, value: int = 0) -> None:
    """A 20x24 image whose pixels depend on `value`."""
    pixels = np.random.default_rng(value).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(folder: Path, *files: str) -> Path:
    for value, file in enumerate(files):
        write_image(folder / file, value)
    return folder


def write_manifest(folder: Path, *rows: str, header: str = "file,label,subject") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def refused(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def write_images(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / name)


def small_folder(path: Path) -> Path:
    """Eleven images of two classes in subject folders, some of them with names not in ASCII."""
    write_images(path, [f"b_late/s{i % 3}/{i}.png" for i in range(6)])
    write_images(path, [f"a_early/s{3 + i % 2}/größe {i}.jpg" for i in range(5)])
    return path


def small_manifest(path: Path) -> Path:
    """Twelve images with subjects and prescribed splits, not in the order of their names."""
    names = [f"{i}.png" for i in range(12)]
    write_images(path, names)
    with (path / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "subject", "split"])
        for i, name in reversed(list(enumerate(names))):
            split = ("train", "val", "test")[i // 4]
            rows.writerow([name, ("mild", "severe")[i % 2], f"p{i // 4}", split])
    return path
