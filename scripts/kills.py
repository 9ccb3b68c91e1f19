"""Kill a training run at random moments, go on each time, and compare the end to the bit.

    python scripts/kills.py --kills=20 [--seed=0] [-- FLAGS OF sscjax.main]

An undisturbed run comes first; it also sets the time within which the kills fall. The second run
gets SIGKILL (on Windows: TerminateProcess) after a random time, again and again, and is then left
to end. Parameters, predictions, curves and figures of both must be the same files bit for bit.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from sscjax.evaluation.predictions import Predictions

# What a run computes; run.json and report.txt hold the folder's name, the rest is pictures.
COMPARED = (
    *("predictions.csv", "metrics.json", "curves.csv", "splits.csv"),
    *("calibration.json", "outliers.npz"),
)


def main() -> int:
    """Run, kill, compare; 0 if all is identical."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="of sscjax.main, after --")
    args = parser.parse_args()
    flags = args.flags or ["--config=configs/smoke.py", "--config.checkpoint.every_seconds=0"]
    with tempfile.TemporaryDirectory() as folder:
        whole, torn = Path(folder) / "whole", Path(folder) / "torn"
        # Twice, so that the time is that of a start with compiled programs.
        start(flags, Path(folder) / "first").wait()
        started = time.monotonic()
        if start(flags, whole).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        kills = _kill_often(flags, torn, args.kills, seconds, random.Random(args.seed))
        different = compare(whole, torn)
    for name in different:
        print(f"DIFFERENT: {name}")
    print(f"{kills} kills, {'identical to the bit' if not different else 'NOT identical'}")
    return 1 if different else 0


def start(
    flags: list[str],
    folder: Path,
    log_to: Path | None = None,
    **how: Any,
) -> subprocess.Popen[bytes]:
    """The program, at work in `folder`; what it says goes to `log_to`, else to `folder`.log.

    `how` it is started is the matter of `subprocess.Popen`.
    """
    command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={folder}"]
    # The log of every start, one after the other, tells why a resumed run failed.
    with (log_to or folder.with_suffix(".log")).open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, **how)


def _kill_often(
    flags: list[str], folder: Path, wanted: int, seconds: float, rng: random.Random
) -> int:
    """Kill until `wanted` kills have struck a living run; a run that ends is begun anew."""
    kills = ended = 0
    while kills < wanted:
        process = start(flags, folder)
        moment = rng.uniform(0.05, 1.0) * seconds
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            print(f"kill {kills:2d} after {moment:5.1f} s: {state(folder)}", flush=True)
            continue
        if process.returncode != 0:
            log = folder.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
            raise SystemExit(f"a resumed run failed with code {process.returncode}: {log[-500:]}")
        ended += 1
        finished = folder.with_name(f"{folder.name}-{ended}")
        print(f"the run ended after {kills} kills; a new one begins", flush=True)
        folder.rename(finished)
        if different := compare(folder.with_name("whole"), finished):
            raise SystemExit(f"NOT identical: {', '.join(different)}")
    if start(flags, folder).wait() != 0:
        raise SystemExit("the last resumed run failed")
    return kills


def state(folder: Path) -> str:
    """How far a run is, for people."""
    done = sorted(path.parent.name for path in folder.glob("stages/*/stage.json"))
    # What a kill left half-written has a longer name.
    names = [path.name for path in folder.glob("checkpoints/*")]
    steps = sorted(int(name) for name in names if name.isdigit())
    return f"stages finished: {', '.join(done) or 'none'}; newest checkpoint {steps[-1:] or 'none'}"


def compare(one: Path, other: Path) -> list[str]:
    """Names of what differs between two runs."""
    different = [
        name for name in COMPARED if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    for model in sorted(one.glob("stages/*/model")):
        name = model.relative_to(one)
        left, right = _arrays(model), _arrays(other / name)
        same = left.keys() == right.keys() and all(
            left[key].tobytes() == right[key].tobytes() for key in left
        )
        if not same:
            different.append(str(name))
    return different


def largest_gap(one: Path, other: Path) -> float:
    """By how much parameters and running averages of two runs, and their probabilities, differ."""
    gaps = [0.0]
    for model in sorted(one.glob("stages/*/model")):
        left, right = _arrays(model), _arrays(other / model.relative_to(one))
        gaps += [float(np.abs(left[key] - right[key]).max()) for key in left]
    for table in sorted(one.glob("stages/*/predictions.csv")):
        left_table, right_table = (
            Predictions.read_csv(path).probabilities
            for path in (table, other / table.relative_to(one))
        )
        gaps.append(float(np.abs(left_table - right_table).max()))
    return max(gaps)


def _arrays(model: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def walk(tree: object, prefix: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{prefix}/{key}")
        else:
            found[prefix] = np.asarray(tree)

    with ocp.StandardCheckpointer() as reader:
        walk(reader.restore(model.resolve()), "")
    return found


if __name__ == "__main__":
    sys.exit(main())
