"""Lists of suspect labels: by hand, and with planted errors among hard subjects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sscjax.evaluation import label_noise
from sscjax.evaluation.predictions import Predictions

CLASSES = ("normal", "early", "late")


def table(
    subjects: list[str], labels: list[int], probabilities: np.ndarray, classes: int = 3
) -> Predictions:
    return Predictions(
        files=np.array([f"{index}.png" for index in range(len(labels))]),
        subjects=np.array(subjects),
        splits=np.full(len(labels), "test"),
        labels=np.array(labels),
        probabilities=probabilities,
        classes=CLASSES[:classes],
    )


def simulated(seed: int, subjects: int = 60, images: int = 20) -> tuple[Predictions, np.ndarray]:
    """Subjects that differ in how hard they are, and the true label of each image."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), images)
    truth = (np.arange(subjects) % 3)[owner]
    logits = rng.normal(0, 1, (len(owner), 3))
    logits[np.arange(len(owner)), truth] += (2.5 + rng.normal(0, 1.5, subjects))[owner]
    odds = np.exp(logits)
    names = [f"s{number:02d}" for number in owner]
    return table(names, truth.tolist(), odds / odds.sum(1, keepdims=True)), truth


def test_confident_joint_by_hand() -> None:
    """Northcutt et al. 2021: class 0 has mean self-confidence 0.6, class 1 has 0.7."""
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5]])
    labels = np.array([0, 0, 1, 1])
    limits = label_noise.thresholds(probabilities, labels)
    np.testing.assert_allclose(limits, [0.6, 0.7])
    # The second row reaches 0.7 and so counts as class 1; the last reaches neither threshold.
    assert label_noise.confident_class(probabilities, limits).tolist() == [0, 1, 1, -1]


def test_a_class_without_rows_has_no_threshold_and_is_never_suggested() -> None:
    probabilities = np.array([[0.1, 0.1, 0.8], [0.9, 0.05, 0.05], [0.1, 0.85, 0.05]])
    found = table(["a", "b", "c"], [0, 0, 1], probabilities)
    for suspects in label_noise.suspects(found):
        assert np.isnan(suspects.thresholds[2]) and 2 not in suspects.suggested.tolist()
        assert np.isfinite(suspects.scores).all()


def test_all_labels_of_a_subject_wrong_is_one_subject_and_few_images() -> None:
    predictions, truth = simulated(0)
    wrong = np.isin(predictions.subjects, ["s03", "s10"])
    labels = np.where(wrong, (truth + 1) % 3, truth)
    images, subjects = label_noise.suspects(dataclasses.replace(predictions, labels=labels))
    assert set(subjects.names[:2].tolist()) == {"s03", "s10"} and subjects.listed[0]
    for name, suggested in zip(subjects.names[:2], subjects.suggested[:2], strict=True):
        assert suggested == truth[predictions.subjects == name][0]
    # Taken one by one, three times as many of their images would be listed.
    alone = dataclasses.replace(predictions, labels=labels, subjects=predictions.files)
    each = label_noise.suspects(alone)[0]
    of_them = np.isin(each.names, predictions.files[wrong])
    listed = images.listed[np.isin(images.subjects, ["s03", "s10"])].mean()
    assert each.listed[of_them].mean() > 3 * listed


def test_a_hard_subject_is_not_a_list_of_wrong_images() -> None:
    """All images of one subject are predicted as another class: its images are not listed."""
    predictions, truth = simulated(1)
    hard = predictions.subjects == "s05"
    confused = predictions.probabilities.copy()
    confused[hard] = np.roll(confused[hard], 1, axis=1)
    images, subjects = label_noise.suspects(
        dataclasses.replace(predictions, probabilities=confused)
    )
    assert subjects.names[0] == "s05"
    assert images.listed[images.subjects == "s05"].mean() < 0.3


def test_planted_images_are_ranked_better_with_their_subjects() -> None:
    """One image in twenty has a wrong label; the first of the list are as many."""
    first_ones: dict[bool, list[float]] = {True: [], False: []}
    precision, recall = [], []
    for seed in range(2, 8):
        predictions, truth = simulated(seed)
        rng = np.random.default_rng(seed)
        planted = rng.random(len(truth)) < 0.05
        labels = np.where(planted, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
        noisy = dataclasses.replace(predictions, labels=labels)
        names = predictions.files[planted]
        for known in first_ones:
            given = noisy if known else dataclasses.replace(noisy, subjects=noisy.files)
            images = label_noise.suspects(given)[0]
            first = images.names[np.argsort(-images.scores, kind="stable")[: len(names)]]
            first_ones[known].append(float(np.isin(first, names).mean()))
            if known:
                right = np.isin(images.names[images.listed], names)
                precision.append(right.mean())
                recall.append(right.sum() / len(names))
    assert np.mean(first_ones[True]) > np.mean(first_ones[False]) + 0.05
    assert np.mean(precision) > 0.5 and np.mean(recall) > 0.55


def test_deviation_is_the_prediction_error_of_a_random_intercept() -> None:
    """Three subjects of three and two images: by the normal equations."""
    margins = np.array([1.0, 2.0, 6.0, -1.0, 0.0, 3.0, 2.5])
    subjects = np.array(["a", "a", "a", "b", "b", "c", "c"])
    found = label_noise._deviations(margins, subjects)
    sizes, means = np.array([3, 2, 2]), np.array([3.0, -0.5, 2.75])
    group = np.array([0, 0, 0, 1, 1, 2, 2])
    within = ((margins - means[group]) ** 2).sum() / 4
    between_mean = (sizes * (means - margins.mean()) ** 2).sum() / 2
    between = (between_mean - within) / ((7 - (sizes**2).sum() / 7) / 2)
    for row in range(7):
        others = [k for k in range(7) if group[k] == group[row] and k != row]
        covariance = between + within * np.eye(len(others))
        slopes = np.linalg.solve(covariance, np.full(len(others), between))
        expected = margins.mean() + slopes @ (margins[others] - margins.mean())
        assert found[row] == pytest.approx((margins[row] - expected) / np.sqrt(within))


def test_repeats_are_one_row_per_image() -> None:
    once, _ = simulated(4, subjects=9, images=3)
    again, _ = simulated(5, subjects=9, images=3)
    images, subjects = label_noise.suspects(Predictions.join([once, again]))
    assert len(images) == len(once) and len(subjects) == 9
    logs = (np.log(once.probabilities) + np.log(again.probabilities)) / 2
    own = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    row = images.names.tolist().index("4.png")
    assert images.self_confidence[row] == pytest.approx(own[4, once.labels[4]], rel=1e-2)


def test_one_image_per_subject_is_compared_with_all() -> None:
    predictions, truth = simulated(6, subjects=60, images=1)
    labels = truth.copy()
    labels[7] = (truth[7] + 1) % 3
    images, subjects = label_noise.suspects(dataclasses.replace(predictions, labels=labels))
    assert len(images) == len(subjects) == 60
    assert np.isfinite(images.scores).all()
