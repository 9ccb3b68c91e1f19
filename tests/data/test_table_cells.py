"""Cells of tables that look like a class, a patient or a file and are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_folders import refused

from sscjax.data.image_folder import list_images
from sscjax.data.layout import Reading

FILES = ("img/0001.png", "img/0002.png", "other/a.png", "other/b.png")
SUBJECTS = ("p1", "p2", "p3", "p4")
LABELS = ("early", "late", "early", "late")


def table(
    folder: Path,
    files: tuple[str, ...] = FILES,
    labels: tuple[str, ...] = LABELS,
    subjects: tuple[str, ...] = SUBJECTS,
) -> Path:
    for file in FILES:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    rows = zip(files, labels, subjects, strict=True)
    lines = ["file,label,subject", *(",".join(row) for row in rows)]
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("column", "cells", "words"),
    [
        ("subjects", ("p1", "nan", "p3", "nan"), ("row 3", "'nan'", "names nobody")),
        ("subjects", ("p1", "p2", "unknown", "unknown"), ("row 4", "names nobody")),
        ("subjects", ("-", "-", "p3", "p4"), ("row 2", "names nobody")),
        ("subjects", ("7", "8", "007", "9"), ("'007' and '7'", "merge_spellings=True")),
        ("subjects", ("12", "8", "12.0", "9"), ("'12' and '12.0'", "zeros")),
        ("labels", ("early", "late", "#N/A", "late"), ("row 4", "'#N/A'", "names no class")),
        ("labels", ("1", "0", "1.0", "0"), ("'1' and '1.0'", "zeros")),
        ("labels", ("non-tumor", "non_tumor", "tumor", "tumor"), ("signs between words",)),
        ("labels", ("2026-02-01T00:00:00", "3", "3", "3"), ("row 2", "is a day")),
        ("labels", ("early", "late", "late|early", "late"), ("'late|early'", "one class")),
        ("files", ("1", "2", "a", "b"), ("row 2", "1 does not exist (0001 does")),
        # `a.png` lies elsewhere, and the folder that the row names is there.
        ("files", (*FILES[:2], "img/a.png", "other/b.png"), ("row 4", "does not exist")),
    ],
)
def test_cells_that_are_not_what_they_seem(
    tmp_path: Path, column: str, cells: tuple[str, ...], words: tuple[str, ...]
) -> None:
    table(tmp_path, **{column: cells})
    refused(lambda: list_images(tmp_path), *words)


def test_names_that_are_meant(tmp_path: Path) -> None:
    table(tmp_path, labels=("NA", "none", "NA", "none"), subjects=("7", "007", "1-2", "12"))
    found = list_images(tmp_path, ("none", "NA"), reading=Reading(merge_spellings=True))
    assert found.classes == ("none", "NA")
    assert [record.subject for record in found.records] == ["007", "007", "1-2", "12"]


def test_a_folder_of_another_computer_is_looked_for_by_name(tmp_path: Path) -> None:
    table(tmp_path, files=("C:\\x\\0001.png", "img/0002", "/x/a.png", "OTHER/b.PNG"))
    assert [record.file for record in list_images(tmp_path).records] == list(FILES)


def test_of_two_columns_of_splits_that_with_names_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table(tmp_path)
    manifest = tmp_path / "manifest.csv"
    header, *rows = manifest.read_text().splitlines()
    header = header.replace("subject", "Patient No.")
    sets = ("train", "train", "test", "test")
    both = [f"{row},{k},{name}" for k, (row, name) in enumerate(zip(rows, sets, strict=True))]
    manifest.write_text("\n".join([f"{header},fold,set", *both]))
    found = list_images(tmp_path)
    assert [record.split for record in found.records] == list(sets)
    assert [record.subject for record in found.records] == list(SUBJECTS)
    assert not caplog.messages
    manifest.write_text("\n".join([f"{header},fold", *(row.rpartition(",")[0] for row in both)]))
    list_images(tmp_path)
    assert "column fold are not used" in caplog.text
