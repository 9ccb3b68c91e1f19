"""Figures of each site against counts by hand, and tables of predictions that carry the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from sscjax.evaluation import by_site
from sscjax.evaluation.intervals import clopper_pearson
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import site_table


def table() -> Predictions:
    """North: 6 patients of two images, 5 right; South: 3 of one, 1 right; =East: 1 in training."""
    north = [(f"n{k}", "North", k % 2, k % 2 if k else 1) for k in range(6) for _ in range(2)]
    south = [("s0", "South", 0, 0), ("s1", "South", 1, 0), ("s2", "South", 0, 1)]
    rows = [*north, *south, ("e0", "=East", 0, 0)]
    subjects, places, labels, called = zip(*rows, strict=True)
    confidence = np.linspace(0.6, 0.9, len(rows))
    high = np.where(np.array(called) == 1, confidence, 1 - confidence)
    return Predictions(
        files=np.array([f"{k}.png" for k in range(len(rows))]),
        subjects=np.array(subjects),
        splits=np.array(["test"] * (len(rows) - 1) + ["train"]),
        labels=np.array(labels),
        probabilities=np.stack([1 - high, high], axis=1),
        classes=("normal", "late"),
        sites=np.array(places),
    )


def of(table: Predictions) -> np.ndarray:
    """Its sites, which it has."""
    assert table.sites is not None
    return table.sites


def test_figures_of_each_site_by_hand() -> None:
    images = table()
    found = by_site.figures(images, images.by_subject(), ordered=False, apart=True)
    assert [site["name"] for site in found["sites"]] == ["North", "South"]
    north, south = found["sites"]
    assert (north["subjects"], north["images"], south["subjects"], south["images"]) == (6, 12, 3, 3)
    assert list(north["splits"]["test"]) == ["subject", "image"]
    own = north["splits"]["test"]["subject"]
    assert own["n"] == 6 and own["accuracy"] == pytest.approx(5 / 6)
    assert own["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert own["confusion"] == [[2, 1], [0, 3]]
    here = images.take(of(images) == "North")
    of_images = north["splits"]["test"]["image"]
    assert of_images["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(here.labels, here.predicted)
    )
    assert of_images["macro_auroc"] == pytest.approx(
        roc_auc_score(here.labels, here.probabilities[:, 1])
    )
    assert south["splits"]["test"]["subject"]["accuracy"] == pytest.approx(1 / 3)
    # Of one class with a row per patient the interval is the exact binomial's.
    sensitivity = north["test_intervals"]["subject"]["per_class"][1]["sensitivity"]
    assert sensitivity == pytest.approx(clopper_pearson(3, 3))
    # One patient of a class at a site: no interval, and no failure.
    assert south["test_intervals"]["subject"]["per_class"][1]["sensitivity"] is None
    text = site_table.text(found)
    assert text.index("per subject") < text.index("per image") and "83.3 %" in text
    assert "saw none of its images" in text and max(map(len, text.splitlines())) <= 100


def test_without_sites_there_are_no_figures_of_them() -> None:
    images = table()
    bare = Predictions(
        images.files,
        images.subjects,
        images.splits,
        images.labels,
        images.probabilities,
        images.classes,
    )
    assert by_site.figures(bare, bare.by_subject(), ordered=False, apart=False) == {}
    assert site_table.text({}) == "" and site_table.rows({}, "image") == []


def test_tables_carry_the_site(tmp_path: Path) -> None:
    images = table()
    assert of(images.by_subject()).tolist() == ["North"] * 6 + ["South"] * 3 + ["=East"]
    images.write_csv(tmp_path / "predictions.csv")
    header = (tmp_path / "predictions.csv").read_text("utf-8").splitlines()[0]
    assert header == "file,subject,site,split,label,prediction,p_normal,p_late"
    again = Predictions.read_csv(tmp_path / "predictions.csv")
    assert of(again).tolist() == of(images).tolist()
    np.testing.assert_array_equal(again.probabilities, images.probabilities)
    assert of(Predictions.join([images, again])).tolist() == of(images).tolist() * 2
