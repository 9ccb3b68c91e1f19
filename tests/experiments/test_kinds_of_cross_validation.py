"""Cross-validation by image, by leaving out subjects, and nested; from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from small_runs import one_stage_config, write_folder

from sscjax import main
from sscjax.errors import UserError
from sscjax.evaluation import metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config, summarize
from sscjax.experiments.cross_validation import all_folds, folds
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.system import terminal
from sscjax.training import settings

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Any:
    """Nor the page: they take most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(html, "write", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        yield


@pytest.mark.slow
def test_repeats_by_image_of_copies_made_before(tmp_path: Path) -> None:
    """The paper's leak, cross-validated: every run makes the same copies, whatever its seed."""
    config = one_stage_config()
    config.loss.class_weights = "none"
    config.protocol = "kfold"
    config.split.by = "image"
    config.augment.counts_before_split = "normal:30,early:16,late:16"
    config.augment.copies = 0
    config.model.outputs = 4
    config.cv.folds = 2
    config.cv.repeats = 2
    config.stages.head.epochs = 1
    text = all_folds.run(config, tmp_path / "run")
    assert "SPLIT BY IMAGE" in text and "Each image is tested 2 times" in text
    assert "Accuracy of each repeat's own table" in text
    table = Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    files, times = np.unique(table.files, return_counts=True)
    assert len(files) == 62 and set(times) == {2}
    assert table.classes == ("normal", "early", "late", "unused")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    halves = [metrics.figures(table.take(np.arange(62) + 62 * k), True) for k in range(2)]
    mean = np.mean([half["accuracy"] for half in halves])
    assert found["over_repeats"]["image"]["accuracy"]["mean"] == pytest.approx(mean)
    assert found["splits"]["test"]["image"]["accuracy"] == pytest.approx(mean)


@pytest.mark.slow
def test_folds_that_are_fitted_to_convergence_have_no_validation(tmp_path: Path) -> None:
    """Each image is tested once and in the out-of-fold predictions of all other folds."""
    config = one_stage_config()
    config.protocol = "nested"
    config.cv.folds = config.cv.inner_folds = 2
    config.cv.search = ("loss.class_weights=balanced,none",)
    config.model.cnn_dense = ()
    config.stages.head.optimizer = "lbfgs"
    config.stages.head.l2 = (1e-1, 1.0)
    text = all_folds.run(config, tmp_path / "run")
    assert "Each fold chose its settings by 2 inner folds" in text
    table = Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    for place in sorted((tmp_path / "run" / "folds").iterdir()):
        tested = Predictions.read_csv(place / "predictions.csv").where("test")
        held_out = Predictions.read_csv(place / "stages" / "head" / "out_of_fold.csv")
        assert {*tested.files, *held_out.files} == set(table.files.tolist())
        assert not set(tested.subjects.tolist()) & set(held_out.subjects.tolist())
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    for fold in found["folds"]:
        assert list(fold["splits"]) == ["test"]
        assert fold["out_of_fold"]["image"]["n"] == 48 - fold["splits"]["test"]["image"]["n"]


@pytest.mark.slow
def test_leaving_out_subjects_of_one_class_each(tmp_path: Path) -> None:
    """Six subjects; every test fold holds one class, and of the other nothing can be said."""
    config = one_stage_config()
    config.loss.class_weights = "none"
    config.protocol = "loso"
    config.data.path = str(write_folder(tmp_path / "images", subjects=3, tiles=6))
    config.data.classes = ("normal", "early")
    for path in (tmp_path / "images" / "late").rglob("*.png"):
        path.unlink()
    manifest = tmp_path / "images" / "manifest.csv"
    lines = manifest.read_text("utf-8").splitlines()
    manifest.write_text("\n".join(line for line in lines if ",late," not in line), "utf-8")
    config.stages.head.epochs = 1
    text = all_folds.run(config, tmp_path / "run")
    assert "Leave-one-subject-out cross-validation by subject: 6 models of 12 images." in text
    assert "no fold has images of every class" in text
    table = Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(table) == len(set(table.files.tolist())) == 12
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert found["splits"]["test"]["image"]["macro_auroc"] is not None
    assert found["over_folds"]["image"]["accuracy"]["n"] == 6
    assert found["over_folds"]["image"]["balanced_accuracy"]["n"] == 0
    for place in sorted((tmp_path / "run" / "folds").iterdir()):
        one = json.loads((place / "metrics.json").read_text("utf-8"))
        test, ranges = one["splits"]["test"]["image"], one["test_intervals"]["image"]
        assert sorted(entry["support"] for entry in test["per_class"]) == [0, 2]
        assert test["macro_auroc"] is None
        # One subject is one draw: no interval can be had.
        assert all(ranges[name] is None for name in metrics.OVERALL)
        assert "ONE SUBJECT IS TESTED" in (place / "report.txt").read_text("utf-8")


@pytest.mark.slow
def test_nested_prefers_the_sensible_learning_rate(tmp_path: Path) -> None:
    config = one_stage_config()
    config.loss.class_weights = "none"
    config.protocol = "nested"
    config.split.by = "image"  # six subjects of a class are too few to be halved twice
    config.cv.folds = 2
    config.cv.inner_folds = 2
    config.cv.search = ("stages.head.learning_rate=100.0,1e-3",)
    config.select.metric = "log_loss"
    config.stages.head.epochs = 1
    run = tmp_path / "run"
    text = all_folds.run(config, run)
    assert text.count("stages.head.learning_rate=0.001") == 2 and "Scores: log_loss" in text
    plan = folds.plan(config, data_from_config.load_images(settings.read(config))[0])
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    for fold, listed in zip(plan, found["folds"], strict=True):
        record = json.loads((run / "folds" / fold.name / "run.json").read_text("utf-8"))
        assert record["config"]["stages"]["head"]["learning_rate"] == 1e-3
        tested = Predictions.read_csv(run / "folds" / fold.name / "predictions.csv").where("test")
        for number, candidate in enumerate(listed["search"]["candidates"]):
            scores = []
            for inner in fold.inner:
                place = run / "search" / fold.name / f"candidate_{number}-{inner.name}"
                table = Predictions.read_csv(place / "stages" / "head" / "predictions.csv")
                # No inner run has so much as heard of the images that the fold tests.
                assert not set(table.files.tolist()) & set(tested.files.tolist())
                scores.append(metrics.validation_metric("log_loss", table.where("test")))
                assert not (place / "checkpoints").exists()
            assert candidate["scores"] == scores
            assert candidate["mean"] == pytest.approx(np.mean(scores))
        assert listed["search"]["chosen"] == 1


@pytest.mark.slow
def test_diverged_candidate_scores_nothing(tmp_path: Path) -> None:
    config = one_stage_config()
    config.stages.head.learning_rate = 1e30
    loaded = data_from_config.load_images(settings.read(config))
    found = all_folds._score("accuracy", "candidate", config, tmp_path / "run", loaded, False)
    assert found is None


@pytest.mark.slow
def test_command_line_takes_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs_run: list[Any] = []

    def run(config: ConfigDict, folder: Path, **rest: Any) -> str:
        configs_run.append((config.protocol, config.cv.folds, config.cv.search, folder.name))
        raise UserError("enough was seen")  # what follows reads the run

    monkeypatch.setattr(all_folds, "run", run)
    monkeypatch.setattr(terminal, "set_up_jax", lambda: None)
    monkeypatch.setattr(terminal, "set_up_log", lambda: None)
    repository = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    arguments = [
        "sscjax",
        f"--config={repository / 'configs' / 'three_class.py'}",
        "--config.protocol=kfold",
        "--config.cv.folds=4",
        "--config.cv.search=('stages.head.learning_rate=1e-4,1e-3',)",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(UserError, match="enough was seen"):
        main.main()
    wanted = ("kfold", 4, ("stages.head.learning_rate=1e-4,1e-3",), "three_class-kfold")
    assert configs_run == [wanted]
