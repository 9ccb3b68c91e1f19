"""Folds of a protocol before any training: who is tested where, seeds, balance, clear refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.model_selection import StratifiedGroupKFold

from sscjax.configs import smoke
from sscjax.data.dataset import ImageSet
from sscjax.data.splits import make_splits
from sscjax.errors import UserError
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import folds


def config_of(protocol: str, **cv: Any) -> ConfigDict:
    config = smoke.get_config()
    config.protocol = protocol
    config.cv.update(cv)
    return config


def make_set(seed: int = 0, low: int = 8, high: int = 15) -> ImageSet:
    """Three classes, each with its own `low` to `high` subjects of 1 to 30 images, shuffled."""
    rng = np.random.default_rng(seed)
    labels, subjects = [], []
    for label in range(3):
        for subject in range(rng.integers(low, high + 1)):
            images = int(rng.integers(1, 31))
            labels += [label] * images
            subjects += [f"c{label}s{subject:02d}"] * images
    order = rng.permutation(len(labels))
    return ImageSet(
        images=np.zeros((len(labels), 2, 2, 3), np.uint8),
        labels=np.array(labels, np.int32)[order],
        subjects=np.array(subjects)[order],
        files=np.array([f"tile{i:05d}.png" for i in range(len(labels))]),
        classes=("normal", "early", "late"),
        source="made by the test",
    )


def deviation(image_set: ImageSet, tested: np.ndarray, count: int) -> float:
    """Mean over the classes of how far a fold is from its share, in shares."""
    numbers = np.bincount(image_set.labels[tested], minlength=3)
    return float(np.abs(numbers * count / np.bincount(image_set.labels) - 1).mean())


def test_folds_part_the_subjects_and_balance_as_well_as_scikit_learn() -> None:
    ours, theirs = [], []
    for seed in range(12):
        image_set = make_set(seed)
        config = config_of("kfold", folds=4)
        config.seed = seed
        found = folds.plan(config, image_set)
        assert [fold.name for fold in found] == ["fold_0", "fold_1", "fold_2", "fold_3"]
        for fold in found:
            splits = data_from_config.make_splits(fold.settings, image_set)
            np.testing.assert_array_equal(np.flatnonzero(splits == "test"), fold.tested)
            groups = [set(image_set.subjects[splits == name]) for name in ("train", "val", "test")]
            assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
            for name in ("train", "val", "test"):
                assert set(image_set.labels[splits == name]) == {0, 1, 2}
            ours.append(deviation(image_set, fold.tested, 4))
        reference = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
        parts = reference.split(image_set.files, image_set.labels, image_set.subjects)
        theirs += [deviation(image_set, tested, 4) for _, tested in parts]
        once = np.concatenate([fold.tested for fold in found])
        np.testing.assert_array_equal(np.sort(once), np.arange(len(image_set)))
    assert np.mean(ours) <= np.mean(theirs)


def test_repeats_are_other_partitions_of_all_images() -> None:
    image_set = make_set()
    found = folds.plan(config_of("kfold", folds=3, repeats=2), image_set)
    names = [f"repeat_{repeat}-fold_{fold}" for repeat in range(2) for fold in range(3)]
    assert [fold.name for fold in found] == names
    for repeat in range(2):
        tested = [fold.tested for fold in found if fold.repeat == repeat]
        np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(image_set)))
    first, second = ({frozenset(f.tested.tolist()) for f in found[i : i + 3]} for i in (0, 3))
    assert not first & second
    # The first repeat is the partition that split.folds gives by hand.
    for number, fold in enumerate(found[:3]):
        by_hand = make_splits(
            image_set, by="subject", fractions=(0.7, 0.15, 0.15), seed=0, folds=3, fold=number
        )
        np.testing.assert_array_equal(np.flatnonzero(by_hand == "test"), fold.tested)


def test_holdouts_differ_and_keep_the_subjects_together() -> None:
    image_set = make_set()
    found = folds.plan(config_of("repeated", repeats=3), image_set)
    assert [fold.name for fold in found] == ["repeat_0", "repeat_1", "repeat_2"]
    assert len({fold.tested.tobytes() for fold in found}) == 3
    for fold in found:
        tested = set(image_set.subjects[fold.tested])
        assert not tested & set(np.delete(image_set.subjects, fold.tested))
    assert len(folds.plan(config_of("repeated"), image_set)) == 5


def test_each_run_has_a_seed_of_its_own_and_the_images_stay() -> None:
    image_set = make_set()
    config = config_of("nested", folds=3, repeats=2, inner_folds=2)
    config.seed = 7
    plan = folds.plan(config, image_set)
    runs = [run for fold in plan for run in (fold, *fold.inner)]
    seeds = [run.config.seed for run in runs]
    assert len(set(seeds)) == len(seeds) == 18
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert {run.config.data.seed for run in runs} == {7}
    assert {run.config.protocol for run in runs} == {"holdout"}
    again = folds.plan(config, image_set)
    assert [run.config.seed for fold in again for run in (fold, *fold.inner)] == seeds
    config.seed = 8
    other = folds.plan(config, image_set)
    assert not {run.config.seed for fold in other for run in (fold, *fold.inner)} & set(seeds)


@pytest.mark.parametrize("by", ["subject", "image"])
def test_inner_folds_never_see_the_outer_test(by: str) -> None:
    image_set = make_set()
    config = config_of("nested", folds=3, inner_folds=2)
    config.split.by = by
    for fold in folds.plan(config, image_set):
        allowed = np.delete(image_set.files, fold.tested)
        tested = []
        for inner in fold.inner:
            seen = data_from_config.without_outer_fold(inner.settings, image_set)
            np.testing.assert_array_equal(seen.files, allowed)
            splits = data_from_config.make_splits(inner.settings, seen)
            np.testing.assert_array_equal(np.flatnonzero(splits == "test"), inner.tested)
            tested.append(inner.tested)
        np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(allowed)))


def test_every_subject_is_left_out_once() -> None:
    image_set = make_set(low=3, high=5)
    found = folds.plan(config_of("loso"), image_set)
    assert len(found) == len(set(image_set.subjects))
    for fold in found:
        subject = fold.config.split.test_subject
        np.testing.assert_array_equal(np.flatnonzero(image_set.subjects == subject), fold.tested)
        splits = data_from_config.make_splits(fold.settings, image_set)
        for name in ("train", "val"):
            assert set(image_set.labels[splits == name]) == {0, 1, 2}
        assert not set(image_set.subjects[splits == "val"]) & set(
            image_set.subjects[splits == "train"]
        )
    assert [fold.name for fold in found] == sorted(fold.name for fold in found)


def test_val_share_beside_one_subject_is_of_the_whole() -> None:
    # Ten subjects of ten images of either class: one subject is 5 %, 15 % are three subjects.
    image_set = dataclasses.replace(
        make_set(),
        labels=np.repeat([0, 1], 100).astype(np.int32),
        subjects=np.repeat([f"s{i:02d}" for i in range(20)], 10),
        files=np.array([f"{i:03d}" for i in range(200)]),
        images=np.zeros((200, 2, 2, 3), np.uint8),
        classes=("a", "b"),
    )
    options: dict[str, Any] = {"by": "subject", "fractions": (0.7, 0.15, 0.15), "seed": 0}
    splits = make_splits(image_set, **options, test_subject="s03")
    assert {name: int((splits == name).sum()) for name in ("train", "val", "test")} == {
        "train": 160,
        "val": 30,
        "test": 10,
    }
    for wrong, message in (
        ({"test_subject": "s99"}, "no such subject"),
        ({"test_subject": "s03", "folds": 3}, "folds"),
        ({"test_subject": "s03", "by": "image"}, "by image"),
        ({"test_subject": "s03", "fractions": (0.02, 0.96, 0.02)}, "leaves none to train on"),
    ):
        with pytest.raises(UserError, match=message):
            make_splits(image_set, **(options | wrong))
    given = dataclasses.replace(image_set, splits=np.resize(["train", "val", "test"], 200))
    with pytest.raises(UserError, match="prescribes its splits"):
        make_splits(given, **options, test_subject="s03")


@pytest.mark.parametrize(
    ("protocol", "fields", "message"),
    [
        ("kfold", {"cv.folds": 1}, "cv.folds=1: expected 2 or more"),
        ("kfold", {"cv.folds": 6}, r"class 'normal' has 5 subject\(s\).*cv.folds=5 or fewer"),
        ("nested", {"cv.folds": 5, "cv.inner_folds": 5}, "fold_0, inner_0 cannot be split"),
        ("kfold", {"split.folds": 3}, "split.folds=3 is for one run by hand"),
        ("loso", {"split.test_subject": "c0s00"}, "empty it"),
        ("loso", {"split.by": "image"}, "set it to 'subject'"),
        ("loso", {"cv.repeats": 2}, "in one way only"),
        ("kfold", {"split.by": "image", "split.counts": "normal:1/1/1"}, "empty it"),
        ("repeated", {"cv.repeats": -1}, "cv.repeats=-1: expected 0 or more"),
        ("kfold", {"seed": -1}, "seed=-1"),
    ],
)
def test_impossible_protocols_are_refused(
    protocol: str, fields: dict[str, Any], message: str
) -> None:
    config = config_of(protocol)
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message) as caught:
        folds.plan(config, make_set(low=5, high=5))
    assert "\n" not in str(caught.value)


def test_two_subjects_of_a_class_suffice_where_nothing_is_validated() -> None:
    image_set = make_set(low=2, high=2)
    config = config_of("kfold", folds=2)
    config.stage_order = ("head",)
    config.stages.head.optimizer = "lbfgs"
    for fold in folds.plan(config, image_set):
        splits = data_from_config.make_splits(fold.settings, image_set)
        assert set(splits.tolist()) == {"train", "test"}
        assert set(image_set.labels[splits == "train"].tolist()) == {0, 1, 2}
    config.protocol = "repeated"
    with pytest.raises(UserError, match=r"'normal' has 2 subject\(s\).*needs 3 or more"):
        folds.plan(config, image_set)


def test_too_few_subjects_and_none_named() -> None:
    image_set = make_set(low=2, high=2)
    for protocol in ("kfold", "nested", "loso", "repeated"):
        with pytest.raises(UserError, match=r"'normal' has 2 subject\(s\).*merge classes"):
            folds.plan(config_of(protocol, folds=2), image_set)
    unnamed = dataclasses.replace(make_set(), subjects=make_set().files)
    with pytest.raises(UserError, match="no image names its subject"):
        folds.plan(config_of("loso"), unnamed)
    given = np.resize(["train", "val", "test"], len(unnamed))
    with pytest.raises(UserError, match="prescribes its splits"):
        folds.plan(config_of("kfold"), dataclasses.replace(make_set(), splits=given))
