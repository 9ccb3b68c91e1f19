"""The bootstrap of subjects against brute force; its coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import table
from scipy import stats

from sscjax.evaluation import metrics, resampling


def test_draws_keep_every_class() -> None:
    strata = np.array([0, 1, 0, 2, 2, 2])
    rngs = [np.random.default_rng(k) for k in range(4)]  # of the last class there is nobody
    draws = resampling.subject_draws(strata, 500, rngs)
    for stratum, count in ((0, 2), (1, 1), (2, 3)):
        assert (draws[:, strata == stratum].sum(1) == count).all()
    assert abs(draws.mean(0) - 1).max() < 0.15


def test_bootstrap_equals_the_figures_of_the_drawn_tables() -> None:
    """Each resample built row by row and handed to `metrics`."""
    predictions = table(0, (2, 2, 2))
    found = resampling.bootstrap(predictions, ordered=True, resamples=40, seed=3)
    group, strata = resampling.subjects_of(predictions)
    rngs = [np.random.default_rng([3, k]) for k in range(3)]
    for index, draw in enumerate(resampling.subject_draws(strata, 40, rngs)):
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
    whole = resampling.bootstrap(table(1), ordered=False, resamples=50)
    monkeypatch.setattr(resampling, "CHUNK", 7 * 48)
    parts = resampling.bootstrap(table(1), ordered=False, resamples=50)
    assert set(parts) == set(whole) and "quadratic_kappa" not in whole
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-12)


def test_percentile() -> None:
    """By the normal quantile that t's with 8 degrees of freedom, times sqrt(10 / 8), stands for."""
    tail = stats.norm.cdf(-np.sqrt(10 / 8) * 2.306004135)
    found = resampling.percentile(np.arange(1001.0), subjects=10, strata=2)
    assert found == pytest.approx((1000 * tail, 1000 * (1 - tail)))
    many = resampling.percentile(np.arange(1001.0), subjects=10**6)
    assert many == pytest.approx((25, 975), abs=0.01)


def test_percentile_that_cannot_be_had() -> None:
    values = np.arange(100.0)
    assert resampling.percentile(values, subjects=3, strata=3) is None
    assert resampling.percentile(np.ones(100), subjects=9) is None
    values[5] = np.nan
    assert resampling.percentile(values, subjects=9) is None


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
        drawn = resampling.bootstrap(predictions, ordered=True, resamples=400)
        for name in held:
            found = resampling.percentile(drawn[name], sum(of_class), strata=3)
            held[name] += found is None or found[0] <= truth[name] <= found[1]
    for name, count in held.items():
        # At 95 % the standard deviation of these shares is 1.4 %.
        assert 0.9 < count / runs, name
