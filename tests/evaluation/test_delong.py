"""DeLong's method against its definition, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import table
from scipy import stats
from sklearn.metrics import roc_auc_score

from sscjax.evaluation import delong, metrics


def _by_definition(
    scores: list[np.ndarray], positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariance as the paper of 1988 writes them: every pair, one by one."""
    ones, zeros = np.flatnonzero(positives), np.flatnonzero(~positives)
    pairs = np.array(
        [[[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in zeros] for i in ones] for s in scores]
    )
    by_positive, by_negative = pairs.mean(axis=2), pairs.mean(axis=1)
    covariance = np.cov(by_positive) / len(ones) + np.cov(by_negative) / len(zeros)
    return pairs.mean(axis=(1, 2)), covariance


def _two_models(seed: int, images: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    positives = rng.random(images) < 0.4
    shared = rng.normal(0, 1, images) + positives
    # Rounded, so that scores tie.
    return [np.round(shared + rng.normal(0, 1, images), 1) for _ in range(2)], positives


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed: int) -> None:
    scores, positives = _two_models(seed)
    values, covariance = _by_definition(scores, positives)
    every = np.arange(len(positives))
    found = [delong.area(one, positives, every) for one in scores]
    first, second = found
    assert first is not None and second is not None
    assert [first.value, second.value] == pytest.approx(values.tolist(), abs=1e-14)
    assert first.value == pytest.approx(roc_auc_score(positives, scores[0]), abs=1e-14)
    assert first.variance == pytest.approx(covariance[0, 0], rel=1e-12)
    assert first.influence @ second.influence == pytest.approx(covariance[0, 1], rel=1e-12)
    difference = delong.compare(first, second, 0.95)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert difference is not None
    assert difference.z == pytest.approx((values[0] - values[1]) / error, rel=1e-10)
    assert difference.p == pytest.approx(2 * stats.norm.sf(abs(difference.z)), rel=1e-10)
    assert difference.interval[1] - difference.value == pytest.approx(1.959964 * error, rel=1e-6)


def test_clusters_of_one_label_are_obuchowskis() -> None:
    """The sums of 1997 over pairs, cluster by cluster."""
    predictions = table(3, (4, 4, 4), images=5)
    positives = predictions.labels == 1
    scores, subjects = predictions.probabilities[:, 1], predictions.subjects
    pairs = {
        (i, j): (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(positives)
        for j in np.flatnonzero(~positives)
    }
    m, n = int(positives.sum()), int((~positives).sum())
    value = sum(pairs.values()) / (m * n)
    variance = 0.0
    for place, (size, other) in enumerate(((m, n), (n, m))):
        sums: dict[str, float] = {}
        for pair, won in pairs.items():
            key = subjects[pair[place]]
            sums[key] = sums.get(key, 0.0) + (won - value) / other
        count = len(sums)
        variance += count / (count - 1) * sum(s**2 for s in sums.values()) / size**2
    found = delong.area(scores, positives, subjects)
    assert found is not None
    assert found.value == pytest.approx(value, abs=1e-13)
    assert found.variance == pytest.approx(variance, rel=1e-10)
    assert found.freedom == 10


def test_copies_of_images_add_nothing() -> None:
    """Four copies of each image are one cluster: the same variance, a quarter of which by image."""
    scores, positives = _two_models(1)
    owner = np.repeat(np.arange(len(positives)), 4)
    single = delong.area(scores[0], positives, np.arange(len(positives)))
    copied = delong.area(scores[0][owner], positives[owner], owner)
    naive = delong.area(scores[0][owner], positives[owner], np.arange(len(owner)))
    assert single is not None and copied is not None and naive is not None
    assert copied.value == pytest.approx(single.value)
    assert copied.variance == pytest.approx(single.variance)
    assert naive.variance == pytest.approx(single.variance / 4, rel=0.05)


def test_macro_is_the_metrics_and_of_two_classes_the_one() -> None:
    predictions = table(0, (6, 5, 4), images=3)
    found = delong.macro_area(predictions.probabilities, predictions.labels, predictions.subjects)
    assert found is not None and found.value == pytest.approx(metrics.macro_auroc(predictions))
    scores, positives = _two_models(2)
    chance = 1 / (1 + np.exp(-scores[0]))
    every = np.arange(len(chance))
    both = delong.macro_area(np.stack([1 - chance, chance], 1), positives.astype(int), every)
    one = delong.area(chance, positives, every)
    assert both is not None and one is not None
    assert both.value == pytest.approx(one.value)
    assert both.variance == pytest.approx(one.variance)
    assert both.freedom == one.freedom == np.inf


def test_what_cannot_be_had() -> None:
    right = np.array([False, False, False, True, True, True])
    every = np.arange(6)
    assert delong.area(np.arange(6.0), right[::1] & (every > 3), every) is None  # two positives
    assert delong.area(np.arange(6.0), np.ones(6, bool), every) is None
    assert delong.area(np.arange(0.0), np.zeros(0, bool), np.arange(0)) is None
    perfect = delong.area(np.arange(6.0), right, every)
    assert perfect is not None and perfect.value == 1 and perfect.variance == 0
    assert delong.compare(perfect, perfect, 0.95) is None
