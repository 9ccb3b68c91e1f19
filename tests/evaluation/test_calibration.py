"""Calibration against scikit-learn, hand computation, known temperatures and simulated truth."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from sscjax.evaluation import calibration, calibration_error, intervals, metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.training.losses import Objective


def table_of(
    probabilities: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None = None
) -> Predictions:
    count, classes = probabilities.shape
    return Predictions(
        files=np.arange(count).astype(str),
        subjects=np.arange(count) if subjects is None else subjects,
        splits=np.full(count, "val"),
        labels=labels,
        probabilities=probabilities,
        classes=tuple("abcdefgh"[:classes]),
    )


def drawn(seed: int, count: int, temperature: float, classes: int = 3) -> Predictions:
    """Labels drawn from softmax(logits / temperature) of a network that says softmax(logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes)) * temperature
    truth = special.softmax(logits / temperature, axis=1)
    labels = (rng.random((count, 1)) > truth.cumsum(1)).sum(1).clip(max=classes - 1)
    return table_of(special.softmax(logits, axis=1), labels)


# ---- temperature --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 2.0, 7.0])
def test_calibrated_is_softmax_of_scaled_logits(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 4))
    found = calibration.calibrate(special.softmax(logits, axis=1), temperature)
    np.testing.assert_allclose(found, special.softmax(logits / temperature, axis=1), rtol=1e-9)
    assert (found.argmax(1) == logits.argmax(1)).all()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_calibrated_in_the_network_s_own_numbers(kind: str) -> None:
    """float32 probabilities as `steps` makes them, up to logits where 1 - p is 0 in float32."""
    logits = np.array([-60.0, -25.0, -3.0, 0.0, 2.0, 18.0, 70.0], np.float32)
    columns = logits[:, None] if kind == "sigmoid" else np.stack([np.zeros(7), logits], 1)
    objective = Objective("sigmoid" if kind == "sigmoid" else "softmax")
    says = np.asarray(objective.probabilities(jnp.asarray(columns, jnp.float32)))
    found = calibration.calibrate(says, 3.0)
    np.testing.assert_allclose(found[:, 1], special.expit(logits / 3.0), rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], special.expit(-logits / 3.0), rtol=1e-5)


def test_impossible_classes_stay_finite() -> None:
    found = calibration.calibrate(np.array([[1.0, 0.0, 0.0]]), 4.0)
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1) and found[0, 0] > 0.99


def test_temperature_of_one_changes_nothing() -> None:
    says = special.softmax(np.random.default_rng(0).normal(size=(5, 3)), axis=1)
    np.testing.assert_array_equal(calibration.calibrate(says, 1.0), says)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 4])
def test_known_temperature_is_found(temperature: float, classes: int) -> None:
    found = calibration.fit_temperature(drawn(1, 4000, temperature, classes))
    if found.reason:
        assert temperature == found.value == 1.0
        assert "not more than one standard error" in found.reason
    assert found.value == pytest.approx(temperature, rel=0.08)


def test_fit_is_the_least_log_loss() -> None:
    """No temperature on a fine grid is better."""
    table = drawn(2, 300, 3.0)
    found = calibration.fit_temperature(table).value
    least = metrics.log_loss(calibration.apply(table, found))
    losses = [metrics.log_loss(calibration.apply(table, t)) for t in np.geomspace(0.3, 10, 400)]
    assert least is not None and least <= min(loss for loss in losses if loss is not None) + 1e-9


def test_calibration_makes_the_test_images_better() -> None:
    fitted = calibration.fit_temperature(drawn(3, 400, 3.0))
    before = drawn(4, 2000, 3.0)
    after = calibration.apply(before, fitted.value)
    for table, at_least, at_most in ((before, 0.15, 1), (after, 0, 0.04)):
        edges = calibration_error.bin_edges(table.confidence, 10, "mass")
        error = calibration_error.expected_calibration_error(table, edges)
        assert at_least < error < at_most


