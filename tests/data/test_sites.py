"""Sites: read from manifests and folders, kept apart in folds, named where they mislead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import refused, write_folder, write_manifest
from ml_collections import ConfigDict
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from sscjax.configs import smoke
from sscjax.data import anonymize, image_folder, layout, loading, sites, sources
from sscjax.data.dataset import ImageSet
from sscjax.data.splits import make_splits
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import folds

FILES = ("1.png", "2.png", "3.png", "4.png")


def config_of(protocol: str, **fields: Any) -> ConfigDict:
    config = smoke.get_config()
    config.protocol = protocol
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def make_set(seed: int, of_sites: int, mixed: bool = True) -> ImageSet:
    """Sites of 4 to 40 patients of 1 to 9 images; if not `mixed`, of one class each."""
    rng = np.random.default_rng(seed)
    rows = []
    for site in range(of_sites):
        shares = rng.dirichlet([2, 2, 2]) if mixed else np.eye(3)[site % 3]
        for patient in range(rng.integers(4, 41)):
            label = rng.choice(3, p=shares)
            rows += [(label, f"s{site}p{patient}", f"site {site}")] * int(rng.integers(1, 10))
    order = rng.permutation(len(rows))
    labels, subjects, places = zip(*(rows[k] for k in order), strict=True)
    return ImageSet(
        images=np.zeros((len(rows), 2, 2, 3), np.uint8),
        labels=np.array(labels, np.int32),
        subjects=np.array(subjects),
        files=np.array([f"{k:05d}.png" for k in range(len(rows))]),
        classes=("normal", "early", "late"),
        sites=np.array(places),
    )


def of(table: ImageSet) -> np.ndarray:
    """Its sites, which it has."""
    assert table.sites is not None
    return table.sites


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("site", "North,North,South,South"),
        ("Centre", "North,North,South,South"),
        ("SCANNER", "North,North,South,South"),
        ("hospital", "'=North,'=North,South,South"),
    ],
)
def test_a_manifest_names_sites(tmp_path: Path, header: str, cells: str) -> None:
    write_folder(tmp_path, *FILES)
    rows = [
        f"{file},{'ab'[k % 2]},p{k // 2},{site}"
        for k, (file, site) in enumerate(zip(FILES, cells.split(","), strict=True))
    ]
    found = loading.load(write_manifest(tmp_path, *rows, header=f"file,label,subject,{header}"), 32)
    assert of(found).tolist() == [cell.removeprefix("'") for cell in cells.split(",")]
    assert of(found.take(np.array([2, 0]))).tolist() == [of(found)[2], of(found)[0]]
    # The name of a hospital is no more to be written than that of a patient.
    assert of(anonymize.image_set(found)).tolist() == ["site 01"] * 2 + ["site 02"] * 2
    without = dataclasses.replace(found, sites=None)
    assert found.fingerprint() != without.fingerprint()


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("site", ("p1,A", "p1,B", "p2,A", "p3,B"), ("subject 'p1' is at two sites, 'A' and 'B'",)),
        ("site", ("p1,A", "p1,", "p2,A", "p3,B"), ("row 3: empty site", "unknown")),
        ("site", ("p1,Köln", "p2,köln ", "p3,A", "p4,A"), ("'Köln' and 'köln'", "alike")),
        (
            "scanner,centre",
            ("p1,A,1", "p2,A,1", "p3,A,1", "p4,A,1"),
            ("several columns may hold the site", "--config.data.columns='site=centre'"),
        ),
    ],
)
def test_sites_that_cannot_be_meant(
    tmp_path: Path, header: str, rows: tuple[str, ...], words: tuple[str, ...]
) -> None:
    write_folder(tmp_path, *FILES)
    lines = [
        f"{file},{'ab'[k % 2]},{row}" for k, (file, row) in enumerate(zip(FILES, rows, strict=True))
    ]
    manifest = write_manifest(tmp_path, *lines, header=f"file,label,subject,{header}")
    refused(lambda: sources.from_path(manifest, 32), *words)


def test_a_level_of_folders_names_sites(tmp_path: Path) -> None:
    write_folder(tmp_path, "a/N/p1/1.png", "a/S/p2/2.png", "b/N/p1/3.png", "b/S/p3/deep/4.png")
    reading = layout.Reading("{label}/{site}/{subject}/**")
    listing = image_folder.list_images(tmp_path, reading=reading)
    pairs = [(record.site, record.subject) for record in listing.records]
    assert pairs == [("N", "p1"), ("S", "p2"), ("N", "p1"), ("S", "p3")]
    write_folder(tmp_path, "a/S/p1/5.png")
    refused(
        lambda: sources.from_path(tmp_path, 32, reading=reading), "'p1' is at two sites", "A_001"
    )


# ---- folds --------------------------------------------------------------------------------------


def test_each_site_is_left_out_as_by_scikit_learn() -> None:
    image_set = make_set(1, 5)
    plan = folds.plan(config_of("leave_one_site_out"), image_set)
    reference = LeaveOneGroupOut().split(image_set.files, image_set.labels, of(image_set))
    for fold, (trained, tested) in zip(plan, reference, strict=True):
        np.testing.assert_array_equal(fold.tested, tested)
        splits = data_from_config.make_splits(fold.settings, image_set)
        np.testing.assert_array_equal(np.flatnonzero(splits != "test"), trained)
        val, train = (set(image_set.subjects[splits == name]) for name in ("val", "train"))
        assert val and train and not val & train


def unevenness(image_set: ImageSet, fold_of: np.ndarray, count: int) -> float:
    """How far the folds' patients of each class are from equal shares, in shares."""
    _, first = np.unique(image_set.subjects, return_index=True)
    table = np.zeros((count, 3))
    np.add.at(table, (fold_of[first], image_set.labels[first]), 1)
    return float(np.abs(table * count / table.sum(0) - 1).mean())


