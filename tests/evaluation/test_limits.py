"""Variances and limits of clustered means against matrices, brute force and published values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sscjax.evaluation import limits


def test_variance_is_that_of_the_matrices() -> None:
    """The quadratic form y' A y with its trace and its square, written as Bell and McCaffrey do."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 9).astype(float)
    sums = sizes * rng.random(9)
    share = sizes / sizes.sum()
    center = np.eye(9) - np.outer(np.ones(9), share)
    form = center.T @ np.diag(share**2 / (1 - share)) @ center
    own = sums / sizes
    of = limits.spread(sums, sizes)
    assert of.mean == pytest.approx(sums.sum() / sizes.sum())
    assert of.variance == pytest.approx(own @ form @ own * (share @ share) / np.trace(form))
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    fourth = 2 * of.variance**2 / (of.residuals**4).sum()
    assert of.freedom == pytest.approx(min(freedom, fourth))
    assert of.effective == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())
    assert (of.residuals**2).sum() == pytest.approx(of.variance)


def test_equal_clusters_give_the_usual_standard_error() -> None:
    rng = np.random.default_rng(1)
    own = rng.random((4, 12))
    of = limits.spread(own * 5, np.full((4, 12), 5))
    np.testing.assert_allclose(of.variance, own.var(axis=1, ddof=1) / 12)
    assert (of.freedom <= 11 + 1e-9).all()


def test_one_large_cluster_leaves_hardly_a_degree_of_freedom() -> None:
    sizes = np.array([80.0, *[5.0] * 11])
    of = limits.spread(sizes * np.linspace(0.2, 0.9, 12), sizes)
    assert 1 <= of.freedom < 1.5 and of.effective == pytest.approx(135**2 / (6400 + 275))


@pytest.mark.slow
def test_variance_is_unbiased() -> None:
    """Subjects that differ equally, with very unequal numbers of images."""
    rng = np.random.default_rng(2)
    sizes = np.array([60.0, 30, 12, 6, 6, 4, 2, 2])
    own = rng.normal(size=(40_000, 8))
    of = limits.spread(own * sizes, np.broadcast_to(sizes, own.shape))
    assert of.variance.mean() == pytest.approx(of.mean.var(), rel=0.03)


def test_absent_subjects_have_no_part() -> None:
    sums, sizes = np.array([3.0, 0, 4, 1]), np.array([4.0, 0, 5, 2])
    present = sizes > 0
    first, second = limits.spread(sums, sizes), limits.spread(sums[present], sizes[present])
    assert first.variance == pytest.approx(second.variance)
    assert first.freedom == pytest.approx(second.freedom)
    pairs = limits.mean_limits(sums, sizes), limits.mean_limits(sums[present], sizes[present])
    np.testing.assert_allclose(*pairs)


def test_few_that_differ_count_as_one_trial_each() -> None:
    sizes = np.full(10, 8.0)
    sums = sizes.copy()
    sums[0] -= 1
    low, high = limits.mean_limits(sums, sizes)
    expected = stats.beta.ppf(0.025, 9.875, 1.125), stats.beta.ppf(0.975, 10.875, 0.125)
    assert (low, high) == pytest.approx(expected)


def test_mover_of_a_difference_is_newcombes() -> None:
    """56/70 less 48/80 by Wilson's limits: 0.0524 to 0.3339 (Newcombe 1998, 17: 873-890, table II).

    A difference is a sum of one share and of one minus the other.
    """
    spans = [stats.binomtest(*pair).proportion_ci(method="wilson") for pair in ((56, 70), (48, 80))]
    first, second = 56 / 70, 48 / 80
    below = [first - spans[0].low, spans[1].high - second]
    above = [spans[0].high - first, second - spans[1].low]
    found = limits.combine(first - second, below, above)
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_correlated_parts() -> None:
    """Parts that move together add up; parts that move against each other cancel."""
    one = np.array([0.1, -0.1, 0.2, -0.2])
    same = limits.combine(0.5, [0.1, 0.1], [0.2, 0.2], np.stack([one, 2 * one]))
    assert same == pytest.approx((0.3, 0.9))
    against = limits.combine(0.5, [0.1, 0.1], [0.2, 0.2], np.stack([one, -one]))
    assert against == pytest.approx((0.5, 0.5))
