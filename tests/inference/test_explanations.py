"""What is explained at the end of a run: the surest errors, some right answers, and only these."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import images_of, one_stage_config

from sscjax.evaluation import predictions as predictions_module
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import single_run
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.system import run_dir
from sscjax.training import settings, setup

pytestmark = pytest.mark.usefixtures("quick_compiler")


def predictions(labels: list[int], confidence: list[float], answers: list[int]) -> Predictions:
    """Two rows of subject p0, two of p1 and so on; the answer has `confidence`."""
    rows = np.arange(len(labels))
    probabilities = np.tile((1 - np.array(confidence)) / 2, (3, 1)).T
    probabilities[rows, answers] = confidence
    return Predictions(
        files=rows.astype(str),
        subjects=np.array([f"p{row // 2}" for row in rows]),
        splits=np.array(["test"] * (len(rows) - 1) + ["train"]),
        labels=np.array(labels),
        probabilities=probabilities,
        classes=("a", "b", "c"),
    )


def test_chooses_the_surest() -> None:
    labels = [0, 0, 0, 0, 1, 1, 2, 2, 2]
    answers = [0, 0, 0, 0, 2, 0, 2, 1, 0]
    confidence = [0.9, 0.8, 0.7, 0.6, 0.5, 0.95, 0.4, 0.99, 1.0]
    errors, right = explanations.choose(predictions(labels, confidence, answers), "test")
    # Row 8 is as sure, but of the training split.
    assert errors.tolist() == [7, 5, 4]
    # Of class 0 the surest of p0, then of p1, before the second of p0; of class 1 none is right.
    assert right.tolist() == [0, 2, 6]


def test_numbers_are_bounded() -> None:
    count = 101
    table = predictions([0] * count, [0.6] * count, [1] * count)
    errors, right = explanations.choose(table, "test")
    assert errors.tolist() == list(range(explanations.ERRORS)) and not len(right)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "write", lambda folder: ())
        single_run.run(one_stage_config(), folder)
    return folder


def test_run_writes_what_its_predictions_say(run: Path) -> None:
    found = json.loads((run / "explanations" / run_dir.EXPLANATIONS_INDEX).read_text("utf-8"))
    table = predictions_module.Predictions.read_csv(run / "predictions.csv").where("test")
    row_of = {file: row for row, file in enumerate(table.files.tolist())}
    wrong = int((table.predicted != table.labels).sum())
    assert found["errors_in_all"] == wrong
    assert sum(not entry["right"] for entry in found["images"]) == min(wrong, explanations.ERRORS)
    assert (found["layers"], found["map_size"]) == (["conv1_2_relu"], [28, 28])
    config = one_stage_config()
    images = images_of(config).originals
    for entry in found["images"]:
        row = row_of[entry["file"]]
        assert entry["label"] == table.classes[table.labels[row]]
        assert entry["prediction"] == table.classes[table.predicted[row]]
        assert entry["probability"] == table.probabilities[row].max()
        assert entry["right"] == (entry["label"] == entry["prediction"])
        assert len(entry["maps"]) == (1 if entry["right"] else 2)
        with Image.open(run / "explanations" / entry["image"]) as image:
            place = images.files.tolist().index(entry["file"])
            np.testing.assert_array_equal(np.asarray(image), images.images[place])
        for one in entry["maps"]:
            with Image.open(run / "explanations" / one["overlay"]) as image:
                assert image.size == (32, 32)


def test_written_again_it_is_the_same_and_nothing_else(run: Path) -> None:
    place = run / "explanations"
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    (place / "99.png").write_bytes(b"left over")
    config = one_stage_config()
    images = images_of(config)
    network = setup.build_network(settings.read(config), images, earlier_fallback=False)
    table = predictions_module.Predictions.read_csv(run / "predictions.csv")
    explanations.write(run, images, network, "head", table)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
