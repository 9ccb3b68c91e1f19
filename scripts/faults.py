"""Do to a training run what happens on real machines, and compare its end to the bit.

    python scripts/faults.py                a sample, within ten minutes
    python scripts/faults.py --all          everything
    python scripts/faults.py --only=kill -- FLAGS OF sscjax.main

An undisturbed run comes first; it sets the time within which the faults occur. Each fault
(`fault_kinds.py`) strikes a run at a random moment: while it starts, reads its images, computes
features, trains, saves, evaluates or writes its report. Then no file may be half-written, and the
same command resumes. Every run that comes to its end must be the undisturbed one to the bit. A
table sums up what was tried.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fault_kinds import FAULTS, Bench, Missed, can_mount
from fault_runs import TOLERANCE, Broken, last_line, progress, start

FLAGS = [
    *("--config=configs/smoke.py", "--config.checkpoint.every_seconds=0"),
    *("--config.model.name=cnn", "--config.model.cnn_widths=(4,8)"),
    *("--config.model.cnn_dense=(8,)", "--config.stages.finetune.freeze_first=0"),
    *("--config.stages.finetune.online_augment=True", "--config.stages.head.epochs=4"),
    "--config.stages.finetune.epochs=8",
]

BY_NAME = {fault.__name__: fault for fault in FAULTS}

TRIES = 5  # moments, until at one of them there is something to strike


def main() -> int:
    """Run, strike, compare, sum up; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="everything, however long it takes")
    parser.add_argument("--minutes", type=float, help="at most; of a sample 9.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*BY_NAME], help="one kind of fault")
    parser.add_argument("flags", nargs="*", help="of sscjax.main, after --")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SSCJAX_CACHE"] = str(Path(temporary) / "cache")
        bench = prepare(args.flags or FLAGS, Path(temporary), random.Random(args.seed))
        names = [args.only] if args.only else [*BY_NAME]
        plan = [name for name in names for _ in range(FAULTS[BY_NAME[name]][args.all])]
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
    minutes = (time.monotonic() - started) / 60
    close = f", {bench.close} with another micro-batch to {TOLERANCE:g}" if bench.close else ""
    print(f"\n{bench.identical} runs ended and were compared to the bit{close}; {minutes:.1f} min")
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
    """How many of each fault were tried, and the promises that each broke."""
    tried: Counter[str] = Counter()
    broken: dict[str, list[str]] = {name: [] for name in BY_NAME}
    run, struck = bench.folder / "torn", []
    for name in plan:
        # The last run is brought to its end in any case: time is left for that, and for a fault.
        if time.monotonic() > deadline - 3 * bench.seconds:
            break
        struck.append(name)
        try:
            if not strike(name, bench, run):
                continue
            outcome = progress(run)
        except Broken as error:
            outcome = f"BROKEN: {error}"
            # What came before it in the same run may be the cause.
            broken[name].append(f"{error} (after {', '.join(struck[-4:])})")
            shutil.rmtree(run, ignore_errors=True)
        tried[name] += 1
        print(f"{sum(tried.values()):3d} {name:12} {outcome}", flush=True)
    if not struck:
        raise SystemExit("no time for a single fault: give --minutes more")
    try:
        bench.resume(run)
    except Broken as error:
        broken[struck[-1]].append(f"{error} (after {', '.join(struck[-4:])})")
    return tried, broken


def strike(name: str, bench: Bench, run: Path) -> bool:
    """One fault, at other moments until there is something to strike; whether there was."""
    for _ in range(TRIES):
        try:
            BY_NAME[name](bench, run)
        except Missed as error:
            print(f"    {name:12} missed: {error}", flush=True)
        else:
            return True
    return False


def table(tried: Counter[str], broken: dict[str, list[str]], plan: list[str]) -> Iterator[str]:
    """The lines of the summary, as Markdown."""
    planned = Counter(plan)
    yield "\n| fault | planned | struck | promises kept | broken |\n|---|---|---|---|---|"
    for name, errors in broken.items():
        kept = tried[name] - len(errors)
        yield f"| {name} | {planned[name]} | {tried[name]} | {kept} | {len(errors)} |"
    for name, errors in broken.items():
        for error in errors:
            yield f"\nBROKEN by {name}: {error}"


if __name__ == "__main__":
    sys.exit(main())