def test_perfect_validation_keeps_one() -> None:
    says = np.array([[0.9, 0.1]] * 20 + [[0.4, 0.6]] * 20)
    found = calibration.fit_temperature(table_of(says, np.repeat([0, 1], 20)))
    assert found.value == 1.0 and "every held-out row is right" in found.reason


def test_few_subjects_keep_one() -> None:
    table = drawn(5, 300, 3.0)
    few = dataclasses.replace(table, subjects=np.arange(300) % 3)
    found = calibration.fit_temperature(few)
    assert found.value == 1.0 and "only 3 held-out subjects" in found.reason


def test_worse_than_chance_keeps_one() -> None:
    """Always sure and always wrong: no temperature is high enough."""
    says = np.array([[0.98, 0.02]] * 40)
    found = calibration.fit_temperature(table_of(says, np.repeat([1, 0], [35, 5])))
    assert found.value == 1.0 and "smallest log loss" in found.reason


def test_tiny_validation_sets_do_little_harm() -> None:
    """Of networks that are calibrated already, seldom one is made worse by eight images."""
    plain = guarded = 0
    for seed in range(60):
        table = drawn(seed, 8, 1.0)
        logs = np.log(table.probabilities)
        plain += abs(np.log(calibration._smallest_loss(logs, table.labels))) > 0.3
        guarded += abs(np.log(calibration.fit_temperature(table).value)) > 0.3
    assert guarded < 0.5 * plain


def clustered(rng: np.random.Generator, subjects: int, images: int) -> Predictions:
    """A calibrated network's rows of subjects who differ in how hard they are."""
    owner = np.repeat(np.arange(subjects), images)
    logits = rng.normal(0, 1, (len(owner), 3)) + rng.normal(0, 1, (subjects, 3))[owner]
    truth = special.softmax(logits, axis=1)
    # All images of a subject have the label that is drawn for it.
    mean = np.stack([truth[owner == k].mean(0) for k in range(subjects)])
    drawn_labels = (rng.random((subjects, 1)) > mean.cumsum(1)).sum(1).clip(max=2)
    return table_of(truth, drawn_labels[owner], owner)


def test_a_temperature_must_gain_more_than_its_standard_error() -> None:
    """Of eight rows of a calibrated network, any gain above 0 makes new rows worse far too often.

    Simulated: how often the log loss of many new rows rises by more than 0.01.
    """
    new = drawn(9999, 20000, 1.0)
    before = metrics.log_loss(new)
    assert before is not None
    any_gain = one_error = 0
    for seed in range(80):
        held_out = drawn(seed, 8, 1.0)
        fitted = calibration.fit_temperature(held_out)
        if fitted.gain is None or fitted.standard_error is None:
            continue
        value = calibration._smallest_loss(np.log(held_out.probabilities), held_out.labels)
        after = metrics.log_loss(calibration.apply(new, value))
        assert after is not None
        any_gain += fitted.gain > 0 and after > before + 0.01
        one_error += fitted.value != 1 and after > before + 0.01
    assert any_gain >= 4 and one_error < 0.5 * any_gain


def test_gain_and_its_standard_error_by_hand() -> None:
    """Ten subjects in ten parts: each left out once; the error counts subjects, not images."""
    rng = np.random.default_rng(1)
    table = clustered(rng, 10, 4)
    logs, labels = np.log(table.probabilities), table.labels
    gains = []
    for subject in range(10):
        out = table.subjects == str(subject)
        value = calibration._smallest_loss(logs[~out], labels[~out])
        changed = calibration.calibrate(table.probabilities[out], value)
        rows = np.arange(out.sum())
        before = -np.log(table.probabilities[out][rows, labels[out]]).mean()
        gains.append(before + np.log(changed[rows, labels[out]]).mean())
    gain, error = calibration._gain(logs, labels, table.subjects)
    # Equally many images each: the mean over subjects and its plain standard error.
    assert gain == pytest.approx(np.mean(gains), abs=1e-5)
    assert error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(10), abs=1e-5)


