"""The time that is said before a run is the sum of its steps."""

from __future__ import annotations

import pytest

from sscjax.experiments.cross_validation.estimate import Estimate


def test_the_first_fold_computes_the_features_of_all() -> None:
    """Of three folds: the first with the features, one with maps, one without, and what follows."""
    measured = Estimate(images_per_second=10.0, features=100.0, audit=2.0, fits=8.0, tests=30)
    kinds = measured.by_kind
    after = kinds["report"] + kinds["model"] + kinds["page"]
    folds = kinds["first"] + kinds["drawn"] + kinds["fold"]
    assert measured.of_all([0, 0, 1]) == pytest.approx(folds + after)
    assert kinds["first"] > 100
    assert measured.of_all([0, 0, 1, 1]) == pytest.approx(folds + after + kinds["fold"])
