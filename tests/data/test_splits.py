"""Splits: random problems, exact counts, folds, and balance against scikit-learn."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from sscjax.data.dataset import ImageSet
from sscjax.data.splits import SPLITS, make_splits, read_splits, write_splits
from sscjax.errors import UserError

FRACTIONS = (0.8, 0.1, 0.1)


def make_set(
    labels: np.ndarray, subjects: np.ndarray, splits: np.ndarray | None = None
) -> ImageSet:
    number = len(labels)
    pixels = np.arange(number * 3, dtype=np.uint32).view(np.uint8).reshape(number, 2, 2, 3)
    return ImageSet(
        images=pixels,
        labels=np.asarray(labels, np.int32),
        subjects=np.asarray(subjects, dtype=np.str_),
        files=np.array([f"tile{i:05d}.png" for i in range(number)]),
        classes=tuple(f"class{k}" for k in range(int(max(labels)) + 1)),
        splits=splits,
        source="made by the test",
    )


def separate_subjects(rng: np.random.Generator, low: int = 3, high: int = 15) -> ImageSet:
    """2 to 4 classes, each with its own `low`..`high` subjects of 1 to 30 images, shuffled."""
    labels, subjects = [], []
    for label in range(rng.integers(2, 5)):
        for subject in range(rng.integers(low, high + 1)):
            images = int(rng.integers(1, 31))
            labels += [label] * images
            subjects += [f"c{label}s{subject}"] * images
    order = rng.permutation(len(labels))
    return make_set(np.array(labels)[order], np.array(subjects)[order])


def mixed_subjects(rng: np.random.Generator) -> ImageSet:
    """12 to 40 subjects, each with images of any class."""
    classes = int(rng.integers(2, 4))
    labels, subjects = [], []
    for subject in range(rng.integers(12, 41)):
        mixture = rng.dirichlet(np.full(classes, 0.7))
        drawn = rng.choice(classes, size=rng.integers(4, 25), p=mixture)
        labels += drawn.tolist()
        subjects += [f"s{subject}"] * len(drawn)
    return make_set(np.array(labels), np.array(subjects))


def shares(image_set: ImageSet, splits: np.ndarray) -> np.ndarray:
    """[3,K] share of each class's images in each split."""
    return np.array(
        [
            [np.mean(splits[image_set.labels == k] == name) for k in range(len(image_set.classes))]
            for name in SPLITS
        ]
    )


def assert_valid(image_set: ImageSet, splits: np.ndarray, by: str) -> None:
    assert splits.shape == image_set.labels.shape
    assert set(splits.tolist()) == set(SPLITS)
    for name in SPLITS:
        assert set(image_set.labels[splits == name]) == set(range(len(image_set.classes)))
    if by == "subject":
        for subject in np.unique(image_set.subjects):
            assert len(set(splits[image_set.subjects == subject])) == 1


@pytest.mark.parametrize("seed", range(40))
def test_random_problems_with_separate_subjects(seed):
    rng = np.random.default_rng(seed)
    image_set = separate_subjects(rng)
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=seed)
    assert_valid(image_set, splits, "subject")
    # No share can be expected nearer than the largest subject of its class allows.
    for label in range(len(image_set.classes)):
        of_class = image_set.subjects[image_set.labels == label]
        sizes = np.unique(of_class, return_counts=True)[1] / len(of_class)
        difference = np.abs(shares(image_set, splits)[:, label] - FRACTIONS)
        assert difference.max() <= max(2 * sizes.max(), 0.1)


@pytest.mark.parametrize("seed", range(20))
def test_random_problems_with_mixed_subjects(seed):
    rng = np.random.default_rng(1000 + seed)
    image_set = mixed_subjects(rng)
    splits = make_splits(image_set, by="subject", fractions=(0.6, 0.2, 0.2), seed=seed)
    assert_valid(image_set, splits, "subject")
    difference = np.abs(shares(image_set, splits) - np.array([[0.6], [0.2], [0.2]]))
    assert difference.max() < 0.15


@pytest.mark.parametrize("seed", range(20))
def test_random_problems_by_image_are_exact_to_one_image(seed):
    rng = np.random.default_rng(2000 + seed)
    image_set = separate_subjects(rng)
    fractions = rng.dirichlet((8, 4, 4)).tolist()
    splits = make_splits(image_set, by="image", fractions=fractions, seed=seed)
    assert_valid(image_set, splits, "image")
    for label in range(len(image_set.classes)):
        of_class = splits[image_set.labels == label]
        for name, fraction in zip(SPLITS, fractions, strict=True):
            wanted = len(of_class) * fraction
            assert abs(np.sum(of_class == name) - wanted) < 1 or np.sum(of_class == name) == 1