def test_the_useful_temperature_of_subjects_is_used() -> None:
    """The mean of ten images' probabilities is not confident enough, and 40 subjects show it."""
    rng = np.random.default_rng(2)
    subjects = rng.integers(0, 3, 40)
    owner = np.repeat(np.arange(40), 10)
    logits = rng.normal(0, 1.5, (400, 3))
    logits[np.arange(400), subjects[owner]] += 1.5
    images = table_of(special.softmax(logits, axis=1), subjects[owner], owner)
    found = calibration.fit_temperature(images.by_subject())
    assert found.reason == "" and found.value < 0.7
    assert found.gain is not None and found.standard_error is not None
    assert found.gain > found.standard_error


# ---- bins and the calibration error -------------------------------------------------------------


@pytest.mark.parametrize(("binning", "strategy"), [("mass", "quantile"), ("width", "uniform")])
def test_bins_are_scikit_learn_s(binning: calibration_error.Binning, strategy: str) -> None:
    """Two classes: confidence is the larger probability, and right the event it stands for."""
    table = drawn(6, 500, 2.0, classes=2)
    sure, right = table.confidence, table.predicted == table.labels
    edges = calibration_error.bin_edges(sure, 10, binning)
    share, mean = calibration_curve(right, sure, n_bins=10, strategy=strategy)
    rows = calibration.reliability(table, edges)
    np.testing.assert_allclose([row["accuracy"] for row in rows], share)
    np.testing.assert_allclose([row["confidence"] for row in rows], mean)
    assert sum(row["n"] for row in rows) == 500
    gaps = sum(row["n"] / 500 * abs(row["accuracy"] - row["confidence"]) for row in rows)
    assert calibration_error.expected_calibration_error(table, edges) == pytest.approx(gaps)


def test_calibration_error_by_hand() -> None:
    """Two bins of width: 0.6 and 0.8 with one of two right, 0.3 (a third class) wrong."""
    says = np.array([[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.3, 0.35, 0.35]])
    table = table_of(says, np.array([0, 0, 2]))
    error = calibration_error.expected_calibration_error(table, np.array([0.0, 0.5, 1.0]))
    assert error == pytest.approx(2 / 3 * abs(0.5 - 0.7) + 1 / 3 * 0.35)


def test_equal_confidences_stay_in_one_bin() -> None:
    says = np.tile([0.9, 0.1], (100, 1))
    table = table_of(says, np.arange(100) % 10 // 9)
    shuffled = np.random.default_rng(0).permutation(100)
    for rows in (np.arange(100), shuffled):
        edges = calibration_error.bin_edges(table.take(rows).confidence, 10, "mass")
        error = calibration_error.expected_calibration_error(table.take(rows), edges)
        assert error == pytest.approx(0, abs=1e-12)


def test_bins_hold_ten_images() -> None:
    values = np.linspace(0, 1, 35)
    assert len(calibration_error.bin_edges(values, 10, "mass")) == 4
    assert len(calibration_error.bin_edges(values[:3], 10, "mass")) == 2
    assert len(calibration_error.bin_edges(np.linspace(0, 1, 900), 10, "width")) == 11


def test_error_by_chance_is_that_of_a_perfect_network() -> None:
    """Mean error over many sets whose labels are drawn from what the network says."""
    errors, expected = [], []
    for seed in range(40):
        table = drawn(seed, 120, 1.0)
        edges = calibration_error.bin_edges(table.confidence, 10, "mass")
        errors.append(calibration_error.expected_calibration_error(table, edges))
        expected.append(calibration_error.by_chance(table, edges))
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)


# ---- Brier --------------------------------------------------------------------------------------


