"""A run's manifest: every image, the weights, and of each session the code and the machine.

`run.json` says whether a run may go on; the manifest says, years later, what it was made of, image
by image, so that `sscjax.reproduce` can name what has changed since.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sscjax
from sscjax import files, machine
from sscjax.data import anonymous
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError

FILE = "manifest.json"
KEYS = ("weights", "config", "stages", "images", "sessions")
_IMAGE_KEYS = ("file", "label", "subject", "split", "of", "sha256")

PACKAGE = Path(__file__).resolve().parent

# What changes how XLA compiles or on how many threads it computes, and so the last bits.
VARIABLES = (
    *("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION"),
    *("NPROC", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)

# Images that are hashed at a time where pixels are.
_CHUNK = 256


# --- a run's --------------------------------------------------------------------------------------


def begin(
    folder: Path,
    config: ConfigDict,
    record: Mapping[str, Any],
    weights_name: str,
    originals: ImageSet,
    splits: np.ndarray,
) -> dict[str, Any]:
    """Write the manifest of a run that begins or goes on, before it trains; see `end`.

    Args:
      folder: the run's.
      config: the run's.
      record: what `record.make` returns.
      weights_name: of the weights' file, or why they are random.
      originals: N images, as they are split and evaluated.
      splits: [N] str.
    """
    earlier = read(folder) if (folder / FILE).is_file() else None
    images = image_rows(originals, splits, root_of(config))
    manifest = {
        "sessions": earlier["sessions"] if earlier else [],
        "seed": int(config.seed),
        "split_seed": int(config.seed if config.split.seed < 0 else config.split.seed),
        "weights": {**record["weights"], "name": weights_name},
        "config": record["config"],
        "stages": record["stages"],
        "images_sha256": _digest(images),
        "images": images,
    }
    # A run that was gone on with on another day may have met other code or another machine.
    session = {
        "command": shlex.join(_words(config)),
        "started": _now(),
        "finished": None,
        "code": code(),
        "environment": environment(),
    }
    manifest["sessions"].append(session)
    files.write_json(folder / FILE, manifest)
    return manifest


def _words(config: ConfigDict) -> list[str]:
    """This process's command; of a private run without the images' place."""
    return anonymous.command(sys.orig_argv, config.data.path if config.get("private") else "")


def end(folder: Path, manifest: dict[str, Any]) -> None:
    """Write when the run that `begin` wrote of was finished."""
    manifest["sessions"][-1]["finished"] = _now()
    files.write_json(folder / FILE, manifest)


def read(folder: Path) -> dict[str, Any]:
    """The manifest in a run's folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder / FILE
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
        raise UserError(f"{path} is damaged ({error}): start that run anew with --fresh") from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# --- images ---------------------------------------------------------------------------------------


def root_of(config: ConfigDict) -> Path | None:
    """The folder that the names of a config's images are relative to; None for other sources."""
    if not config.data.path:
        return None
    path = Path(config.data.path).expanduser()
    return path.parent if path.is_file() else path


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


def _digest(rows: list[dict[str, Any]]) -> str:
    """One hash of all entries, whatever their order: short enough to be printed in a paper."""
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- code and machine -----------------------------------------------------------------------------


def code() -> dict[str, Any]:
    """The package's version, the hash of its sources, and the commit of a clone."""
    commit = dirty = None
    # Nothing of a user's own repository that the package happens to be installed in.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is not None:
        commit = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain", "--", ".")
        dirty = None if status is None else bool(status)
    return {
        "version": sscjax.__version__,
        "source_sha256": machine.source_sha256(PACKAGE),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _git(*arguments: str) -> str | None:
    """What git says of the package's folder; None without git or outside a repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment() -> dict[str, Any]:
    """What else the last bits of a result may depend on."""
    device = jax.devices()[0]
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": machine.processor(),
        "threads": machine.processors(),
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {name: _version(name) for name in sorted({*_dependencies(), "jaxlib"})},
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def _dependencies() -> list[str]:
    """The direct dependencies, by the clone's pyproject.toml or by the installed package."""
    path = PACKAGE.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    if project.get("name") == "sscjax":
        lines = project["dependencies"]
    else:
        try:
            lines = importlib.metadata.requires("sscjax") or []
        except importlib.metadata.PackageNotFoundError:
            lines = []  # sources that were put somewhere by hand
    wanted = [line for line in lines if "extra ==" not in line]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
