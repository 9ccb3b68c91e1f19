"""Operating thresholds against scikit-learn and by hand; coverage curves row by row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import confusion_matrix, roc_curve

from sscjax.evaluation import abstention, intervals, odds, thresholds
from sscjax.evaluation.predictions import Predictions

NAMES = ("normal", "early", "late")


def table_of(seed: int, count: int = 120, classes: tuple[str, ...] = NAMES) -> Predictions:
    """Validation and test of twelve subjects each, some scores tied."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, min(3, len(classes)), count)
    logits = rng.normal(0, 1, (count, len(classes)))
    logits[np.arange(count), labels] += 1
    odds = np.round(np.exp(logits), 1) + 0.1
    return Predictions(
        files=np.arange(count).astype(str),
        subjects=np.array([f"{index % 24}" for index in range(count)]),
        splits=np.where(np.arange(count) % 24 < 12, "val", "test"),
        labels=labels,
        probabilities=odds / odds.sum(1, keepdims=True),
        classes=classes,
    )


def scored(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positives = rng.random(80) < 0.4
    return np.round(special.expit(rng.normal(0, 1, 80) + positives), 2), positives


# ---- the score ----------------------------------------------------------------------------------


def test_disease_is_anything_but_the_first_class() -> None:
    three = table_of(0)
    found = thresholds.disease_scores(three, 3)
    np.testing.assert_allclose(found, 1 - three.probabilities[:, 0])
    two = table_of(0, classes=("normal", "ssc"))
    np.testing.assert_allclose(thresholds.disease_scores(two, 2), two.probabilities[:, 1])


def test_unused_outputs_are_no_disease() -> None:
    table = table_of(0, classes=(*NAMES, "unused"))
    used = table.probabilities[:, :3] / table.probabilities[:, :3].sum(1, keepdims=True)
    np.testing.assert_allclose(thresholds.disease_scores(table, 3), 1 - used[:, 0])


# ---- the threshold ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_youden_is_the_best_of_scikit_learn_s_curve(seed: int) -> None:
    scores, positives = scored(seed)
    false, true, at = roc_curve(positives, scores, drop_intermediate=False)
    threshold = thresholds.youden(scores, positives)
    assert threshold is not None
    called = scores >= threshold
    index = called[positives].mean() - called[~positives].mean()
    assert index == pytest.approx((true - false).max())
    # The same images are called as by the lowest of the best thresholds there.
    best = at[np.flatnonzero(np.isclose(true - false, (true - false).max()))[-1]]
    np.testing.assert_array_equal(called, scores >= best)


@pytest.mark.parametrize("least", [0.5, 0.9, 1.0])
def test_sensitivity_rule_is_the_first_of_scikit_learn_s_curve(least: float) -> None:
    scores, positives = scored(7)
    _, true, at = roc_curve(positives, scores, drop_intermediate=False)
    threshold = thresholds.at_sensitivity(scores, positives, least)
    first = at[np.flatnonzero(true >= least)[0]]
    np.testing.assert_array_equal(scores >= threshold, scores >= first)


def test_threshold_lies_halfway_between_scores() -> None:
    scores, positives = np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, False, True, True])
    assert thresholds.youden(scores, positives) == pytest.approx(0.45)
    assert thresholds.at_sensitivity(scores, positives, 0.5) == pytest.approx(0.7)
    assert thresholds.at_sensitivity(scores[::-1], positives, 1.0) == 0.0


def test_scores_that_tell_nothing_apart() -> None:
    assert thresholds.youden(np.full(6, 0.3), np.arange(6) < 2) is None
    assert thresholds.youden(np.arange(6.0), np.arange(6) < 2) is None  # the wrong way round


