"""A run's manifest: the SHA-256 of every image, and how it is read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.system import files, machine, run_dir

KEYS = ("weights", "config", "stages", "images", "sessions")
_IMAGE_KEYS = ("file", "label", "subject", "split", "of", "sha256")

# Images that are hashed at a time where pixels are.
_CHUNK = 256


def read(folder: Path) -> dict[str, Any]:
    """The manifest in a run's folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder / run_dir.MANIFEST
    try:
        manifest = files.read_json(path)
        if not all(key in manifest for key in KEYS) or not manifest["sessions"]:
            raise ValueError(f"expected {', '.join(KEYS)}")
        for row in manifest["images"]:
            if not all(isinstance(row[key], str) for key in _IMAGE_KEYS):
                raise ValueError(f"an image has no {', '.join(_IMAGE_KEYS)}: {row!r:.200}")
        return dict(manifest)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: expected the folder of a run; train it (again) to have one"
        ) from error
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): start that run again with --fresh"
        ) from error


# --- images ---------------------------------------------------------------------------------------


def image_rows(image_set: ImageSet, splits: np.ndarray, root: Path | None) -> list[dict[str, Any]]:
    """One entry per image: file, label, subject, split, of, sha256.

    `of` says what the hash is of: 'file', its bytes, or 'pixels' for images that are no files:
    those that are drawn, come from tensorflow-datasets, or are copies made before the split.

    Args:
      image_set: N images.
      splits: [N] str.
      root: folder that the names are relative to, if they are names of files.
    """
    names = image_set.files.tolist()
    paths = [root / path if root else None for path in image_set.paths]
    is_file = [path is not None and path.is_file() for path in paths]
    hashes: list[str] = [""] * len(names)
    chosen = [index for index, found in enumerate(is_file) if found]
    for index, value in zip(chosen, hash_files([paths[i] for i in chosen]), strict=True):
        hashes[index] = value
    drawn = np.flatnonzero(~np.array(is_file, dtype=bool))
    for start in range(0, len(drawn), _CHUNK):
        indices = drawn[start : start + _CHUNK]
        for index, pixels in zip(indices.tolist(), image_set.images[indices], strict=True):
            hashes[index] = _pixels_sha256(pixels)
    labels = [image_set.classes[label] for label in image_set.labels.tolist()]
    columns = (names, labels, image_set.subjects.tolist(), splits.tolist(), is_file, hashes)
    return [
        {
            "file": name,
            "label": label,
            "subject": subject,
            "split": split,
            "of": "file" if found else "pixels",
            "sha256": value,
        }
        for name, label, subject, split, found, value in zip(*columns, strict=True)
    ]


def hash_files(paths: list[Any]) -> Iterator[str]:
    """SHA-256 of each file, in order. Hashing lets other threads run, and reads piece by piece."""
    with ThreadPoolExecutor(max_workers=machine.processors()) as pool:
        yield from pool.map(files.sha256, paths)


def _pixels_sha256(pixels: np.ndarray) -> str:
    """Of the shape as text, then of the bytes row by row."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def digest(rows: list[dict[str, Any]]) -> str:
    """One hash of all entries, whatever their order: short enough to be printed in a paper."""
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
