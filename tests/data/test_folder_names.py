"""Folders that by their names are parts, patients, years or files, and no class or patient."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from image_folders import refused

from sscjax.data.image_folder import list_images
from sscjax.data.layout import Reading


def fill(folder: Path, layouts: tuple[str, ...]) -> Path:
    """Empty files: of 'a|b/c|d' two in each of a/c, a/d, b/c and b/d."""
    for layout in layouts:
        for parts in itertools.product(*(level.split("|") for level in layout.split("/"))):
            inner = folder.joinpath(*parts)
            inner.mkdir(parents=True)
            (inner / "1.png").touch()
            (inner / "2.png").touch()
    return folder


@pytest.mark.parametrize(
    ("layouts", "option", "classes", "subjects"),
    [
        (("dev|holdout/ill|well",), "level/class", ("ill", "well"), 8),
        (("01_train|02_test/ill|well/1101|1102|1103",), "level/class/patient", ("ill", "well"), 3),
        (("train|holdout",), "class", ("holdout", "train"), 4),
        (("fold1|fold2|fold3/0|1",), "level/class", ("0", "1"), 12),
        (("p1|p3/ill", "p2/well"), "patient/class", ("ill", "well"), 3),
        (("ill|well/2019|2020/1101|1102|1103",), "class/level/patient", ("ill", "well"), 3),
        (("ill/site_1|site_2/a1|a2", "well/site_1/b1|b2"), "class/level/patient", None, 4),
        (("ill|well/photos|images",), "{label}/**/*", ("ill", "well"), 8),
    ],
)
def test_names_that_are_no_class_or_patient(
    tmp_path: Path, layouts: tuple[str, ...], option: str, classes: tuple[str, ...], subjects: int
) -> None:
    fill(tmp_path, layouts)
    refused(lambda: list_images(tmp_path), f"layout={option}" if "{" not in option else option)
    found = list_images(tmp_path, reading=Reading(option))
    assert found.classes == (classes or ("ill", "well"))
    assert len({record.subject for record in found.records}) == subjects


def test_a_folder_images_in_each_class_is_no_patient(tmp_path: Path) -> None:
    found = list_images(fill(tmp_path, ("ill|well/images",)))
    assert found.understood["patients"].startswith("none")
    assert len({record.subject for record in found.records}) == 4


def test_patients_without_classes(tmp_path: Path) -> None:
    refused(lambda: list_images(fill(tmp_path, ("p1|p2",))), "probably patients")


def test_one_subject_in_a_rare_class_does_not_hide_that_numbers_restart(tmp_path: Path) -> None:
    fill(tmp_path, ("ill|well/1|2|3|4", "rare/1"))
    refused(lambda: list_images(tmp_path), "shared_subjects=different")
