"""Intervals against scipy, published values and brute force; their coverage by simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from prediction_tables import table
from scipy import stats

from sscjax.evaluation import intervals, metrics

# ---- shares -------------------------------------------------------------------------------------


def test_published_intervals() -> None:
    """Newcombe 1998, Statistics in Medicine 17: 857-872, table I."""
    for right, total, exact in (
        (81, 263, (0.2527, 0.3676)),
        (15, 148, (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1684)),
        (1, 29, (0.0009, 0.1776)),
    ):
        assert intervals.clopper_pearson(right, total) == pytest.approx(exact, abs=6e-5)


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


def test_one_mistake_more_is_no_better() -> None:
    """Mistakes of a single subject do not make the interval narrow at a stroke."""
    clusters, every = np.repeat(np.arange(8), 12), np.ones(96, bool)
    lows = []
    for mistakes in range(4):
        found = intervals.clustered_share(np.arange(96) >= mistakes, every, clusters)
        assert found is not None
        lows.append(found[0])
    assert lows == sorted(lows, reverse=True)


@pytest.mark.parametrize(("images", "right"), [(10, 5), (59, 31)])
def test_clusters_all_alike(images: int, right: int) -> None:
    """No variation between clusters, however their shares round, is that of single images."""
    clusters = np.repeat(np.arange(8), images)
    found = intervals.clustered_share(
        np.tile(np.arange(images) < right, 8), np.ones(8 * images, bool), clusters
    )
    plain = intervals.clopper_pearson(8 * right, 8 * images)
    assert found is not None
    assert 1 < (found[1] - found[0]) / (plain[1] - plain[0]) < 1.3


def test_shares_that_cannot_be_had() -> None:
    none, one = np.zeros(4, bool), np.zeros(4)
    assert intervals.clustered_share(none, none, np.arange(4)) is None
    assert intervals.clustered_share(none, ~none, one) is None


# ---- the bootstrap ------------------------------------------------------------------------------


def test_draws_keep_every_class() -> None:
    strata = np.array([0, 1, 0, 2, 2, 2])
    rngs = [np.random.default_rng(k) for k in range(4)]  # of the last class there is nobody
    draws = intervals.subject_draws(strata, 500, rngs)
    for stratum, count in ((0, 2), (1, 1), (2, 3)):
        assert (draws[:, strata == stratum].sum(1) == count).all()
    assert abs(draws.mean(0) - 1).max() < 0.15


def test_bootstrap_equals_the_figures_of_the_drawn_tables() -> None:
    """Each resample built row by row and handed to `metrics`."""
    predictions = table(0, (2, 2, 2))
    found = intervals.bootstrap(predictions, ordered=True, resamples=40, seed=3)
    group, strata = intervals.subjects_of(predictions)
    rngs = [np.random.default_rng([3, k]) for k in range(3)]
    for index, draw in enumerate(intervals.subject_draws(strata, 40, rngs)):
        rows = np.array([np.flatnonzero(group == subject) for subject in range(6)])
        drawn = predictions.take(np.concatenate(np.repeat(rows, draw, axis=0)))
        expected = metrics.figures(drawn, ordered=True)
        pairs = [(name, expected[name]) for name in metrics.OVERALL]
        for place, entry in enumerate(expected["per_class"]):
            for name in ("sensitivity", "specificity", "precision", "f1", "auroc"):
                pairs.append((f"{name} {place}", entry[name]))
        assert len(pairs) == 20
        for name, value in pairs:
            wanted = np.nan if value is None else value
            assert found[name][index] == pytest.approx(wanted, abs=1e-12, nan_ok=True), name


def test_bootstrap_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals.bootstrap(table(1), ordered=False, resamples=50)
    monkeypatch.setattr(intervals, "CHUNK", 7 * 48)
    parts = intervals.bootstrap(table(1), ordered=False, resamples=50)
    assert set(parts) == set(whole) and "quadratic_kappa" not in whole
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-12)


def test_percentile() -> None:
    """By the normal quantile that t's with 8 degrees of freedom, times sqrt(10 / 8), stands for."""
    tail = stats.norm.cdf(-np.sqrt(10 / 8) * 2.306004135)
    found = intervals.percentile(np.arange(1001.0), subjects=10, strata=2)
    assert found == pytest.approx((1000 * tail, 1000 * (1 - tail)))
    many = intervals.percentile(np.arange(1001.0), subjects=10**6)
    assert many == pytest.approx((25, 975), abs=0.01)


def test_percentile_that_cannot_be_had() -> None:
    values = np.arange(100.0)
    assert intervals.percentile(values, subjects=3, strata=3) is None
    assert intervals.percentile(np.ones(100), subjects=9) is None
    values[5] = np.nan
    assert intervals.percentile(values, subjects=9) is None