def test_equal_subjects_are_split_exactly():
    # 20 subjects of 10 images in either class: 0.8, 0.1, 0.1 can be met to the image.
    labels = np.repeat([0, 1], 200)
    subjects = np.repeat(np.arange(40), 10)
    for seed in range(10):
        image_set = make_set(labels, subjects)
        splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=seed)
        expected = np.tile(np.array(FRACTIONS)[:, None], (1, 2))
        np.testing.assert_allclose(shares(image_set, splits), expected)


def test_best_assignment_of_a_small_problem_is_found():
    """Against all 3^8 assignments: the search must come near the best of them."""
    rng = np.random.default_rng(5)
    every = np.stack(np.meshgrid(*[np.arange(3)] * 8), -1).reshape(-1, 8)
    for trial in range(10):
        sizes = rng.integers(2, 20, 8)
        labels = np.repeat(np.repeat([0, 1], 4), sizes)
        image_set = make_set(labels, np.repeat(np.arange(8), sizes))
        weights = np.zeros((8, 3))
        weights[:4, 0], weights[4:, 1] = sizes[:4] / sizes[:4].sum(), sizes[4:] / sizes[4:].sum()
        weights[:, 2] = sizes / sizes.sum()
        fractions = (0.5, 0.25, 0.25)
        sums = np.stack([((every == j)[..., None] * weights).sum(1) for j in range(3)], 1)
        cost = (np.square(sums - np.array(fractions)[:, None]).sum(-1) / fractions).sum(-1)
        cost[(sums == 0).any((1, 2))] = np.inf
        reached = []
        for seed in range(8):
            splits = make_splits(image_set, by="subject", fractions=fractions, seed=seed)
            first = [np.flatnonzero(image_set.subjects == str(s))[0] for s in range(8)]
            part = [SPLITS.index(splits[i]) for i in first]
            reached.append(cost[np.all(every == part, 1)][0])
        assert min(reached) == pytest.approx(cost.min()), trial
        assert np.mean(reached) < cost.min() + 0.15, trial


def test_same_seed_same_split_whatever_the_order():
    image_set = separate_subjects(np.random.default_rng(7), low=6)
    order = np.random.default_rng(8).permutation(len(image_set))
    for by in ("subject", "image"):
        splits = make_splits(image_set, by=by, fractions=FRACTIONS, seed=3)
        again = make_splits(image_set, by=by, fractions=FRACTIONS, seed=3)
        shuffled = make_splits(image_set.take(order), by=by, fractions=FRACTIONS, seed=3)
        np.testing.assert_array_equal(splits, again)
        np.testing.assert_array_equal(splits[order], shuffled)


def test_seeds_test_different_subjects():
    """All sizes differ, where a largest-first assignment would give one split for every seed."""
    sizes = np.arange(5, 35)
    image_set = make_set(np.repeat(np.arange(30) % 2, sizes), np.repeat(np.arange(30), sizes))
    tested = [
        frozenset(
            image_set.subjects[
                make_splits(image_set, by="subject", fractions=FRACTIONS, seed=seed) == "test"
            ].tolist()
        )
        for seed in range(10)
    ]
    assert len(set(tested)) >= 8
    assert len(frozenset().union(*tested)) >= 15


def test_balance_is_as_good_as_that_of_scikit_learn():
    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(20):
        rng = np.random.default_rng(3000 + seed)
        image_set = mixed_subjects(rng) if seed % 2 else separate_subjects(rng, low=8)
        folds = [
            make_splits(image_set, by="subject", fractions=FRACTIONS, seed=seed, folds=5, fold=i)
            == "test"
            for i in range(5)
        ]
        reference = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(
            image_set.files, image_set.labels, image_set.subjects
        )
        for target, tests in ((ours, folds), (theirs, [test for _, test in reference])):
            for test in tests:
                numbers = np.bincount(image_set.labels[test], minlength=len(image_set.classes))
                wanted = np.bincount(image_set.labels) / 5
                target.append(np.abs(numbers / wanted - 1).mean())
    assert np.mean(ours) <= np.mean(theirs)


@pytest.mark.parametrize("by", ["subject", "image"])
@pytest.mark.parametrize("seed", range(8))
def test_each_image_is_tested_in_exactly_one_fold(by, seed):
    image_set = separate_subjects(np.random.default_rng(seed), low=6)
    tested = np.zeros(len(image_set), int)
    for fold in range(5):
        splits = make_splits(image_set, by=by, fractions=FRACTIONS, seed=seed, folds=5, fold=fold)
        assert_valid(image_set, splits, by)
        tested += splits == "test"
    np.testing.assert_array_equal(tested, 1)


