"""Do to a training run what happens on real machines, and compare its end to the bit.

    python scripts/faults.py                a sample, within ten minutes
    python scripts/faults.py --all          everything
    python scripts/faults.py --only=kill -- FLAGS OF sscjax.main

An undisturbed run comes first; it sets the time within which the faults fall. Each fault strikes a
run at a random moment: while it starts, reads its images, computes features, trains, saves,
evaluates or writes its report. Then no file may be half-written, and the same command resumes.
Every run that comes to its end must be the undisturbed one to the bit. A table sums up what was
tried.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from sscjax.evaluation.predictions import Predictions

FLAGS = [
    *("--config=configs/smoke.py", "--config.checkpoint.every_seconds=0"),
    *(
        "--config.model.name=cnn",
        "--config.model.cnn_widths=(4,8)",
        "--config.model.cnn_dense=(8,)",
    ),
    *("--config.stages.finetune.freeze_first=0", "--config.stages.finetune.online_augment=True"),
    *("--config.stages.head.epochs=4", "--config.stages.finetune.epochs=8"),
]

# What a run computes; run.json and report.txt hold the folder's name, the rest is pictures.
COMPARED = (
    *("predictions.csv", "metrics.json", "curves.csv", "splits.csv"),
    *("calibration.json", "outliers.npz"),
)

SAME = 1e-4  # by which probabilities and parameters differ that were rounded otherwise

TRIES = 5  # moments, until one of them has something to strike

PATIENCE = 300.0  # seconds after which a run that should have ended is a failure


# --- the bench ------------------------------------------------------------------------------------


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
      undisturbed: the run to compare with.
      seconds: that it took.
      rng: decides every moment and file.
      ended: runs that came to their end, all of them compared to the bit.
      nearly: runs that ended with another micro-batch, all of them within `SAME`.
      logged: length of the log of the struck run before its last start.
    """

    flags: list[str]
    folder: Path
    undisturbed: Path
    seconds: float
    rng: random.Random
    ended: int = 0
    nearly: int = 0
    logged: int = 0

    def moment(self) -> float:
        """Seconds after which to strike."""
        return self.rng.uniform(0.05, 1.0) * self.seconds

    def struck(self, run: Path, moment: float | None = None) -> subprocess.Popen[bytes]:
        """A run that is at work, at a random moment; one that ends before is started again."""
        while True:
            log = log_of(run)
            there = log.is_file()
            self.logged = len(log.read_text("utf-8", errors="replace")) if there else 0
            process = start(self.flags, run, log_of(run))
            try:
                process.wait(self.moment() if moment is None else moment)
            except subprocess.TimeoutExpired:
                return process
            self.finish(run, process.returncode)
            shutil.rmtree(run)

    def resume(self, run: Path) -> None:
        """The same command again, to the end."""
        self.finish(run, ended(start(self.flags, run, log_of(run))))

    def finish(self, run: Path, code: int) -> None:
        """A run ended by itself: as the undisturbed one."""
        if code != 0:
            raise Broken(f"a resumed run failed with code {code}: {last_line(run)}")
        check_files(run)
        if different := compare(self.undisturbed, run):
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
    folder = run.parent.parent if run.parent.name == "disk" else run.parent
    return folder / f"{run.name}.log"


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
    """No file under a final name is half-written."""
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        # What Orbax writes is read back by the resumed run, and compared at its end.
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


# --- runs and how they compare --------------------------------------------------------------------


