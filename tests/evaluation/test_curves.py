"""ROC and precision-recall curves equal scikit-learn's; their bands hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from sscjax.evaluation import curves, intervals, ranking, resampling
from sscjax.evaluation.predictions import Predictions


def table(
    labels: np.ndarray, scores: np.ndarray, subjects: np.ndarray | None = None
) -> Predictions:
    """Two classes, by the probability of the second."""
    names = np.arange(len(labels)).astype(str)
    return Predictions(
        files=names,
        subjects=names if subjects is None else subjects,
        splits=np.full(len(labels), "test"),
        labels=labels,
        probabilities=np.stack([1 - scores, scores], axis=1),
        classes=("normal", "ssc"),
    )


def drawn(seed: int, subjects: int = 30, images: int = 3, shift: float = 1.2) -> Predictions:
    """Binormal scores, the images of a subject alike; coarse, so that there are ties."""
    rng = np.random.default_rng(seed)
    labels = np.arange(subjects) % 2
    latent = shift * labels[:, None] + np.sqrt(0.5) * (
        rng.normal(size=(subjects, 1)) + rng.normal(size=(subjects, images))
    )
    scores = np.round(stats.norm.cdf(latent / 2), 2).ravel()
    owners = np.repeat([f"p{index}" for index in range(subjects)], images)
    return table(np.repeat(labels, images), scores, owners)


def test_equals_scikit_learn() -> None:
    predictions = drawn(0)
    found = curves.curves(predictions, 1)
    assert found is not None
    first, second = found
    truth, scores = predictions.labels == 1, predictions.probabilities[:, 1]
    x, y, _ = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(first.x, x)
    np.testing.assert_allclose(first.y, y)
    assert first.area == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores)
    # scikit-learn goes from the lowest threshold to a point (0, 1) of its own.
    np.testing.assert_allclose(second.x[1:], recall[-2::-1])
    np.testing.assert_allclose(second.y[1:], precision[-2::-1])
    assert second.area == pytest.approx(sklearn_metrics.average_precision_score(truth, scores))
    assert second.chance == pytest.approx(0.5)


def test_one_resample_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject drawn twice counts twice: the band's only resample is a weighted curve."""
    monkeypatch.setattr(resampling, "RESAMPLES", 1)
    monkeypatch.setattr(resampling, "percentile", lambda values, *_: (values[0], values[0] + 1))
    predictions = drawn(1)
    group, strata = resampling.subjects_of(predictions)
    rngs = [np.random.default_rng([0, k]) for k in range(2)]
    weights = resampling.subject_draws(strata, 1, rngs)[0][group].astype(float)
    found = curves.curves(predictions, 1)
    assert found is not None and found[0].band is not None and found[1].band is not None
    truth, scores = predictions.labels == 1, predictions.probabilities[:, 1]
    x, y, _ = sklearn_metrics.roc_curve(
        truth, scores, sample_weight=weights, drop_intermediate=False
    )
    np.testing.assert_allclose(found[0].band.low, np.interp(curves.GRID, x, y))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(
        truth, scores, sample_weight=weights
    )
    for recalled, value in zip(curves.GRID[1:], found[1].band.low[1:], strict=True):
        # The highest threshold, so the last entry, that still reaches the recall.
        reached = np.flatnonzero(recall >= recalled - 1e-9)[-1]
        assert value == pytest.approx(precision[reached])
    drawn_once = ranking.cumulated(scores, truth, weights[None])
    expected = sklearn_metrics.average_precision_score(truth, scores, sample_weight=weights)
    assert drawn_once.average_precision() == pytest.approx([expected])
    expected = sklearn_metrics.roc_auc_score(truth, scores, sample_weight=weights)
    assert drawn_once.area() == pytest.approx([expected])


@pytest.mark.slow
def test_band_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binormal scores: the true rate at each false positive rate is known."""
    monkeypatch.setattr(resampling, "RESAMPLES", 200)
    points = np.searchsorted(curves.GRID, [0.1, 0.2, 0.4])
    truth = stats.norm.cdf(1.2 + stats.norm.ppf(curves.GRID[points]))
    held = []
    for seed in range(50):
        found = curves.curves(drawn(seed, subjects=60, images=2), 1)
        assert found is not None and found[0].band is not None
        band = found[0].band
        held.append((band.low[points] <= truth) & (truth <= band.high[points]))
    # 50 draws of a 95 % interval fall below 0.86 less than once in a hundred times.
    assert np.mean(held, axis=0).min() >= 0.86, np.mean(held, axis=0)


def test_without_band() -> None:
    """Three subjects in a class are too few, and where all are right nothing varies."""
    few = curves.curves(drawn(0, subjects=7), 0)
    assert few is not None and few[0].band is None and few[1].interval is not None
    known = intervals.estimates(drawn(0, subjects=7), ordered=False)
    assert few[0].estimate == known["auroc normal"]
    assert few[1].estimate == known["average_precision normal"]
    labels = np.repeat([0, 1], 6)
    right = curves.curves(table(labels, 0.2 + 0.6 * labels), 1)
    assert right is not None and right[0].area == 1 and right[0].band is None


def test_without_the_other_side() -> None:
    assert curves.curves(table(np.ones(5, int), np.linspace(0.1, 0.9, 5)), 1) is None
    assert curves.curves(table(np.ones(5, int), np.linspace(0.1, 0.9, 5)), 0) is None
