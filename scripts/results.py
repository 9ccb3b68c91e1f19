"""Run and tabulate the comparison of docs/results.md on a folder of real images.

    python scripts/results.py --data=FOLDER --weights=FILE --out=RUNS

FOLDER is an image set with subjects (a manifest.csv), FILE are ImageNet weights of MobileNetV2
1.0. Each seed tests another of five folds, so that five seeds test every image once; seed and fold
are therefore not told apart. Each run is given to `sscjax.main`, which goes on where it stopped,
does nothing where it is finished, and refuses what was run otherwise. The tables are printed as
Markdown, last that of a linear classifier on the frozen features. Needs scikit-learn (the extra
`test`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from sscjax import features, steps
from sscjax.data import sources, splits
from sscjax.data.dataset import ImageSet
from sscjax.intervals import clustered_share
from sscjax.metrics import Predictions
from sscjax.models import MobileNetV2
from sscjax.pretrained import convention, load

FOLDS = 5
SPLITS = ("subject", "image")


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The runs by the name of their folder, with the flags of each."""
    found = {}
    for seed in range(args.seeds):
        for by in SPLITS:
            found[f"mobilenet_v2-{by}-{seed}"] = [
                "--config=configs/three_class.py",
                f"--config.pretrained={args.weights}",
                "--config.augment.copies=0",
                *_fold(args, by, seed),
            ]
    for seed in range(args.cnn_seeds):
        for by in SPLITS:
            found[f"cnn-{by}-{seed}"] = [
                "--config=configs/cnn_three_class.py",
                f"--config.stages.train.epochs={args.cnn_epochs}",
                "--config.stages.train.patience=3",
                *_fold(args, by, seed),
            ]
    return found


def _fold(args: argparse.Namespace, by: str, seed: int) -> list[str]:
    return [
        f"--config.data.path={args.data}",
        f"--config.split.by={by}",
        "--config.split.seed=0",
        f"--config.split.folds={FOLDS}",
        f"--config.split.fold={seed % FOLDS}",
        f"--config.seed={seed}",
    ]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5, help="runs of MobileNetV2 per split")
    parser.add_argument("--cnn-seeds", type=int, default=2, help="runs of the CNN per split")
    parser.add_argument("--cnn-epochs", type=int, default=8, help="most epochs of the CNN")
    args = parser.parse_args()
    for name, flags in commands(args).items():
        folder = args.out / name
        print(f"== {name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "sscjax.main", *flags, f"--workdir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(table(args.out))
    print(linear(args.data, args.weights))


def table(out: Path) -> str:
    """Test figures of every stage over the finished runs in `out`, as a Markdown table."""
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for path in sorted(out.glob("*-*-*/metrics.json")):
        model, by, _ = path.parent.name.split("-")
        for stage in json.loads(path.read_text("utf-8"))["stages"]:
            groups.setdefault((by, model, stage), []).append(path)
    lines = [
        "| split by | model, stage | runs | test accuracy per image, all runs | 95 % interval by "
        "subject, given these models | "
        "each run | balanced accuracy | macro AUROC | accuracy per subject | epoch kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (by, model, stage), paths in sorted(groups.items(), reverse=True):
        stages = [json.loads(path.read_text("utf-8"))["stages"][stage] for path in paths]
        test = [found["splits"]["test"] for found in stages]
        accuracy = [found["image"]["accuracy"] for found in test]
        each = ", ".join(f"{100 * value:.1f}" for value in accuracy)
        tables = [
            Predictions.read_csv(path.parent / "stages" / stage / "predictions.csv").where("test")
            for path in paths
        ]
        right = np.concatenate([table.predicted == table.labels for table in tables])
        subjects = np.concatenate([table.subjects for table in tables])
        interval = clustered_share(right, np.ones(len(right), bool), subjects)
        span = "-"
        # Split by image the subjects stand in training too: no interval speaks of new ones.
        if interval is not None and by == "subject":
            span = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
        lines.append(
            f"| {by} | {model}, {stage} | {len(paths)} | {100 * right.mean():.1f} % | {span} | "
            f"{each} | "
            f"{_spread([found['image']['balanced_accuracy'] for found in test], 100)} % | "
            f"{_spread([found['image']['macro_auroc'] for found in test], 1)} | "
            f"{_spread([found['subject']['accuracy'] for found in test], 100)} % | "
            f"{', '.join(str(found['best_epoch']) for found in stages)} |"
        )
    return "\n".join(lines)


def linear(data: Path, weights: Path) -> str:
    """Accuracy over all folds of a linear classifier on the frozen features, as Markdown."""
    images = sources.load(data, 128)
    model = MobileNetV2(outputs=len(images.classes))
    shapes = load.backbone_tree(model.alpha)
    loaded = load.load_backbone(weights, *shapes)
    scaling = loaded.convention.scaling
    model = model.clone(padding=loaded.convention.padding, bn_epsilon=loaded.convention.bn_epsilon)
    program = steps.Program(
        model,
        steps.Objective("softmax"),
        lambda stored, key: convention.preprocess(stored, scaling),
        micro_batch=8,
    )
    found = features.compute(
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
                images, by=by, fractions=(0.7, 0.15, 0.15), seed=0, folds=FOLDS, fold=fold
            )
            == "test"
        )
        classifier = LogisticRegression(C=strength, max_iter=1000)
        classifier.fit(found[~test], images.labels[~test])
        right += int((classifier.predict(found[test]) == images.labels[test]).sum())
    return right / len(images)


def _spread(values: list[float], factor: int) -> str:
    """Mean and sample standard deviation over the runs."""
    places = 1 if factor == 100 else 3
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{factor * statistics.mean(values):.{places}f} ± {factor * deviation:.{places}f}"


if __name__ == "__main__":
    main()
