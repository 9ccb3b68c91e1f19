"""Pooled tables and figures of several folds, against tables put together by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from sscjax.configs import smoke
from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments.cross_validation import aggregate
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.experiments.cross_validation.outcomes import Outcome

CLASSES = ("normal", "early", "late")


def table(rng: np.random.Generator, repeats: int = 1, images: int = 60) -> list[Predictions]:
    """Predictions of the same images, 5 of each subject, by another model in each repeat."""
    labels = np.arange(images) // 5 % 3
    return [
        Predictions(
            files=np.array([f"{i:03d}" for i in range(images)]),
            subjects=np.array([f"s{i // 5:02d}" for i in range(images)]),
            splits=np.full(images, "test"),
            labels=labels,
            probabilities=rng.dirichlet(np.ones(3), images) * 0.5 + 0.5 * np.eye(3)[labels],
            classes=CLASSES,
        )
        for _ in range(repeats)
    ]


def rows(whole: Predictions, places: np.ndarray) -> Predictions:
    return aggregate.joined([whole], places)


def outcome(whole: Predictions, places: np.ndarray, repeat: int, name: str) -> Outcome:
    fold = Fold(name, repeat, smoke.get_config(), places)
    return Outcome(fold, {}, "", rows(whole, places), {}, None)


def test_folds_come_together_in_the_order_of_the_set() -> None:
    rng = np.random.default_rng(0)
    whole = table(rng, repeats=2)
    outcomes = []
    for repeat in range(2):
        parts = np.array_split(rng.permutation(60), 4)
        outcomes += [
            outcome(whole[repeat], np.sort(part), repeat, f"{repeat}{k}")
            for k, part in enumerate(parts)
        ]
    found = aggregate.by_repeat([one.predictions for one in outcomes], outcomes)
    assert len(found) == 2
    for ours, wanted in zip(found, whole, strict=True):
        np.testing.assert_array_equal(ours.files, wanted.files)
        np.testing.assert_array_equal(ours.probabilities, wanted.probabilities)
    twice = [*outcomes, outcome(whole[0], np.array([3]), 0, "again")]
    with pytest.raises(AssertionError, match="twice"):
        aggregate.by_repeat([one.predictions for one in twice], twice)


def test_one_repeat_has_the_figures_of_an_ordinary_table() -> None:
    (whole,) = table(np.random.default_rng(1))
    figures, ranges = aggregate.aggregate([whole], ordered=True)
    assert figures == metrics.figures_by_split(whole, True)["test"]
    assert ranges == intervals.test_figures(whole, True)


def test_repeats_are_no_committee() -> None:
    """A subject that each of two models calls half right stays half right when aggregated."""
    whole = table(np.random.default_rng(2), repeats=3)
    figures, ranges = aggregate.aggregate(whole, ordered=True)
    labels = np.concatenate([one.labels for one in whole])
    scores = np.concatenate([one.probabilities for one in whole])
    called = scores.argmax(axis=1)
    assert figures["image"]["n"] == 180 and figures["image"]["n_subjects"] == 12
    assert figures["image"]["accuracy"] == pytest.approx(accuracy_score(labels, called))
    assert figures["image"]["macro_auroc"] == pytest.approx(
        roc_auc_score(labels, scores, multi_class="ovr")
    )
    of_subjects = [metrics.figures(one.by_subject(), True)["accuracy"] for one in whole]
    assert figures["subject"]["n"] == 36
    assert figures["subject"]["accuracy"] == pytest.approx(np.mean(of_subjects))
    # Three repeats are not three times the subjects.
    assert ranges["image"]["n_subjects"] == ranges["subject"]["n_subjects"] == 12
    one = intervals.figures(whole[0], True)["accuracy"]
    width = ranges["image"]["accuracy"][1] - ranges["image"]["accuracy"][0]
    assert width > 0.6 * (one[1] - one[0])


def test_spread_is_mean_and_sample_deviation_over_the_folds_that_can_tell() -> None:
    found = [
        metrics.figures(rows(table(np.random.default_rng(k))[0], part), True)
        for k, part in enumerate(np.array_split(np.arange(60), 4))
    ]
    # 5 images of one subject: one class alone.
    lone = metrics.figures(rows(table(np.random.default_rng(9))[0], np.arange(5)), True)
    over: dict[str, Any] = aggregate.spread([*found, lone], 3)
    accuracy = [one["accuracy"] for one in [*found, lone]]
    assert over["accuracy"]["n"] == 5
    assert over["accuracy"]["mean"] == pytest.approx(np.mean(accuracy))
    assert over["accuracy"]["sd"] == pytest.approx(np.std(accuracy, ddof=1))
    for name in ("balanced_accuracy", "macro_auroc", "quadratic_kappa"):
        assert over[name]["n"] == 4
        assert over[name]["mean"] == pytest.approx(np.mean([one[name] for one in found]))
    assert over["per_class"][0]["sensitivity"]["n"] == 5
    assert over["per_class"][1]["sensitivity"]["n"] == 4  # the lone subject is of class 0
    alone = aggregate.spread([lone], 3)
    assert alone["accuracy"]["sd"] is None and alone["macro_auroc"] == {
        "mean": None,
        "sd": None,
        "n": 0,
    }
