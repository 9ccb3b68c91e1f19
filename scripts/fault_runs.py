"""The runs of `faults.py`: starting them, checking their logs and files, comparing their ends."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from sscjax.evaluation.predictions import Predictions

# What a run computes; run.json and report.txt contain the folder's name, the rest are pictures.
COMPARED = (
    *("predictions.csv", "metrics.json", "curves.csv", "splits.csv"),
    *("calibration.json", "outliers.npz"),
)

# The largest difference of probabilities and parameters whose sums were rounded otherwise.
TOLERANCE = 1e-4

PATIENCE = 300.0  # seconds after which a run that should have ended is a failure


class Broken(Exception):
    """A promise that was not kept."""


def start(
    flags: list[str], folder: Path, log_path: Path | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """The program, at work in `folder`; its messages go to `log_path`, else to `folder`.log.

    Further options are those of `subprocess.Popen`.
    """
    command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={folder}"]
    # The log of every start, one after the other, shows why a resumed run failed.
    with (log_path or log_of(folder)).open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, **options)


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is about to end."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Broken(f"still at work after {PATIENCE:.0f} s") from None


def log_of(run: Path) -> Path:
    """Where a run's log is: not on the small disk, which may be full."""
    folder = run.parent.parent if run.parent.name == "disk" else run.parent
    return folder / f"{run.name}.log"


def log_text(run: Path, since: int = 0) -> str:
    """What is in a run's log from a position on."""
    path = log_of(run)
    return path.read_text("utf-8", errors="replace")[since:] if path.is_file() else ""


def last_line(run: Path) -> str:
    """The last message of a run."""
    return ([""] + log_text(run).strip().splitlines())[-1][:300]


def check_log(run: Path, words: str, since: int = 0) -> None:
    """Raises `Broken` unless the log has these words, and no traceback through this package.

    Orbax's threads print stacks of their own where a write fails, around the line that counts.
    """
    text = log_text(run, since)
    _, *parts = text.split("Traceback (most recent call last):\n")
    for part in parts:
        stack = [*itertools.takewhile(lambda line: line.startswith(" "), part.splitlines())]
        if any(f"{os.sep}sscjax{os.sep}" in line for line in stack):
            raise Broken(f"a traceback: {' | '.join(stack)[-600:]}")
    if words not in text:
        raise Broken(f"expected {words!r}: {last_line(run)}")


# How files that were written completely end.
_ENDS: dict[str, Any] = {
    **dict.fromkeys((".csv", ".txt", ".md"), b"\n"),
    **{".html": (b"</html>", b"</html>\n"), ".png": b"IEND\xaeB`\x82"},
}


def check_files(run: Path) -> None:
    """Raises `Broken` where a file under a final name is half-written."""
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        # What Orbax writes is read back by the resumed run, and compared at its end.
        if not path.is_file() or {"checkpoints", "model"} & {*parts} or parts[-1].endswith(".tmp"):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".npz":
                np.load(path).close()
            elif not path.read_bytes().endswith(_ENDS.get(path.suffix, b"")):
                raise ValueError("its end is missing")
        except (ValueError, OSError) as error:
            raise Broken(f"{path.relative_to(run)} is half a file: {error}") from error


def progress(folder: Path) -> str:
    """How far a run is, for people."""
    stages = sorted(path.parent.name for path in folder.glob("stages/*/stage.json"))
    # What a kill left half-written has a longer name.
    steps = [int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit()]
    newest = max(steps, default="none")
    return f"stages finished: {', '.join(stages) or 'none'}; newest checkpoint {newest}"


def is_finished(run: Path) -> bool:
    """Whether the record of a run says that nothing is left to do."""
    record = run / "run.json"
    return record.is_file() and json.loads(record.read_text("utf-8"))["status"] == "finished"


# ---- comparing -----------------------------------------------------------------------------------


def compare(run: Path, other: Path) -> list[str]:
    """Names of what differs between two runs by a bit."""
    different = [
        name for name in COMPARED if (run / name).read_bytes() != (other / name).read_bytes()
    ]
    for name, expected, actual in _models(run, other):
        same = expected.keys() == actual.keys() and all(
            expected[key].tobytes() == actual[key].tobytes() for key in expected
        )
        if not same:
            different.append(name)
    return different


def largest_gap(run: Path, other: Path) -> float:
    """The largest difference of parameters, running averages and probabilities of two runs."""
    pairs = [
        (expected[key], actual[key])
        for _, expected, actual in _models(run, other)
        for key in expected
    ]
    for table in sorted(run.glob("stages/*/predictions.csv")):
        both = (table, other / table.relative_to(run))
        pairs.append(tuple(Predictions.read_csv(path).probabilities for path in both))  # type: ignore[arg-type]
    return max(float(np.abs(expected - actual).max()) for expected, actual in pairs)


def _models(
    run: Path, other: Path
) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Each stage's model: its name, and its arrays in both runs."""
    for model in sorted(run.glob("stages/*/model")):
        name = model.relative_to(run)
        yield str(name), arrays(model), arrays(other / name)


def arrays(model: Path) -> dict[str, np.ndarray]:
    """The arrays of a saved model by their paths, whatever its structure is."""
    with ocp.StandardCheckpointer() as reader:
        tree = traverse_util.flatten_dict(reader.restore(model.resolve()), sep="/")
    return {name: np.asarray(value) for name, value in tree.items()}
