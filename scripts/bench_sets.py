"""Time and memory of the whole program by the number of its images.

    python scripts/bench_sets.py --weights=FILE [COUNT ...]

`benchmark.py --scaling` does the same with random weights.

The images are random cuts of drawn tiles of many subjects, written as JPEG files. A run
trains the head for ten epochs on features and then every layer but the first ten for one epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from clone import ROOT
from PIL import Image

COUNTS = (200, 2000, 20_000)
_PER_SUBJECT = 20
_SIZE = 128


def write_set(folder: Path, count: int) -> None:
    """`count` JPEG files of 128x128 pixels in three classes, with a manifest."""
    from sscjax.data import synthetic

    subjects = max(4, count // (3 * _PER_SUBJECT))
    names = synthetic.CLASSES
    drawn = synthetic.skin_biopsies(
        image_size=2 * _SIZE,
        tiles=dict.fromkeys(names, subjects),
        subjects=dict.fromkeys(names, subjects),
    )
    rng = np.random.default_rng(0)
    lines = ["file,label,subject"]
    folder.mkdir(parents=True)
    for number in range(count):
        base = number % len(drawn)
        top, left = rng.integers(0, _SIZE, 2)
        cut = drawn.images[base][top : top + _SIZE, left : left + _SIZE]
        Image.fromarray(cut).save(folder / f"{number:05d}.jpg", quality=90)
        lines.append(f"{number:05d}.jpg,{drawn.classes[drawn.labels[base]]},{drawn.subjects[base]}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def timed(command: list[str], environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Run a program in a folder: its seconds, and its peak resident bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return time.perf_counter() - started, used.ru_maxrss * 1024.0


def measure(weights: Path, count: int) -> dict[str, Any]:
    """Seconds of the program and of each stage's epochs, images trained on, peak resident bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "images", count)
        command = [
            sys.executable,
            "-m",
            "sscjax.main",
            f"--config={ROOT / 'configs' / 'three_class.py'}",
            f"--config.data.path={folder / 'images'}",
            "--config.data.classes=('normal','early','late')",
            f"--config.pretrained={weights}",
            "--config.augment.copies=0",
            "--config.audit.on_leakage=report",
            "--config.stages.head.epochs=10",
            "--config.stages.finetune.epochs=1",
            "--config.stages.finetune.warmup_epochs=0",
            "--config.micro_batch=8",
            f"--workdir={folder / 'run'}",
        ]
        environment = {**os.environ, "SSCJAX_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        seconds, peak = timed(command, environment, folder)
        stages = {
            stage: json.loads((folder / "run" / "stages" / stage / "stage.json").read_text("utf-8"))
            for stage in ("head", "finetune")
        }
        splits = (folder / "run" / "splits.csv").read_text("utf-8")
        return {
            "seconds": seconds,
            "head": stages["head"]["course"]["seconds"],
            "finetune": stages["finetune"]["course"]["seconds"],
            "training": splits.count(",train\n"),
            "peak": peak,
        }


def table(found: dict[int, dict[str, Any]]) -> str:
    """What `measure` found, as a Markdown table."""
    lines = [
        "| images | trained on | whole program, s | an epoch of the head, ms per image | "
        "an epoch of fine-tuning with its validation, ms per image | peak memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for count, one in found.items():
        head = 1000 * one["head"] / 10 / one["training"]
        finetune = 1000 * one["finetune"] / one["training"]
        lines.append(
            f"| {count:,} | {one['training']:,} | {one['seconds']:.0f} | {head:.3f} | "
            f"{finetune:.1f} | {one['peak'] / 2**30:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="of MobileNetV2 1.0")
    parser.add_argument("counts", type=int, nargs="*", default=COUNTS, help="images of each run")
    args = parser.parse_args()
    found = {count: measure(args.weights.resolve(), count) for count in args.counts}
    print(table(found))


if __name__ == "__main__":
    main()
