"""The faults of `faults.py`: what each does to a run, and what it must end with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_runs import (
    PATIENCE,
    TOLERANCE,
    Broken,
    check_files,
    check_log,
    compare,
    is_finished,
    largest_gap,
    last_line,
    log_of,
    log_text,
    start,
    wait,
)


class Missed(Exception):
    """At this moment there was nothing to strike: no promise was tested."""


@dataclasses.dataclass
class Bench:
    """Where the faults happen.

    Attributes:
      flags: of sscjax.main.
      folder: temporary, of this program alone.
      undisturbed: the run to compare with.
      seconds: that it took.
      rng: decides every moment and file.
      identical: runs that came to their end, all of them compared to the bit.
      close: runs that ended with another micro-batch, all of them within `TOLERANCE`.
      log_start: length of the log of the struck run before its last start.
    """

    flags: list[str]
    folder: Path
    undisturbed: Path
    seconds: float
    rng: random.Random
    identical: int = 0
    close: int = 0
    log_start: int = 0

    def at_work(self, run: Path, earliest: float = 0.05) -> subprocess.Popen[bytes]:
        """A run at a random moment, `earliest` as a share; one that ends before starts again."""
        while True:
            self.log_start = len(log_text(run))
            process = start(self.flags, run, log_of(run))
            try:
                process.wait(self.rng.uniform(earliest, 1.0) * self.seconds)
            except subprocess.TimeoutExpired:
                return process
            self.finish(run, process.returncode)
            shutil.rmtree(run)

    def kill(self, run: Path, earliest: float = 0.05) -> None:
        """SIGKILL to a run at work."""
        process = self.at_work(run, earliest)
        process.kill()
        process.wait()
        check_files(run)

    def resume(self, run: Path) -> None:
        """The same command again, to the end."""
        self.finish(run, wait(start(self.flags, run, log_of(run))))

    def finish(self, run: Path, code: int) -> None:
        """A run ended by itself: as the undisturbed one."""
        if code != 0:
            raise Broken(f"a resumed run failed with code {code}: {last_line(run)}")
        check_files(run)
        if different := compare(self.undisturbed, run):
            raise Broken(f"the end differs: {', '.join(different)}")
        if left := [path.name for path in run.rglob(".*.tmp")]:
            raise Broken(f"the end leaves {', '.join(left)}")
        self.identical += 1


def kill(bench: Bench, run: Path) -> None:
    """SIGKILL: as by the system when memory is short, or a loss of power."""
    bench.kill(run)


def stop(bench: Bench, run: Path) -> None:
    """SIGTERM or Ctrl-C: exit code 130, with the command that resumes."""
    process = bench.at_work(run)
    number = bench.rng.choice((signal.SIGTERM, signal.SIGINT))
    # Before its first message Python is still loading the libraries, and a signal ends it as it
    # ends any program: nothing has started.
    started = "images: " in log_text(run, bench.log_start)
    process.send_signal(number)
    code = wait(process)
    check_files(run)
    if code == 0:
        bench.finish(run, code)
        shutil.rmtree(run)
    elif code == 130 and started:
        check_log(run, "give the same command again", bench.log_start)
    elif code == -number and is_finished(run):
        pass  # while Python was ending: all was written
    elif started or code not in (-number, 130):
        raise Broken(f"exit code {code}, expected 130: {last_line(run)}")


def damage(bench: Bench, run: Path) -> None:
    """A file of the newest checkpoint loses its end, a bit, or itself; or all of it is missing."""
    bench.kill(run)
    checkpoints = [path for path in run.glob("checkpoints/*") if path.name.isdigit()]
    if not checkpoints:
        raise Missed("no checkpoint yet")
    newest = max(checkpoints, key=lambda path: int(path.name))
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    path = bench.rng.choice(files)
    match bench.rng.randrange(4):
        case 0:
            shutil.rmtree(newest)
        case 1:
            path.unlink()
        case 2:
            os.truncate(path, path.stat().st_size // 2)
        case _:
            flip_bit(path, bench.rng)


def flip_bit(path: Path, rng: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def spoil_cache(bench: Bench, run: Path) -> None:
    """A bit of every cached file of features changes between two starts."""
    bench.kill(run)
    files = list((Path(os.environ["SSCJAX_CACHE"]) / "features").glob("*.npy"))
    if not files:
        raise Missed("nothing is cached yet")
    for path in files:
        flip_bit(path, bench.rng)


def shrink(bench: Bench, run: Path) -> None:
    """Killed for lack of memory, and resumed with half the micro-batch: rounded otherwise."""
    # Not while it starts: then there is nothing to resume.
    bench.kill(run, earliest=0.5)
    record = run / "run.json"
    if not record.is_file() or is_finished(run):
        raise Missed("nothing was started with another one, or nothing is left to do")
    before = json.loads(record.read_text("utf-8"))["stages"][0]["micro_batch"]
    if before < 2:
        raise Missed("the micro-batch is one image")
    flags = [*bench.flags, f"--config.micro_batch={before // 2}"]
    since = len(log_text(run))
    if (code := wait(start(flags, run, log_of(run)))) != 0:
        raise Broken(f"with a smaller micro-batch: code {code}: {last_line(run)}")
    check_log(run, f"micro_batch: {before} before, {before // 2} from here on", since)
    check_files(run)
    if (gap := largest_gap(bench.undisturbed, run)) > TOLERANCE:
        raise Broken(f"with a smaller micro-batch numbers differ by up to {gap:.2g}")
    bench.close += 1
    shutil.rmtree(run)


def one_processor(bench: Bench, run: Path) -> None:
    """A machine with fewer processors, and XLA with as many threads as the undisturbed run had."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(processors) < 2:
        raise Missed("this machine has one processor, or does not let them be chosen")
    shutil.rmtree(run, ignore_errors=True)
    environment = {**os.environ, "NPROC": str(len(processors))}
    process = start(bench.flags, run, log_of(run), env=environment)
    # Before any library has made a thread: those that come later are bound as the first one is.
    os.sched_setaffinity(process.pid, processors[:1])
    bench.finish(run, wait(process))
    shutil.rmtree(run)


