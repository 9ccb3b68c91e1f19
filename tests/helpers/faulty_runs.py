"""Runs that are disturbed, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from small_runs import small_config

from sscjax.experiments import single_run
from sscjax.system import locks

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import fault_runs  # noqa: E402


def numbers(folder: Path) -> list[int]:
    """Numbers of the checkpoints in a run's folder."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def assert_complete(folder: Path) -> None:
    """No file with a final name is incomplete."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            assert arrays.files
    for path in folder.rglob("*.csv"):
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n") and len({line.count(",") for line in text.splitlines()}) == 1


def assert_ends_alike(folder: Path, undisturbed: Path) -> None:
    """The same command again ends with the same bits as an undisturbed run."""
    assert_complete(folder)
    single_run.run(small_config(), folder)
    assert_complete(folder)
    assert fault_runs.compare(undisturbed, folder) == []
    assert not [path for path in folder.glob("**/.*.tmp") if path.name != locks.NAME]
    assert not (folder / locks.NAME).exists()


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process and wait until it prints 'ready'; `resume` lets it continue."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def resume(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.close()
