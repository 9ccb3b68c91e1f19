"""How a model was tested, in a sentence, and what is weak about it: the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import headline, tested, weaknesses

CLASSES = ("normal", "early", "unused")


def table(wrong: int = 2, repeats: int = 1, named: bool = True) -> Predictions:
    """Ten patients of two images, of which the first are classified wrongly."""
    count = 10
    subjects = np.repeat([f"patient {k}" for k in range(count)], 2)
    labels = np.repeat(np.arange(count) % 2, 2)
    predicted = np.where(np.repeat(np.arange(count), 2) < wrong, 1 - labels, labels)
    files = np.array([f"{subject}/{k % 2}.png" for k, subject in enumerate(subjects)])
    one = Predictions(
        files,
        subjects if named else files,
        np.repeat(["test"], 2 * count),
        labels,
        0.7 * np.eye(3)[predicted] + 0.1,
        CLASSES,
    )
    return Predictions.join([one] * repeats) if repeats > 1 else one


def about(rows: Predictions, by: str = "subject") -> dict[str, Any]:
    figures = metrics.figures_by_split(rows, False)["test"]
    return tested.about(figures, intervals.test_figures(rows, False), rows, by)


@pytest.mark.parametrize(
    ("rows", "by", "expected"),
    [
        (table(), "subject", "10 patients never seen in training: 8 right, 80 % ("),
        (table(), "image", "20 images of patients seen in training: 16 right, 80 % ("),
        (table(named=False), "subject", "20 images not trained on: 16 right, 80 % ("),
    ],
)
def test_the_sentence_says_what_was_tested(rows: Predictions, by: str, expected: str) -> None:
    assert tested.sentence(about(rows, by)).startswith(expected)
    assert tested.detail(about(rows, by)) == "95 % confidence interval. Always 'normal': 50 %."


def test_repeats_are_tests_and_no_more_patients() -> None:
    """Three tests of ten patients with two images are 30 tests, and not 30 patients."""
    rows = table()
    figures = {unit: {"n": 3 * n, **rest} for unit, (n, rest) in _counted(rows).items()}
    test = tested.about(figures, intervals.test_figures(rows, False), rows, "subject")
    assert (test["number"], test["images"], test["tests"], test["right"]) == (10, 20, 3, 8)
    assert tested.sentence(test).startswith(
        "10 patients never seen in training: 8 right on average"
    )
    assert "Each was tested 3 times." in tested.detail(test)


def _counted(rows: Predictions) -> dict[str, Any]:
    figures = metrics.figures_by_split(rows, False)["test"]
    return {
        unit: (own["n"], {key: value for key, value in own.items() if key != "n"})
        for unit, own in figures.items()
    }


def test_one_list_of_weaknesses() -> None:
    rows = table()
    audit = {
        "findings": [
            {
                "severity": "warning",
                "kind": "few_subjects",
                "title": "fewer than 5 subjects in early",
            },
            {"severity": "warning", "kind": "sites", "title": "sites go with the label"},
            {"severity": "note", "kind": "copies", "title": "copies within a subject"},
        ]
    }
    ranges = intervals.test_figures(rows, False)
    few = rows.take(np.isin(rows.subjects, ["patient 0", "patient 1", "patient 2", "patient 3"]))
    lines = weaknesses.find(few, CLASSES[:2], ranges, {}, audit, "subject")
    # Outputs that stand for no class are none with few patients; the audit says it no second time.
    assert lines[0].startswith("FEW TEST SUBJECTS OF A CLASS: 2 of normal, 2 of early.")
    assert [line for line in lines if "AUDIT" in line] == ["AUDIT: sites go with the label."]
    assert any(line.startswith("WIDE INTERVALS") for line in lines)
    enough = weaknesses.find(rows, CLASSES[:2], ranges, {}, audit, "subject")
    assert not any(line.startswith("FEW TEST") for line in enough)
    assert "AUDIT: fewer than 5 subjects in early." in enough


def test_the_headline_says_what_metrics_hold(tmp_path: Path) -> None:
    content = {"warnings": ["NO SUBJECTS: every image\ncounts as one."], "tested": about(table())}
    (tmp_path / "metrics.json").write_text(json.dumps({**content, "splits": {}}), "utf-8")
    (tmp_path / "run.json").write_text("{}", "utf-8")
    lines = headline.text(tmp_path).splitlines()
    assert lines[0] == tested.sentence(about(table()))
    assert "- No subjects: every image counts as one." in lines
    assert max(map(len, lines)) <= 80 or "Report: " in lines[-1]


CALM = {
    "WIDE INTERVALS, of more: mean AUROC 0.3": "Wide intervals, of more: mean AUROC 0.3",
    "30 OF 40 IMAGES NAME NO SUBJECT: each": "30 of 40 images name no subject: each",
    "CLASSES BY NAME: SSC counts": "Classes by name: SSC counts",
    "BUNDLED starting\nweights": "Bundled starting weights",
    "Plain AUROC": "Plain AUROC",
}


@pytest.mark.parametrize("warning", CALM)
def test_only_the_beginning_loses_its_capitals(warning: str) -> None:
    assert weaknesses.calm(warning) == CALM[warning]
