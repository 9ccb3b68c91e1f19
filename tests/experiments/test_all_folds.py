"""Cross-validations, end to end: aggregated figures, resuming to the bit, one-class test folds."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from small_runs import one_stage_config, small_config, write_folder, written

from sscjax.data import image_io
from sscjax.errors import UserError
from sscjax.evaluation import calibration
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config, run_stages, single_run, summarize
from sscjax.experiments.cross_validation import all_folds
from sscjax.inference import classifier, ensemble, explanations, predict
from sscjax.reports import html
from sscjax.training import checkpoint, settings, setup

# Some thirty runs of a second each: the time is the compiler's.
pytestmark = pytest.mark.usefixtures("quick_compiler")

RESULTS = (
    *("predictions.csv", "predictions_by_subject.csv", "metrics.json"),
    *("calibration.json", "folds.csv", "protocol.json"),
)


def kfold_config() -> ConfigDict:
    """Two stages that train the classifier alone, three folds of equal sizes."""
    config = small_config()
    config.loss.class_weights = "none"  # so that the folds share their programs
    config.protocol = "kfold"
    config.cv.folds = 3
    config.stages.head.epochs = 2
    config.stages.finetune.epochs = 1
    config.stages.finetune.trainable = "head"
    config.stages.finetune.online_augment = False
    config.stages.finetune.warmup_epochs = 0.0
    return config


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Any:
    """Nor the page: they take most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(html, "write", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def kfold(quick_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kfold") / "run"
    all_folds.run(kfold_config(), folder)
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in RESULTS}
    # How long it took is another each time.
    record = json.loads(found["protocol.json"])
    del record["times"]
    found["protocol.json"] = json.dumps(record).encode()
    for name in ("head", "finetune"):
        path = folder / "stages" / name / "predictions.csv"
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def by_hand(folder: Path, name: str) -> list[dict[str, str]]:
    """The test rows of that table of every fold, one after the other."""
    rows = []
    for path in sorted(folder.glob(f"folds/*/{name}")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["split"] == "test"]
    return rows


def test_aggregated_tables_are_the_folds_tables(kfold: Path) -> None:
    for name in (
        "predictions.csv",
        "stages/head/predictions.csv",
        "stages/finetune/predictions.csv",
    ):
        with (kfold / name).open(encoding="utf-8", newline="") as file:
            ours = list(csv.DictReader(file))
        theirs = by_hand(kfold, name)
        assert len(ours) == len({row["file"] for row in ours}) == 48
        assert sorted(map(str, ours)) == sorted(map(str, theirs))
    config = kfold_config()
    image_set, _ = data_from_config.load_images(settings.read(config))
    with (kfold / "folds.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["file"] for row in listed] == image_set.files.tolist()
    for row, tested in zip(listed, ours, strict=True):
        assert (row["file"], row["label"], row["subject"]) == (
            *(tested["file"], tested["label"], tested["subject"]),
        )


def test_aggregated_figures_are_those_of_scikit_learn(kfold: Path) -> None:
    rows = by_hand(kfold, "predictions.csv")
    found = json.loads((kfold / "metrics.json").read_text("utf-8"))
    classes = found["splits"]["test"]["image"]["classes"]
    labels = [classes.index(row["label"]) for row in rows]
    scores = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    ours = found["splits"]["test"]["image"]
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, scores.argmax(1)))
    assert ours["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, scores.argmax(1))
    )
    assert ours["macro_auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    low, high = found["test_intervals"]["image"]["accuracy"]
    assert low < ours["accuracy"] < high
    accuracies = []
    for number in range(3):
        of_fold = json.loads((kfold / f"folds/fold_{number}/metrics.json").read_text("utf-8"))
        accuracies.append(of_fold["splits"]["test"]["image"]["accuracy"])
    over = found["over_folds"]["image"]["accuracy"]
    assert over["mean"] == pytest.approx(np.mean(accuracies)) and over["n"] == 3
    assert over["sd"] == pytest.approx(np.std(accuracies, ddof=1))


def test_metrics_have_the_keys_of_a_run(kfold: Path) -> None:
    aggregated = json.loads((kfold / "metrics.json").read_text("utf-8"))
    of_run = json.loads((kfold / "folds/fold_0/metrics.json").read_text("utf-8"))
    assert set(of_run) <= set(aggregated)
    assert aggregated["splits"]["test"].keys() == of_run["splits"]["test"].keys()
    for unit in ("image", "subject"):
        assert aggregated["splits"]["test"][unit].keys() == of_run["splits"]["test"][unit].keys()
        ranges = aggregated["test_intervals"][unit]
        assert ranges.keys() == of_run["test_intervals"][unit].keys()


def test_labels_to_check_and_intervals_of_the_procedure_are_kept(kfold: Path) -> None:
    """Every image once, and every subject; the procedure's interval is around the folds' mean."""
    lines = (kfold / "label_noise.csv").read_text("utf-8").splitlines()
    table = Predictions.read_csv(kfold / "predictions.csv")
    subjects = len(set(table.subjects.tolist()))
    assert sum(line.startswith("images,") for line in lines) == len(table) == 48
    assert sum(line.startswith("subjects,") for line in lines) == subjects
    aggregated = json.loads((kfold / "metrics.json").read_text("utf-8"))
    low, high = aggregated["procedure_intervals"]["image"]["log_loss"]
    assert low < aggregated["over_folds"]["image"]["log_loss"]["mean"] < high


def test_report_says_what_it_is(kfold: Path) -> None:
    text = (kfold / "report.txt").read_text(encoding="utf-8")
    assert text.startswith("SYNTHETIC IMAGES")
    assert "3-fold cross-validation by subject: 3 models of 48 images." in text
    assert "mean of folds" in text and "sd of folds" in text and "fold_2" in text
    assert "(aggregated)" in text and "folds' own macro AUROC is" in text
    assert "The paper" not in text and str(kfold) in text  # not the paper's own config
    assert "mean of folds, trained again" in text
    assert "whose label to check" in text or "No label is contradicted" in text
    assert max(map(len, text.replace(str(kfold), "").splitlines())) <= 100
    record = json.loads((kfold / "protocol.json").read_text("utf-8"))
    assert record["kind"] == "kfold" and record["status"] == "finished"
    assert [fold["status"] for fold in record["folds"]] == ["finished"] * 3
    assert sum(fold["test_images"] for fold in record["folds"]) == 48


@pytest.mark.slow
def test_a_fold_is_a_run_that_can_be_made_alone(kfold: Path, tmp_path: Path) -> None:
    record = json.loads((kfold / "folds/fold_1/run.json").read_text("utf-8"))
    config = kfold_config()
    config.update_from_flattened_dict(
        {
            "protocol": "holdout",
            "seed": record["config"]["seed"],
            "data.seed": record["config"]["data"]["seed"],
            "split.seed": record["config"]["split"]["seed"],
            "split.folds": 3,
            "split.fold": 1,
        }
    )
    all_folds.run(config, tmp_path / "run")
    for name in ("predictions.csv", "metrics.json", "splits.csv"):
        alone = (tmp_path / "run" / name).read_bytes()
        assert alone == (kfold / "folds" / "fold_1" / name).read_bytes()


@pytest.mark.slow
def test_killed_anywhere_ends_identical(
    kfold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold saves three checkpoints: killed at the end of fold 0, then within fold 1."""
    save, done = checkpoint.Checkpoints.save, []
    run = tmp_path / "run"

    def save_then_stop(self: checkpoint.Checkpoints, *args: Any) -> None:
        save(self, *args)
        done.append(args[0])
        if len(done) in (3, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        all_folds.run(kfold_config(), run)
    assert not (run / "folds" / "fold_0" / "report.txt").exists()
    with pytest.raises(KeyboardInterrupt):
        all_folds.run(kfold_config(), run)
    record = json.loads((run / "protocol.json").read_text("utf-8"))
    assert record["status"] == "started"
    assert [fold["status"] for fold in record["folds"]] == ["finished", "planned", "planned"]
    first = {path: path.stat().st_mtime_ns for path in (run / "folds" / "fold_0").rglob("*")}
    text = all_folds.run(kfold_config(), run)
    assert {path: path.stat().st_mtime_ns for path in first} == first  # it is not run again
    assert len(done) == 9
    assert outcome(run) == outcome(kfold)
    assert text == (kfold / "report.txt").read_text("utf-8").replace(str(kfold), str(run))


@pytest.mark.slow
def test_killed_before_the_aggregated_report(
    kfold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(kfold, run)
    record = json.loads((run / "protocol.json").read_text("utf-8"))
    text = json.dumps({**record, "status": "started"})
    (run / "protocol.json").write_text(text, encoding="utf-8")
    (run / "predictions.csv").unlink()
    (run / "report.txt").unlink()
    monkeypatch.setattr(single_run, "run", _must_not_train)
    all_folds.run(kfold_config(), run)
    assert outcome(run) == outcome(kfold)


def _must_not_train(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a finished fold was run again")


def test_finished_protocol_changes_nothing(kfold: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = written(kfold)
    with caplog.at_level("INFO", logger="sscjax"):
        text = all_folds.run(kfold_config(), kfold)
    assert "finished" in caplog.text
    assert text == (kfold / "report.txt").read_text(encoding="utf-8")
    assert written(kfold) == before


def test_other_rules_of_calibration_need_no_training(
    kfold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(kfold, run)
    config = kfold_config()
    config.calibration.temperature = False
    monkeypatch.setattr(run_stages, "run_stage", _must_not_train)
    all_folds.run(config, run)
    # Without a temperature the protocol's rows are those of the stages that the folds chose.
    table = Predictions.read_csv(run / "predictions.csv")
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    stage_of = {fold["name"]: fold["final_stage"] for fold in found["folds"]}
    with (run / "folds.csv").open(encoding="utf-8", newline="") as file:
        chosen = [stage_of[row["fold"]] for row in csv.DictReader(file)]
    for name in ("head", "finetune"):
        raw = Predictions.read_csv(run / "stages" / name / "predictions.csv")
        here = np.array([stage == name for stage in chosen])
        np.testing.assert_array_equal(table.probabilities[here], raw.probabilities[here])


def test_what_is_another_protocol_is_refused(kfold: Path, tmp_path: Path) -> None:
    config = kfold_config()
    config.cv.folds = 2
    with pytest.raises(UserError, match="config.cv.folds: 3 then, 2 now"):
        all_folds.run(config, kfold)
    config = kfold_config()
    config.data.synthetic.normal = 30
    config.data.seed = 4
    with pytest.raises(UserError, match="config.data.seed: -1 then, 4 now"):
        all_folds.run(config, kfold)
    with pytest.raises(UserError, match="no run.json"):
        single_run.run(one_stage_config(), kfold)
    with pytest.raises(UserError, match="no protocol.json"):
        all_folds.run(kfold_config(), kfold / "folds" / "fold_0")
    config.protocol = "k-fold"
    with pytest.raises(UserError, match="did you mean 'kfold'"):
        all_folds.run(config, tmp_path / "run")
    config.protocol = "kfold"
    config.cv.folds = 7
    with pytest.raises(UserError, match=r"has 6 subject\(s\).*cv.folds=6 or fewer"):
        all_folds.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_edited_fold_is_noticed(kfold: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kfold, run)
    (run / "report.txt").unlink()
    shutil.copy(run / "folds/fold_1/predictions.csv", run / "folds/fold_0/predictions.csv")
    with pytest.raises(UserError, match="not the 16 images that fold_0 tests"):
        all_folds.run(kfold_config(), run)
    record = json.loads((run / "folds/fold_1/run.json").read_text("utf-8"))
    record["weights"]["fallback"] = True
    shutil.copy(kfold / "folds/fold_0/predictions.csv", run / "folds/fold_0/predictions.csv")
    (run / "folds/fold_1/run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"fold_1 started from other weights.*fallback differ"):
        all_folds.run(kfold_config(), run)


# ---- predictions for new images -----------------------------------------------------------------


def test_all_models_predict_together(
    kfold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means of the folds' own answers, distances in units of each fold's limit, pooled rules."""
    images = write_folder(tmp_path / "skin", subjects=2, tiles=4)
    assert predict.predict(kfold, [images], tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / predict.ALL).read_text("utf-8"))
    paths = [images / row["file"] for row in found["images"]]
    pixels = np.stack([image_io.read_image(path, 32) for path in paths])
    odds, distances = [], []
    folders = [kfold / f"folds/fold_{number}" for number in range(3)]
    for folder in folders:
        one = classifier.open_run(folder)
        said = next(iter(one.outputs([pixels])))
        odds.append(said.probabilities)
        distances.append(said.distances / one.detector.threshold)
    names = found["classes"]
    ours = [[row["probabilities"][name] for name in names] for row in found["images"]]
    np.testing.assert_allclose(ours, np.mean(odds, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        [row["distance"] for row in found["images"]], np.median(distances, axis=0), rtol=1e-5
    )
    assert found["run"]["models"] == [str(folder) for folder in folders]
    # Youden's threshold of all test predictions, of subjects and of images, each value tried.
    images_of = Predictions.read_csv(kfold / "predictions.csv")
    rules = found["rules"]
    by_subject = calibration.apply(
        images_of.by_subject(rules["aggregation"]), rules["subject"]["temperature"]
    )
    for table, unit in ((images_of, "image"), (by_subject, "subject")):
        ill, scores = table.labels > 0, 1 - table.probabilities[:, 0]
        sums = [(scores[ill] >= value).mean() + (scores[~ill] < value).mean() for value in scores]
        chosen = rules[unit]["threshold"]
        reached = (scores[ill] >= chosen).mean() + (scores[~ill] < chosen).mean()
        assert reached == pytest.approx(max(max(sums), 1.0))
    usable = [classifier.open_run(folder).usable_flag for folder in folders]
    assert found["rules"]["distance_limit"] == (1.0 if sum(usable) >= 2 else None)
    assert "of the out-of-fold subjects" in " ".join(capsys.readouterr().out.split())


def test_an_unfinished_cross_validation_does_not_predict(kfold: Path, tmp_path: Path) -> None:
    shutil.copytree(kfold, tmp_path / "half")
    path = tmp_path / "half" / "protocol.json"
    recorded = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**recorded, "status": "started"}), "utf-8")
    with pytest.raises(UserError, match="cross-validation in .* is not finished: give its"):
        ensemble.open_folder(tmp_path / "half")
    path.write_text("{", "utf-8")
    with pytest.raises(UserError, match="protocol.json cannot be read .* give the protocol's"):
        ensemble.open_folder(tmp_path / "half")
    with pytest.raises(UserError, match="of 3 runs without a model of all"):
        classifier.open_run(kfold)


def test_the_mask_is_that_of_most_models() -> None:
    masks_of_models = np.random.default_rng(0).integers(0, 4, (5, 2, 6, 6)).astype(np.uint8)
    found = ensemble._most_predicted(masks_of_models, 4)
    for place in np.ndindex(2, 6, 6):
        values = [int(one[place]) for one in masks_of_models]
        most = max(values.count(label) for label in range(4))
        assert found[place] == min(label for label in range(4) if values.count(label) == most)


def test_each_model_scales_pixels_as_in_its_training(kfold: Path) -> None:
    """Of two that differ in the scaling of pixels alone each predicts with its own."""
    one = classifier.open_run(kfold / "folds/fold_0")
    inputs = setup.make_inputs("imagenet")
    program = dataclasses.replace(one.program, inputs=inputs)
    other = dataclasses.replace(one, scaling="imagenet", program=program)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    apart = [next(iter(each.outputs([pixels]))).probabilities for each in (one, other)]
    assert np.abs(apart[0] - apart[1]).max() > 1e-4
    both = ensemble.Ensemble(kfold, (one, other), one.rules, ())
    [found] = both.outputs([pixels])
    np.testing.assert_allclose(found.probabilities, np.mean(apart, axis=0), atol=1e-6)
