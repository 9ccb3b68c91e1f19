"""Intervals against scipy, published values, hand calculation and a jackknife; their coverage."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from prediction_tables import table
from scipy import stats

from sscjax.evaluation import clustered, intervals, metrics
from sscjax.evaluation.predictions import Predictions

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


# ---- what a run keeps ---------------------------------------------------------------------------


def test_balanced_accuracy_is_mover_of_the_classes() -> None:
    predictions = table(2, (5, 4, 4))
    right = predictions.predicted == predictions.labels
    value, below, above = 0.0, 0.0, 0.0
    for index in range(3):
        own = predictions.labels == index
        found = intervals.clustered_share(right, own, predictions.subjects)
        assert found is not None
        share = right[own].mean()
        value += share / 3
        below += ((share - found[0]) / 3) ** 2
        above += ((found[1] - share) / 3) ** 2
    estimate = intervals.estimates(predictions, True)["balanced_accuracy"]
    assert estimate.value == pytest.approx(value)
    assert estimate.low == pytest.approx(value - below**0.5)
    assert estimate.high == pytest.approx(value + above**0.5)
    assert "MOVER (Zou and Donner 2008)" in (estimate.method or "")


def _leave_one_out(predictions: Predictions) -> dict[str, float]:
    """Standard errors by deleting each subject in turn, within its class."""
    names = np.unique(predictions.subjects)
    values: dict[int, list[dict[str, float | None]]] = {}
    for name in names:
        rest = predictions.take(predictions.subjects != name)
        label = int(predictions.labels[predictions.subjects == name][0])
        content = metrics.figures(rest, True)
        flat = {key: content[key] for key in (*metrics.OVERALL, *metrics.PROBABILITIES)}
        for entry in content["per_class"]:
            flat |= {f"{key} {entry['name']}": entry[key] for key in intervals.PER_CLASS}
        values.setdefault(label, []).append(flat)
    errors = {}
    for key in values[0][0]:
        variance = 0.0
        for of_class in values.values():
            column = np.array([flat[key] for flat in of_class], np.float64)
            variance += (len(column) - 1) ** 2 / len(column) * column.var(ddof=1)
        errors[key] = variance**0.5
    return errors


def test_many_subjects_give_the_jackknifes_standard_error() -> None:
    """With 40 subjects in a class every interval is about 1.96 standard errors to either side.

    Not of the calibration error, which is a sum of absolute values.
    """
    predictions = table(0, (40, 40, 40), images=4)
    errors, found = _leave_one_out(predictions), intervals.estimates(predictions, True)
    assert len(found) == 7 + 3 * 7
    for name, estimate in found.items():
        if name == "ece":
            continue
        assert estimate.low is not None and estimate.high is not None
        half = (estimate.high - estimate.low) / 2
        assert 0.95 < half / (1.96 * errors[name]) < 1.25, (name, half / 1.96, errors[name])


def test_classes_of_one_subject_are_not_independent() -> None:
    """Every subject has images of both classes, and is right in all or in none."""
    rng = np.random.default_rng(0)
    good = np.repeat(rng.random(20) < 0.7, 4)
    labels = np.tile([0, 0, 1, 1], 20)
    said = np.where(good, labels, 1 - labels)
    subjects = np.repeat(np.arange(20).astype(str), 4)

    def of(names: np.ndarray) -> float:
        predictions = Predictions(
            files=np.arange(80).astype(str),
            subjects=names,
            splits=np.full(80, "test"),
            labels=labels,
            probabilities=np.eye(2)[said] * 0.8 + 0.1,
            classes=("normal", "ssc"),
        )
        found = intervals.estimates(predictions, False)["balanced_accuracy"]
        assert found.low is not None and found.high is not None
        return found.high - found.low

    apart = np.array([f"{name} {label}" for name, label in zip(subjects, labels, strict=True)])
    assert of(subjects) == pytest.approx(2**0.5 * of(apart), rel=1e-3)


def test_figures_have_an_interval_around_them() -> None:
    predictions = table(2, (4, 4, 4))
    values, ranges = metrics.figures(predictions, True), intervals.figures(predictions, True)
    assert ranges["n_subjects"] == 12 and ranges["level"] == 0.95
    names = (*metrics.OVERALL, *metrics.PROBABILITIES)
    pairs = [(values[name], ranges[name]) for name in names]
    for one, other in zip(values["per_class"], ranges["per_class"], strict=True):
        assert one["name"] == other["name"]
        pairs += [(one[name], other[name]) for name in other if name != "name"]
    assert len(pairs) == 7 + 3 * 7 == len(ranges["methods"]) and not ranges["reasons"]
    for value, interval in pairs:
        assert interval[0] <= value <= interval[1] and interval[0] < interval[1]
    assert intervals.figures(predictions, True) == ranges
    assert intervals.figures(predictions, False)["quadratic_kappa"] is None


def test_of_the_test_split_alone() -> None:
    found = intervals.test_figures(table(4), ordered=True)
    assert set(found) == {"image", "subject"}
    by_subject = table(4).by_subject()
    hits = int(((by_subject.predicted == 0) & (by_subject.labels == 0)).sum())
    expected = intervals.clopper_pearson(hits, 3)
    assert found["subject"]["per_class"][0]["sensitivity"] == pytest.approx(expected)
    assert found["subject"]["methods"]["sensitivity normal"] == clustered.EXACT
    assert intervals.test_figures(table(4, split="val"), ordered=True) == {}


def test_perfect_separation_has_a_lower_bound() -> None:
    """Five of five right in each class: the lower bound of each is that of Clopper and Pearson."""
    predictions = table(6, (5, 5, 5))
    perfect = dataclasses.replace(predictions, probabilities=np.eye(3)[predictions.labels])
    found = intervals.estimates(perfect, ordered=True)
    lower = intervals.clopper_pearson(5, 5)[0]
    assert found["accuracy"].interval == pytest.approx([1 - (1 - lower) / 3**0.5, 1.0])
    for name in ("quadratic_kappa", "macro_auroc", "auroc early", "average_precision late"):
        low, high = found[name].interval or (1.0, 0.0)
        assert -1 <= low < 0.9 and high == 1, name
    for name in ("log_loss", "brier"):
        assert found[name].value == pytest.approx(0, abs=1e-12)
        assert (found[name].high or 0) > 0.3, name
    assert all(estimate.reason == "" for estimate in found.values())


@pytest.mark.parametrize("of_class", [(1, 0, 0), (2, 0, 0), (1, 1, 0), (2, 1, 6), (6, 0, 6)])
@pytest.mark.parametrize("kind", ["drawn", "tied", "certain", "wrong"])
def test_few_subjects(of_class: tuple[int, int, int], kind: str) -> None:
    """Either an interval around the value, or the reason why there is none; valid JSON."""
    predictions = table(5, of_class)
    rows = len(predictions)
    probabilities = {
        "drawn": predictions.probabilities,
        "tied": np.full((rows, 3), 1 / 3),
        "certain": np.eye(3)[predictions.labels],
        "wrong": np.eye(3)[(predictions.labels + 1) % 3],
    }[kind]
    changed = dataclasses.replace(predictions, probabilities=probabilities)
    for one in (changed, changed.by_subject()):
        for name, estimate in intervals.estimates(one, ordered=True).items():
            if estimate.interval is None:
                assert estimate.reason, name
                continue
            assert estimate.value is not None and estimate.method, name
            low, high = estimate.interval
            assert low - 1e-12 <= estimate.value <= high + 1e-12, name
            assert not estimate.reason
        json.dumps(intervals.figures(one, True), allow_nan=False)
    found = intervals.estimates(changed, ordered=True)
    assert (found["accuracy"].low is None) == (sum(of_class) == 1)
    if of_class == (2, 1, 6):
        assert found["balanced_accuracy"].reason == clustered.FEW_OF_CLASS
        assert found["sensitivity early"].reason == clustered.FEW


def test_no_rows() -> None:
    nothing = table(5, (2, 2, 2)).take(np.zeros(36, bool))
    found = intervals.estimates(nothing, ordered=True)
    assert all(estimate.value is None and estimate.reason for estimate in found.values())
