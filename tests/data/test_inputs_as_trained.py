"""New images are read as the run's training set was, where that fits them, and it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from sscjax.data import inputs
from sscjax.data.inputs import InputImage
from sscjax.data.layout import Reading

CLASSES = ("ill", "well")


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def read(images: list[InputImage]) -> list[tuple[str, str, str]]:
    return [(image.label, image.subject, image.site) for image in images]


@pytest.mark.parametrize(
    ("layout", "file", "expected"),
    [
        ("class/level/patient", "ill/40X/p1/a.png", ("ill", "p1", "")),
        ("{label}/{subject}_*", "ill/p1_a.png", ("ill", "p1", "")),
        ("{label}/{site}/{subject}/*", "well/bern/p1/a.png", ("well", "p1", "bern")),
        ("level/class", "2024/Ill/a.png", ("ill", "2024/Ill/a.png", "")),
    ],
)
def test_the_layout_of_the_run(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    layout: str,
    file: str,
    expected: tuple[str, str, str],
) -> None:
    caplog.set_level("INFO")
    found = inputs.find(touch(tmp_path, file), CLASSES, None, Reading(layout))
    assert read(found) == [expected]
    assert "read as the run's training set was: --config.data.layout=" in caplog.text


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("class/level/patient", ("ill/p1/a.png",)),
        ("{label}/{subject}_*", ("ill/p1_a.png", "ill/b.png")),
        ("class/patient", ("p7/a/1.png", "p8/a/1.png")),
    ],
)
def test_a_layout_that_does_not_fit_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str, files: tuple[str, ...]
) -> None:
    touch(tmp_path, *files)
    found = inputs.find(tmp_path, CLASSES, None, Reading(layout))
    assert read(found) == read(inputs.find(tmp_path, CLASSES))
    assert f"({layout}) does not fit these folders and is not used" in caplog.text


def test_equal_numbers_are_the_people_that_they_were(tmp_path: Path) -> None:
    touch(tmp_path, "ill/1/a.png", "well/1/a.png")
    found = inputs.find(tmp_path, CLASSES, None, Reading("class/patient", "", False, "different"))
    assert [image.subject for image in found] == ["ill/1", "well/1"]


@pytest.mark.parametrize(
    ("header", "columns", "expected", "said"),
    [
        ("img,dx,class,who", "label=dx,subject=who", ("ill", "p1"), "were: label=dx,subject=who"),
        ("img,dx,class,case", "label=dx,subject=who", ("ill", "p1"), "were: label=dx"),
        ("img,kind,label,case", "label=dx", ("well", "p1"), "none of the columns"),
    ],
)
def test_the_columns_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
    header: str, columns: str, expected: tuple[str, str], said: str,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    touch(tmp_path, "a.png")
    path = tmp_path / "list.csv"
    path.write_text(f"{header}\na.png,ill,well,p1\n", encoding="utf-8")
    found = inputs.find(path, CLASSES, None, Reading(columns=columns))
    assert (found[0].label, found[0].subject) == expected
    assert said in caplog.text
