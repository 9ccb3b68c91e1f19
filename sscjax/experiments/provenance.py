"""A run's manifest: every image, the weights, and of each session the code and the machine.

`run.json` says whether a run may be resumed; the manifest says, years later, what it was made of,
image by image, so that `sscjax reproduce` can name what has changed since.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sscjax
from sscjax.data import anonymize
from sscjax.data.dataset import ImageSet
from sscjax.data.manifest import digest, image_rows, read
from sscjax.system import files, machine, run_dir
from sscjax.training.settings import Settings

PACKAGE = Path(__file__).resolve().parent.parent

# What changes how XLA compiles or on how many threads it computes, and so the last bits.
VARIABLES = (
    *("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION"),
    *("NPROC", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)


# --- a run's --------------------------------------------------------------------------------------


def begin(
    folder: Path,
    settings: Settings,
    record: Mapping[str, Any],
    weights_name: str,
    originals: ImageSet,
    splits: np.ndarray,
) -> dict[str, Any]:
    """Write the manifest of a run that starts or resumes, before it trains; see `end`.

    Args:
      folder: the run's.
      settings: the run's.
      record: what `run_record.make` returns.
      weights_name: of the weights' file, or why they are random.
      originals: N images, as they are split and evaluated.
      splits: [N] str.
    """
    earlier = read(folder) if (folder / run_dir.MANIFEST).is_file() else None
    images = image_rows(originals, splits, settings.data.root)
    manifest = {
        "sessions": earlier["sessions"] if earlier else [],
        "seed": settings.seed,
        "split_seed": settings.split_seed,
        "weights": {**record["weights"], "name": weights_name},
        "config": record["config"],
        "stages": record["stages"],
        "images_sha256": digest(images),
        "images": images,
    }
    # A run that was resumed on another day may have met other code or another machine.
    session = {
        "command": shlex.join(_words(settings)),
        "started": _now(),
        "finished": None,
        "code": code(),
        "environment": environment(),
    }
    manifest["sessions"].append(session)
    files.write_json(folder / run_dir.MANIFEST, manifest)
    return manifest


def _words(settings: Settings) -> list[str]:
    """This process's command; of a private run without the images' place."""
    return anonymize.command(sys.orig_argv, settings.data.path if settings.private else "")


def end(folder: Path, manifest: dict[str, Any]) -> None:
    """Write when the run that `begin` wrote of was finished."""
    manifest["sessions"][-1]["finished"] = _now()
    files.write_json(folder / run_dir.MANIFEST, manifest)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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
