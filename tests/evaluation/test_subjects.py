"""From images to subjects: aggregates against scipy, labels by hand, one rule for ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from sscjax.evaluation import predictions, resampling
from sscjax.evaluation.predictions import Predictions


def table_of(labels: list[int], subjects: str, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    count = len(labels)
    return Predictions(
        files=np.arange(count).astype(str),
        subjects=np.array(list(subjects)),
        splits=np.full(count, "test"),
        labels=np.array(labels),
        probabilities=rng.dirichlet([0.5, 0.5, 0.5], count),
        classes=("normal", "early", "late"),
    )


def test_geometric_mean_is_scipy_s_scaled_to_one() -> None:
    table = table_of([0] * 7, "aaabbbb")
    found = table.by_subject("geometric").probabilities
    for row, name in zip(found, "ab", strict=True):
        mean = stats.gmean(table.probabilities[table.subjects == name], axis=0)
        np.testing.assert_allclose(row, mean / mean.sum(), rtol=1e-12)


def test_a_probability_of_zero_does_not_decide_alone() -> None:
    """As float32 rounds to 0: the logarithm stays finite, and twenty other images count more."""
    rows = np.array([[1.0, 0.0], *[[0.02, 0.98]] * 40])
    found = predictions.aggregate(rows, np.zeros(41, int), "geometric")
    assert np.isfinite(found).all() and found[0, 1] > 0.5
    np.testing.assert_allclose(found.sum(), 1)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("majority", {"a": 0, "b": 2, "c": 1, "d": 1}),
        ("worst", {"a": 2, "b": 2, "c": 1, "d": 1}),
        ("image", {"c": 1}),
    ],
)
def test_subjects_of_several_labels(label: Any, expected: dict[str, int]) -> None:
    """Two of three; a tie of two, and one of two again; one label."""
    table = table_of([0, 0, 2, 0, 2, 1, 1, 0, 1], "aaabbccdd")
    rows = table.by_subject(label=label)
    assert dict(zip(rows.subjects.tolist(), rows.labels.tolist(), strict=True)) == expected
    assert table.subjects_of_several_labels == 3


def test_ties_are_broken_the_same_way_everywhere() -> None:
    """A subject's stratum in the bootstrap is the label that it has in its table."""
    rng = np.random.default_rng(1)
    names = "".join(rng.choice(list("abcdefgh"), 40))
    table = table_of(rng.integers(0, 3, 40).tolist(), names)
    rows = table.by_subject()
    _, strata = resampling.subjects_of(table)
    of = dict(zip(rows.subjects.tolist(), rows.labels.tolist(), strict=True))
    assert [of[name] for name in sorted(set(names))] == strata.tolist()
    assert table.subjects_of_several_labels > 4


def test_largest_share() -> None:
    assert table_of([0] * 5, "aabab").largest_share == ("a", 0.6)
    assert table_of([], "").largest_share == ("", 0.0)
