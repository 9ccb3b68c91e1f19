"""Out-of-fold predictions of the fitted classifier: nested, and blind to the fold's labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_features import Made, fitted_without, made

from sscjax.training import class_weights, linear_probe, losses

pytestmark = pytest.mark.usefixtures("quick_compiler")


def balanced_problem(data: Made) -> linear_probe.Problem:
    weights = class_weights.class_weights("balanced", data.labels, 3)
    objective = losses.Objective("softmax", class_weights=weights)
    return linear_probe.Problem(data.features, data.labels, objective, 3, max_iter=999)


def unbalanced(seed: int) -> tuple[Made, np.ndarray]:
    """60 images of which half have the first class, and their folds of five images each."""
    data = made(60, seed)
    labels = np.array([0, 1, 2, 0, 1, 0] * 10)
    return dataclasses.replace(data, labels=labels), np.arange(60) // 6 % 4


def test_out_of_fold_equals_nested_cross_validation_with_scikit_learn() -> None:
    """Strengths, scales and class weights are all chosen without the fold that is predicted."""
    data, folds = unbalanced(4)
    strengths = (1e-4, 1e-2, 1.0)
    choice, predicted = balanced_problem(data).cross_fit(strengths, folds)
    for fold in range(4):
        others, totals = folds != fold, {}
        weights = 1 / np.bincount(data.labels[others])[data.labels]
        for l2 in strengths:
            totals[l2] = 0.0
            for inner in set(range(4)) - {fold}:
                inside, tested = others & (folds != inner), folds == inner
                rest = fitted_without(data, inside, l2, balanced=True)
                true = rest[np.arange(60), data.labels]
                totals[l2] -= (weights * np.log(true))[tested].sum()
        best = min(totals, key=totals.__getitem__)
        assert predicted.l2[fold] == best
        wanted = fitted_without(data, others, best, balanced=True)
        np.testing.assert_allclose(predicted.probabilities[~others], wanted[~others], atol=5e-3)
    assert choice == balanced_problem(data).choose(strengths, folds)


@pytest.mark.parametrize("strengths", [(1e-3,), (1e-4, 1e-3, 1e-2, 1e-1)])
def test_own_labels_do_not_change_an_out_of_fold_prediction(strengths: tuple[float, ...]) -> None:
    data, folds = unbalanced(5)
    inside = folds == 2
    changed = np.where(inside, (data.labels + 1) % 3, data.labels)
    _, before = balanced_problem(data).cross_fit(strengths, folds)
    _, after = balanced_problem(dataclasses.replace(data, labels=changed)).cross_fit(
        strengths, folds
    )
    np.testing.assert_array_equal(before.probabilities[inside], after.probabilities[inside])
    assert before.l2[2] == after.l2[2]
    difference = np.abs(before.probabilities - after.probabilities)[~inside]
    assert difference.max() > 0.05, "the other folds do use these labels"


def test_labels_without_a_pattern_are_predicted_no_better_than_by_chance() -> None:
    """1,024 features fit 48 images of random labels perfectly; out of fold nothing is left."""
    rng = np.random.default_rng(6)
    labels = np.tile([0, 1, 2], 16)
    data = Made(rng.normal(size=(48, 1024)).astype(np.float32), labels)
    problem = balanced_problem(data)
    choice, predicted = problem.cross_fit((1e-4, 1e-2), np.arange(48) // 12)
    assert problem.fit(1e-4).accuracy == 1.0
    # Of 48 images, 16 are expected by chance; 27 or more have a probability below 0.1 %.
    assert (predicted.probabilities.argmax(1) == labels).sum() < 27
    assert choice.l2 == 1e-2


def test_with_two_folds_the_middle_strength_predicts() -> None:
    data, _ = unbalanced(7)
    folds = np.arange(60) // 6 % 2
    choice, predicted = balanced_problem(data).cross_fit((1.0, 1e-4, 1e-2), folds)
    assert predicted.l2 == {0: 1e-2, 1: 1e-2} and choice.folds == 2
    wanted = fitted_without(data, folds == 1, 1e-2, balanced=True)
    np.testing.assert_allclose(predicted.probabilities[folds == 0], wanted[folds == 0], atol=5e-3)


def test_out_of_fold_of_one_logit() -> None:
    data = made(40, 8, classes=2)
    folds = np.arange(40) // 2 % 4
    problem = linear_probe.Problem(data.features, data.labels, losses.Objective("sigmoid"), 1)
    _, predicted = problem.cross_fit((1e-2, 1e-1), folds)
    assert predicted.probabilities.shape == (40, 2)
    np.testing.assert_allclose(predicted.probabilities.sum(1), 1, atol=1e-6)
