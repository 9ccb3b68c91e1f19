"""Splits into train, val and test: stratified by class, by subject, reproducible by seed.

A split by subject starts from a random assignment and improves it by moving and swapping subjects
(`partition`). Assigning the largest subjects first, as is common, balances as well but gives nearly
the same split for every seed, so repeated runs would all be tested on the same few patients.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sscjax.data import sites
from sscjax.data.dataset import ImageSet
from sscjax.data.partition import partition
from sscjax.errors import UserError
from sscjax.system.files import csv_name, csv_text, write_text

_LOG = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
By = Literal["subject", "image"]
COLUMNS = ("file", "label", "subject", "split")


def make_splits(
    image_set: ImageSet,
    *,
    by: str,
    fractions: Sequence[float],
    seed: int,
    counts: Mapping[str, Sequence[int]] | None = None,
    folds: int = 0,
    fold: int = 0,
    test_subject: str = "",
    keep_sites: str = "auto",
    test_site: str = "",
    validation: bool = True,
) -> np.ndarray:
    """Assign every image to 'train', 'val' or 'test', each with images of every class.

    With `test_subject` the test split has only the classes of that subject, and where sites are
    kept apart those of its sites. Without `validation` the test images are the same, and all others
    are 'train'.

    Args:
      image_set: N images; splits that it prescribes are returned as they are.
      by: 'subject' keeps all images of a subject together; 'image' ignores subjects.
      fractions: target shares of (train, val, test), each above 0, sum 1.
      seed: the same seed gives the same splits, whatever the order of the images.
      counts: exact (train, val, test) numbers of images by class name, instead of `fractions`;
        only by image and without folds.
      folds: if above 0, the test images are one of `folds` equal parts, and the val images, a share
        `fractions[1]` of the set, are taken from the others.
      fold: index of the test part, 0 <= fold < folds. Over all folds each image is tested once.
      test_subject: if given, the test images are those of this subject, and the val images, a share
        `fractions[1]` of the set, are taken from the others; only by subject, without folds.
      keep_sites: whether test images are of other sites than all others ('apart'), may be of the
        same ('mixed'), or as `sites.kept_apart` decides ('auto'). Val images are of the sites that
        are trained on.
      test_site: if given, the test images are those of this site; otherwise as `test_subject`.
      validation: whether there are val images; if not, those that would be are train images.

    Returns:
      [N] str.

    Raises:
      UserError: a class has too few subjects or images, or the arguments contradict each other or
        the set.
    """
    if image_set.splits is not None:
        if validation:
            image_set = _with_validation(image_set, fractions, seed)
        return _given_splits(image_set, folds, test_subject or test_site, validation)
    check_arguments(by, fractions, counts, folds, fold, test_subject)
    if not len(image_set):
        raise UserError(f"{image_set.source or 'the set'}: has no images to split")
    if counts is not None:
        counted = _by_counts(image_set, counts, seed)
        return counted if validation else without_validation(counted)
    groups, group_of = _groups(image_set, by)
    table = _count_table(group_of, image_set.labels, len(groups), len(image_set.classes))
    names = (image_set.classes, by)
    apart = sites.kept_apart(image_set, keep_sites, by, folds)
    if test_subject:
        tested, share, number = _only(groups, table, test_subject, fractions[1])
    elif test_site or apart:
        # A subject has one site, so a site is whole groups.
        of_image, share, number = sites.tested(image_set, fractions, seed, folds, fold, test_site)
        tested = np.zeros(len(groups), bool)
        tested[group_of[of_image]] = True
    elif folds:
        part = partition(table, [1 / folds] * folds, [seed], *names)
        tested, share, number = part == fold, 1 / folds, fold
    else:
        part = partition(table, fractions, [seed], *names)
        drawn = np.array(SPLITS)[part][group_of]
        return drawn if validation else without_validation(drawn)
    if not validation:
        return np.where(tested, "test", "train")[group_of]
    # The fold is part of the seed, so that val differs between the folds.
    val = _validation(table, ~tested, fractions[1] / (1 - share), [seed, number], names)
    return np.where(tested, "test", np.where(val, "val", "train"))[group_of]


def without_validation(splits: np.ndarray) -> np.ndarray:
    """[N] str, where the images of 'val' are those of 'train', too."""
    return np.where(splits == "val", "train", splits)


def subject_folds(image_set: ImageSet, folds: int, seed: int) -> np.ndarray:
    """Assign images to folds by subject, with every class in every fold.

    Args:
      image_set: N images; copies of an image have its subject.
      folds: the largest number of folds; reduced to the fewest subjects of a class.
      seed: of the random assignment.

    Returns:
      [N] int from 0; all 0 if a class has a single subject or no such folds were found.
    """
    groups, group_of = _groups(image_set, "subject")
    table = _count_table(group_of, image_set.labels, len(groups), len(image_set.classes))
    present = table[:, table.any(0)]
    fewest = np.count_nonzero(present, axis=0).min(initial=folds) if len(image_set) else 0
    count = min(folds, int(fewest))
    if count < 2:
        return np.zeros(len(image_set), np.int64)
    names = [str(index) for index in range(present.shape[1])]
    try:
        return partition(present, [1 / count] * count, [seed], names, "subject")[group_of]
    except UserError:  # subjects with several classes, too few to give each fold every class
        return np.zeros(len(image_set), np.int64)


def unlabelled_folds(subjects: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Assign images to folds by subject, whatever their classes.

    Args:
      subjects: [N] str, two or more distinct ones.
      folds: the largest number of folds; reduced to the number of subjects.
      seed: of the random assignment.

    Returns:
      [N] int from 0; folds differ by one subject at most.
    """
    names, subject_of = np.unique(subjects, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % min(folds, len(names)))[subject_of]