def second(bench: Bench, run: Path) -> None:
    """A second start in the folder of a run that is at work: refused, and the first continues."""
    first = bench.at_work(run)
    deadline = time.monotonic() + PATIENCE
    while not (run / "run.json").is_file() and first.poll() is None:
        if time.monotonic() > deadline:
            raise Broken("the first run does not begin")
        time.sleep(0.05)
    other = run.with_name("second")
    log_of(other).unlink(missing_ok=True)
    code = start(bench.flags, run, log_of(other)).wait()
    alive = first.poll() is None
    if code == 2:
        check_log(other, "another run")
    elif alive or code != 0:  # 0: the first was over by then, and nothing was left to do
        raise Broken(f"a second run ended with {code}: {last_line(other)}")
    bench.finish(run, wait(first))
    shutil.rmtree(run)


def move(bench: Bench, run: Path) -> None:
    """The folder is moved away while a run is at work, and put back."""
    process = bench.at_work(run)
    away = run.with_name("away")
    moved = run.is_dir()
    if moved:
        run.rename(away)
    code = wait(process)
    if moved and code == 2:
        check_log(run, "was moved, removed or replaced", bench.log_start)
    if moved:
        shutil.rmtree(run, ignore_errors=True)
        away.rename(run)
    if code not in (0, 2):
        raise Broken(f"exit code {code}, expected 2: {last_line(run)}")
    if not moved:
        raise Missed("there was no folder yet")


def fill_disk(bench: Bench, run: Path) -> None:
    """The disk is full from a random moment on, until the run has ended."""
    with small_disk(bench.folder / "disk") as disk:
        inner, filler = disk / "run", disk / "filler"
        process = bench.at_work(inner)
        with filler.open("wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        code = wait(process)
        filler.unlink()
        if inner.exists():
            check_files(inner)
        if code not in (0, 2):
            raise Broken(f"exit code {code}, expected 2: {last_line(inner)}")
        if code == 2:
            check_log(inner, "No space left on device", bench.log_start)
        bench.resume(inner)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of 64 MB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def can_mount() -> bool:
    """Whether this user may have a small disk."""
    if shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk"):
                return True
        except subprocess.CalledProcessError:
            return False


Fault = Callable[[Bench, Path], None]

FAULTS: dict[Fault, tuple[int, int]] = {
    kill: (5, 50),
    stop: (4, 15),
    damage: (3, 15),
    spoil_cache: (2, 5),
    shrink: (1, 5),
    one_processor: (1, 2),
    second: (1, 3),
    move: (1, 3),
    fill_disk: (2, 6),
}
"""How many of each there are in a sample and in all."""
