"""Limits of AUROC against published formulas, and their limiting cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from sscjax.evaluation import area_limits


def test_variance_is_hanley_and_mcneils_for_equal_sides() -> None:
    """Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A), by their formula 1 of 1982, with 15 on each side."""
    area, count = 0.86, 15
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    theirs = area * (1 - area) + (count - 1) * (first - area**2 + second - area**2)
    found = area_limits.score_variance(area, count, count)
    assert found == pytest.approx(theirs / count**2)


@pytest.mark.parametrize("area", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(2, 2), (4, 30), (3.5, 60)])
def test_score_limits_are_where_the_error_is_reached(
    area: float, positives: float, negatives: float
) -> None:
    """The ends solve |seen - tried| = 1.96 errors; the other class ranks in the opposite way."""
    low, high = area_limits.score_limits(area, positives, negatives)
    assert 0 <= low <= area <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            error = area_limits.score_variance(end, positives, negatives) ** 0.5
            assert abs(area - end) == pytest.approx(special.ndtri(0.975) * error, rel=1e-6)
    turned = area_limits.score_limits(1 - area, negatives, positives)
    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-8)


def test_with_many_subjects_only_the_variance_counts() -> None:
    """1.96 standard errors of the logit to either side, if images are as good as independent."""
    area, variance = 0.9, 1e-5
    low, high = area_limits.area_limits(area, variance, 20_000, 200, 200)
    reach = special.ndtri(0.975) * variance**0.5 / (area * (1 - area))
    logit = special.logit(area)
    assert (low, high) == pytest.approx(
        tuple(special.expit([logit - reach, logit + reach])), abs=2e-3
    )


def test_few_equal_subjects_are_not_believed() -> None:
    """Eight easy subjects do not say that there are no hard ones."""
    low, high = area_limits.area_limits(0.99, 1e-6, 6.0, 4, 4)
    alone = area_limits.score_limits(0.99, 4, 4)
    assert low < 0.8 and high > 0.99
    assert low > alone[0]
    assert area_limits.area_limits(1.0, 0.0, np.inf, 4, 4) == area_limits.score_limits(1.0, 4, 4)