def test_figures_are_those_of_the_confusion_matrix() -> None:
    table = table_of(1).where("test")
    found = thresholds.figures_at(table, 3, 0.6)
    called = thresholds.disease_scores(table, 3) >= 0.6
    tn, fp, fn, tp = confusion_matrix(table.labels > 0, called).ravel()
    shares = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tp + tn, len(table)),
    }
    assert set(found) == set(shares)
    for name, (right, total) in shares.items():
        assert found[name]["value"] == pytest.approx(right / total) and found[name]["n"] == total
        low, high = found[name]["interval"]
        assert low < right / total < high
    ill = table.labels > 0
    expected = intervals.clustered_share(called, ill, table.subjects)
    assert found["sensitivity"]["interval"] == pytest.approx(expected)


def test_nothing_called_leaves_ppv_open() -> None:
    found = thresholds.figures_at(table_of(1).where("test"), 3, 1.01)
    assert found["ppv"] == {"value": None, "interval": None, "n": 0}
    assert found["sensitivity"]["value"] == 0.0 and found["specificity"]["value"] == 1.0


def split(table: Predictions) -> dict[str, Predictions]:
    return {"held_out": table.where("val"), "test": table.where("test")}


@pytest.mark.parametrize(("rule", "text"), [("youden", "Youden"), ("sensitivity", "90 %")])
def test_operating_point_is_chosen_on_held_out_rows_alone(rule: str, text: str) -> None:
    tables = split(table_of(2))
    choice = thresholds.choose_disease(tables["held_out"], 3, rule, 0.9, "validation images")
    found = thresholds.operating_point(choice, tables, NAMES)
    assert text in found["rule"] and found["positive"] == "early or late"
    held_out = tables["held_out"]
    ill, scores = held_out.labels > 0, thresholds.disease_scores(held_out, 3)
    if rule == "sensitivity":
        assert found["held_out"]["sensitivity"]["value"] >= 0.9
        reached = (scores >= found["value"])[ill]
        assert found["miss_odds"] == odds.miss(reached, held_out.subjects[ill], 0.9)
        assert f"miss it: {100 * found['miss_odds']:.0f} %" in found["rule"]
    else:
        chosen, validated = found["youden_index"]
        called = scores >= found["value"]
        assert chosen == pytest.approx(called[ill].mean() - called[~ill].mean())
        assert validated < chosen and found["miss_odds"] is None
    # An interval of the rows on which the threshold was chosen would say nothing.
    assert all(figure["interval"] is None for figure in found["held_out"].values())
    assert found["test"] == thresholds.figures_at(tables["test"], 3, found["value"])


def test_cross_validated_index_is_that_of_new_subjects() -> None:
    """Simulated: chosen on eight subjects, Youden's index is too good by far; validated, not."""
    rng = np.random.default_rng(0)

    def drawn(subjects: int) -> Predictions:
        ill = np.arange(subjects) % 2
        disease = special.expit(rng.normal(0, 1, subjects) + 1.2 * (2 * ill - 1))
        return Predictions(
            files=np.arange(subjects).astype(str),
            subjects=np.arange(subjects).astype(str),
            splits=np.full(subjects, "val"),
            labels=ill,
            probabilities=np.stack([1 - disease, disease], 1),
            classes=("well", "ill"),
        )

    new = drawn(20000)
    chosen, validated, truth = [], [], []
    for _ in range(120):
        choice = thresholds.choose_disease(drawn(12), 2, "youden", 0.9, "rows")
        assert choice.index is not None and choice.index[1] is not None
        assert choice.value is not None
        called, ill = new.probabilities[:, 1] >= choice.value, new.labels > 0
        chosen.append(choice.index[0])
        validated.append(choice.index[1])
        truth.append(called[ill].mean() - called[~ill].mean())
    assert np.mean(chosen) > np.mean(truth) + 0.08
    assert abs(np.mean(validated) - np.mean(truth)) < 0.06


@pytest.mark.parametrize(("label", "says"), [(0, "not diseased"), (2, "are diseased")])
def test_one_kind_among_the_held_out(label: int, says: str) -> None:
    table = table_of(3)
    table.labels[table.splits == "val"] = label
    tables = split(table)
    choice = thresholds.choose_disease(tables["held_out"], 3, "youden", 0.9, "validation images")
    found = thresholds.operating_point(choice, tables, NAMES)
    assert found["value"] == 0.5 and says in found["rule"]
    assert found["held_out"]["specificity" if label else "sensitivity"]["value"] is None


