"""Small runs of other images, outputs and fields: what they report, and what they refuse."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import one_stage_config, small_config, write_folder

from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import data_from_config, single_run, summarize
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.training import settings


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half of a small run's time."""
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    monkeypatch.setattr(html, "write", lambda folder: ())


def test_images_without_subjects_are_reported(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    (folder / "manifest.csv").unlink()
    for path in sorted(folder.rglob("*.png")):
        label = path.relative_to(folder).parts[0]
        path.rename(folder / label / f"{path.parent.name}_{path.name}")
    config = one_stage_config()
    config.data.path = str(folder)
    text = single_run.run(config, tmp_path / "run")
    assert text.startswith("NO SUBJECTS") and "ONE IMAGE" not in text
    recorded = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    # The classes are in the order of their names, which is no order of severity.
    assert recorded["splits"]["test"]["image"]["quadratic_kappa"] is None


@pytest.mark.slow
def test_one_image_per_subject_is_something_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{line.rpartition(',')[0]},{index}" for index, line in enumerate(lines[1:])]
    (folder / "manifest.csv").write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    config = one_stage_config()
    config.data.path = str(folder)
    text = single_run.run(config, tmp_path / "run")
    assert text.startswith("ONE IMAGE PER SUBJECT") and "NO SUBJECTS" not in text


@pytest.mark.slow
def test_non_finite_loss_names_the_epoch(tmp_path: Path) -> None:
    config = small_config()
    config.stages.head.learning_rate = 1e30
    with pytest.raises(UserError, match=r"in epoch \d of stage head"):
        single_run.run(config, tmp_path / "run")


def test_bad_data_leaves_no_run_folder(tmp_path: Path) -> None:
    config = small_config()
    config.data.path = str(tmp_path / "missing")
    with pytest.raises(UserError, match="missing"):
        single_run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_early_stopping_ends_a_stage(tmp_path: Path) -> None:
    config = one_stage_config()
    config.stages.head.epochs = 4
    config.stages.head.learning_rate = 0.0  # nothing improves after the first epoch
    config.stages.head.patience = 2
    single_run.run(config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "stages" / "head" / "stage.json").read_text("utf-8"))
    assert record["progress"]["stopped_early"] and record["progress"]["epoch"] == 3


def test_paper_protocol_with_one_output(tmp_path: Path) -> None:
    config = one_stage_config()
    config.data.merge = "early=ssc,late=ssc"
    config.split.by = "image"
    config.split.counts = "normal:30/5/5,ssc:28/4/4"
    config.augment.counts_before_split = "normal:40,ssc:36"
    config.augment.copies = 0
    config.model.outputs = 1
    config.select.metric = "none"
    text = single_run.run(config, tmp_path / "run")
    assert "SPLIT BY IMAGE" in text
    table = predictions.Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.classes == ("normal", "ssc") and len(table.where("train")) == 58


@pytest.mark.parametrize("name", ["two_class", "best_two_class"])
def test_two_class_configs_on_other_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The configs' merge is of their own labels; a set with two others has nothing to merge."""
    config = importlib.import_module(f"sscjax.configs.{name}").get_config()
    config.data.image_size = 32
    for labels, expected, said in (
        (("ill", "well"), ("ill", "well"), "does not apply"),
        (("a", "b", "c"), ("a", "b", "c"), "nothing is merged"),
        (("early", "late", "normal"), ("ssc", "normal"), ""),
    ):
        caplog.clear()
        folder = tmp_path / "".join(labels)
        for label in labels:
            (folder / label / "patient").mkdir(parents=True)
            pixels = np.full((32, 32, 3), len(label), np.uint8)
            Image.fromarray(pixels).save(folder / label / "patient" / "a.png")
        config.data.path = str(folder)
        with caplog.at_level("INFO"):
            image_set, _ = data_from_config.load_images(settings.read(config))
        assert image_set.classes == expected
        assert said in caplog.text


@pytest.mark.slow
def test_more_outputs_than_classes(tmp_path: Path) -> None:
    config = one_stage_config()
    config.model.outputs = 4
    single_run.run(config, tmp_path / "run")
    table = predictions.Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.classes == ("normal", "early", "late", "unused")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("select.metric", "acuracy", "expected one of"),
        # Known when the images are.
        ("model.outputs", 2, "expected at least 3"),
        ("stages.head.freeze_first", 1000, "expected 0 to"),
    ],
)
def test_bad_fields_leave_no_run_folder(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    config = small_config()
    *blocks, name = field.split(".")
    place = functools.reduce(lambda block, part: block[part], blocks, config)
    place[name] = value
    with pytest.raises(UserError, match=message):
        single_run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
