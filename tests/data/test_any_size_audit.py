"""The audit, splits, weights of classes and figures on sets of 0 to 3 images: never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from any_size import sound
from fuzzing import tried
from hypothesis import given
from hypothesis import strategies as st

from sscjax.data import splits
from sscjax.data.audit import (
    alignment,
    appearance,
    checks,
    confounders,
    duplicates,
    keypoints,
    matching,
    overlaps,
    patients,
    registration,
    report,
    thumbnails,
)
from sscjax.data.dataset import ImageSet
from sscjax.reports.figures import canvas, confusion_matrix, images, subject_curve, training
from sscjax.training.class_weights import class_weights, mask_weights

SHARES = (0.7, 0.15, 0.15)


@st.composite
def sets(draw: Callable[..., Any]) -> ImageSet:
    """Images that differ, that are all the same, or of one grey; any subjects and classes."""
    count, classes = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    pixels = {
        "differ": rng.integers(0, 256, (count, 64, 64, 3), np.uint8),
        "same": np.repeat(rng.integers(0, 256, (1, 64, 64, 3), np.uint8), count, axis=0),
        "flat": np.full((count, 64, 64, 3), 128, np.uint8),
    }[draw(st.sampled_from(("differ", "same", "flat")))]
    return ImageSet(
        images=pixels,
        labels=rng.integers(0, classes, count).astype(np.int32),
        subjects=np.array([f"s{k}" for k in rng.integers(0, 3, count)], str),
        files=np.array([f"{k}.png" for k in range(count)], str),
        classes=("a", "b", "c")[: max(2, classes)],
    )


def audited(data: ImageSet) -> Any:
    every = np.array(["train", "val", "test"])[: len(data)]
    found = [checks.audit(data, None, None), checks.audit(data, every, None)]
    return found, [report.text(one) for one in found]


def searched(data: ImageSet) -> Any:
    """What the audit is made of, each function by itself."""
    grey, zero = data.images[..., 0], np.zeros(len(data), int)
    start = np.tile([0.0, 0.0, 1.0], (len(data), 1))
    with ThreadPoolExecutor(1) as pool:
        matches = matching.match(keypoints.detect(np.asarray(grey)), pool)
    return [
        *(duplicates.find(data.images), overlaps.search(grey), thumbnails.recognisable(grey)),
        *(matches, registration.register(grey, matches), overlaps.implied_pairs(matches, 64)),
        *(
            appearance.describe(np.asarray(data.images)),
            alignment.align(grey, zero, zero, zero, start),
        ),
        *(patients.find(np.zeros((len(data), appearance.FEATURES)), data.subjects),),
        *(matching.joined([]), thumbnails.signatures(grey, 1.0, 1, 8, 1.0)),
        confounders.find({"x": zero * 1.0}, data.labels, data.subjects, len(data.classes)),
    ]


def split(data: ImageSet, **how: Any) -> Any:
    return splits.make_splits(data, fractions=SHARES, seed=0, **how)


def drawn(data: ImageSet) -> None:
    """Figures of as many things as there are images."""
    rows = [
        {"epoch": k + 1, "stage": "head", "train_loss": 1.0, "val_loss": 1.0, "learning_rate": 1.0}
        | {"train_accuracy": 0.5, "val_accuracy": 0.5}
        for k in range(len(data))
    ]
    training.learning_curves(rows)
    training.fold_curves({f"fold {k}": rows for k in range(len(data))})
    confusion_matrix.confusion(np.zeros((len(data),) * 2, int), data.classes[:1] * len(data))


# Each is called with a set of 0 to 3 images.
WALK: dict[str, Callable[[ImageSet], Any]] = {
    "audit": audited,
    "search": searched,
    "by subject": lambda data: split(data, by="subject"),
    "by image": lambda data: split(data, by="image"),
    "folds": lambda data: split(data, by="subject", folds=2),
    "one subject": lambda data: split(data, by="subject", test_subject="s0"),
    "subject folds": lambda data: splits.subject_folds(data, 5, 0),
    "unlabelled folds": lambda data: splits.unlabelled_folds(data.subjects, 5, 0),
    "class weights": lambda data: class_weights("balanced", data.labels, 3),
    "no masks": lambda data: mask_weights("root", np.full((len(data), 4, 4), 255, np.uint8), 2),
    "masks": lambda data: mask_weights("root", np.zeros((len(data), 4, 4), np.uint8), 2),
}

FIGURES: dict[str, Callable[[ImageSet], Any]] = {
    "drawn": drawn,
    "panels": lambda data: canvas.panels(len(data)),
    "images": lambda data: images.image_sheet("title", [("a", one) for one in data.images]),
    "masks": lambda data: images.mask_sheet(
        np.asarray(data.images), data.images[..., 0], data.images[..., 0], ["a"]
    ),
    "curves": lambda data: subject_curve.subject_curves([], 5) if not len(data) else None,
}


@pytest.mark.parametrize("name", WALK)
def test_no_image_or_few(name: str) -> None:
    @tried(12)
    @given(sets())
    def every(data: ImageSet) -> None:
        sound(name, lambda: WALK[name](data))

    every()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_nothing_or_little(name: str) -> None:
    @tried(4)
    @given(sets())
    def every(data: ImageSet) -> None:
        sound(name, lambda: FIGURES[name](data) and None)

    every()