# ---- coverage -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("subjects", "truth"), [(15, 0.8), (8, 0.7), (40, 0.9)])
def test_coverage_of_a_clustered_share(subjects: int, truth: float) -> None:
    """Subjects of 2 to 20 images, each with a share of its own: the nominal 95 % hold. An interval
    that takes images for independent holds far less."""
    rng = np.random.default_rng(0)
    held = naive = 0
    runs = 600
    for _ in range(runs):
        sizes = rng.integers(2, 21, subjects)
        clusters = np.repeat(np.arange(subjects), sizes)
        own = rng.beta(4 * truth, 4 * (1 - truth), subjects)
        right = rng.random(len(clusters)) < own[clusters]
        found = intervals.clustered_share(right, np.ones(len(right), bool), clusters)
        assert found is not None
        held += found[0] <= truth <= found[1]
        low, high = intervals.clopper_pearson(int(right.sum()), len(right))
        naive += low <= truth <= high
    assert held / runs > 0.93
    assert naive / runs < 0.86


@pytest.mark.slow
@pytest.mark.parametrize("of_class", [(5, 4, 4), (10, 10, 10)])
def test_coverage_of_the_bootstrap(of_class: tuple[int, int, int]) -> None:
    """Intervals of subjects who differ, as few of them as a small study tests."""
    first, second, third = of_class
    many = (2000 * first, 2000 * second, 2000 * third)
    truth = metrics.figures(table(12345, many, images=2), ordered=True)
    held = dict.fromkeys(metrics.OVERALL[1:], 0)
    runs = 250
    for seed in range(runs):
        predictions = table(seed, of_class)
        drawn = intervals.bootstrap(predictions, ordered=True, resamples=400)
        for name in held:
            found = intervals.percentile(drawn[name], sum(of_class), strata=3)
            held[name] += found is None or found[0] <= truth[name] <= found[1]
    for name, count in held.items():
        # At 95 % the standard deviation of these shares is 1.4 %.
        assert 0.9 < count / runs, name


# ---- what a run keeps ---------------------------------------------------------------------------


def test_figures_have_an_interval_around_them() -> None:
    predictions = table(2, (4, 4, 4))
    values, ranges = metrics.figures(predictions, True), intervals.figures(predictions, True)
    assert ranges["n_subjects"] == 12 and ranges["resamples"] == 2000
    pairs = [(values[name], ranges[name]) for name in metrics.OVERALL]
    for one, other in zip(values["per_class"], ranges["per_class"], strict=True):
        assert one["name"] == other["name"]
        pairs += [(one[name], other[name]) for name in other if name != "name"]
    assert len(pairs) == 20
    for value, interval in pairs:
        assert interval[0] <= value <= interval[1] and interval[0] < interval[1]
    assert intervals.figures(predictions, True) == ranges
    assert intervals.figures(predictions, False)["quadratic_kappa"] is None


def test_of_the_test_split_alone() -> None:
    found = intervals.test_figures(table(4), ordered=True)
    assert set(found) == {"image", "subject"}
    by_subject = table(4).by_subject()
    right = int((by_subject.predicted == by_subject.labels).sum())
    assert found["subject"]["accuracy"] == pytest.approx(intervals.clopper_pearson(right, 8))
    assert intervals.test_figures(table(4, split="val"), ordered=True) == {}


def test_all_right_gives_no_interval_of_no_width() -> None:
    predictions = table(6, (5, 5, 5))
    certain = np.eye(3)[predictions.labels]
    perfect = dataclasses.replace(predictions, probabilities=certain)
    found = intervals.figures(perfect, ordered=True)
    assert found["accuracy"] == pytest.approx(intervals.clopper_pearson(15, 15))
    assert all(found[name] is None for name in metrics.OVERALL[1:])


@pytest.mark.parametrize("of_class", [(1, 0, 0), (6, 1, 6), (6, 3, 6)])
def test_a_class_of_few_subjects(of_class: tuple[int, int, int]) -> None:
    """No bootstrap; shares have their interval from two subjects on, areas from three."""
    found = intervals.figures(table(5, of_class), ordered=True)
    drawn = [name for name in metrics.OVERALL[1:] if name != "macro_auroc"]
    assert all(found[name] is None for name in drawn)
    assert (found["macro_auroc"] is None) == (of_class[1] < 3)
    assert (found["per_class"][1]["sensitivity"] is None) == (of_class[1] < 2)
    assert (found["accuracy"] is None) == (sum(of_class) == 1)


def test_absent_classes_need_no_subjects() -> None:
    found = intervals.figures(table(5, (6, 0, 6)), ordered=True)
    assert found["balanced_accuracy"] is not None and found["per_class"][1]["auroc"] is None
