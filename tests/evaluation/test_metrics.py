"""Figures against scikit-learn on random tables and against sums done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference

from sscjax.errors import UserError
from sscjax.evaluation import metrics, ranking
from sscjax.evaluation.predictions import Predictions, group_means


def table(
    labels: list[int] | np.ndarray,
    probabilities: list[list[float]] | np.ndarray,
    subjects: list[str] | None = None,
    splits: list[str] | None = None,
    classes: tuple[str, ...] = ("normal", "early", "late"),
) -> Predictions:
    count = len(labels)
    return Predictions(
        files=np.array([f"tile {index}.png" for index in range(count)], dtype=str),
        subjects=np.array(subjects or [f"s{index}" for index in range(count)], dtype=str),
        splits=np.array(splits or ["test"] * count, dtype=str),
        labels=np.array(labels),
        probabilities=np.array(probabilities).reshape(count, len(classes)),
        classes=classes,
    )


def random_table(seed: int, num_classes: int, count: int, present: list[int]) -> Predictions:
    """Coarse probabilities (many ties); labels from `present` alone, each at least once."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([present, rng.choice(present, count - len(present))])
    weights = rng.integers(1, 4, (count, num_classes)).astype(np.float64)
    weights[np.arange(count), labels] += rng.integers(0, 3, count)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    classes = tuple(f"class {index}" for index in range(num_classes))
    return table(labels, probabilities, classes=classes)


CASES = [
    (0, 2, 40, [0, 1]),
    (1, 3, 60, [0, 1, 2]),
    (2, 3, 30, [0, 2]),
    (3, 4, 80, [0, 1, 2]),
    (4, 10, 300, list(range(10))),
    (5, 10, 50, [1, 4, 9]),
]


@pytest.mark.parametrize(("seed", "num_classes", "count", "present"), CASES)
def test_figures_equal_scikit_learn(
    seed: int, num_classes: int, count: int, present: list[int]
) -> None:
    predictions = random_table(seed, num_classes, count, present)
    ours = metrics.figures(predictions, ordered=True)
    truth, called = predictions.labels, predictions.predicted
    every = list(range(num_classes))
    confusion = reference.confusion_matrix(truth, called, labels=every)
    assert ours["confusion"] == confusion.tolist()
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(truth, called), abs=1e-15)
    recalls = reference.recall_score(truth, called, labels=present, average=None)
    assert ours["balanced_accuracy"] == pytest.approx(recalls.mean(), abs=1e-14)
    kappa = reference.cohen_kappa_score(truth, called, labels=every, weights="quadratic")
    assert ours["quadratic_kappa"] == pytest.approx(kappa, abs=1e-14)
    loss = reference.log_loss(truth, predictions.probabilities, labels=every)
    assert ours["log_loss"] == pytest.approx(loss, abs=1e-14)
    areas = []
    for index, entry in enumerate(ours["per_class"]):
        is_class, is_called = truth == index, called == index
        assert entry["support"] == is_class.sum()
        if index in present:
            scores = predictions.probabilities[:, index]
            areas.append(reference.roc_auc_score(is_class, scores))
            assert entry["auroc"] == pytest.approx(areas[-1], abs=1e-14)
            assert entry["sensitivity"] == pytest.approx(
                reference.recall_score(is_class, is_called), abs=1e-15
            )
        else:
            assert entry["auroc"] is None and entry["sensitivity"] is None
        assert entry["specificity"] == pytest.approx(
            reference.recall_score(~is_class, ~is_called), abs=1e-15
        )
        precision = reference.precision_score(is_class, is_called, zero_division=np.nan)
        assert (entry["precision"] is None) == math.isnan(precision)
        assert entry["precision"] is None or entry["precision"] == pytest.approx(precision)
        f1 = reference.f1_score(is_class, is_called, zero_division=np.nan)
        assert (entry["f1"] is None) == math.isnan(f1)
        assert entry["f1"] is None or entry["f1"] == pytest.approx(f1)
    assert ours["macro_auroc"] == pytest.approx(np.mean(areas), abs=1e-14)


def test_random_tables_hold_ties_and_absent_classes() -> None:
    predictions = random_table(*CASES[2])
    assert len(np.unique(predictions.probabilities[:, 0])) < len(predictions) / 2
    assert 1 not in predictions.labels and 1 in predictions.predicted


def test_figures_by_hand() -> None:
    confusion = np.array([[5, 1, 0], [2, 3, 1], [0, 0, 4]])
    assert metrics.accuracy(confusion) == 12 / 16
    assert metrics.sensitivity(confusion, 1) == 3 / 6
    assert metrics.specificity(confusion, 1) == 9 / 10
    assert metrics.precision(confusion, 1) == 3 / 4
    assert metrics.f1(confusion, 1) == 6 / 10
    assert metrics.balanced_accuracy(confusion) == pytest.approx((5 / 6 + 1 / 2 + 1) / 3)
    # Observed: four neighbours, weight 1. By chance, of margins 6,6,4 and 7,4,5 over 16:
    # (6*4 + 6*7 + 6*5 + 4*4) * 1 + (6*5 + 4*7) * 4 = 344.
    assert metrics.quadratic_kappa(confusion) == pytest.approx(1 - 16 * 4 / 344)