def test_brier_is_scikit_learn_s() -> None:
    two, three = drawn(7, 200, 2.0, classes=2), drawn(7, 200, 2.0)
    binary = brier_score_loss(two.labels, two.probabilities[:, 1])
    assert metrics.brier_scores(two.probabilities, two.labels).mean() == pytest.approx(2 * binary)
    each = [brier_score_loss(three.labels == k, three.probabilities[:, k]) for k in range(3)]
    assert metrics.brier_scores(three.probabilities, three.labels).mean() == pytest.approx(
        sum(each)
    )


def test_brier_by_hand() -> None:
    says = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    found = metrics.brier_scores(says, np.array([0, 2]))
    np.testing.assert_allclose(found, [0.09 + 0.04 + 0.01, 2.0])


# ---- intervals ----------------------------------------------------------------------------------


def by_subject(seed: int, subjects: int, images: int, sure: float) -> Predictions:
    """Subjects who differ in how hard they are; `sure` multiplies the network's logits."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), images)
    labels = rng.integers(0, 3, subjects)[owner]
    logits = rng.normal(0, 1, (len(owner), 3))
    logits[np.arange(len(owner)), labels] += 1.2 + rng.normal(0, 0.6, subjects)[owner]
    return table_of(special.softmax(1.2 * sure * logits, axis=1), labels, owner)


@pytest.mark.slow
def test_coverage_of_brier_and_calibration_error() -> None:
    """Twelve subjects of ten images, of a network that is nearly calibrated."""
    many = by_subject(10**6, 10_000, 4, 1.0)
    brier = metrics.brier(many)
    held, runs = {"brier": 0, "error": 0}, 150
    for seed in range(runs):
        table = by_subject(seed, 12, 10, 1.0)
        edges = calibration_error.bin_edges(table.confidence, 10, "mass")
        error = calibration_error.expected_calibration_error(many, edges)
        found = {
            "brier": intervals.brier(table),
            "error": calibration_error.estimate(table, edges),
        }
        for name, truth in (("brier", brier), ("error", error)):
            low, high = found[name].low, found[name].high
            assert low is not None and high is not None and truth is not None
            held[name] += low <= truth <= high
    # At 95 % the standard deviation of these shares is 1.8 %.
    assert held["brier"] / runs > 0.92 and held["error"] / runs > 0.92, held


@pytest.mark.slow
def test_error_by_chance_knows_subjects() -> None:
    """A calibrated network whose images of a subject are right or wrong together."""
    errors, expected, independent = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(24), 10)
        sure = rng.uniform(0.6, 0.99, 24)[owner]
        # The subject's draw decides for nine images in ten.
        common = np.where(rng.random(240) < 0.9, rng.random(24)[owner], rng.random(240))
        labels = np.where(common < sure, 0, 1)
        table = table_of(np.stack([sure, 1 - sure], axis=1), labels, owner)
        edges = calibration_error.bin_edges(table.confidence)
        errors.append(calibration_error.expected_calibration_error(table, edges))
        expected.append(calibration_error.by_chance(table, edges))
        alone = dataclasses.replace(table, subjects=table.files)
        independent.append(calibration_error.by_chance(alone, edges))
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.2)
    assert np.mean(independent) < 0.6 * np.mean(errors)


def test_intervals_hold_the_figures() -> None:
    table = by_subject(0, 20, 6, 2.0)
    found = calibration.quality(table, 10, "mass")
    for name in ("ece", "brier"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high and low < high
    assert calibration.quality(table, 10, "mass") == found
    one = by_subject(0, 1, 6, 2.0)
    assert calibration.quality(one, 10, "mass")["brier_interval"] is None


def test_subjects_count_not_images() -> None:
    """Ten equal images of a subject tell no more than one."""
    one = by_subject(3, 30, 1, 1.0)
    ten = one.take(np.repeat(np.arange(30), 10))
    for table in (one, ten):
        table.splits[:] = "test"
    found = [calibration.quality(table, 1, "mass")["brier_interval"] for table in (one, ten)]
    assert found[0] == pytest.approx(found[1])
