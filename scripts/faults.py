"""Do to a training run what happens on real machines, and compare its end to the bit.

    python scripts/faults.py                a sample, within ten minutes
    python scripts/faults.py --all          everything
    python scripts/faults.py --only=kill -- FLAGS OF sscjax.main
    python scripts/faults.py --only=load    a large set with corrupt files, see load.py
    python scripts/faults.py --only=week    thousands of epochs, see week.py

An undisturbed run comes first; it sets the time within which the faults fall. Each fault strikes a
run at a random moment: while it starts, reads its images, computes features, trains, saves,
evaluates or writes its report. Then no file may be half-written, and the same command goes on.
Every run that comes to its end must be the undisturbed one to the bit. A table sums up what was
tried. What no single moment shows, a large set and a long training, stands apart (`TRIALS`).
"""

from __future__ import annotations

import argparse
import contextlib
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

import kills
import load
import week
from fault_bench import (
    PATIENCE,
    SAME,
    TRIES,
    Bench,
    Broken,
    Missed,
    check_files,
    ended,
    last_line,
    log_of,
    said,
)

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


# --- the faults -----------------------------------------------------------------------------------


def kill(bench: Bench, run: Path) -> None:
    """SIGKILL: as by the system when memory is short, or a loss of power."""
    process = bench.struck(run)
    process.kill()
    process.wait()
    check_files(run)


def stop(bench: Bench, run: Path) -> None:
    """SIGTERM or Ctrl-C: exit code 130, with the command that goes on."""
    process = bench.struck(run)
    number = bench.rng.choice((signal.SIGTERM, signal.SIGINT))
    # What this start said so far; before its first word Python is still loading the libraries, and
    # a signal ends it as it ends any program: nothing has begun.
    begun = "images: " in log_of(run).read_text(encoding="utf-8", errors="replace")[bench.logged :]
    process.send_signal(number)
    code = ended(process)
    check_files(run)
    if code == 0:
        bench.finish(run, code)
        shutil.rmtree(run)
    elif code == 130 and begun:
        said(run, "give the same command again", bench.logged)
    elif code == -number and is_finished(run):
        pass  # while Python was ending: all was written
    elif begun or code not in (-number, 130):
        raise Broken(f"exit code {code}, expected 130: {last_line(run)}")


def is_finished(run: Path) -> bool:
    """Whether a run says of itself that nothing is left to do."""
    record = run / "run.json"
    return record.is_file() and json.loads(record.read_text("utf-8"))["status"] == "finished"


def damage(bench: Bench, run: Path) -> None:
    """A file of the newest checkpoint loses its end, a bit, or itself; or the whole folder goes."""
    kill(bench, run)
    found = [path for path in run.glob("checkpoints/*") if path.name.isdigit()]
    if not found:
        raise Missed("no checkpoint yet")
    newest = max(found, key=lambda path: int(path.name))
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
    """Killed for want of memory, and gone on with by half the micro-batch: rounded otherwise."""
    # Not while it starts: then nothing is begun that could go on.
    process = bench.struck(run, bench.rng.uniform(0.5, 1.0) * bench.seconds)
    process.kill()
    process.wait()
    check_files(run)
    record = run / "run.json"
    if not record.is_file() or is_finished(run):
        raise Missed("nothing was begun with another one, or nothing is left to do")
    before = json.loads(record.read_text("utf-8"))["stages"][0]["micro_batch"]
    if before < 2:
        raise Missed("the micro-batch is one image")
    flags = [*bench.flags, f"--config.micro_batch={before // 2}"]
    since = len(log_of(run).read_text("utf-8", errors="replace"))
    if (code := ended(kills.start(flags, run, log_of(run)))) != 0:
        raise Broken(f"with a smaller micro-batch: code {code}: {last_line(run)}")
    said(run, f"micro_batch: {before} then, {before // 2} from here on", since)
    check_files(run)
    if (gap := kills.largest_gap(bench.whole, run)) > SAME:
        raise Broken(f"with a smaller micro-batch numbers differ by up to {gap:.2g}")
    bench.nearly += 1
    shutil.rmtree(run)


def one_processor(bench: Bench, run: Path) -> None:
    """A machine with fewer processors, and XLA told how many threads the undisturbed run had."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(processors) < 2:
        raise Missed("this machine has one processor, or does not let them be chosen")
    shutil.rmtree(run, ignore_errors=True)
    environment = {**os.environ, "NPROC": str(len(processors))}
    process = kills.start(bench.flags, run, log_of(run), env=environment)
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
    found = list((Path(os.environ["SSCJAX_CACHE"]) / "features").glob("*.npy"))
    if not found:
        raise Missed("nothing is cached yet")
    for path in found:
        flip(path, bench.rng)


def second(bench: Bench, run: Path) -> None:
    """A second start in the folder of a run that is at work: refused, and the first goes on."""
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

TRIALS: dict[str, tuple[Callable[[int], tuple[list[str], list[str]]], int, int]] = {
    "load": (load.measure, 5_000, 50_000),
    "week": (week.measure, 60, 1_000),
}
"""What makes a table of its own, and what was broken; how large it is in a sample and in all."""


def main() -> int:
    """Run, strike, compare, sum up; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="everything, however long it takes")
    parser.add_argument("--minutes", type=float, help="at most; of a sample 9.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*FAULTS, *TRIALS], help="one kind of fault")
    parser.add_argument("flags", nargs="*", help="of sscjax.main, after --")
    args = parser.parse_args()
    started = time.monotonic()
    failed = try_all(args.only, args.all)
    if args.only in TRIALS:
        return 1 if failed else 0
    with tempfile.TemporaryDirectory() as place:
        os.environ["SSCJAX_CACHE"] = str(Path(place) / "cache")
        bench = prepare(args.flags or FLAGS, Path(place), random.Random(args.seed))
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
    return 1 if failed or any(broken.values()) else 0


def try_all(only: str | None, everything: bool) -> bool:
    """Do what makes tables of its own; whether a promise was broken."""
    failed = False
    for name, (measure, some, every) in TRIALS.items():
        if only in (None, name):
            lines, broken = measure(every if everything else some)
            print("\n".join([f"-- {name}", *lines, *(f"BROKEN {line}" for line in broken), ""]))
            failed = failed or bool(broken)
    return failed


def prepare(flags: list[str], folder: Path, rng: random.Random) -> Bench:
    """The undisturbed run, twice: its time is that of a start with compiled programs."""
    for name in ("first", "whole"):
        started = time.monotonic()
        if kills.start(flags, folder / name).wait() != 0:
            raise SystemExit(f"the undisturbed run failed: {last_line(folder / name)}")
        seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    return Bench(flags, folder, folder / "whole", seconds, rng)


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
            print(f"{sum(tried.values()):3d} {name:12} {kills.state(run)}", flush=True)
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