def test_folds_by_image_have_equal_sizes_and_the_wanted_val_share():
    image_set = make_set(np.repeat([0, 1, 2], [103, 57, 41]), np.arange(201))
    for fold in range(4):
        splits = make_splits(
            image_set, by="image", fractions=(0.7, 0.15, 0.15), seed=0, folds=4, fold=fold
        )
        assert abs(np.sum(splits == "test") - 201 / 4) <= 1
        assert abs(np.sum(splits == "val") - 201 * 0.15) <= 2


def test_exact_counts():
    image_set = make_set(np.repeat([0, 1], [347, 282]), np.arange(629))
    counts = {"class0": (277, 35, 35), "class1": (226, 28, 28)}
    splits = make_splits(image_set, by="image", fractions=FRACTIONS, seed=1, counts=counts)
    for label, name in enumerate(image_set.classes):
        found = [int(np.sum(splits[image_set.labels == label] == split)) for split in SPLITS]
        assert found == list(counts[name])
    other = make_splits(image_set, by="image", fractions=FRACTIONS, seed=2, counts=counts)
    assert np.any(splits != other)


@pytest.mark.parametrize("seed", range(3))
def test_without_validation_the_same_images_are_tested(seed: int) -> None:
    """So that a recipe without a validation split can be compared with one that has it."""
    image_set = separate_subjects(np.random.default_rng(seed), low=4)
    for arguments in ({}, {"folds": 4, "fold": 2}, {"test_subject": "c0s0"}):
        given: dict[str, Any] = {"by": "subject", "fractions": (0.6, 0.2, 0.2), "seed": seed}
        given.update(arguments)
        splits = make_splits(image_set, **given)
        fewer = make_splits(image_set, **given, validation=False)
        assert "val" in splits
        np.testing.assert_array_equal(fewer, np.where(splits == "test", "test", "train"))


def test_prescribed_splits_without_validation_images_serve_where_none_are_needed() -> None:
    given = np.array(["train", "train", "test"] * 4)
    image_set = make_set(np.repeat([0, 1], 6), np.arange(12), splits=given)
    wanted: dict[str, Any] = {"by": "subject", "fractions": FRACTIONS, "seed": 0}
    np.testing.assert_array_equal(make_splits(image_set, **wanted, validation=False), given)
    # Where they are needed, some of the training subjects become them, and no test image does.
    splits = make_splits(image_set, **wanted)
    np.testing.assert_array_equal(splits == "test", given == "test")
    for label in (0, 1):
        assert set(splits[image_set.labels == label].tolist()) == {"train", "val", "test"}


def test_many_images_without_subjects_are_quick_and_exact():
    image_set = make_set(np.arange(20_000) % 3, np.arange(20_000))
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)
    np.testing.assert_allclose(
        shares(image_set, splits), np.tile(np.array(FRACTIONS)[:, None], (1, 3)), atol=2e-4
    )


def test_prescribed_splits_win():
    given = np.array(["train", "val", "test"] * 4)
    image_set = make_set(np.repeat([0, 1], 6), np.arange(12), splits=given)
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)
    np.testing.assert_array_equal(splits, given)
    with pytest.raises(UserError, match="prescribes its splits.*folds to 0"):
        make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0, folds=3)
    given[(given == "val") & (image_set.labels == 0)] = "train"
    with pytest.raises(UserError, match="'val' has no image of class 'class0'"):
        make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)


def test_too_few_subjects_name_class_and_mend():
    image_set = make_set(np.repeat([0, 1], [30, 8]), np.repeat(np.arange(12), [3] * 10 + [4] * 2))
    message = r"class 'class1' has 2 subject\(s\) .* 3 parts.*add subjects of this class"
    with pytest.raises(UserError, match=message):
        make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)
    splits = make_splits(image_set, by="image", fractions=FRACTIONS, seed=0)
    assert_valid(image_set, splits, "image")
    with pytest.raises(UserError, match=r"class 'class1' has 2 image\(s\)"):
        few = make_set(np.array([0, 0, 0, 1, 1]), np.arange(5))
        make_splits(few, by="image", fractions=FRACTIONS, seed=0)


def test_impossible_cover_is_refused():
    # Every three of four subjects share a class, so all three of any class must be parted: no.
    holders = [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    labels = np.repeat(np.arange(4), 3)
    with pytest.raises(UserError, match="no way to give each of 3 parts every class"):
        make_splits(
            make_set(labels, np.concatenate(holders)), by="subject", fractions=FRACTIONS, seed=0
        )


@pytest.mark.parametrize("seed", range(15))
def test_scarce_mixed_classes_are_covered_when_they_can_be(seed):
    """A hidden solution exists: each part has one subject with a pair of rare classes."""
    rng = np.random.default_rng(seed)
    rows = [(label, f"rare{part}") for part in range(3) for label in (1, 2)]
    rows += [(0, f"common{s}") for s in range(12) for _ in range(rng.integers(1, 20))]
    labels, subjects = zip(*rows, strict=True)
    image_set = make_set(np.array(labels), np.array(subjects))
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=seed)
    assert_valid(image_set, splits, "subject")


