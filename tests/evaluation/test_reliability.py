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
from sscjax.evaluation import reliability
from sscjax.evaluation.predictions import SPLITS, Predictions
from sscjax.reports import figures, tables
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
) -> reliability.Assessment:
    """With the rules chosen on the validation images."""
    held_out = predictions.where("val")
    return reliability.assess(
        predictions, held_out, names or predictions.classes, features, options
    )


def found_of(**wish: Any) -> dict[str, Any]:
    predictions, features = run_of(**wish)
    names = predictions.classes[: wish.get("classes", 3)]
    return assessed(predictions, features, names=names).found


@functools.cache
def usual() -> dict[str, Any]:
    return found_of()


# ---- the content --------------------------------------------------------------------------------


def test_everything_is_json_and_repeats() -> None:
    text = json.dumps(usual(), allow_nan=False)
    assert json.dumps(found_of(), allow_nan=False) == text
    assert json.loads(text) == usual()


def test_a_network_that_is_too_sure_is_calibrated() -> None:
    found = usual()
    assert found["temperature"] > 1.5 and found["reason"] == ""
    for split in ("val", "test"):
        before, after = found["splits"][split]["before"], found["splits"][split]["after"]
        assert after["ece"] < before["ece"] and after["brier"] < before["brier"]
        first, second = found["log_loss"][split]
        assert second < first
        assert sum(one["n"] for one in after["bins"]) == 168
    made_up = found["outliers"]["made_up_flagged"]["noise"]
    assert made_up == 1.0 and found["outliers"]["share_flagged"]["val"] <= 0.05
    farthest = found["outliers"]["farthest"]
    assert len(farthest) == 20 and {one["split"] for one in farthest} == {"val", "test"}
    assert [one["distance"] for one in farthest] == sorted(
        (one["distance"] for one in farthest), reverse=True
    )


def test_no_class_changes_and_probabilities_are_of_that_temperature() -> None:
    predictions, features = run_of()
    found = assessed(predictions, features)
    np.testing.assert_array_equal(found.predictions.predicted, predictions.predicted)
    power = predictions.probabilities ** (1 / found.found["temperature"])
    expected = power / power.sum(1, keepdims=True)
    np.testing.assert_allclose(found.predictions.probabilities, expected)
    # The splits are of one size.
    shares = found.found["outliers"]["share_flagged"].values()
    assert found.detector.flag(features.images).mean() == pytest.approx(sum(shares) / 3)


def test_other_test_images_change_no_choice() -> None:
    """Temperature, thresholds and flag know nothing of the test split."""
    predictions, features = run_of()
    test = predictions.splits == "test"
    turned = np.where(test[:, None], predictions.probabilities[:, ::-1], predictions.probabilities)
    other = dataclasses.replace(predictions, probabilities=turned)
    moved = dataclasses.replace(
        features, images=np.where(test[:, None], features.images[:, ::-1] ** 2, features.images)
    )
    found = assessed(other, moved).found
    for name in ("threshold", "abstention", "outliers"):
        key = "value" if name == "threshold" else "threshold"
        assert found[name][key] == usual()[name][key]
    assert found["temperature"] == usual()["temperature"]
    assert found["splits"]["test"] != usual()["splits"]["test"]


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
    for name, key in (("threshold", "value"), ("abstention", "threshold")):
        assert found.found[name][key] == usual()[name][key]
    assert found.found["temperature"] == usual()["temperature"]
    assert found.found["splits"] == usual()["splits"]
    # The detector has more training images, and the threshold that was given.
    assert found.detector.threshold == usual()["outliers"]["threshold"]


def test_temperature_can_be_left_out() -> None:
    predictions, features = run_of()
    options = dataclasses.replace(OPTIONS, temperature=False)
    found = assessed(predictions, features, options)
    np.testing.assert_array_equal(found.predictions.probabilities, predictions.probabilities)
    assert found.found["temperature"] == 1.0 and "is off" in found.found["reason"]


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
    text = tables.calibration_text(found)
    assert max(map(len, text.splitlines())) <= formatting.WIDTH
    assert "unused" not in found["threshold"]["positive"]


def test_a_class_that_validation_lacks() -> None:
    predictions, features = run_of()
    keep = (predictions.splits != "val") | (predictions.labels > 0)
    kept = reliability.Features(features.images[keep], features.made_up)
    found = assessed(predictions.take(keep), kept).found
    assert found["threshold"]["value"] == 0.5
    assert found["threshold"]["val"]["specificity"]["value"] is None
    assert "one half" in tables.calibration_text(found)


def test_without_test_images() -> None:
    predictions, features = run_of()
    keep = predictions.splits != "test"
    kept = reliability.Features(features.images[keep], features.made_up)
    found = assessed(predictions.take(keep), kept).found
    assert found["coverage"] == [] and set(found["splits"]) == {"val"}
    assert "test" not in tables.calibration_text(found).replace("to test", "")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bins", 0, "bins=0: expected 1 or more"),
        ("binning", "quantile", "'mass' or 'width'"),
        ("threshold", "f1", "'youden' or 'sensitivity'"),
        ("sensitivity", 0.0, "more than 0"),
        ("target_accuracy", 90.0, "target_accuracy=90.0"),
        ("outlier_rate", 1.0, "between 0 and 1"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(OPTIONS, **{field: value})


# ---- what is shown ------------------------------------------------------------------------------


def test_text_says_what_was_found() -> None:
    found = usual()
    lines = tables.calibration_text(found).splitlines()
    assert f"temperature {found['temperature']:.2f}" in lines[0] and "overconfident" in lines[1]
    after = found["splits"]["test"]["after"]
    row = next(line for line in lines if line.startswith("test after"))
    low, high = after["ece_interval"]
    assert f"{after['ece']:.3f}  {low:.3f} to {high:.3f}" in row and f"{after['brier']:.3f}" in row
    sensitivity = next(line for line in lines if line.startswith("sensitivity"))
    assert f"{100 * found['threshold']['test']['sensitivity']['value']:.1f} %" in sensitivity
    assert lines[-1] == "of images made up to test the flag: 100.0 % of noise."
    assert max(map(len, lines)) <= formatting.WIDTH


def test_picture_shows_both_states(tmp_path: Path) -> None:
    figures.write_png(tmp_path / "calibration.png", figures.calibration(usual()))
    with Image.open(tmp_path / "calibration.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1000
    for half in (pixels[:, :500], pixels[:, 500:]):
        blue = np.abs(half - [0x00, 0x72, 0xB2]).max(-1) < 4
        assert blue.sum() > 100
    red = np.abs(pixels[:, :500] - [0xD5, 0x5E, 0x00]).max(-1) < 4
    assert red.sum() > 50
    nothing = {**usual(), "splits": {}, "coverage": []}
    figures.write_png(tmp_path / "nothing.png", figures.calibration(nothing))
    assert (tmp_path / "nothing.png").stat().st_size > 0
