"""Rules of a cross-validation: no patient's figure rests on a rule that was fitted on them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import special

from sscjax.evaluation import abstention, calibration, conformal, cross_fit, reliability
from sscjax.evaluation.cross_fit import Fold
from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.rules import UNITS, Rules
from sscjax.reports import calibration_text

NAMES = ("normal", "early", "late")
OPTIONS = reliability.Options()


def folds_of(
    seed: int = 0, subjects: int = 60, images: int = 6, folds: int = 5, repeats: int = 1
) -> list[Fold]:
    """Subjects of three classes, each tested once in each repeat."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), images)
    labels = owner % 3
    parts = []
    for repeat in range(repeats):
        logits = rng.normal(0, 1, (len(owner), 3)) + rng.normal(0, 0.5, (subjects, 3))[owner]
        logits[np.arange(len(owner)), labels] += 1.2
        table = Predictions(
            files=np.char.add(np.arange(len(owner)).astype(str), ".png"),
            subjects=np.char.add("s", owner.astype(str)),
            splits=np.full(len(owner), "test"),
            labels=labels,
            probabilities=special.softmax(1.5 * logits, axis=1),
            classes=NAMES,
        )
        of_subject = rng.permutation(subjects) % folds
        parts += [Fold(table.take(of_subject[owner] == k), repeat) for k in range(folds)]
    return parts


def assessed(folds: list[Fold], by_subject: bool = True) -> cross_fit.Assessment:
    return cross_fit.assess(folds, NAMES, OPTIONS, by_subject=by_subject)


def test_rules_of_a_fold_are_those_of_the_other_folds() -> None:
    folds = folds_of()
    found = assessed(folds)
    [subjects] = found.subjects
    rows = [fold.rows.by_subject() for fold in folds]
    content = found.content["subject"]
    right = answered = 0
    inside = []
    for k, table in enumerate(rows):
        others = Predictions.join([rows[other] for other in range(5) if other != k])
        fitted = calibration.fit_temperature(others)
        assert content["temperatures"][k] == fitted.value
        after = calibration.apply(table, fitted.value)
        here = np.isin(subjects.subjects, table.subjects)
        np.testing.assert_array_equal(subjects.take(here).probabilities, after.probabilities)
        chosen = calibration.apply(others, fitted.value)
        threshold = abstention.confidence_threshold(chosen, OPTIONS.target_accuracy)
        reached = after.confidence >= (-1 if threshold is None else threshold)
        answered += int(reached.sum())
        right += int((after.predicted == after.labels)[reached].sum())
        sets = conformal.fit(chosen, 3, OPTIONS.set_level, cross=True)
        inside.append(sets.members(after.probabilities)[np.arange(len(after)), after.labels])
    assert content["abstention"]["test"]["accuracy"]["n"] == answered
    assert content["abstention"]["test"]["accuracy"]["value"] == pytest.approx(right / answered)
    covered = content["prediction_set"]["test"]["coverage"]
    assert covered["n"] == 60
    assert covered["value"] == pytest.approx(np.concatenate(inside).mean())


def test_a_fold_s_own_labels_change_nothing_of_its_rules() -> None:
    folds = folds_of(1)
    other = dataclasses.replace(folds[0].rows, labels=(folds[0].rows.labels + 1) % 3)
    one, two = assessed(folds), assessed([Fold(other), *folds[1:]])
    first, second = (found.content["subject"]["temperatures"] for found in (one, two))
    assert first[0] == second[0] and first[1:] != second[1:]
    tested = np.isin(one.subjects[0].subjects, folds[0].rows.subjects)
    np.testing.assert_array_equal(
        one.subjects[0].probabilities[tested], two.subjects[0].probabilities[tested]
    )


def test_rules_for_new_patients_are_those_of_all() -> None:
    folds = folds_of(2)
    found = assessed(folds)
    every = Predictions.join([fold.rows for fold in folds])
    fit = reliability.fit_unit(every.by_subject(), "subject", 3, OPTIONS, "out-of-fold")
    for name in ("temperature", "threshold", "confidence_threshold"):
        ours = getattr(found.rules.subject, name)
        assert ours == pytest.approx(getattr(fit.rules, name), rel=1e-6)
    assert found.rules.subject.sets.limits == pytest.approx(fit.sets.limits, rel=1e-6)
    # Each fold's network has its own temperature of images.
    assert found.rules.image.temperature == 1.0
    assert found.content["held_out"]["subjects"] == 60
    content = json.loads(json.dumps(found.content, allow_nan=False))
    assert Rules.from_json(content["rules"], 3) == found.rules
    said = " ".join(calibration_text.text(content).split())
    assert "by rules that were chosen on other patients" in said and "Cross-conformal" in said


def test_repeats_are_not_mixed() -> None:
    """Rules of a fold come from its own repeat: those of others hold the same patients."""
    twice = folds_of(3, repeats=2)
    found, alone = assessed(twice), assessed(twice[:5])
    assert len(found.subjects) == 2 and len(found.subjects[0]) == 60
    np.testing.assert_array_equal(found.subjects[0].probabilities, alone.subjects[0].probabilities)
    for unit in UNITS:
        assert found.content[unit]["abstention"]["test"]["coverage"]["n"] == (
            120 if unit == "subject" else 720
        )


def test_repeated_hold_outs_leave_out_the_tested_patients() -> None:
    """A patient may be in several test sets: rules of one never come from the patient itself."""
    every = folds_of(4, folds=3, repeats=4)
    folds = [Fold(every[3 * repeat].rows, repeat) for repeat in range(4)]
    found = assessed(folds)
    for k, fold in enumerate(folds):
        others = Predictions.join([other.rows.by_subject() for other in folds if other is not fold])
        others = others.take(~np.isin(others.subjects, fold.rows.subjects))
        _, first = np.unique(others.subjects, return_index=True)
        fitted = calibration.fit_temperature(others.take(np.sort(first)))
        assert found.content["subject"]["temperatures"][k] == fitted.value


def test_split_by_image_has_one_row_for_each_subject() -> None:
    images = Predictions.join([fold.rows for fold in folds_of(5)])
    part = np.arange(len(images)) % 5
    folds = [Fold(images.take(part == k)) for k in range(5)]
    found = assessed(folds, by_subject=False)
    assert sorted(found.subjects[0].subjects) == sorted(set(images.subjects))
    assert found.content["image"]["abstention"]["test"]["coverage"]["n"] == len(images)


def test_a_single_hold_out_has_no_other_patients() -> None:
    found = assessed(folds_of(6)[:1])
    assert found.content["subject"]["temperatures"] == [1.0]
    assert found.content["subject"]["prediction_set"]["test"]["mean_size"] == 3.0
    assert found.rules.subject.sets.subjects == 12
