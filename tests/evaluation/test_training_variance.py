"""Intervals of a training procedure: by hand, and by simulated studies that train again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from sscjax.evaluation import intervals, training_variance


def test_by_hand() -> None:
    """Five folds: t(4) = 2.776, and the variance of the mean is (1/5 + 1/4) s^2."""
    values = [0.6, 0.7, 0.8, 0.7, 0.7]
    low, high = training_variance.procedure_interval(values, 5) or (0.0, 0.0)
    error = np.sqrt(0.005 * 0.45)
    assert (high + low) / 2 == pytest.approx(0.7)
    assert (high - low) / 2 == pytest.approx(2.776445 * error, rel=1e-6)


def test_repeats_leave_the_share_of_the_training_sets() -> None:
    """However many repeats: the variance does not fall below s^2 n_test / n_train."""
    values = np.tile([0.6, 0.8], 5000).tolist()
    low, high = training_variance.procedure_interval(values, 5) or (0.0, 0.0)
    deviation = np.std(values, ddof=1)
    expected = stats.t.ppf(0.975, 4) * deviation * np.sqrt(1 / 10000 + 1 / 4)
    assert (high - low) / 2 == pytest.approx(expected)


@pytest.mark.parametrize("values", [[0.7, 0.8], [0.7, None, 0.8, 0.9], [0.7, 0.7, 0.7]])
def test_no_interval(values: list[float | None]) -> None:
    assert training_variance.procedure_interval(values, 5) is None


def test_shares_and_losses_stay_in_their_bounds() -> None:
    """By hand: 2.776 errors of the logit, and of the logarithm, to either side."""
    values = [0.9, 1.0, 1.0, 0.8, 1.0]
    mean, error = 0.94, np.std(values, ddof=1) * np.sqrt(0.45)
    found = training_variance.procedure_interval(values, 5, bounds=(0, 1))
    step = 2.776445 * error / (mean * (1 - mean))
    ends = [special.expit(special.logit(mean) + sign * step) for sign in (-1, 1)]
    assert found == pytest.approx(ends, rel=1e-6) and found is not None and found[1] < 1
    factor = np.exp(2.776445 * error / mean)
    loss = training_variance.procedure_interval(values, 5, bounds=(0, np.inf))
    assert loss == pytest.approx([mean / factor, mean * factor], rel=1e-6)


def study(rng: np.random.Generator, subjects: int, images: int = 10, size: int = 20) -> tuple:
    """Two classes; half of the variance of the features is the subject's."""
    labels = np.arange(subjects) % 2
    direction = 0.35 * np.where(np.arange(size) < 2, 1.0, 0.0)
    centres = np.where(labels[:, None] == 1, 1, -1) * direction
    centres = centres + rng.normal(0, np.sqrt(0.5), (subjects, size))
    features = centres[:, None] + rng.normal(0, np.sqrt(0.5), (subjects, images, size))
    owner = np.repeat(np.arange(subjects), images)
    return features.reshape(-1, size), labels[owner], owner


def fitted(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Fisher's linear discriminant."""
    means = [features[labels == label].mean(0) for label in (0, 1)]
    covariance = np.cov(features.T) + 0.05 * np.eye(features.shape[1])
    weights = np.linalg.solve(covariance, means[1] - means[0])
    return weights, float(-weights @ (means[0] + means[1]) / 2)


def right(model: tuple[np.ndarray, float], features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (features @ model[0] + model[1] > 0) == labels


def test_it_holds_what_training_again_would_give() -> None:
    """Forty subjects in five folds. The truth is the mean accuracy of models that are trained on
    32 subjects again and again. The interval of the fixed models holds it less often than it says.
    """
    rng = np.random.default_rng(0)
    features, labels, _ = study(rng, 2000, images=5)
    truth = np.mean(
        [right(fitted(*study(rng, 32)[:2]), features, labels).mean() for _ in range(200)]
    )
    held, held_by_fixed, studies = 0, 0, 200
    for _ in range(studies):
        features, labels, owner = study(rng, 40)
        folds = np.zeros(40, int)
        for label in (0, 1):
            members = rng.permutation(np.flatnonzero(np.arange(40) % 2 == label))
            folds[members] = np.arange(len(members)) % 5
        hits, values = np.zeros(len(labels), bool), []
        for fold in range(5):
            tested = folds[owner] == fold
            model = fitted(features[~tested], labels[~tested])
            hits[tested] = right(model, features[tested], labels[tested])
            values.append(float(hits[tested].mean()))
        low, high = training_variance.procedure_interval(values, 5, bounds=(0, 1)) or (1.0, 0.0)
        held += low <= truth <= high
        fixed = intervals.clustered_share(hits, np.ones(len(hits), bool), owner)
        assert fixed is not None
        held_by_fixed += fixed[0] <= truth <= fixed[1]
    # The standard deviation of these shares is 1.5 points.
    assert held / studies >= 0.92
    assert held_by_fixed / studies < 0.92