def test_folds_keep_sites_apart_and_balance_as_well_as_scikit_learn() -> None:
    ours, theirs = [], []
    for seed in range(6):
        image_set = make_set(seed, 5 + seed % 8)
        plan = folds.plan(config_of("kfold", cv__folds=4, seed=seed), image_set)
        fold_of = np.zeros(len(image_set), int)
        for number, fold in enumerate(plan):
            fold_of[fold.tested] = number
            held_back = np.delete(of(image_set), fold.tested)
            assert not set(of(image_set)[fold.tested]) & set(held_back)
            # Every class is trained on.
            assert set(np.delete(image_set.labels, fold.tested)) == {0, 1, 2}
        once = np.concatenate([fold.tested for fold in plan])
        np.testing.assert_array_equal(np.sort(once), np.arange(len(image_set)))
        ours.append(unevenness(image_set, fold_of, 4))
        # The reference sees each patient once, too: patients are what is balanced.
        _, first, inverse = np.unique(image_set.subjects, return_index=True, return_inverse=True)
        labels, places = image_set.labels[first], of(image_set)[first]
        reference = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
        other = np.zeros(len(first), int)
        for number, (_, tested) in enumerate(reference.split(first, labels, places)):
            other[tested] = number
        theirs.append(unevenness(image_set, other[inverse], 4))
    assert np.mean(ours) <= np.mean(theirs)
    assert np.mean(np.array(ours) <= np.array(theirs) + 1e-9) > 0.7


def test_sites_are_kept_apart_where_that_can_be_done() -> None:
    few, single = make_set(3, 3), make_set(3, 6, mixed=False)
    many = make_set(3, 8)
    for image_set, wanted, by, count, apart in (
        (many, "auto", "subject", 5, True),
        (many, "auto", "image", 5, False),
        (many, "mixed", "subject", 5, False),
        (many, "auto", "subject", 0, False),
        (few, "auto", "subject", 5, False),
        (few, "auto", "subject", 3, True),
        (single, "auto", "subject", 4, True),  # each class is at two sites
        (single.take(np.flatnonzero(of(single) != "site 0")), "auto", "subject", 4, False),
        (few, "apart", "subject", 0, True),
    ):
        assert sites.kept_apart(image_set, wanted, by, count) is apart
    given: dict[str, Any] = {"by": "subject", "fractions": (0.6, 0.15, 0.25), "seed": 0}
    splits = make_splits(many, **given, keep_sites="apart")
    assert not set(of(many)[splits == "test"]) & set(of(many)[splits != "test"])
    assert 0.1 < np.mean(splits == "test") < 0.4 and set(splits) == {"train", "val", "test"}
    without = make_splits(many, **given, keep_sites="apart", validation=False)
    np.testing.assert_array_equal(without == "test", splits == "test")


def test_inner_folds_keep_sites_apart() -> None:
    image_set = make_set(5, 9)
    for fold in folds.plan(config_of("nested", cv__folds=3, cv__inner_folds=2), image_set):
        rest = image_set.take(np.delete(np.arange(len(image_set)), fold.tested))
        assert not set(of(rest)) & set(of(image_set)[fold.tested])
        for inner in fold.inner:
            tested = np.isin(np.arange(len(rest)), inner.tested)
            assert sites.are_apart(rest, tested, ~tested)


@pytest.mark.parametrize(
    ("config", "of_sites", "words"),
    [
        (config_of("leave_one_site_out"), 0, ("no image names its site", "column 'site'")),
        (config_of("leave_one_site_out"), 1, ("all images are of the site 'site 0'",)),
        (config_of("leave_one_site_out", cv__repeats=2), 4, ("one way only",)),
        (config_of("leave_one_site_out", split__sites="mixed"), 4, ("'mixed' contradicts",)),
        (config_of("kfold", split__sites="apart"), 0, ("no image names its site",)),
        (config_of("kfold", split__sites="apart"), 3, ("cv.folds=3 or fewer",)),
        (config_of("kfold", split__test_site="site 0"), 4, ("empty it",)),
        (config_of("kfold", split__sites="yes"), 4, ("expected 'auto', 'apart' or 'mixed'",)),
    ],
)
def test_impossible_folds_of_sites(
    config: ConfigDict, of_sites: int, words: tuple[str, ...]
) -> None:
    image_set = make_set(2, max(of_sites, 1))
    if not of_sites:
        image_set = dataclasses.replace(image_set, sites=None)
    refused(lambda: folds.plan(config, image_set), *words)


# ---- warnings -----------------------------------------------------------------------------------


def test_warnings_of_sites() -> None:
    mixed, single = make_set(0, 4), make_set(0, 4, mixed=False)
    assert sites.warnings(dataclasses.replace(mixed, sites=None), False) == []
    assert sites.warnings(mixed, True) == []
    [alike] = sites.warnings(mixed, False)
    assert "SITES STAND IN TRAINING AND TEST ALIKE" in alike
    of_one_class, of_one_site = sites.warnings(single, True)
    assert "site 0 (only normal), site 1 (only early)" in of_one_class
    assert "early (at site 1), late (at site 2)" in of_one_site and "normal" not in of_one_site
    assert "saw no image of the class" in of_one_site
    [one] = sites.warnings(mixed.take(np.flatnonzero(of(mixed) == "site 1")), False)
    assert "ONE SITE (site 1)" in one
