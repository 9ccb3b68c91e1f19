"""Plant wrong labels, and measure how many of them the lists of suspects hold.

    python scripts/evidence/label_noise.py --data=FOLDER --weights=FILE --repeats=10

FOLDER is an image set with subjects (a manifest.csv), FILE are ImageNet weights of MobileNetV2. In
each repeat other subjects, or other images, get another label, chosen at random. Five folds by
subject predict every image by the L2-regularised classifier on frozen features of
`configs/best_three_class.py`, trained on the wrong labels, too; the penalty is fixed. The labels of
the set are taken for right: real errors among them count as false alarms. `first n` is the share
of planted ones among as many first rows, `class` that of listed ones whose true class is suggested.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np

from sscjax.configs import best_three_class
from sscjax.data import splits
from sscjax.evaluation import label_noise
from sscjax.evaluation.label_noise import Suspects
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import frozen_head, overrides
from sscjax.experiments.frozen_head import FrozenHead
from sscjax.system import formatting

FOLDS = 5

# What is planted, and the share of it.
DESIGNS = (("subjects", 0.05), ("subjects", 0.10), ("images", 0.05))


def main() -> None:
    """Measure, and print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the images")
    parser.add_argument("--weights", required=True, help="ImageNet weights")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--repeats", type=int, default=10, help="plantings of each kind")
    parser.add_argument("--l2", type=float, default=1e-3, help="strength of the penalty")
    args = parser.parse_args()
    config = best_three_class.get_config()
    fields = {"data.path": args.data, "data.classes": args.classes, "pretrained": args.weights}
    head = frozen_head.load(overrides.set_fields(config, fields))
    head = dataclasses.replace(head, penalties=(args.l2,))
    nothing = np.zeros(len(head.images), dtype=bool)
    for unit, suspects in zip(("images", "subjects"), _lists(head, nothing, 0), strict=True):
        print(f"nothing planted: {int(suspects.listed.sum())} of {len(suspects)} {unit} listed")
    heading = ("planted", "list", "planted", "listed", "precision", "recall", "first n", "class")
    print(f"\n| {' | '.join(heading)} |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for unit, share in DESIGNS:
        for row in _rows(head, unit, share, args.repeats):
            print(f"| {share:.0%} of {unit} | {' | '.join(row)} |", flush=True)


def _rows(head: FrozenHead, unit: str, share: float, repeats: int) -> Iterator[list[str]]:
    """A row for each list: sums over the repeats."""
    counts: dict[str, np.ndarray] = {}
    holders = head.images.subjects if unit == "subjects" else head.images.files
    true = dict(zip(holders.tolist(), head.images.labels.tolist(), strict=True))
    for repeat in range(repeats):
        planted = _plant(head, unit, share, repeat)
        predictions = _predictions(head, planted, repeat)
        images, subjects = label_noise.suspects(predictions)
        suspects = subjects if unit == "subjects" else images
        lists = {f"{unit}, listed": suspects}
        if unit == "subjects":
            lists["subjects, confident"] = dataclasses.replace(suspects, listed=suspects.confident)
        else:
            alone = dataclasses.replace(predictions, subjects=predictions.files)
            each = label_noise.suspects(alone)[0]
            lists["images, subjects ignored"] = dataclasses.replace(each, listed=each.confident)
        names = set(holders[planted].tolist())
        for name, one in lists.items():
            counts[name] = counts.get(name, np.zeros(5, int)) + _count(one, names, true)
    for name, (planted_, listed, right, first, suggested) in counts.items():
        shares = (right / max(listed, 1), right / planted_, first / planted_)
        shown = map(formatting.percent, (*shares, suggested / max(right, 1)))
        yield [name, str(planted_), str(listed), *shown]


def _count(suspects: Suspects, names: set[str], true: dict[str, int]) -> np.ndarray:
    """[5] int: planted, listed, planted ones listed, planted ones among as many first rows as were
    planted, and planted ones listed whose suggested class is the true one."""
    hits = np.array([name in names for name in suspects.names.tolist()])
    listed = suspects.listed & hits
    suggests = [
        true[name] == k
        for name, k in zip(suspects.names.tolist(), suspects.suggested.tolist(), strict=True)
    ]
    best = np.argsort(-suspects.scores, kind="stable")[: len(names)]
    return np.array(
        [
            *(len(names), suspects.listed.sum(), listed.sum(), hits[best].sum()),
            (listed & np.array(suggests)).sum(),
        ]
    )


def _plant(head: FrozenHead, unit: str, share: float, seed: int) -> np.ndarray:
    """[N] bool, the images whose label is to be changed."""
    rng = np.random.default_rng([seed, int(1000 * share)])
    holders = head.images.subjects if unit == "subjects" else head.images.files
    names = np.unique(holders)
    return np.isin(holders, rng.choice(names, max(1, round(share * len(names))), replace=False))


def _lists(head: FrozenHead, planted: np.ndarray, seed: int) -> tuple[Suspects, Suspects]:
    return label_noise.suspects(_predictions(head, planted, seed))


def _predictions(head: FrozenHead, planted: np.ndarray, seed: int) -> Predictions:
    """Out-of-fold predictions of all images, of which the planted ones have another label."""
    images, classes = head.images, len(head.images.classes)
    rng = np.random.default_rng([seed, 7])
    _, holder = np.unique(images.subjects, return_inverse=True)
    # Images of a subject whose label is wrong all carry the same wrong one.
    by_subject = all(planted[images.subjects == name].all() for name in images.subjects[planted])
    draws = rng.integers(1, classes, holder.max() + 1)[holder]
    if not by_subject:
        draws = rng.integers(1, classes, len(images))
    labels = np.where(planted, (images.labels + draws) % classes, images.labels).astype(np.int32)
    relabelled = dataclasses.replace(images, labels=labels)
    folds = splits.subject_folds(relabelled, FOLDS, seed)
    probabilities = np.zeros((len(images), classes))
    for fold in range(int(folds.max()) + 1):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        probabilities[test] = head.predict(train, test, labels)
    return Predictions(
        files=images.files,
        subjects=images.subjects,
        splits=np.full(len(images), "test"),
        labels=labels,
        probabilities=probabilities,
        classes=images.classes,
    )


if __name__ == "__main__":
    main()
