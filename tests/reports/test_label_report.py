"""Suspect labels as CSV, text and picture: the same rows everywhere."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from prediction_tables import table

from sscjax.errors import UserError
from sscjax.evaluation.label_noise import Suspects, suspects
from sscjax.reports import figures, label_noise
from sscjax.system import files, formatting


@pytest.fixture
def lists() -> tuple[Suspects, Suspects]:
    predictions = table(3, (8, 8, 8), images=6)
    labels = predictions.labels.copy()
    labels[predictions.subjects == "subject 5"] = 2
    names = np.char.add("=", predictions.files)
    return suspects(dataclasses.replace(predictions, labels=labels, files=names))


def test_csv_has_every_row_in_the_order_of_its_rank(
    tmp_path: Path, lists: tuple[Suspects, Suspects]
) -> None:
    path = tmp_path / "label_noise.csv"
    files.write_text(path, files.csv_text(label_noise.csv_rows(*lists)))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 + 144
    subjects = [row for row in rows if row["list"] == "subjects"]
    assert [int(row["rank"]) for row in subjects] == list(range(1, 25))
    assert subjects[0]["subject"] == lists[1].names[0] and subjects[0]["file"] == ""
    assert [row["listed"] for row in subjects] == sorted(
        (row["listed"] for row in subjects), reverse=True
    )
    first = next(row for row in rows if row["list"] == "images")
    assert files.csv_name(first["file"]) == lists[0].names[0] and first["file"][0] == "'"
    assert float(first["p_label"]) == lists[0].self_confidence[0]


def test_the_page_shows_the_rows_of_the_text(
    tmp_path: Path, lists: tuple[Suspects, Suspects]
) -> None:
    path = tmp_path / "label_noise.csv"
    files.write_text(path, files.csv_text(label_noise.csv_rows(*lists)))
    shown = label_noise.read_rows(path)
    for kind, one in zip(("images", "subjects"), lists, strict=True):
        assert shown[kind] == label_noise.table(one, label_noise.MOST_SHOWN)
        assert 2 <= len(shown[kind]) <= label_noise.MOST_SHOWN + 1
    text = label_noise.text(*lists)
    assert text.isascii() and max(map(len, text.splitlines())) <= formatting.WIDTH
    assert f"subjects whose label to check: {lists[1].listed.sum()} of 24" in text


def test_nothing_contradicted_is_said(lists: tuple[Suspects, Suspects]) -> None:
    none = [dataclasses.replace(one, listed=np.zeros(len(one), bool)) for one in lists]
    assert "No label is contradicted" in label_noise.text(*none)
    assert label_noise.picture(none[0], none[0].names, np.zeros((144, 8, 8, 3), np.uint8)) is None


def test_picture_shows_the_listed_images(tmp_path: Path, lists: tuple[Suspects, Suspects]) -> None:
    names = np.sort(lists[0].names)
    pixels = np.zeros((len(names), 8, 8, 3), np.uint8)
    pixels[names.tolist().index(str(lists[0].names[0]))] = 200
    drawn = label_noise.picture(lists[0], names, pixels)
    assert drawn is not None
    shown = [axes.get_images()[0].get_array() for axes in drawn.axes if axes.get_images()]
    assert len(shown) == min(int(lists[0].listed.sum()), label_noise.MOST_PICTURES)
    assert np.asarray(shown[0]).max() == 200
    figures.write_png(tmp_path / "a.png", drawn)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "label_noise.csv"
    path.write_text("list,rank\nothers,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="label_noise.csv is damaged"):
        label_noise.read_rows(path)
