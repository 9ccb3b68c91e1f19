"""What a run says of its own trust: calibration.json, the block in report.txt, the picture."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import special

from sscjax.errors import UserError
from sscjax.evaluation import abstention, calibration, conformal, reliability
from sscjax.evaluation.predictions import SPLITS, Predictions
from sscjax.evaluation.rules import UNITS, Rules
from sscjax.reports import calibration_text, figures
from sscjax.system import formatting

OPTIONS = reliability.Options(True, 10, "mass", "youden", 0.95, 0.8, 0.05)


def run_of(
    subjects: int = 63, classes: int = 3, outputs: int = 3, images: int = 8, sure: float = 3.0
) -> tuple[Predictions, reliability.Features]:
    """A run's table and features: `subjects` of `images` images, a third in each split."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(subjects), images)
    labels = owner % classes
    logits = rng.normal(0, 1, (len(owner), outputs))
    logits[np.arange(len(owner)), labels] += 1 + rng.normal(0, 0.5, subjects)[owner]
    names = ("normal", "early", "late")[:classes] + ("unused",) * (outputs - classes)
    predictions = Predictions(
        files=np.char.add(np.arange(len(owner)).astype(str), ".png"),
        subjects=owner.astype(str),
        splits=np.array(SPLITS)[owner // classes % 3],
        labels=labels,
        probabilities=special.softmax(sure * logits, axis=1),
        classes=names,
    )
    features = rng.gamma(2.0, 1.0, (len(owner), 16))
    shifted = rng.gamma(2.0, 1.0, (9, 16)) * (np.arange(16) < 3)
    return predictions, reliability.Features(features, {"noise": shifted})


def assessed(
    predictions: Predictions,
    features: reliability.Features,
    options: reliability.Options = OPTIONS,
    names: tuple[str, ...] = (),
    label: Any = "majority",
) -> reliability.Assessment:
    """With the rules chosen on the validation images."""
    held_out = predictions.where("val")
    return reliability.assess(
        predictions, held_out, names or predictions.classes, features, options, subject_label=label
    )


def found_of(**wish: Any) -> dict[str, Any]:
    predictions, features = run_of(**wish)
    names = predictions.classes[: wish.get("classes", 3)]
    return assessed(predictions, features, names=names).content


@functools.cache
def usual() -> dict[str, Any]:
    return found_of()


# ---- the content --------------------------------------------------------------------------------


def test_everything_is_json_and_repeats() -> None:
    text = json.dumps(usual(), allow_nan=False)
    assert json.dumps(found_of(), allow_nan=False) == text
    assert json.loads(text) == usual()


def test_a_network_that_is_too_sure_is_calibrated() -> None:
    for unit, rows in (("image", 168), ("subject", 21)):
        found = usual()[unit]
        assert found["reason"] == "" and found["gain"] > found["standard_error"]
        for table in ("held_out", "test"):
            before, after = found["splits"][table]["before"], found["splits"][table]["after"]
            first, second = found["log_loss"][table]
            assert second < first
            assert sum(one["n"] for one in after["bins"]) == rows
            if unit == "image":
                assert after["ece"] < before["ece"] and after["brier"] < before["brier"]
    assert usual()["image"]["temperature"] > 1.5
    # The mean of a subject's calibrated images is not confident enough.
    assert usual()["subject"]["temperature"] < 1


def test_the_flag_is_tried_and_listed() -> None:
    outliers = usual()["outliers"]
    made_up = outliers["made_up_flagged"]["noise"]
    assert made_up == 1.0 and outliers["share_flagged"]["val"] <= 0.05
    assert outliers["usable"] and outliers["warnings"] == []
    farthest = outliers["farthest"]
    assert len(farthest) == 20 and {one["split"] for one in farthest} == {"val", "test"}
    assert [one["distance"] for one in farthest] == sorted(
        (one["distance"] for one in farthest), reverse=True
    )


def test_a_flag_that_misses_what_is_made_up_is_unusable() -> None:
    predictions, features = run_of(subjects=9)
    blind = dataclasses.replace(features, made_up={"noise": features.images[:9]})
    outliers = assessed(predictions, blind).content["outliers"]
    assert not outliers["usable"]
    said = calibration_text.text(assessed(predictions, blind).content)
    assert "The flag is not usable and is not applied" in said
    # Three subjects with 24 images set its limit.
    assert "24 held-out images of 3 subjects" in " ".join(said.split())


def test_subjects_have_rules_of_their_own() -> None:
    """Those of a table of subjects, aggregated from calibrated images, by the same methods."""
    predictions, features = run_of()
    for aggregation in ("mean", "geometric"):
        options = dataclasses.replace(OPTIONS, aggregation=aggregation)
        found = assessed(predictions, features, options)
        image = found.content["image"]["temperature"]
        rows = calibration.apply(predictions, image).by_subject(aggregation)
        held_out = rows.where("val")
        temperature = calibration.fit_temperature(held_out)
        assert found.rules.subject.temperature == temperature.value != image
        after = calibration.apply(rows, temperature.value)
        np.testing.assert_array_equal(found.subjects.probabilities, after.probabilities)
        chosen = abstention.choose_confidence(
            after.where("val"), OPTIONS.target_accuracy, "validation subjects"
        )
        assert found.rules.subject.confidence_threshold == chosen.value
        assert found.rules.subject.abstention_rule == chosen.text
        sets = conformal.fit(after.where("val"), 3, 0.9, cross=False)
        assert found.rules.subject.sets == sets and sets.subjects == 21
        test = after.where("test")
        answered = abstention.answered(test, chosen.value or 0)
        assert found.content["subject"]["abstention"]["test"] == answered
        given = found.content["subject"]["prediction_set"]["test"]
        assert given == conformal.figures(test, sets.members(test.probabilities))
    content = json.loads(json.dumps(found.rules.to_json()))
    assert Rules.from_json(content, 3) == found.rules
    with pytest.raises(ValueError, match="3 limits, not 2"):
        Rules.from_json(content, 2)
    assert found.content["rules"] == found.rules.to_json()


@pytest.mark.parametrize("label", ["majority", "worst", "image"])
def test_subjects_of_several_labels_are_counted_and_said(label: Any) -> None:
    predictions, features = run_of()
    labels = predictions.labels.copy()
    # Of the first test subject one image, of the next half of the images, are of another class.
    first, second = np.unique(predictions.subjects[predictions.splits == "test"])[:2]
    rows = np.flatnonzero(predictions.subjects == first)
    labels[rows] = [0] * 7 + [2]
    rows = np.flatnonzero(predictions.subjects == second)
    labels[rows] = [0, 1] * 4
    mixed = dataclasses.replace(predictions, labels=labels)
    found = assessed(mixed, features, label=label)
    assert found.content["several_labels"] == 2
    of = dict(zip(found.subjects.subjects, found.subjects.labels, strict=True))
    expected = {"majority": (0, 1), "worst": (2, 1), "image": (None, None)}[label]
    assert (of.get(first), of.get(second)) == expected
    said = " ".join(calibration_text.text(found.content).split())
    assert "2 subjects have images of several labels" in said


def test_what_held_out_rows_were_used_for_is_said_once() -> None:
    predictions, features = run_of()
    found = reliability.assess(
        predictions,
        predictions.where("val"),
        predictions.classes,
        features,
        OPTIONS,
        also_used_for=("epoch",),
    )
    uses = found.content["held_out"]["used_for"]
    assert uses == ["epoch", *reliability.USES] and len(uses) == 6
    said = " ".join(calibration_text.text(found.content).split())
    assert said.startswith("Rules rest on 21 subjects with 168 images held out for validation")
    assert said.count(", ".join(uses)) == 1


def test_other_test_images_change_no_choice() -> None:
    """Temperature, thresholds and flag know nothing of the test split."""
    predictions, features = run_of()
    test = predictions.splits == "test"
    turned = np.where(test[:, None], predictions.probabilities[:, ::-1], predictions.probabilities)
    other = dataclasses.replace(predictions, probabilities=turned)
    moved = dataclasses.replace(
        features, images=np.where(test[:, None], features.images[:, ::-1] ** 2, features.images)
    )
    found = assessed(other, moved).content
    assert found["rules"] == usual()["rules"]
    assert found["outliers"]["threshold"] == usual()["outliers"]["threshold"]
    for unit in UNITS:
        assert found[unit]["splits"]["test"] != usual()[unit]["splits"]["test"]


def test_held_out_rows_may_be_out_of_fold_predictions_of_training_patients() -> None:
    """A refitted network has no validation images: its own training rows choose nothing."""
    predictions, features = run_of()
    held_out = predictions.where("val")
    trained = dataclasses.replace(
        predictions, splits=np.where(predictions.splits == "val", "train", predictions.splits)
    )
    # What the refitted network says of the patients it was trained on is far too sure.
    sure = np.where(
        (trained.splits == "train")[:, None],
        np.eye(3)[trained.labels],
        trained.probabilities,
    )
    refitted = dataclasses.replace(trained, probabilities=sure)
    distances = assessed(predictions, features).detector.distances(
        features.images[predictions.splits == "val"]
    )
    given = dataclasses.replace(features, held_out=distances)
    found = reliability.assess(refitted, held_out, predictions.classes, given, OPTIONS)
    assert found.content["rules"] == usual()["rules"]
    for unit in UNITS:
        assert found.content[unit] == usual()[unit]
    # The detector has more training images, and the threshold that was given.
    assert found.detector.threshold == usual()["outliers"]["threshold"]


def test_temperature_can_be_left_out() -> None:
    predictions, features = run_of()
    options = dataclasses.replace(OPTIONS, temperature=False)
    found = assessed(predictions, features, options)
    np.testing.assert_array_equal(found.predictions.probabilities, predictions.probabilities)
    for unit in UNITS:
        assert found.content[unit]["temperature"] == 1.0
        assert "is off" in found.content[unit]["reason"]


@pytest.mark.parametrize(
    "wish",
    [
        {"classes": 2, "outputs": 2},
        {"classes": 3, "outputs": 4},
        {"subjects": 9, "images": 1},
        {"subjects": 18, "images": 1},
        {"subjects": 9, "images": 30},
        {"sure": 50.0},
    ],
)
def test_small_and_odd_runs(wish: dict[str, Any]) -> None:
    found = found_of(**wish)
    json.dumps(found, allow_nan=False)
    text = calibration_text.text(found)
    assert max(map(len, text.splitlines())) <= formatting.WIDTH
    for unit in UNITS:
        assert "unused" not in found[unit]["threshold"]["positive"]


def test_a_class_that_validation_lacks() -> None:
    predictions, features = run_of()
    keep = (predictions.splits != "val") | (predictions.labels > 0)
    kept = reliability.Features(features.images[keep], features.made_up)
    found = assessed(predictions.take(keep), kept).content
    for unit in UNITS:
        assert found[unit]["threshold"]["value"] == 0.5
        assert found[unit]["threshold"]["held_out"]["specificity"]["value"] is None
    assert "one half" in calibration_text.text(found)


def test_without_test_images() -> None:
    predictions, features = run_of()
    keep = predictions.splits != "test"
    kept = reliability.Features(features.images[keep], features.made_up)
    found = assessed(predictions.take(keep), kept).content
    for unit in UNITS:
        assert found[unit]["coverage"] == [] and set(found[unit]["splits"]) == {"held_out"}
    said = calibration_text.text(found).replace("the test rows chose nothing", "")
    assert "test" not in said


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bins", 0, "bins=0: expected 1 or more"),
        ("binning", "quantile", "'mass' or 'width'"),
        ("threshold", "f1", "'youden' or 'sensitivity'"),
        ("sensitivity", 0.0, "more than 0"),
        ("target_accuracy", 90.0, "target_accuracy=90.0"),
        ("outlier_rate", 1.0, "between 0 and 1"),
        ("set_level", 1.0, "set_level=1.0: expected between 0 and 1"),
        ("aggregation", "median", "'mean' or 'geometric'"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(OPTIONS, **{field: value})


# ---- what is shown ------------------------------------------------------------------------------


def test_text_says_the_patient_first() -> None:
    found = usual()
    text = calibration_text.text(found)
    lines = text.splitlines()
    assert max(map(len, lines)) <= formatting.WIDTH
    by_subject, _, by_image = text.partition("\nPer image:\n")
    assert "Per subject, whose row is the mean of its images' probabilities" in by_subject
    for unit, part in (("subject", by_subject), ("image", by_image)):
        block = found[unit]
        assert f"a temperature of {block['temperature']:.2f}" in part
        after = block["splits"]["test"]["after"]
        row = next(line for line in part.splitlines() if line.startswith("test after"))
        low, high = after["ece_interval"]
        assert f"{after['ece']:.3f}  {low:.3f} to {high:.3f}" in row
        assert f"{after['brier']:.3f}" in row
        # No interval of the rows on which the temperature was fitted.
        held_out = next(line for line in part.splitlines() if line.startswith("held-out after"))
        assert " to " not in held_out
        sensitivity = next(line for line in part.splitlines() if line.startswith("sensitivity"))
        assert f"{100 * block['threshold']['test']['sensitivity']['value']:.1f} %" in sensitivity
        size = block["prediction_set"]["test"]["mean_size"]
        assert f"{size:.2f}" in part
    assert lines[-1].endswith("of images made up to try the flag: 100.0 % of noise.")


def test_picture_shows_both_states(tmp_path: Path) -> None:
    figures.write_png(
        tmp_path / "calibration.png", figures.calibration(usual()["subject"], rows="subjects")
    )
    with Image.open(tmp_path / "calibration.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1000
    for half in (pixels[:, :500], pixels[:, 500:]):
        blue = np.abs(half - [0x00, 0x72, 0xB2]).max(-1) < 4
        assert blue.sum() > 100
    red = np.abs(pixels[:, :500] - [0xD5, 0x5E, 0x00]).max(-1) < 4
    assert red.sum() > 50
    nothing = {**usual()["image"], "splits": {}, "coverage": []}
    figures.write_png(tmp_path / "nothing.png", figures.calibration(nothing))
    assert (tmp_path / "nothing.png").stat().st_size > 0
