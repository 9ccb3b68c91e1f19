"""Rankings against scikit-learn, finite differences and pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sscjax.evaluation import ranking


def drawn(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties."""
    rng = np.random.default_rng(seed)
    positives = rng.random(rows) < 0.4
    return np.round(rng.normal(size=rows) + positives, 1), positives


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scikit_learns(seed: int) -> None:
    scores, positives = drawn(seed)
    area = sklearn_metrics.roc_auc_score(positives, scores)
    assert ranking.auroc(scores, positives) == pytest.approx(area, abs=1e-14)
    precision = sklearn_metrics.average_precision_score(positives, scores)
    assert ranking.average_precision(scores, positives) == pytest.approx(precision, abs=1e-14)
    assert ranking.precision_parts(scores, positives).value == pytest.approx(precision)


def test_placements_are_counted_pair_by_pair() -> None:
    scores, positives = drawn(3)
    found = ranking.placements(scores, positives)
    for row, score in enumerate(scores):
        others = scores[positives != positives[row]]
        sign = 1 if positives[row] else -1
        wins = (sign * score > sign * others) + 0.5 * (score == others)
        assert found[row] == pytest.approx(wins.mean())
    area = ranking.auroc(scores, positives)
    assert found[positives].mean() == pytest.approx(area)
    assert found[~positives].mean() == pytest.approx(area)


def test_derivative_of_average_precision() -> None:
    scores, positives = drawn(4)
    of = ranking.precision_parts(scores, positives)
    for row in range(0, 60, 7):
        weights = np.ones((2, 60))
        weights[:, row] += [1e-6, -1e-6]
        up, down = ranking.cumulated(scores, positives, weights).average_precision()
        assert of.derivative[row] == pytest.approx((up - down) / 2e-6, abs=1e-7)
    for at, positive, expected in (
        (-9.0, True, of.of_positive[0]),
        (9.0, True, of.of_positive[1]),
        (9.0, False, of.of_negative[0]),
        (-9.0, False, of.of_negative[1]),
    ):
        more = ranking.cumulated(
            np.append(scores, at),
            np.append(positives, positive),
            np.append(np.ones(60), 1e-6)[None],
        ).average_precision()[0]
        assert (more - of.value) / 1e-6 == pytest.approx(expected, abs=1e-4)


def test_without_both_sides() -> None:
    scores = np.arange(4.0)
    assert ranking.auroc(scores, np.ones(4, bool)) is None
    assert ranking.auroc(np.zeros(0), np.zeros(0, bool)) is None
    assert ranking.average_precision(scores, np.zeros(4, bool)) is None