def test_auroc_by_hand() -> None:
    # Pairs (positive, negative): 0.9 beats both, 0.5 ties one (half) and beats the other.
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    assert ranking.auroc(scores, np.array([True, True, False, False])) == 3.5 / 4
    assert ranking.auroc(np.zeros(5), np.array([1, 0, 0, 1, 0], dtype=bool)) == 0.5
    assert ranking.auroc(scores, np.array([False, False, False, True])) == 0.0
    assert ranking.auroc(scores, np.ones(4, dtype=bool)) is None


def test_log_loss_by_hand_stays_finite() -> None:
    predictions = table([0, 1], [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    expected = (math.log(2) - math.log(np.finfo(np.float64).eps)) / 2
    assert metrics.log_loss(predictions) == pytest.approx(expected)


def test_undefined_is_none_and_everything_is_json() -> None:
    single = metrics.figures(table([1, 1], [[0, 1, 0], [0, 1, 0]]), ordered=True)
    assert single["quadratic_kappa"] is None and single["macro_auroc"] is None
    assert single["balanced_accuracy"] == 1.0
    assert single["per_class"][1]["specificity"] is None
    empty = metrics.figures(table([], np.zeros((0, 3))), ordered=True)
    for name in ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss"):
        assert empty[name] is None
    assert empty["n"] == empty["n_subjects"] == 0
    for value in (single, empty):
        assert json.loads(json.dumps(value, allow_nan=False)) == value
    two = table([0, 1], [[1, 0, 0], [0, 1, 0]])
    assert metrics.figures(two, ordered=False)["quadratic_kappa"] is None
    assert metrics.figures(two, ordered=True)["quadratic_kappa"] == 1.0


def test_an_output_without_class_changes_no_overall_figure() -> None:
    three = random_table(6, 3, 50, [0, 1, 2])
    padded = Predictions(
        three.files,
        three.subjects,
        three.splits,
        three.labels,
        np.pad(three.probabilities, ((0, 0), (0, 1))),
        (*three.classes, "unused"),
    )
    before, after = metrics.figures(three, ordered=True), metrics.figures(padded, ordered=True)
    for name in ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss"):
        assert after[name] == before[name]
    assert after["per_class"][:3] == before["per_class"]
    assert after["per_class"][3]["support"] == 0


def test_ties_go_to_the_lowest_class() -> None:
    predictions = table([0, 0], [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    assert predictions.predicted.tolist() == [0, 1]
    assert predictions.predicted.dtype == np.int32


def test_by_subject() -> None:
    predictions = table(
        labels=[2, 0, 2, 1, 0, 0],
        probabilities=[
            [0.0, 0.5, 0.5],
            [1.0, 0.0, 0.0],
            [0.5, 0.0, 0.5],
            [0.0, 1.0, 0.0],
            [0.2, 0.8, 0.0],
            [0.0, 0.0, 1.0],
        ],
        subjects=["b", "a", "b", "a", "c", "c"],
        splits=["test", "test", "test", "test", "train", "test"],
    )
    subjects = predictions.by_subject()
    assert subjects.subjects.tolist() == subjects.files.tolist() == ["b", "a", "c", "c"]
    # 'a' has one image of each of two classes: the higher index. 'c' stands in two splits.
    assert subjects.labels.tolist() == [2, 1, 0, 0]
    assert subjects.splits.tolist() == ["test", "test", "train", "test"]
    expected = [[0.25, 0.25, 0.5], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(subjects.probabilities, expected, atol=1e-15)
    test_alone = predictions.where("test").by_subject()
    assert test_alone.labels.tolist() == [2, 1, 0]
    assert len(table([], np.zeros((0, 3))).by_subject()) == 0


def test_by_subject_takes_the_majority_label() -> None:
    subjects = table([0, 0, 2], np.eye(3), subjects=["a"] * 3).by_subject()
    assert subjects.labels.tolist() == [0]


def test_figures_by_split_leaves_out_empty_splits() -> None:
    predictions = table(
        [0, 1, 0],
        [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
        subjects=["a", "a", "b"],
        splits=["val", "val", "test"],
    )
    result = metrics.figures_by_split(predictions, ordered=False)
    assert list(result) == ["val", "test"]
    assert result["val"]["image"]["n"] == 2 and result["val"]["image"]["n_subjects"] == 1
    assert result["val"]["subject"]["n"] == 1
    assert result["test"]["image"]["accuracy"] == 0.0


def test_csv_round_trip_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 3)).astype(np.float32) * 30
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    before = Predictions(
        files=np.array(['a,"b"\r\nc.png', *(f"ü {k}.png" for k in range(19))]),
        subjects=np.array([f"p{k // 3}" for k in range(20)]),
        splits=np.array((["train", "val", "test"] * 7)[:20]),
        labels=rng.integers(0, 3, 20),
        probabilities=probabilities,
        classes=("normal", "early, mild", "sévère"),
    )
    before.write_csv(tmp_path / "predictions.csv")
    after = Predictions.read_csv(tmp_path / "predictions.csv")
    assert after.classes == before.classes
    assert before.probabilities.dtype == np.float64
    assert before.probabilities.tobytes() == after.probabilities.tobytes()
    for name in ("files", "subjects", "splits", "labels"):
        assert getattr(after, name).tolist() == getattr(before, name).tolist()
    header = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == 'file,subject,split,label,prediction,p_normal,"p_early, mild",p_sévère'


def test_csv_of_no_rows(tmp_path: Path) -> None:
    table([], np.zeros((0, 3))).write_csv(tmp_path / "empty.csv")
    assert len(Predictions.read_csv(tmp_path / "empty.csv")) == 0


GOOD = "file,subject,split,label,prediction,p_a,p_b\nx.png,s,test,a,a,0.75,0.25\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "columns are"),
        (GOOD.replace("subject", "patient", 1), "columns are file, patient"),
        (GOOD.replace("test,a", "test,q"), "line 2.*'q'"),
        (GOOD.replace("0.75", "much"), "line 2.*much"),
        (GOOD.replace("0.75", "0.5"), "misses the sum of 1"),
        (GOOD.replace("0.75", "nan"), "finite"),
        (GOOD.replace("test", "holdout"), "holdout"),
        (GOOD.replace(",0.25", ""), "line 2 has 6 fields, not 7"),
        (GOOD.replace("a,a,", "a,b,"), "line 2.*edited"),
    ],
)
def test_damaged_csv_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(GOOD, encoding="utf-8")
    assert len(Predictions.read_csv(path)) == 1
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as error:
        Predictions.read_csv(path)
    assert "predictions.csv" in str(error.value) and "\n" not in str(error.value)


def test_missing_csv_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.csv"):
        Predictions.read_csv(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("labels", "probabilities", "says"),
    [
        ([3], [[1, 0, 0]], "labels reach outside"),
        ([-1], [[1, 0, 0]], "labels reach outside"),
        ([0], [[0.5, 0, 0]], "sum of 1"),
        ([0], [[2, -1, 0]], "not negative"),
        ([0], [[math.nan, 0.5, 0.5]], "finite"),
    ],
)
def test_a_table_that_is_none_is_refused(
    labels: list[int], probabilities: list[list[float]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        table(labels, probabilities)


def test_shapes_and_names_are_checked() -> None:
    good = table([0, 1], [[1, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match=r"subjects has shape \(1,\), not \(2,\)"):
        Predictions(
            good.files,
            good.subjects[:1],
            good.splits,
            good.labels,
            good.probabilities,
            good.classes,
        )
    with pytest.raises(ValueError, match="distinct"):
        table([0], [[1, 0, 0]], classes=("a", "a", "b"))
    with pytest.raises(ValueError, match="'valid'"):
        good.where("valid")


def test_validation_metric() -> None:
    predictions = random_table(7, 3, 60, [0, 1, 2])
    ours = metrics.figures(predictions, ordered=False)
    of_masks = {metrics.MASK_METRIC}
    assert {*metrics.VALIDATION_METRICS, *of_masks} == set(metrics.HIGHER_IS_BETTER)
    for name in metrics.VALIDATION_METRICS:
        assert metrics.validation_metric(name, predictions) == ours[name]
    with pytest.raises(UserError, match="'auc' is unknown; choose one of accuracy, balanced"):
        metrics.validation_metric("auc", predictions)
    with pytest.raises(UserError, match="macro_auroc is undefined for 1 validation images"):
        metrics.validation_metric("macro_auroc", table([0], [[1, 0, 0]]))


def test_directions_of_validation_metrics() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    right = np.full((6, 3), 0.1)
    right[np.arange(6), truth] = 0.8
    wrong = right[::-1]
    for name in metrics.VALIDATION_METRICS:
        higher = metrics.HIGHER_IS_BETTER[name]
        good = metrics.validation_metric(name, table(truth, right))
        bad = metrics.validation_metric(name, table(truth, wrong))
        assert (good > bad) == higher and good != bad


def test_group_means_are_those_of_each_group() -> None:
    rng = np.random.default_rng(0)
    probabilities, group = rng.random((50, 3)), rng.permutation(np.arange(50) % 7)
    expected = [probabilities[group == index].mean(axis=0) for index in range(7)]
    np.testing.assert_allclose(group_means(probabilities, group), expected, rtol=1e-14)
    empty = group_means(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert empty.shape == (0, 3)