def write_splits(path: Path | str, image_set: ImageSet, splits: np.ndarray) -> None:
    """Write a csv file with the columns file, label, subject, split, in the set's order.

    Args:
      path: the csv file; it is replaced atomically.
      image_set: the images.
      splits: [N] str as from `make_splits`.
    """
    labels = [image_set.classes[label] for label in image_set.labels]
    columns = (image_set.files.tolist(), labels, image_set.subjects.tolist(), splits.tolist())
    write_text(path, csv_text([COLUMNS, *zip(*columns, strict=True)]))


def read_splits(path: Path | str, image_set: ImageSet) -> np.ndarray:
    """Read what `write_splits` wrote, in the order of `image_set`.

    Args:
      path: the csv file.
      image_set: the set that the splits belong to; the file must name exactly its images, with
        the same labels and subjects.

    Returns:
      [N] str of 'train', 'val', 'test'.

    Raises:
      UserError: the file is missing or damaged, or belongs to other images.
    """
    rows = _read_split_rows(Path(path))
    splits = []
    for file, label, subject in zip(
        image_set.files.tolist(), image_set.labels, image_set.subjects.tolist(), strict=True
    ):
        row = rows.pop(file, None)
        if row is None:
            raise UserError(f"{path}: lacks the image {file}; remove the file to split again")
        expected = (image_set.classes[label], subject)
        if row[:2] != expected:
            raise UserError(
                f"{path}: gives {file} the label and subject {row[0]}, {row[1]}, but the set has "
                f"{expected[0]}, {expected[1]}; remove the file to split again"
            )
        splits.append(row[2])
    if rows:
        raise UserError(
            f"{path}: names {len(rows)} image(s) that the set lacks, such as {next(iter(rows))}; "
            "remove the file to split again"
        )
    return np.array(splits, dtype="<U5")


# --- checks -------------------------------------------------------------------------------------


def _with_validation(image_set: ImageSet, fractions: Sequence[float], seed: int) -> ImageSet:
    """The set with some of its training subjects as 'val', where it prescribes only the others.

    Many published sets come as train and test.
    """
    assert image_set.splits is not None
    chosen = np.flatnonzero(image_set.splits == "train")
    if not len(chosen) or set(image_set.splits.tolist()) != {"train", "test"}:
        return image_set
    share = fractions[1] / (fractions[0] + fractions[1])
    train = image_set.take(chosen)
    groups, group_of = _groups(train, "subject")
    table = _count_table(group_of, train.labels, len(groups), len(image_set.classes))
    part = partition(table, (1 - share, share), [seed], image_set.classes, "subject")
    _LOG.warning(
        "%s: prescribes train and test alone; %.0f %% of the training images are taken for "
        "validation, by subject",
        image_set.source, 100 * share,
    )  # fmt: skip
    splits = image_set.splits.astype("<U5")
    splits[chosen] = np.array(SPLITS[:2])[part][group_of]
    return dataclasses.replace(image_set, splits=splits)


def _given_splits(
    image_set: ImageSet, folds: int, test_subject: str, validation: bool
) -> np.ndarray:
    assert image_set.splits is not None
    splits = image_set.splits if validation else without_validation(image_set.splits)
    if test_subject:
        raise UserError(
            f"{image_set.source}: prescribes its splits, so {test_subject!r} cannot be made the "
            "test set; clear split.test_subject and split.test_site, or remove the split column"
        )
    if folds:
        raise UserError(
            f"{image_set.source}: prescribes its splits, so they cannot be replaced by {folds} "
            "folds; set folds to 0 or remove the split column"
        )
    needed = SPLITS if validation else ("train", "test")
    for split in needed:
        for label, name in enumerate(image_set.classes):
            if not np.any((splits == split) & (image_set.labels == label)):
                raise UserError(
                    f"{image_set.source}: the prescribed split {split!r} has no image of class "
                    f"{name!r}, expected every class in {', '.join(needed)}; correct the splits, "
                    "or remove them to split automatically"
                )
    return splits.astype("<U5")