@pytest.mark.parametrize(
    "wishes,message",
    [
        ({"by": "patient"}, "expected 'subject' or 'image'"),
        ({"fractions": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"fractions": (0.9, 0.1, 0.0)}, "above 0"),
        ({"fractions": (0.8, 0.2)}, "three numbers"),
        ({"fractions": (float("nan"), 0.1, 0.1)}, "three numbers"),
        ({"folds": 1}, "at least 2 folds"),
        ({"folds": 3, "fold": 3}, "fold 3 of 3"),
        ({"folds": 0, "fold": 1}, "fold 1 of 0"),
        ({"folds": 2, "fractions": (0.25, 0.5, 0.25)}, "no training images"),
        ({"counts": {"class0": (2, 2, 2), "class1": (2, 2, 2)}}, "by='image'"),
        ({"counts": {"class0": (2, 2, 2)}, "by": "image"}, "name the classes class0"),
        (
            {"counts": {"class0": (2, 2, 3), "class1": (2, 2, 2)}, "by": "image"},
            r"\[2, 2, 3\] \(sum 7\).*its 6 images",
        ),
        (
            {"counts": {"class0": (3, 3, 0), "class1": (2, 2, 2)}, "by": "image"},
            "numbers above 0",
        ),
        (
            {"counts": {"class0": (2, 2, 2), "class1": (2, 2, 2)}, "by": "image", "folds": 3},
            "folds=0",
        ),
    ],
)
def test_contradictory_wishes(wishes, message):
    image_set = make_set(np.repeat([0, 1], 6), np.arange(12))
    arguments = {"by": "subject", "fractions": FRACTIONS, "seed": 0} | wishes
    with pytest.raises(UserError, match=message):
        make_splits(image_set, **arguments)


def test_written_splits_are_read_back(tmp_path: Path) -> None:
    image_set = separate_subjects(np.random.default_rng(0))
    image_set.files[0] = 'Häute, links/"a".png'
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)
    path = tmp_path / "run" / "splits.csv"
    write_splits(path, image_set, splits)
    order = np.random.default_rng(1).permutation(len(image_set))
    np.testing.assert_array_equal(read_splits(path, image_set.take(order)), splits[order])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "file": image_set.files[0],
        "label": image_set.classes[image_set.labels[0]],
        "subject": image_set.subjects[0],
        "split": splits[0],
    }
    assert len(rows) == len(image_set)


def test_splits_of_other_images_are_refused(tmp_path: Path) -> None:
    image_set = make_set(np.repeat([0, 1], 6), np.arange(12))
    splits = make_splits(image_set, by="subject", fractions=FRACTIONS, seed=0)
    path = tmp_path / "splits.csv"
    write_splits(path, image_set, splits)
    fewer = image_set.take(np.arange(11))
    with pytest.raises(UserError, match=r"names 1 image\(s\).*tile00011"):
        read_splits(path, fewer)
    write_splits(path, fewer, splits[:11])
    with pytest.raises(UserError, match="lacks the image tile00011"):
        read_splits(path, image_set)
    write_splits(path, dataclasses.replace(image_set, labels=1 - image_set.labels), splits)
    with pytest.raises(UserError, match="label and subject class1, 0, but the set has class0, 0"):
        read_splits(path, image_set)
    with pytest.raises(UserError, match="not a readable csv"):
        read_splits(tmp_path / "none.csv", image_set)
    path.write_text("file,split\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected the columns file,label,subject,split"):
        read_splits(path, image_set)
    path.write_text("file,label,subject,split\na,b,c,trian\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 2"):
        read_splits(path, image_set)


def test_real_biopsies_are_split_by_subject(shared_data: Path) -> None:
    manifest = shared_data / "data" / "prostate_gleason" / "manifest.csv"
    if not manifest.is_file():
        # Optional: real images are not part of the project.
        pytest.skip(f"no real data: {manifest} does not exist")
    with manifest.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    image_set = make_set(labels, np.array([row["subject"] for row in rows]))
    for seed in range(5):
        splits = make_splits(image_set, by="subject", fractions=(0.7, 0.15, 0.15), seed=seed)
        assert_valid(image_set, splits, "subject")
        difference = np.abs(shares(image_set, splits) - np.array([[0.7], [0.15], [0.15]]))
        assert difference.max() < 0.05