# ---- abstention ---------------------------------------------------------------------------------


def test_coverage_curve_row_by_row() -> None:
    table = table_of(4).where("test")
    right = table.predicted == table.labels
    points = abstention.coverage_curve(table)
    assert points[-1]["coverage"] == 1.0 and points[-1]["accuracy"] == pytest.approx(right.mean())
    shares = [point["coverage"] for point in points]
    assert shares == sorted(shares)
    for point in points:
        kept = table.confidence >= point["threshold"]
        assert point["n"] == kept.sum() and point["coverage"] == pytest.approx(kept.mean())
        assert point["accuracy"] == pytest.approx(right[kept].mean())
    assert len(abstention.coverage_curve(table_of(4, count=6000))) <= 101


def test_coverage_area_by_hand() -> None:
    """Right, wrong, then a tie of one right and one wrong: accuracies 1, 1/2, and twice 2/4."""
    sure = np.array([0.95, 0.9, 0.7, 0.7])
    table = Predictions(
        files=np.arange(4).astype(str),
        subjects=np.arange(4).astype(str),
        splits=np.full(4, "test"),
        labels=np.array([0, 1, 0, 1]),
        probabilities=np.stack([sure, 1 - sure], 1),
        classes=("a", "b"),
    )
    area, interval = abstention.coverage_area(table)
    assert area == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 2) / 4)
    assert interval is None  # four subjects


def test_confidence_for_an_accuracy() -> None:
    table = table_of(6, count=600).where("val")
    right = table.predicted == table.labels
    threshold = abstention.confidence_threshold(table, 0.75)
    assert threshold is not None
    assert right[table.confidence >= threshold].mean() >= 0.75 > right.mean()
    # No lower threshold reaches it.
    for lower in np.unique(table.confidence[table.confidence < threshold]):
        assert right[table.confidence >= lower].mean() < 0.75
    assert abstention.confidence_threshold(table, float(right.mean())) is not None
    assert abstention.confidence_threshold(table_of(6, count=30).where("val"), 1.0) is None


def test_abstention_is_reported_on_test() -> None:
    tables = split(table_of(7, count=600))
    choice = abstention.choose_confidence(tables["held_out"], 0.75, "validation images")
    found = abstention.report(choice, tables, 0.75)
    test = tables["test"]
    kept = test.confidence >= found["value"]
    assert found["test"]["coverage"]["value"] == pytest.approx(kept.mean())
    right = (test.predicted == test.labels)[kept]
    assert found["test"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert found["test"]["accuracy"]["n"] == kept.sum()
    assert found["held_out"]["accuracy"]["value"] >= 0.75
    assert found["held_out"]["accuracy"]["interval"] is None
    assert 0 < found["miss_odds"] < 1
    few = split(table_of(6, count=30))
    none = abstention.choose_confidence(few["held_out"], 1.0, "validation images")
    never = abstention.report(none, few, 1.0)
    assert never["value"] is None and "never reach" in never["rule"] and "test" not in never


def test_answered_rows_are_of_five_subjects_or_more() -> None:
    """Two subjects with many sure images are no evidence, however many images they are."""
    owner = np.repeat(np.arange(12), 20)
    sure = np.where(owner < 2, 0.99, 0.6)
    labels = np.where(owner < 2, 0, np.arange(240) % 2)
    table = Predictions(
        files=np.arange(240).astype(str),
        subjects=owner.astype(str),
        splits=np.full(240, "val"),
        labels=labels,
        probabilities=np.stack([sure, 1 - sure], 1),
        classes=("a", "b"),
    )
    assert abstention.confidence_threshold(table, 0.9) is None
    each = dataclasses.replace(table, subjects=np.arange(240).astype(str))
    assert abstention.confidence_threshold(each, 0.9) == pytest.approx(0.795)
