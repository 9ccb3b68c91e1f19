"""Intervals against scipy, published values and brute force; their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sscjax import intervals, metrics
from sscjax.metrics import Predictions

CLASSES = ("normal", "early", "late")


def table(seed: int, subjects: int = 8, images: int = 6, splits: str = "test") -> Predictions:
    """Subjects of one class each, who differ in how hard they are."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), images)
    labels = owner % 3
    skill = rng.normal(1.0, 1.0, subjects)
    logits = rng.normal(0, 1, (len(owner), 3))
    logits[np.arange(len(owner)), labels] += skill[owner]
    # Coarse, so that scores tie.
    odds = np.round(np.exp(logits), 1) + 0.1
    return Predictions(
        files=np.array([f"{index}.png" for index in range(len(owner))]),
        subjects=np.array([f"subject {index}" for index in owner]),
        splits=np.array([splits] * len(owner)),
        labels=labels,
        probabilities=odds / odds.sum(1, keepdims=True),
        classes=CLASSES,
    )


# ---- shares -------------------------------------------------------------------------------------


def test_published_intervals() -> None:
    """Newcombe 1998, Statistics in Medicine 17: 857-872, table I."""
    for right, total, exact, score in (
        (81, 263, (0.2527, 0.3676), (0.2553, 0.3662)),
        (15, 148, (0.0578, 0.1617), (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1684), (0.0, 0.1611)),
        (1, 29, (0.0009, 0.1776), (0.0061, 0.1718)),
    ):
        assert intervals.clopper_pearson(right, total) == pytest.approx(exact, abs=6e-5)
        assert intervals.wilson(right, total) == pytest.approx(score, abs=6e-5)


def test_clopper_pearson_is_scipys() -> None:
    for right, total in ((0, 5), (5, 5), (3, 7), (90, 100)):
        expected = stats.binomtest(right, total).proportion_ci(0.9, method="exact")
        found = intervals.clopper_pearson(right, total, level=0.9)
        assert found == pytest.approx((expected.low, expected.high))


def test_one_image_per_subject_is_clopper_pearson() -> None:
    right = np.arange(20) < 13
    found = intervals.clustered_share(right, np.ones(20, bool), np.arange(20))
    assert found == pytest.approx(intervals.clopper_pearson(13, 20))


def test_images_that_say_the_same_count_once() -> None:
    """Ten subjects of eight equal images each are ten trials (by their t quantiles, wider)."""
    right = np.repeat(np.arange(10) < 7, 8)
    found = intervals.clustered_share(right, np.ones(80, bool), np.repeat(np.arange(10), 8))
    assert found is not None
    low, high = intervals.clopper_pearson(7, 10)
    naive = intervals.clopper_pearson(56, 80)
    assert found[0] < low + 0.03 and found[1] > high - 0.03
    assert found[1] - found[0] > 1.7 * (naive[1] - naive[0])


def test_all_right_is_no_certainty() -> None:
    clusters = np.repeat(np.arange(8), 12)
    found = intervals.clustered_share(np.ones(96, bool), np.ones(96, bool), clusters)
    assert found == pytest.approx(intervals.clopper_pearson(8, 8))
    assert found is not None and found[0] < 0.7 and found[1] == 1.0


def test_shares_that_cannot_be_had() -> None:
    none, one = np.zeros(4, bool), np.zeros(4)
    assert intervals.clustered_share(none, none, np.arange(4)) is None
    assert intervals.clustered_share(none, ~none, one) is None


# ---- the bootstrap ------------------------------------------------------------------------------


def test_bootstrap_equals_the_figures_of_the_drawn_tables() -> None:
    """Each resample built row by row and handed to `metrics`; some lack a class."""
    predictions = table(0, subjects=5)
    found = intervals.bootstrap(predictions, ordered=True, resamples=40, seed=3)
    names = np.unique(predictions.subjects)
    draws = intervals.subject_draws(len(names), 40, seed=3)
    assert draws.shape == (40, 5) and (draws.sum(1) == 5).all()
    undefined = 0
    for index, draw in enumerate(draws):
        rows = [np.flatnonzero(predictions.subjects == name) for name in names]
        drawn = predictions._take(np.concatenate(np.repeat(np.array(rows), draw, axis=0)))
        expected = metrics.figures(drawn, ordered=True)
        pairs = [(name, expected[name]) for name in intervals.OVERALL]
        for place, entry in enumerate(expected["per_class"]):
            for name in ("sensitivity", "specificity", "precision", "f1", "auroc"):
                pairs.append((f"{name} {place}", entry[name]))
        for name, value in pairs:
            if value is None:
                undefined += 1
                assert not np.isfinite(found[name][index]), name
            else:
                assert found[name][index] == pytest.approx(value, abs=1e-12), name
    assert undefined > 0


