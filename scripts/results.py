"""Run the comparison of docs/results.md on a folder of real images, and print its tables.

    python scripts/results.py --data=FOLDER --weights=FILE --out=RUNS

FOLDER is an image set with subjects (a manifest.csv), FILE are ImageNet weights of MobileNetV2
1.0. MobileNetV2 and the CNN are cross-validated on the same five folds, once by subject and once
by image. `sscjax.main` runs each cross-validation, resumes it, does nothing where it is finished,
and refuses one that was run with another config; the commands are printed before they run. Then
come the figures as a Markdown table, the comparisons (`sscjax compare`), and a linear classifier on
the frozen features. Needs scikit-learn (the extra `test`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

import sscjax
from sscjax.data import loading, splits
from sscjax.data.dataset import ImageSet
from sscjax.system import formatting

FOLDS = 5
SPLITS = ("subject", "image")
SEED = 0


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The flags of each cross-validation, by the name of its folder."""
    # In their order, which kappa depends on.
    classes = [f"--config.data.classes={tuple(args.classes)}"] if args.classes else []
    models = {
        "mobilenet_v2": [
            "--config=configs/three_class.py",
            f"--config.pretrained={args.weights}",
            "--config.augment.copies=0",
            f"--config.stages.head.epochs={args.head_epochs}",
            f"--config.stages.finetune.epochs={args.finetune_epochs}",
        ],
        "cnn": [
            "--config=configs/cnn_three_class.py",
            f"--config.model.cnn_widths={tuple(args.cnn_widths)}".replace(" ", ""),
            f"--config.stages.train.epochs={args.cnn_epochs}",
            f"--config.data.image_size={args.cnn_size}",
            "--config.augment.copies=0",
        ],
    }
    return {
        f"{model}-{by}": [
            *flags,
            "--config.protocol=kfold",
            f"--config.cv.folds={FOLDS}",
            f"--config.split.by={by}",
            f"--config.data.path={args.data}",
            *classes,
        ]
        for by in SPLITS
        for model, flags in models.items()
    }


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--head-epochs", type=int, default=200)
    parser.add_argument("--finetune-epochs", type=int, default=16)
    parser.add_argument("--cnn-epochs", type=int, default=8, help="epochs of the CNN")
    parser.add_argument("--cnn-size", type=int, default=128, help="pixels of the CNN's images")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--cnn-widths", type=int, nargs="+", default=[32, 64, 128, 256])
    args = parser.parse_args()
    for name, flags in commands(args).items():
        arguments = ["-m", "sscjax.main", *flags, f"--workdir={args.out / name}"]
        print(shlex.join(["python", *arguments]), file=sys.stderr, flush=True)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    print(table(args.out), flush=True)
    for runs in comparisons(args.out):
        arguments = ["-m", "sscjax", "compare", *map(str, runs)]
        print("\n" + shlex.join(["python", *arguments]), flush=True)
        subprocess.run([sys.executable, *arguments], check=True)
    print(linear(args.data, args.weights))


def comparisons(out: Path) -> list[list[Path]]:
    """Folders to compare: the networks on each split, each network with and without the leak."""

    def stage(model: str, by: str, name: str) -> Path:
        return out / f"{model}-{by}" / "stages" / name

    every = (("mobilenet_v2", "head"), ("mobilenet_v2", "finetune"), ("cnn", "train"))
    networks = [[stage(model, by, name) for model, name in every] for by in SPLITS]
    leaks = [[stage(model, by, name) for by in reversed(SPLITS)] for model, name in every]
    return networks + leaks


def table(out: Path) -> str:
    """Out-of-fold figures of every stage of the cross-validations in `out`, as Markdown."""
    lines = [
        "| split by | model, stage | accuracy per image | each fold | balanced accuracy | "
        "macro AUROC, aggregated | macro AUROC, folds | accuracy per subject | best epochs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for by in SPLITS:
        for path in sorted(out.glob(f"*-{by}/metrics.json"), reverse=True):
            figures = json.loads(path.read_text("utf-8"))
            lines += [_row(by, name, figures, path.parent) for name in figures["stages"]]
    return "\n".join(lines)


def _row(by: str, name: str, figures: dict[str, Any], folder: Path) -> str:
    """One stage of the cross-validation in `folder`."""
    stage = figures["stages"][name]
    test, ranges = stage["splits"]["test"], stage["test_intervals"]

    def cell(unit: str, figure: str) -> str:
        show = formatting.number if figure == "macro_auroc" else formatting.percent
        span = formatting.span(figure, ranges[unit][figure])
        return f"{show(test[unit][figure])} ({span})"

    paths = [folder / "folds" / fold["name"] / "metrics.json" for fold in figures["folds"]]
    folds = [json.loads(path.read_text("utf-8"))["stages"][name] for path in paths]
    accuracies = [formatting.percent(f["splits"]["test"]["image"]["accuracy"]) for f in folds]
    areas = stage["over_folds"]["image"]["macro_auroc"]
    cells = [
        *(by, f"{folder.name.removesuffix(f'-{by}')}, {name}", cell("image", "accuracy")),
        *(", ".join(accuracies), cell("image", "balanced_accuracy"), cell("image", "macro_auroc")),
        f"{formatting.number(areas['mean'])} ± {formatting.number(areas['sd'])}",
        *(cell("subject", "accuracy"), ", ".join(str(fold["best_epoch"]) for fold in folds)),
    ]
    return f"| {' | '.join(cells)} |"


def linear(data: Path, weights: Path) -> str:
    """Accuracy over all folds of a linear classifier on the frozen features, as Markdown."""
    images = loading.load(data, 128)
    model = sscjax.create_model("mobilenet_v2", len(images.classes), pretrained=weights)
    features = sscjax.extract_features(model, images)
    lines = [
        "| linear classifier (scikit-learn) | split by subject | split by image |",
        "|---|---|---|",
    ]
    for strength in (0.01, 1.0):
        shares = [_linear_accuracy(features, images, by, strength) for by in SPLITS]
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        lines.append(f"| LogisticRegression(C={strength:g}) | {cells} |")
    return "\n".join(lines)


def _linear_accuracy(features: np.ndarray, images: ImageSet, by: str, strength: float) -> float:
    correct = 0
    for fold in range(FOLDS):
        assignment = splits.make_splits(
            images, by=by, fractions=(0.7, 0.15, 0.15), seed=SEED, folds=FOLDS, fold=fold
        )
        test = assignment == "test"
        classifier = LogisticRegression(C=strength, max_iter=1000)
        classifier.fit(features[~test], images.labels[~test])
        correct += int((classifier.predict(features[test]) == images.labels[test]).sum())
    return correct / len(images)


if __name__ == "__main__":
    main()
