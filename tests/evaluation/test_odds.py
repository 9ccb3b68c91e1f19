"""Odds of missing a target against simulations in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from sscjax.evaluation import abstention, odds
from sscjax.evaluation.predictions import Predictions


def drawn(rng: np.random.Generator, count: int, signal: float = 2.0) -> Predictions:
    """Subjects of three classes with one row each, of a calibrated classifier."""
    labels = rng.integers(0, 3, count)
    logits = rng.normal(0, 1, (count, 3))
    logits[np.arange(count), labels] += signal
    return Predictions(
        files=np.arange(count).astype(str),
        subjects=np.arange(count).astype(str),
        splits=np.full(count, "val"),
        labels=labels,
        probabilities=special.softmax(signal * logits, axis=1),
        classes=("well", "early", "late"),
    )


@pytest.mark.parametrize(("count", "target"), [(20, 0.9), (40, 0.95)])
def test_odds_of_a_sensitivity_are_those_of_order_statistics(count: int, target: float) -> None:
    """Exact where the threshold is the lowest score that it catches, whatever the scores."""
    rng = np.random.default_rng(0)
    missed, said = [], 0.0
    for _ in range(4000):
        scores = rng.beta(3, 1, count)
        lowest = np.sort(scores)[int(np.floor((1 - target) * count + 1e-9))]
        missed.append((1 - lowest**3) < target)  # the true share at or above it
        told = odds.miss(scores >= lowest, np.arange(count), target)
        assert told is not None
        said = told
    assert np.mean(missed) == pytest.approx(said, abs=0.025)


@pytest.mark.parametrize(("signal", "count"), [(2.0, 16), (2.0, 45), (1.3, 16), (1.3, 45)])
def test_odds_of_an_accuracy_are_near_the_real_ones(signal: float, count: int) -> None:
    """Simulated: the share of confidence thresholds whose true accuracy misses 90 %."""
    rng = np.random.default_rng(1)
    truth = drawn(rng, 100_000, signal)
    right = truth.predicted == truth.labels
    order = np.argsort(-truth.confidence)
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    falling = -truth.confidence[order]
    missed, said = [], []
    for _ in range(60):
        choice = abstention.choose_confidence(drawn(rng, count, signal), 0.9, "subjects")
        if choice.value is None:
            continue
        answered = int(np.searchsorted(falling, -choice.value, side="right"))
        missed.append(accuracy[max(answered - 1, 0)] < 0.9)
        assert choice.miss_odds is not None
        said.append(choice.miss_odds)
    assert len(missed) > 25
    # Two standard errors of the simulation, 0.13, beside the method's own error.
    assert abs(np.mean(said) - np.mean(missed)) < 0.27


def test_clusters_count_as_fewer_rows() -> None:
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(10), 20)
    alike = (np.arange(10) > 0)[owner]
    assert odds.effective_number(alike, owner) == pytest.approx(10, rel=0.15)
    mixed = rng.random(200) < 0.9
    assert 60 < odds.effective_number(mixed, owner) <= 200
    assert odds.effective_number(mixed, np.arange(200)) == 200
    # All right: nothing to estimate from, so a subject counts as one row.
    every = odds.miss(np.ones(200, bool), owner, 0.9)
    assert every == pytest.approx(0.9**10)


def test_edges() -> None:
    assert odds.miss(np.zeros(0, bool), np.zeros(0, int), 0.9) is None
    assert odds.miss(np.zeros(5, bool), np.arange(5), 0.9) == 1.0
    assert odds.miss(np.ones(5, bool), np.arange(5), 0.9, optimism=2.0) == 1.0
