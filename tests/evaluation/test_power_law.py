"""The inverse power law against scipy's least squares, at its bounds, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from sscjax.evaluation import power_law

SIZES = np.array([6, 9, 14, 21, 32, 44])


@pytest.mark.parametrize(("limit", "gain", "exponent"), [(0.85, 0.7, 0.6), (0.95, 0.5, 0.3)])
def test_it_is_the_weighted_least_squares_of_scipy(
    limit: float, gain: float, exponent: float
) -> None:
    rng = np.random.default_rng(0)
    deviations = np.array([0.05, 0.04, 0.03, 0.02, 0.02, 0.015])
    values = limit - gain * SIZES**-exponent + rng.normal(0, deviations / 4)
    found = power_law.fit(SIZES, values[None], deviations**2, rises=True)
    expected, _ = optimize.curve_fit(
        lambda n, a, b, c: a - b * n**-c,
        SIZES,
        values,
        p0=(limit, gain, exponent),
        sigma=deviations,
        bounds=((0, 0, 0.05), (1, np.inf, 3)),
    )
    # The exponent is on a grid, so that parameters differ more than the curve does.
    ahead = np.array([6, 44, 66, 88])
    curve = expected[0] - expected[1] * ahead ** -expected[2]
    assert found.at(ahead)[0] == pytest.approx(curve, abs=2e-3)


def test_a_loss_falls_towards_its_limit() -> None:
    values = 0.4 + 2.0 * SIZES**-0.7
    found = power_law.fit(SIZES, values[None], np.ones(6), rises=False, bounds=(0, np.inf))
    assert found.limit[0] == pytest.approx(0.4, abs=0.01)
    assert found.at(np.array([88]))[0, 0] == pytest.approx(0.4 + 2 * 88**-0.7, abs=1e-3)


def test_nothing_is_gained_where_the_curve_is_flat_or_falls() -> None:
    rows = np.stack([np.full(6, 0.7), np.linspace(0.8, 0.6, 6)])
    found = power_law.fit(SIZES, rows, np.ones(6), rises=True)
    assert found.gain.tolist() == [0, 0]
    np.testing.assert_allclose(found.limit, [0.7, 0.7])


def test_shares_stay_below_one() -> None:
    """A straight rise would leave 100 % behind: the limit holds it."""
    values = np.array([0.5, 0.62, 0.72, 0.82, 0.92, 0.98])
    found = power_law.fit(SIZES, values[None], np.ones(6), rises=True)
    assert found.limit[0] <= 1 and (found.at(np.array([100, 1000, 10**6])) <= 1).all()


def test_resamples_hold_the_truth_of_the_extrapolation() -> None:
    """Points with known scatter: 95 % of the resampled curves at twice the size hold the truth in
    at least nine of ten studies."""
    rng = np.random.default_rng(1)
    truth = 0.85 - 0.9 * SIZES**-0.6
    ahead = np.array([88])
    target = 0.85 - 0.9 * 88**-0.6
    deviations = 0.02 * np.sqrt(44 / SIZES)
    held = 0
    for _ in range(100):
        seen = truth + rng.normal(0, deviations)
        resampled = seen + rng.normal(0, deviations, (200, 6))
        curves = power_law.fit(SIZES, resampled, deviations**2, rises=True)
        low, high = np.quantile(curves.at(ahead)[:, 0], [0.025, 0.975])
        held += low <= target <= high
    assert held >= 90