def test_bootstrap_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals.bootstrap(table(1), ordered=False, resamples=50)
    monkeypatch.setattr(intervals, "_CHUNK", 7 * 48)
    parts = intervals.bootstrap(table(1), ordered=False, resamples=50)
    assert set(parts) == set(whole) and "quadratic_kappa" not in whole
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-12)


def test_percentile() -> None:
    assert intervals.percentile(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    values = np.arange(100.0)
    values[:5] = np.nan
    assert intervals.percentile(values) is not None
    values[5] = np.nan
    assert intervals.percentile(values) is None


# ---- AUROC --------------------------------------------------------------------------------------


def test_delong_against_placements() -> None:
    """The variance by hand for three positives and two negatives, one tie."""
    scores, positives = np.array([3.0, 2.0, 1.0, 2.0, 0.0]), np.array([1, 1, 1, 0, 0], bool)
    # Wins of the positives: (1, 1), (0.5, 1), (0, 1): area 0.75.
    by_positive, by_negative = np.var([1, 0.75, 0.5], ddof=1), np.var([0.5, 1], ddof=1)
    spread = np.sqrt(by_positive / 3 + by_negative / 2) / (0.75 * 0.25)
    ends = np.log(3) + np.array([-1, 1]) * 1.959963984540054 * spread
    assert intervals.delong(scores, positives) == pytest.approx(1 / (1 + np.exp(-ends)))


def test_delong_without_variance() -> None:
    assert intervals.delong(np.arange(4.0), np.array([0, 0, 1, 1], bool)) == (1.0, 1.0)
    assert intervals.delong(np.arange(4.0), np.array([0, 0, 0, 1], bool)) is None


# ---- coverage -----------------------------------------------------------------------------------


def test_coverage_of_a_clustered_share() -> None:
    """15 subjects of 2 to 20 images, each with a share of its own around 0.8: the nominal 95 %
    hold; an interval that takes images for independent holds far less."""
    rng = np.random.default_rng(0)
    held = naive = 0
    runs = 600
    for _ in range(runs):
        sizes = rng.integers(2, 21, 15)
        clusters = np.repeat(np.arange(15), sizes)
        right = rng.random(len(clusters)) < rng.beta(3.2, 0.8, 15)[clusters]
        found = intervals.clustered_share(right, np.ones(len(right), bool), clusters)
        assert found is not None
        held += found[0] <= 0.8 <= found[1]
        low, high = intervals.wilson(int(right.sum()), len(right))
        naive += low <= 0.8 <= high
    assert held / runs > 0.93
    assert naive / runs < 0.85


def test_coverage_of_the_bootstrap() -> None:
    """Macro AUROC over 30 subjects who differ: 95 % intervals hold the truth nearly as often."""
    truth = metrics.macro_auroc(table(12345, subjects=30_000, images=2))
    assert truth is not None
    held = 0
    runs = 200
    for seed in range(runs):
        drawn = intervals.bootstrap(table(seed, subjects=30), ordered=False, resamples=300)
        found = intervals.percentile(drawn["macro_auroc"])
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert 0.88 < held / runs < 0.99


# ---- what a run keeps ---------------------------------------------------------------------------


def test_figures_have_an_interval_around_them() -> None:
    predictions = table(2, subjects=12)
    values, ranges = metrics.figures(predictions, True), intervals.figures(predictions, True)
    assert ranges["n_subjects"] == 12 and ranges["resamples"] == 2000
    pairs = [(values[name], ranges[name]) for name in intervals.OVERALL]
    for one, other in zip(values["per_class"], ranges["per_class"], strict=True):
        assert one["name"] == other["name"]
        pairs += [(one[name], other[name]) for name in other if name != "name"]
    assert len(pairs) == 20
    for value, interval in pairs:
        assert interval[0] <= value <= interval[1] and interval[0] < interval[1]
    assert intervals.figures(predictions, True) == ranges
    assert intervals.figures(predictions, False)["quadratic_kappa"] is None


def test_by_split_and_unit() -> None:
    found = intervals.figures_by_split(table(4), ordered=True)
    assert set(found) == {"test"} and set(found["test"]) == {"image", "subject"}
    by_subject = table(4).by_subject()
    right = int((by_subject.predicted == by_subject.labels).sum())
    expected = intervals.clopper_pearson(right, 8)
    assert found["test"]["subject"]["accuracy"] == pytest.approx(expected)
    assert intervals.figures_by_split(table(4, splits="train"), ordered=True) == {}


def test_a_single_subject_has_none() -> None:
    found = intervals.figures(table(5, subjects=1), ordered=True)
    assert all(found[name] is None for name in intervals.OVERALL)