def start(
    flags: list[str],
    folder: Path,
    log_to: Path | None = None,
    **how: Any,
) -> subprocess.Popen[bytes]:
    """The program, at work in `folder`; what it says goes to `log_to`, else to `folder`.log."""
    command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={folder}"]
    # The log of every start, one after the other, shows why a resumed run failed.
    with (log_to or folder.with_suffix(".log")).open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, **how)


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
    arrays: dict[str, np.ndarray] = {}

    def walk(tree: object, prefix: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{prefix}/{key}")
        else:
            arrays[prefix] = np.asarray(tree)

    with ocp.StandardCheckpointer() as reader:
        walk(reader.restore(model.resolve()), "")
    return arrays


# --- the faults -----------------------------------------------------------------------------------


def kill(bench: Bench, run: Path) -> None:
    """SIGKILL: as by the system when memory is short, or a loss of power."""
    process = bench.struck(run)
    process.kill()
    process.wait()
    check_files(run)


def stop(bench: Bench, run: Path) -> None:
    """SIGTERM or Ctrl-C: exit code 130, with the command that resumes."""
    process = bench.struck(run)
    number = bench.rng.choice((signal.SIGTERM, signal.SIGINT))
    # What this start said so far; before its first word Python is still loading the libraries, and
    # a signal ends it as it ends any program: nothing has started.
    started = (
        "images: " in log_of(run).read_text(encoding="utf-8", errors="replace")[bench.logged :]
    )
    process.send_signal(number)
    code = ended(process)
    check_files(run)
    if code == 0:
        bench.finish(run, code)
        shutil.rmtree(run)
    elif code == 130 and started:
        said(run, "give the same command again", bench.logged)
    elif code == -number and is_finished(run):
        pass  # while Python was ending: all was written
    elif started or code not in (-number, 130):
        raise Broken(f"exit code {code}, expected 130: {last_line(run)}")


def is_finished(run: Path) -> bool:
    """Whether the log of a run says that nothing is left to do."""
    record = run / "run.json"
    return record.is_file() and json.loads(record.read_text("utf-8"))["status"] == "finished"


def damage(bench: Bench, run: Path) -> None:
    """A file of the newest checkpoint loses its end, a bit, or itself; or the whole folder goes."""
    kill(bench, run)
    folders = [path for path in run.glob("checkpoints/*") if path.name.isdigit()]
    if not folders:
        raise Missed("no checkpoint yet")
    newest = max(folders, key=lambda path: int(path.name))
    inside = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    path = bench.rng.choice(inside)
    match bench.rng.randrange(4):
        case 0:
            shutil.rmtree(newest)
        case 1:
            path.unlink()
        case 2:
            os.truncate(path, path.stat().st_size // 2)
        case _:
            flip(path, bench.rng)


def shrink(bench: Bench, run: Path) -> None:
    """Killed for want of memory, and resumed with half the micro-batch: rounded otherwise."""
    # Not while it starts: then there is nothing to resume.
    process = bench.struck(run, bench.rng.uniform(0.5, 1.0) * bench.seconds)
    process.kill()
    process.wait()
    check_files(run)
    record = run / "run.json"
    if not record.is_file() or is_finished(run):
        raise Missed("nothing was started with another one, or nothing is left to do")
    before = json.loads(record.read_text("utf-8"))["stages"][0]["micro_batch"]
    if before < 2:
        raise Missed("the micro-batch is one image")
    flags = [*bench.flags, f"--config.micro_batch={before // 2}"]
    since = len(log_of(run).read_text("utf-8", errors="replace"))
    if (code := ended(start(flags, run, log_of(run)))) != 0:
        raise Broken(f"with a smaller micro-batch: code {code}: {last_line(run)}")
    said(run, f"micro_batch: {before} before, {before // 2} from here on", since)
    check_files(run)
    if (gap := largest_gap(bench.undisturbed, run)) > SAME:
        raise Broken(f"with a smaller micro-batch numbers differ by up to {gap:.2g}")
    bench.nearly += 1
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
    bench.finish(run, ended(process))
    shutil.rmtree(run)


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def spoil_cache(bench: Bench, run: Path) -> None:
    """A bit of every cached file of features changes between two starts."""
    kill(bench, run)
    files = list((Path(os.environ["SSCJAX_CACHE"]) / "features").glob("*.npy"))
    if not files:
        raise Missed("nothing is cached yet")
    for path in files:
        flip(path, bench.rng)


def second(bench: Bench, run: Path) -> None:
    """A second start in the folder of a run that is at work: refused, and the first continues."""
    process = bench.struck(run)
    deadline = time.monotonic() + PATIENCE
    while not (run / "run.json").is_file() and process.poll() is None:
        if time.monotonic() > deadline:
            raise Broken("the first run does not begin")
        time.sleep(0.05)
    other = run.with_name("second")
    with other.with_suffix(".log").open("wb") as log:
        command = [sys.executable, "-m", "sscjax.main", *bench.flags, f"--workdir={run}"]
        code = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=log, check=False
        ).returncode
    alive = process.poll() is None
    if code == 2:
        said(other, "another run")
    elif alive or code != 0:  # 0: the first was over by then, and nothing was left to do
        raise Broken(f"a second run ended with {code}: {last_line(other)}")
    bench.finish(run, ended(process))
    shutil.rmtree(run)


def move(bench: Bench, run: Path) -> None:
    """The folder is moved away while a run is at work, and put back."""
    process = bench.struck(run)
    away = run.with_name("away")
    moved = run.is_dir()
    if moved:
        run.rename(away)
    code = ended(process)
    if moved and code == 2:
        said(run, "was moved, removed or replaced", bench.logged)
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
        inner = disk / "run"
        process = bench.struck(inner)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        code = ended(process)
        filler.unlink()
        if inner.exists():
            check_files(inner)
        if code not in (0, 2):
            raise Broken(f"exit code {code}, expected 2: {last_line(inner)}")
        if code == 2:
            said(inner, "No space left on device", bench.logged)
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


FAULTS: dict[str, tuple[Callable[[Bench, Path], None], int, int]] = {
    "kill": (kill, 5, 50),
    "stop": (stop, 4, 15),
    "damage": (damage, 3, 15),
    "spoil_cache": (spoil_cache, 2, 5),
    "shrink": (shrink, 1, 5),
    "one_processor": (one_processor, 1, 2),
    "second": (second, 1, 3),
    "move": (move, 1, 3),
    "fill_disk": (fill_disk, 2, 6),
}
"""What each is, and how many of it there are in a sample and in all."""


def main() -> int:
    """Run, strike, compare, sum up; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="everything, however long it takes")
    parser.add_argument("--minutes", type=float, help="at most; of a sample 9.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*FAULTS], help="one kind of fault")
    parser.add_argument("flags", nargs="*", help="of sscjax.main, after --")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SSCJAX_CACHE"] = str(Path(temporary) / "cache")
        bench = prepare(args.flags or FLAGS, Path(temporary), random.Random(args.seed))
        plan = [
            name
            for name, (_, some, every) in FAULTS.items()
            if args.only in (None, name)
            for _ in range(every if args.all else some)
        ]
        bench.rng.shuffle(plan)
        if "fill_disk" in plan and not can_mount():
            print("full disks are left out: they need root, and to be allowed to mount")
            plan = [name for name in plan if name != "fill_disk"]
        minutes = args.minutes or (float("inf") if args.all else 9.5)
        tried, broken = strike_all(bench, plan, started + 60 * minutes)
    for line in table(tried, broken, plan):
        print(line)
    if left := len(plan) - sum(tried.values()):
        print(f"\n{left} planned faults did not strike: no time, or nothing to strike")
    took = (time.monotonic() - started) / 60
    nearly = f", {bench.nearly} with another micro-batch to {SAME:g}" if bench.nearly else ""
    print(f"\n{bench.ended} runs ended and were compared to the bit{nearly}; {took:.1f} minutes")
    return 1 if any(broken.values()) else 0


def prepare(flags: list[str], folder: Path, rng: random.Random) -> Bench:
    """The undisturbed run, twice: its time is that of a start with compiled programs."""
    for name in ("first", "undisturbed"):
        started = time.monotonic()
        if start(flags, folder / name).wait() != 0:
            raise SystemExit(f"the undisturbed run failed: {last_line(folder / name)}")
        seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    return Bench(flags, folder, folder / "undisturbed", seconds, rng)


def strike_all(
    bench: Bench, plan: list[str], deadline: float
) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many of each fault were tried, and what was broken by it."""
    tried: Counter[str] = Counter()
    broken: dict[str, list[str]] = {name: [] for name in FAULTS}
    run, struck = bench.folder / "torn", []
    for name in plan:
        # The last run is brought to its end in any case: time is kept for that, and for a fault.
        if time.monotonic() > deadline - 3 * bench.seconds:
            break
        struck.append(name)
        try:
            if not strikes(name, bench, run):
                continue
            tried[name] += 1
            print(f"{sum(tried.values()):3d} {name:12} {state(run)}", flush=True)
        except Broken as error:
            tried[name] += 1
            # What came before it in the same run may be the cause.
            broken[name].append(f"{error} (after {', '.join(struck[-4:])})")
            print(f"{sum(tried.values()):3d} {name:12} BROKEN: {error}", flush=True)
            shutil.rmtree(run, ignore_errors=True)
    if not struck:
        raise SystemExit("no time for a single fault: give --minutes more")
    try:
        bench.resume(run)
    except Broken as error:
        broken[struck[-1]].append(f"{error} (after {', '.join(struck[-4:])})")
    return tried, broken


def strikes(name: str, bench: Bench, run: Path) -> bool:
    """One fault, at other moments until there is something to strike; whether there was."""
    for _ in range(TRIES):
        try:
            FAULTS[name][0](bench, run)
        except Missed as error:
            print(f"    {name:12} missed: {error}", flush=True)
        else:
            return True
    return False


def table(tried: Counter[str], broken: dict[str, list[str]], plan: list[str]) -> Iterator[str]:
    """The lines of the summary, as Markdown."""
    planned = Counter(plan)
    yield "\n| fault | planned | struck | promises kept | broken |\n|---|---|---|---|---|"
    for name in FAULTS:
        bad = len(broken[name])
        yield f"| {name} | {planned[name]} | {tried[name]} | {tried[name] - bad} | {bad} |"
    for name, lines in broken.items():
        for line in lines:
            yield f"\nBROKEN by {name}: {line}"


if __name__ == "__main__":
    sys.exit(main())
