"""`sscjax.evaluate` against scikit-learn and hand calculation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

import sscjax
import sscjax.experiments.api
from sscjax.errors import UserError


def _random(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    probabilities = rng.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), labels] += 0.4
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_values_are_those_of_scikit_learn() -> None:
    labels, p = _random(200, 3)
    names = ["normal", "early", "late"]
    found = sscjax.evaluate(labels, p, subjects=np.arange(200) // 5, classes=names, ordered=True)
    value = {name: figure.per_image.value for name, figure in found.items()}
    predicted, sk = p.argmax(axis=1), sklearn.metrics
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_auroc": sk.roc_auc_score(labels, p, multi_class="ovr"),
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, weights="quadratic"),
        "log_loss": sk.log_loss(labels, p),
        "brier": ((np.eye(3)[labels] - p) ** 2).sum(axis=1).mean(),
    }
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted)
    confusion = sk.confusion_matrix(labels, predicted)
    for k, name in enumerate(names):
        negatives = confusion.sum() - confusion[k].sum()
        wrong = confusion[:, k].sum() - confusion[k, k]
        expected |= {
            f"sensitivity {name}": recall[k],
            f"specificity {name}": 1 - wrong / negatives,
            f"precision {name}": precision[k],
            f"npv {name}": (negatives - wrong) / (labels.size - confusion[:, k].sum()),
            f"f1 {name}": f1[k],
            f"auroc {name}": sk.roc_auc_score(labels == k, p[:, k]),
            f"average_precision {name}": sk.average_precision_score(labels == k, p[:, k]),
        }
    assert set(value) == {*expected, "ece"}
    for name, number in expected.items():
        assert value[name] == pytest.approx(number, abs=1e-12), name
    np.testing.assert_array_equal(found.confusion, confusion)
    interval = found["accuracy"].per_image
    assert interval.low is not None and interval.high is not None
    assert interval.low < expected["accuracy"] < interval.high


def test_a_subject_has_the_mean_of_its_images() -> None:
    labels, p = np.repeat([0, 1, 0, 1], 3), _random(12, 2)[1]
    subjects = np.repeat(["a", "b", "c", "d"], 3)
    found = sscjax.evaluate(labels, p, subjects=subjects)
    means = p.reshape(4, 3, 2).mean(axis=1)
    right = (means.argmax(axis=1) == [0, 1, 0, 1]).mean()
    assert found["accuracy"].per_subject.value == right
    loss = sklearn.metrics.log_loss([0, 1, 0, 1], means)
    assert found["log_loss"].per_subject.value == pytest.approx(loss)
    assert "Korn and Graubard" in str(found["accuracy"].per_image.method)


def test_names_and_one_column_are_taken_too() -> None:
    labels, p = _random(60, 2)
    names = ("normal", "ssc")
    whole = sscjax.evaluate(labels, p, classes=names)
    for given, probabilities in (
        (np.array(names)[labels], p),
        (np.array(names, object)[labels].tolist(), p.tolist()),
        (labels.astype(bool), p[:, 1]),
        (labels, p.astype(np.float32)),
    ):
        found = sscjax.evaluate(given, probabilities, classes=names)
        assert found["auroc ssc"].per_image.value == whole["auroc ssc"].per_image.value
    nothing = whole["accuracy"].per_subject
    assert nothing.value is None and nothing.reason == "no subjects were given"
    assert set(json.loads(json.dumps(whole.to_dict()))["figures"]) == set(whole)


def test_every_missing_number_has_its_reason() -> None:
    labels, p = np.zeros(5, int), np.full((5, 3), [0.8, 0.1, 0.1])
    for subjects in (None, np.zeros(5), np.arange(5)):
        found = sscjax.evaluate(labels, p, subjects=subjects, ordered=True)
        for figure in found.values():
            for one in (figure.per_image, figure.per_subject):
                complete = None not in (one.value, one.low, one.high, one.method)
                assert complete != bool(one.reason), (figure.name, one)
    assert "no figure 'accurcy'; did you mean 'accuracy'" in str(
        pytest.raises(UserError, found.__getitem__, "accurcy").value
    )
    assert "accurcy" not in found and found.get("accurcy") is None


@pytest.mark.parametrize(
    ("labels", "probabilities", "more", "message"),
    [
        ([0, 1], [[0.5, 0.5]], {}, r"labels have shape \(2,\)"),
        ([0], [[0.5, np.nan]], {}, "not finite, first in row 0"),
        ([0], [[2.0, -1.0]], {}, "expected 0 to 1"),
        ([0], [[0.5, 0.4]], {}, "row 0 of the probabilities sums to 0.9"),
        ([0], [[1.0]], {}, r"shape \(1, 1\)"),
        ([], np.zeros((0, 2)), {}, "there are no predictions"),
        ([], [], {}, r"shape \(0,\)"),
        ([2], [[0.5, 0.5]], {}, "labels reach from 2 to 2"),
        ([0.5], [[0.5, 0.5]], {}, "whole numbers or names"),
        (["ssc"], [[0.5, 0.5]], {}, "name the classes"),
        (["sick"], [[0.5, 0.5]], {"classes": ("normal", "ssc")}, "label 'sick' is none"),
        ([0], [[0.5, 0.5]], {"classes": ("a", "b", "c")}, "have 2 columns"),
        ([0], [[0.5, 0.5]], {"classes": ("a", "a")}, "a distinct name"),
        ([0], [[0.5, 0.5]], {"classes": "ab"}, "expected several names"),
        ([0], [[0.5, 0.5]], {"subjects": ["a", "b"]}, "subjects have shape"),
        ([0], [["x", "y"]], {}, "not numbers"),
    ],
)
def test_evaluate_refuses(labels: Any, probabilities: Any, more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sscjax.evaluate(labels, probabilities, **more)
    assert "\n" not in str(caught.value)
