"""The time that is said before a run is the sum of its steps."""

from __future__ import annotations

import pytest

from sscjax.experiments.cross_validation.estimate import Estimate


def test_the_first_fold_computes_the_features_of_all() -> None:
    """100 s of features; a fold, the figures, the model and the page take 13 s each."""
    measured = Estimate(images_per_second=10.0, features=100.0, fold=10.0)
    assert measured.of_all(folds=3) == pytest.approx(100 + 3 * 13 + 3 * 13)
