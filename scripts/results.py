"""Run and tabulate the comparison of docs/results.md on a folder of real images.

    python scripts/results.py --data=FOLDER --weights=FILE --out=RUNS

FOLDER is an image set with subjects (a manifest.csv), FILE are ImageNet weights of MobileNetV2
1.0. MobileNetV2 and the CNN are cross-validated on the same five folds, once by subject and once
by image. Each cross-validation is given to `sscjax.main`, which resumes it, does nothing
where it is finished, and refuses what was run otherwise; the commands are printed before they run.
The table is printed as Markdown, then the comparisons (`sscjax compare`), last a linear classifier
on the frozen features. Needs scikit-learn (the extra `test`).
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

from sscjax.data import loading, splits
from sscjax.data.dataset import ImageSet
from sscjax.models import MobileNetV2
from sscjax.models.pretrained import load, preprocessing
from sscjax.system import formatting
from sscjax.training import frozen_features, losses, programs

FOLDS = 5
SPLITS = ("subject", "image")
SEED = 0


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The protocols by the name of their folder, with the flags of each."""
    # In their order, so that kappa has a meaning.
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
    """Out-of-fold figures of every stage of the finished protocols in `out`, as Markdown."""
    lines = [
        "| split by | model, stage | accuracy per image | each fold | balanced accuracy | "
        "macro AUROC, aggregated | macro AUROC, folds | accuracy per subject | epochs kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for by in SPLITS:
        for path in sorted(out.glob(f"*-{by}/metrics.json"), reverse=True):
            found = json.loads(path.read_text("utf-8"))
            model = path.parent.name.removesuffix(f"-{by}")
            lines += [_row(by, model, name, found, path.parent) for name in found["stages"]]
    return "\n".join(lines)


def _row(by: str, model: str, name: str, found: dict[str, Any], folder: Path) -> str:
    stage = found["stages"][name]
    test, ranges = stage["splits"]["test"], stage["test_intervals"]

    def cell(unit: str, figure: str) -> str:
        show = formatting.number if figure == "macro_auroc" else formatting.percent
        span = formatting.span(figure, ranges[unit][figure])
        return f"{show(test[unit][figure])} ({span})"

    folds = [folder / "folds" / fold["name"] / "metrics.json" for fold in found["folds"]]
    of_folds = [json.loads(path.read_text("utf-8"))["stages"][name] for path in folds]
    each = [formatting.percent(one["splits"]["test"]["image"]["accuracy"]) for one in of_folds]
    areas = stage["over_folds"]["image"]["macro_auroc"]
    cells = [
        *(by, f"{model}, {name}", cell("image", "accuracy"), ", ".join(each)),
        *(cell("image", "balanced_accuracy"), cell("image", "macro_auroc")),
        f"{formatting.number(areas['mean'])} ± {formatting.number(areas['sd'])}",
        *(cell("subject", "accuracy"), ", ".join(str(one["best_epoch"]) for one in of_folds)),
    ]
    return f"| {' | '.join(cells)} |"


def linear(data: Path, weights: Path) -> str:
    """Accuracy over all folds of a linear classifier on the frozen features, as Markdown."""
    images = loading.load(data, 128)
    model = MobileNetV2(outputs=len(images.classes))
    shapes = load.backbone_tree(model.alpha)
    loaded = load.load_backbone(weights, *shapes)
    scaling = loaded.convention.scaling
    model = model.clone(padding=loaded.convention.padding, bn_epsilon=loaded.convention.bn_epsilon)
    program = programs.Program(
        model,
        losses.Objective("softmax"),
        lambda stored, key: preprocessing.preprocess(stored, scaling),
        micro_batch=8,
    )
    found = frozen_features.compute(
        program,
        model.head_start + 1,
        loaded.params,
        loaded.batch_stats,
        images.images,
        batch_size=32,
        progress=lambda count: None,
    )
    lines = [
        "| linear classifier (scikit-learn) | split by subject | split by image |",
        "|---|---|---|",
    ]
    for strength in (0.01, 1.0):
        shares = [_linear_accuracy(np.asarray(found), images, by, strength) for by in SPLITS]
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        lines.append(f"| LogisticRegression(C={strength:g}) | {cells} |")
    return "\n".join(lines)


def _linear_accuracy(found: np.ndarray, images: ImageSet, by: str, strength: float) -> float:
    right = 0
    for fold in range(FOLDS):
        test = (
            splits.make_splits(
                images, by=by, fractions=(0.7, 0.15, 0.15), seed=SEED, folds=FOLDS, fold=fold
            )
            == "test"
        )
        classifier = LogisticRegression(C=strength, max_iter=1000)
        classifier.fit(found[~test], images.labels[~test])
        right += int((classifier.predict(found[test]) == images.labels[test]).sum())
    return right / len(images)


if __name__ == "__main__":
    main()
