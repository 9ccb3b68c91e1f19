"""What the faults of faults.py happen to: a run in a folder, its undisturbed twin, and its log."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kills
import numpy as np

SAME = 1e-4  # by which probabilities and parameters differ that were rounded otherwise

TRIES = 5  # moments, until one finds something to strike

PATIENCE = 300.0  # seconds after which a run that should have ended is a failure


class Broken(Exception):
    """A promise that was not kept."""


class Missed(Exception):
    """The moment was one at which there was nothing to strike: no promise was put to the test."""


@dataclasses.dataclass
class Bench:
    """Where the faults happen.

    Attributes:
      flags: of sscjax.main.
      folder: temporary, of this program alone.
      whole: the undisturbed run.
      seconds: that it took.
      rng: decides every moment and place.
      ended: runs that came to their end, all of them compared to the bit.
      nearly: runs that ended with another micro-batch, all of them within `SAME`.
      logged: length of the log of the struck run before its last start.
    """

    flags: list[str]
    folder: Path
    whole: Path
    seconds: float
    rng: random.Random
    ended: int = 0
    nearly: int = 0
    logged: int = 0

    def moment(self) -> float:
        """Seconds after which to strike."""
        return self.rng.uniform(0.05, 1.0) * self.seconds

    def struck(self, run: Path, moment: float | None = None) -> subprocess.Popen[bytes]:
        """A run that is at work, at a random moment; one that ends before is begun anew."""
        while True:
            log = log_of(run)
            there = log.is_file()
            self.logged = len(log.read_text("utf-8", errors="replace")) if there else 0
            process = kills.start(self.flags, run, log_of(run))
            try:
                process.wait(self.moment() if moment is None else moment)
            except subprocess.TimeoutExpired:
                return process
            self.finish(run, process.returncode)
            shutil.rmtree(run)

    def resume(self, run: Path) -> None:
        """The same command again, to the end."""
        self.finish(run, ended(kills.start(self.flags, run, log_of(run))))

    def finish(self, run: Path, code: int) -> None:
        """A run ended by itself: as the undisturbed one."""
        if code != 0:
            raise Broken(f"a run that goes on failed with code {code}: {last_line(run)}")
        check_files(run)
        if different := kills.compare(self.whole, run):
            raise Broken(f"the end differs: {', '.join(different)}")
        if left := [path.name for path in run.rglob(".*.tmp")]:
            raise Broken(f"the end leaves {', '.join(left)}")
        self.ended += 1


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is about to end."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Broken(f"still at work after {PATIENCE:.0f} s") from None


def log_of(run: Path) -> Path:
    """Where a run's log lies: not on the small disk, which may be full."""
    place = run.parent.parent if run.parent.name == "disk" else run.parent
    return place / f"{run.name}.log"


def last_line(run: Path) -> str:
    """What a run said last."""
    text = log_of(run).read_text(encoding="utf-8", errors="replace")
    return ([""] + text.strip().splitlines())[-1][:300]


def said(run: Path, words: str, since: int = 0) -> None:
    """A start said these words, and ended without a traceback through this package.

    Orbax's threads print stacks of their own where a write fails, around the line that counts.

    Args:
      run: its folder.
      words: expected ones.
      since: where in the log what it said begins.
    """
    text = log_of(run).read_text(encoding="utf-8", errors="replace")[since:]
    if ours := [stack for stack in stacks(text) if f"{os.sep}sscjax{os.sep}" in stack]:
        raise Broken(f"a traceback: {' | '.join(ours[0].splitlines())[-600:]}")
    if words not in text:
        raise Broken(f"expected {words!r}: {last_line(run)}")


def stacks(text: str) -> Iterator[str]:
    """Every traceback in a log, up to the line that names its error."""
    _, *parts = text.split("Traceback (most recent call last):\n")
    for part in parts:
        frames = list(itertools.takewhile(lambda line: line.startswith(" "), part.splitlines()))
        yield "\n".join(frames)


def check_files(run: Path) -> None:
    """No file under a final name is half a file."""
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        # What Orbax writes is read back by the run that goes on, and compared at its end.
        if not path.is_file() or {"checkpoints", "model"} & {*parts} or parts[-1].endswith(".tmp"):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".npz":
                np.load(path).close()
            elif path.suffix in (".csv", ".txt", ".md"):
                if not path.read_text(encoding="utf-8").endswith("\n"):
                    raise ValueError("no end of line at its end")
            elif path.suffix == ".html":
                if "</html>" not in path.read_text(encoding="utf-8"):
                    raise ValueError("no end")
            elif path.suffix == ".png" and not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
                raise ValueError("no end")
        except (ValueError, OSError) as error:
            raise Broken(f"{path.relative_to(run)} is half a file: {error}") from error
