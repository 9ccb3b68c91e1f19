"""Run and tabulate the networks side by side: MobileNetV2, the CNN, the UNet and the FD-UNet.

    python scripts/networks.py --weights=FILE --out=RUNS
    python scripts/networks.py --weights=FILE --out=RUNS --data=FOLDER --classes A B C

On the synthetic set, or on a folder of images with subjects; FILE are ImageNet weights of
MobileNetV2 1.0. All are trained on the same split by subject and tested on subjects that none has
seen, each as its own config says but for what is printed. On the synthetic set the UNets are
trained with masks as well, and the FD-UNet on masks alone. Each run is given to `sscjax.main`,
which goes on where it stopped and does nothing where it is finished. Then all networks answer the
same images in turn, several times over, and the tables are printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import synthetic
from sscjax.inference import classifier
from sscjax.system import formatting

ROUNDS, IMAGES = 5, 256

SPLIT = ("--config.split.train=0.55", "--config.split.test=0.3", "--config.split.by=subject")

MASKS = ("--config.loss.segmentation=1", "--config.loss.dice=1")


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Flags of each run by its name."""
    common = [*SPLIT]
    if args.data is not None:
        common.append(f"--config.data.path={args.data}")
    if args.classes:
        common.append(f"--config.data.classes={tuple(args.classes)}")
    # The last epoch: with masks and without, none has another chance to choose.
    unet = ["--config=configs/fd_unet_three_class.py", "--config.select.metric=none"]
    if args.epochs:
        unet.append(f"--config.stages.train.epochs={args.epochs}")
    plain = [*unet, "--config.model.unet_block=plain"]
    found = {
        "MobileNetV2": [
            "--config=configs/three_class.py",
            f"--config.pretrained={args.weights}",
            "--config.augment.copies=0",
        ],
        "CNN": ["--config=configs/cnn_three_class.py"],
        "FD-UNet": unet,
        "UNet": plain,
    }
    if args.data is None:
        found["FD-UNet, masks as well"] = [*unet, *MASKS]
        found["UNet, masks as well"] = [*plain, *MASKS]
        found["FD-UNet, masks alone"] = [*unet, *MASKS, "--config.loss.classification=0"]
    return {name: [*flags, *common] for name, flags in found.items()}


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/networks"), help="folder of the runs"
    )
    parser.add_argument("--data", type=Path, help="folder of images; without, the synthetic set")
    parser.add_argument("--classes", nargs="+", default=(), help="the classes in their order")
    parser.add_argument("--epochs", type=int, default=0, help="of the UNets, if not their config's")
    args = parser.parse_args()
    places: dict[str, Path] = {}
    for name, flags in commands(args).items():
        places[name] = args.out / name.lower().replace(", ", "-").replace(" ", "-")
        command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={places[name]}"]
        print(shlex.join(["python", *command[1:]]), flush=True)
        log = subprocess.run(command, capture_output=True, text=True)
        if log.returncode:
            sys.exit(log.stdout + log.stderr)
    _print_classes(places)
    if args.data is None:
        _print_masks(places)


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def _print_classes(places: dict[str, Path]) -> None:
    speeds = _speeds(places)
    rows = [
        ["network", "pixels", "parameters", "training", "images/s", "accuracy per subject", "95 %"]
    ]
    rows[0] += ["per tile", "95 %"]
    for name, folder in places.items():
        found, record = _read(folder), json.loads((folder / "run.json").read_text("utf-8"))
        if record["config"]["loss"]["classification"] == 0:
            continue
        stages = [
            json.loads((folder / "stages" / stage / "stage.json").read_text("utf-8"))
            for stage in found["stages"]
        ]
        seconds = sum(stage["course"]["seconds"] for stage in stages)
        test, ranges = found["splits"]["test"], found["test_intervals"]
        cells = [name, str(record["config"]["data"]["image_size"])]
        cells += [f"{stages[0]['counts']['total']:,}", f"{seconds:.0f} s", f"{speeds[name]:.0f}"]
        for unit in ("subject", "image"):
            cells += [
                formatting.percent(test[unit]["accuracy"]),
                formatting.span("accuracy", ranges[unit]["accuracy"]),
            ]
        rows.append(cells)
    _print(rows)


def _print_masks(places: dict[str, Path]) -> None:
    rows = [["masks of subjects not seen"]]
    for name, folder in places.items():
        told = _read(folder).get("segmentation")
        if told is None:
            continue
        if len(rows[0]) == 1:
            rows[0] += ["mean Dice", "95 %", *told["classes"]]
        test, ranges = told["splits"]["test"], told["test_intervals"]
        rows.append(
            [
                name,
                formatting.number(test["mean_dice"]),
                formatting.span("mean_dice", ranges["mean_dice"]),
                *(formatting.number(one["dice"]) for one in test["per_class"]),
            ]
        )
    _print(rows)


def _speeds(places: dict[str, Path]) -> dict[str, float]:
    """Images per second of each run's network, medians of rounds in which all take their turn."""
    opened = {name: classifier.open_run(folder) for name, folder in places.items()}
    asked = {}
    for name, one in opened.items():
        drawn = synthetic.skin_biopsies(
            image_size=one.image_size, tiles={"normal": 32}, subjects={"normal": 4}
        )
        asked[name] = [np.asarray(drawn.images)] * (IMAGES // 32)
        list(one.answer(asked[name][:1]))
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(ROUNDS):
        for name, one in opened.items():
            started = time.perf_counter()
            list(one.answer(asked[name]))
            seconds[name].append(time.perf_counter() - started)
    return {name: IMAGES / statistics.median(times) for name, times in seconds.items()}


def _print(rows: list[list[str]]) -> None:
    print()
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if number == 0:
            print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