def check_arguments(
    by: str,
    fractions: Sequence[float],
    counts: Mapping[str, Sequence[int]] | None,
    folds: int,
    fold: int,
    test_subject: str,
) -> None:
    """Check arguments of `make_splits` that need no images, before any are read.

    Raises:
      UserError: an argument is out of its range, or contradicts another.
    """
    if by not in get_args(By):
        raise UserError(f"split by {by!r}: expected 'subject' or 'image'")
    if counts is not None and (by != "image" or folds):
        raise UserError(
            f"exact split counts cannot be combined with a split by {by!r} and {folds} folds; use "
            "by='image' and folds=0, or remove the counts"
        )
    positive = len(fractions) == 3 and all(share > 0 for share in fractions)
    if not positive or abs(sum(fractions) - 1) > 1e-6:
        shown = ", ".join(f"{share:g}" for share in fractions)
        raise UserError(
            f"split fractions ({shown}): expected three numbers above 0 (train, val, test) that "
            "sum to 1"
        )
    if folds < 0 or folds == 1 or not 0 <= fold < max(folds, 1):
        raise UserError(
            f"fold {fold} of {folds}: expected at least 2 folds (or 0 for none), and a fold from 0 "
            "to folds - 1"
        )
    if folds and fractions[1] + 1 / folds >= 1 - 1e-9:
        raise UserError(
            f"{folds} folds leave no training images beside a val share of {fractions[1]:g}; "
            "lower the share or use more folds"
        )
    if test_subject and (by != "subject" or folds or counts is not None):
        raise UserError(
            f"split.test_subject={test_subject!r} cannot be combined with a split by image, folds "
            "or exact counts; set split.by=subject and folds=0, or clear it"
        )


def _read_split_rows(path: Path) -> dict[str, tuple[str, str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable csv file ({error}); split again") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}; split again")
    rows: dict[str, tuple[str, str, str]] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = [csv_name(cell) for cell in line]
        if len(cells) != len(COLUMNS) or cells[3] not in SPLITS or cells[0] in rows:
            raise UserError(
                f"{path}, row {number}: expected a new file, its label and subject, and train, val "
                "or test; split again"
            )
        rows[cells[0]] = (cells[1], cells[2], cells[3])
    return rows


# --- the split itself ---------------------------------------------------------------------------


def _validation(
    table: np.ndarray,
    rest: np.ndarray,
    share: float,
    seed: Sequence[int],
    names: tuple[Sequence[str], str],
) -> np.ndarray:
    """[G] bool, the groups to validate on: a share of those of `rest` [G] bool."""
    held = table[rest].any(0)  # a class may be at the tested site alone
    present = [name for name, has in zip(names[0], held.tolist(), strict=True) if has]
    val = np.zeros(len(table), bool)
    val[rest] = partition(table[rest][:, held], (1 - share, share), seed, present, names[1]) == 1
    return val


def _groups(image_set: ImageSet, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted groups and each image's group index, independent of the order of the images."""
    if by == "subject":
        return np.unique(image_set.subjects, return_inverse=True)
    order = np.argsort(image_set.files, kind="stable")
    group_of = np.empty(len(order), np.int64)
    group_of[order] = np.arange(len(order))
    return image_set.files[order], group_of


def _only(
    groups: np.ndarray, table: np.ndarray, subject: str, val: float
) -> tuple[np.ndarray, float, int]:
    """[G] bool, the group of one subject; its share of the images, and its index."""
    tested = groups == subject
    if not tested.any():
        raise UserError(
            f"split.test_subject={subject!r}: the set has no such subject; it has {groups[0]!r} "
            f"and {len(groups) - 1} others"
        )
    share = float(table[tested].sum() / table.sum())
    if share + val >= 1 - 1e-9:
        raise UserError(
            f"subject {subject!r} has {100 * share:.0f} % of the images, which leaves none to "
            f"train on beside a val share of {val:g}; lower the share"
        )
    return tested, share, int(np.flatnonzero(tested)[0])


def _count_table(group_of: np.ndarray, labels: np.ndarray, groups: int, classes: int) -> np.ndarray:
    """[groups, classes] int: images of each class in each group."""
    cells = np.bincount(group_of * classes + labels, minlength=groups * classes)
    return cells.reshape(groups, classes)


def _by_counts(image_set: ImageSet, counts: Mapping[str, Sequence[int]], seed: int) -> np.ndarray:
    if set(counts) != set(image_set.classes):
        raise UserError(
            f"split counts name the classes {', '.join(sorted(counts))}, but the set has "
            f"{', '.join(image_set.classes)}; name exactly these"
        )
    rng = np.random.default_rng(seed)
    order = np.argsort(image_set.files, kind="stable")
    splits = np.empty(len(image_set), dtype="<U5")
    for label, name in enumerate(image_set.classes):
        members = order[image_set.labels[order] == label]
        wanted = [int(count) for count in counts[name]]
        if len(wanted) != 3 or min(wanted) < 1 or sum(wanted) != len(members):
            raise UserError(
                f"split counts of class {name!r} are {wanted} (sum {sum(wanted)}), expected three "
                f"numbers above 0 that sum to its {len(members)} images"
            )
        splits[rng.permutation(members)] = np.repeat(SPLITS, wanted)
    return splits
