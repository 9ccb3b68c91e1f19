"""A long training in fast-forward: thousands of epochs, and what the process holds meanwhile.

    python scripts/week.py --epochs=5000

The whole program, on few images and with a checkpoint after each epoch. Its resident memory, its
open files and threads and the checkpoints in its folder are looked at from outside. In each of the
two stages the last tenth of the epochs is compared with the second: the first is the warm-up.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAGS = [
    *("--config=configs/smoke.py", "--config.checkpoint.every_seconds=0"),
    *("--config.data.synthetic.normal=24", "--config.data.synthetic.early=12"),
    *("--config.data.synthetic.late=12", "--config.augment.copies=0", "--config.batch_size=8"),
    *("--config.model.name=cnn", "--config.model.cnn_widths=(4,)"),
    *("--config.model.cnn_dense=(8,)", "--config.stages.finetune.freeze_first=0"),
    *("--config.stages.finetune.online_augment=True", "--config.calibration.temperature=False"),
]
STAGES = ("head", "finetune")
KEPT = 2  # checkpoints, as the config has it; one more is there while it is written

# A row of the learning curves is kept for each epoch; a checkpoint and the table hold it as text.
KB_PER_EPOCH = 8.0
NOISE = 12.0  # MB
FILES = 3  # or threads, that may be open for a moment


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a process holds at a moment: resident MB, open files, threads, and where it is."""

    stage: int
    epoch: int
    resident: float
    files: int
    threads: int
    checkpoints: int


def read(pid: int, run: Path) -> Reading | None:
    """A reading, or None before the first checkpoint and where the process is over."""
    names = [path.name for path in run.glob("checkpoints/*")]
    steps = sorted(int(name) for name in names if name.isdigit())
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in status.splitlines())
    if not steps or "VmRSS" not in found:
        return None
    stage, rest = divmod(steps[-1], 10**12)
    resident = int(found["VmRSS"].split()[0]) / 1024
    return Reading(stage, rest // 10**6, resident, files, int(found["Threads"]), len(steps))


def watch(epochs: int, folder: Path) -> list[Reading]:
    """Readings of a run of so many epochs in each stage."""
    run = folder / "run"
    flags = [*FLAGS, *(f"--config.stages.{name}.epochs={epochs}" for name in STAGES)]
    command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={run}"]
    found: list[Reading] = []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        while process.poll() is None:
            one = read(process.pid, run)
            # After its last epoch a stage's model is kept and the next one is made ready, once.
            if one is not None and one.epoch < epochs:
                found.append(one)
            time.sleep(0.02)
    if process.returncode != 0:
        lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise SystemExit(f"the run failed with code {process.returncode}: {lines[-1:]}")
    return found


def measure(epochs: int) -> tuple[list[str], list[str]]:
    """The lines of a table, and a line for each promise that was not kept."""
    if not Path("/proc/self/fd").is_dir():
        return ["left out: there is no /proc on this system"], []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        readings = watch(epochs, Path(place))
    seconds = time.monotonic() - started
    lines = [
        "| stage | epochs | readings | MB early | MB late | files early | files late | threads | "
        "checkpoints |\n|---|---|---|---|---|---|---|---|---|"
    ]
    broken = []
    for number, name in enumerate(STAGES):
        mine = [one for one in readings if one.stage == number]
        early = [one for one in mine if 0.1 * epochs <= one.epoch < 0.2 * epochs]
        late = [one for one in mine if one.epoch >= 0.9 * epochs]
        if not early or not late:
            broken.append(f"week: no readings of stage {name}")
            continue
        memory = [statistics.median(one.resident for one in some) for some in (early, late)]
        files = [max(one.files for one in some) for some in (early, late)]
        threads = [max(one.threads for one in some) for some in (early, late)]
        most = max(one.checkpoints for one in mine)
        lines.append(
            f"| {name} | {epochs:,} | {len(mine):,} | {memory[0]:.1f} | {memory[1]:.1f} | "
            f"{files[0]} | {files[1]} | {threads[0]} to {threads[1]} | {most} |"
        )
        if memory[1] - memory[0] > KB_PER_EPOCH * 0.8 * epochs / 1024 + NOISE:
            broken.append(f"week: stage {name} grows from {memory[0]:.0f} to {memory[1]:.0f} MB")
        # What stays is the fewest of many readings: a checkpoint opens some for a moment.
        halves = (
            [one for one in mine if 0.1 * epochs <= one.epoch < 0.5 * epochs],
            [one for one in mine if one.epoch >= 0.5 * epochs],
        )
        for what in ("files", "threads"):
            left = [min(getattr(one, what) for one in half) for half in halves]
            if left[1] > left[0] + FILES:
                broken.append(f"week: stage {name} leaves {left[0]} {what} and then {left[1]}")
        if most > KEPT + 1:
            broken.append(f"week: stage {name} keeps {most} checkpoints")
    lines.append(f"\n{len(STAGES) * epochs:,} epochs in {seconds / 60:.1f} minutes")
    return lines, broken


def main() -> int:
    """Run, watch, say; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5000, help="of each of the two stages")
    lines, broken = measure(parser.parse_args().epochs)
    print("\n".join([*lines, *broken]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
