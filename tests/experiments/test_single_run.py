"""Whole runs, small: what they write, that they repeat, resume, stop when done, and refuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import images_of, one_stage_config, small_config, write_folder, written

from sscjax import models
from sscjax.errors import UserError
from sscjax.evaluation import calibration, metrics, ood, predictions
from sscjax.experiments import single_run, summarize
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.system import malloc
from sscjax.training import checkpoint, loop, settings, setup

WRITTEN = (
    *("run.json", "splits.csv", "predictions.csv", "metrics.json", "report.txt"),
    *("curves.csv", "curves.png", "confusion_val.png", "confusion_test.png"),
    *("calibration.json", "calibration.png", "outliers.npz"),
    *("report.html", "model_card.md", "explanations/explanations.json", "maps.json"),
)


def _outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run computes, to the bit: parameters, predictions, curves, figures."""
    found: dict[str, Any] = {}
    for name in ("head", "finetune"):
        found[f"{name} predictions"] = (folder / "stages" / name / "predictions.csv").read_bytes()
        record = json.loads((folder / "stages" / name / "stage.json").read_text("utf-8"))
        found[f"{name} value"] = record["value"]
    for name in (
        *("predictions.csv", "predictions_by_subject.csv", "metrics.json"),
        *("curves.csv", "splits.csv"),
        *("calibration.json", "outliers.npz"),
    ):
        found[name] = (folder / name).read_bytes()
    found["parameters"] = _parameters(folder)
    return found


def _parameters(folder: Path) -> dict[str, str]:
    """SHA-256 of every array of both stages' models."""
    config = small_config()
    images = images_of(config)
    network = setup.build_network(settings.read(config), images, earlier_fallback=False)
    like = {"params": network.params, "batch_stats": network.batch_stats}
    found = {}
    for name in ("head", "finetune"):
        tree = checkpoint.load_model(folder / "stages" / name / "model", like)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            key = name + jax.tree_util.keystr(path)
            found[key] = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
    return found


@pytest.fixture(autouse=True)
def no_pictures(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the reference run draws them: they take half of a small run's time."""
    del reference
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    monkeypatch.setattr(html, "write", lambda folder: ())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    single_run.run(small_config(), folder)
    return folder


def test_run_writes_everything_and_says_synthetic(reference: Path) -> None:
    for name in WRITTEN:
        assert (reference / name).stat().st_size > 0, name
    assert list((reference / "tensorboard").glob("events.out.tfevents.*"))
    text = (reference / "report.txt").read_text(encoding="utf-8")
    assert text.startswith("SYNTHETIC IMAGES")
    # The paper's table stands only in runs of its own configs.
    assert str(reference) in text and "87.4 %" not in text
    assert not list(reference.rglob("*.tmp"))


def test_predictions_cover_every_image_once(reference: Path) -> None:
    table = predictions.Predictions.read_csv(reference / "predictions.csv")
    assert len(table) == 48 and len(set(table.files.tolist())) == 48
    splits = {split: set(table.where(split).subjects.tolist()) for split in predictions.SPLITS}
    assert not splits["train"] & splits["val"] and not splits["train"] & splits["test"]
    recorded = json.loads((reference / "metrics.json").read_text("utf-8"))
    again = metrics.figures_by_split(table, ordered=True)
    assert again["test"]["image"]["accuracy"] == recorded["splits"]["test"]["image"]["accuracy"]


def test_head_stage_leaves_the_base_alone(reference: Path) -> None:
    config = small_config()
    images = images_of(config)
    network = setup.build_network(settings.read(config), images, earlier_fallback=False)
    like = {"params": network.params, "batch_stats": network.batch_stats}
    head = checkpoint.load_model(reference / "stages" / "head" / "model", like)["params"]
    tuned = checkpoint.load_model(reference / "stages" / "finetune" / "model", like)["params"]
    np.testing.assert_array_equal(head["conv1_1"]["kernel"], network.params["conv1_1"]["kernel"])
    assert not np.array_equal(head["dense1"]["kernel"], network.params["dense1"]["kernel"])
    assert not np.array_equal(tuned["conv1_1"]["kernel"], head["conv1_1"]["kernel"])


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_result(reference: Path, tmp_path: Path) -> None:
    single_run.run(small_config(), tmp_path / "again")
    assert _outcome(tmp_path / "again") == _outcome(reference)
    config = small_config()
    config.seed = 1
    single_run.run(config, tmp_path / "other")
    assert _outcome(tmp_path / "other")["predictions.csv"] != _outcome(reference)["predictions.csv"]


@pytest.mark.parametrize(
    ("saves", "before"),
    [
        (5, True),
        *(pytest.param(saves, False, marks=pytest.mark.slow) for saves in (1, 4, 6)),
    ],
)
def test_interrupted_run_ends_identical(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int, before: bool
) -> None:
    """Stopped right after its n-th checkpoint, or before it, in either stage; then given again."""
    save, done = checkpoint.Checkpoints.save, []

    def save_then_stop(self: checkpoint.Checkpoints, *args: Any) -> None:
        done.append(args[0])
        if len(done) == saves and before:
            raise KeyboardInterrupt
        save(self, *args)
        if len(done) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            single_run.run(small_config(), tmp_path / "run")
    single_run.run(small_config(), tmp_path / "run")
    assert _outcome(tmp_path / "run") == _outcome(reference)


@pytest.mark.slow
def test_checkpoints_hold_the_trained_layers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen ones are those that the stage starts from, and come back to the bit."""
    save, saved = checkpoint.Checkpoints.save, []

    def save_and_keep(self: checkpoint.Checkpoints, step: int, tree: Any, info: Any) -> None:
        saved.append((info["stage"], jax.tree.map(np.array, tree)))
        save(self, step, tree, info)

    models: list[Any] = []
    save_model = checkpoint.save_model

    def save_and_keep_model(folder: Path, tree: Any) -> None:
        models.append(jax.tree.map(np.array, tree))
        save_model(folder, tree)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_keep)
    monkeypatch.setattr(checkpoint, "save_model", save_and_keep_model)
    config = small_config()
    config.stages.finetune.freeze_first = 2
    single_run.run(config, tmp_path)
    found = dict(saved)
    trained = {"head": {"dense1", "predictions"}, "finetune": {"conv1_2", "dense1", "predictions"}}
    assert set(found) == set(trained)
    for name, names in trained.items():
        tree = found[name]
        assert set(tree["last"]["params"]) == set(tree["best"]["params"]) == names
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
        assert not [path for path in paths if "conv1_1" in path]
    head, finetune = (tree["params"] for tree in models)
    for name, layer in head.items():
        for kind, leaf in layer.items():
            assert (leaf.tobytes() == finetune[name][kind].tobytes()) == (name == "conv1_1")


def test_finished_run_says_so_and_changes_nothing(
    reference: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = written(reference)
    with caplog.at_level("INFO", logger="sscjax"):
        text = single_run.run(small_config(), reference)
    assert "finished" in caplog.text
    assert text == (reference / "report.txt").read_text(encoding="utf-8")
    assert written(reference) == before


def test_changed_calibration_makes_the_figures_again_without_training(tmp_path: Path) -> None:
    config = one_stage_config()
    single_run.run(config, tmp_path / "run")
    model = tmp_path / "run" / "stages" / "head"
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    first = json.loads((tmp_path / "run" / "calibration.json").read_text("utf-8"))
    config.calibration.threshold = "sensitivity"
    config.calibration.sensitivity = 0.5
    text = " ".join(single_run.run(config, tmp_path / "run").split())
    rules = [first[unit]["threshold"]["rule"] for unit in ("subject", "image")]
    assert "sensitivity of at least 50 %" in text and not any("50 %" in rule for rule in rules)
    second = json.loads((tmp_path / "run" / "calibration.json").read_text("utf-8"))
    assert "least 50 %" in second["subject"]["threshold"]["rule"]
    assert second["outliers"] == first["outliers"]
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["config"]["calibration"]["threshold"] == "sensitivity"


def test_run_s_probabilities_are_the_stage_s_calibrated(reference: Path) -> None:
    """And a later program flags and calibrates from the run's folder alone."""
    found = json.loads((reference / "calibration.json").read_text("utf-8"))
    recorded = json.loads((reference / "metrics.json").read_text("utf-8"))
    own = {unit: found[unit]["temperature"] for unit in ("subject", "image")}
    assert recorded["probabilities"]["temperature"] == own["image"]
    assert recorded["probabilities"]["temperature_of_subjects"] == own["subject"]
    raw = predictions.Predictions.read_csv(
        reference / "stages" / recorded["final_stage"] / "predictions.csv"
    )
    ours = predictions.Predictions.read_csv(reference / "predictions.csv")
    expected = calibration.calibrate(raw.probabilities, own["image"])
    np.testing.assert_array_equal(ours.probabilities, expected)
    by_subject = predictions.Predictions.read_csv(reference / "predictions_by_subject.csv")
    aggregated = ours.by_subject(found["aggregation"]).probabilities
    expected = calibration.calibrate(aggregated, own["subject"])
    np.testing.assert_array_equal(by_subject.probabilities, expected)
    figures = metrics.figures(by_subject.where("test"), ordered=True)
    assert recorded["splits"]["test"]["subject"] == figures
    detector = ood.Detector.load(reference / "outliers.npz")
    assert detector.threshold == found["outliers"]["threshold"]


def test_changed_config_is_refused_with_the_list(reference: Path) -> None:
    config = small_config()
    config.stages.head.epochs = 5
    config.model.dropout = 0.5
    with pytest.raises(UserError) as caught:
        single_run.run(config, reference)
    text = str(caught.value)
    assert "config.stages.head.epochs: 4 then, 5 now" in text
    assert "config.model.dropout: 0.2 then, 0.5 now" in text and "--fresh" in text
    assert "\n" not in text


def test_other_random_weights_are_refused(
    reference: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if another version drew the initial weights otherwise."""
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((reference / "run.json").read_text(encoding="utf-8"))
    text = json.dumps({**record, "status": "started"})
    (run / "run.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(
        setup,
        "initial_variables",
        lambda model, size, seed: models.initial_variables(model, size, seed + 1),
    )
    with pytest.raises(UserError, match="weights.sha256: .* then, .* now"):
        single_run.run(small_config(), run)


@pytest.mark.slow
def test_changed_images_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    config = one_stage_config()
    config.data.path = str(folder)
    single_run.run(config, tmp_path / "run")
    moved = folder.rename(tmp_path / "moved")
    config.data.path = str(moved)
    assert single_run.run(config, tmp_path / "run")  # the same images at another place are the same
    lines = (moved / "manifest.csv").read_text(encoding="utf-8").splitlines()
    (moved / "manifest.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="data.fingerprint: .* then, .* now"):
        single_run.run(config, tmp_path / "run")


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="holds no run"):
        single_run.run(small_config(), tmp_path)


def test_fresh_deletes_a_run_only_when_the_new_one_can_begin(tmp_path: Path) -> None:
    config = one_stage_config()
    single_run.run(config, tmp_path / "run")
    config.data.path = str(tmp_path / "missing")
    with pytest.raises(UserError, match="missing"):
        single_run.run(config, tmp_path / "run", fresh=True)
    assert (tmp_path / "run" / "report.txt").exists()
    config = one_stage_config()
    config.seed = 5
    (tmp_path / "run" / "old.txt").touch()
    single_run.run(config, tmp_path / "run", fresh=True)
    assert not (tmp_path / "run" / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_fresh_deletes_nothing_but_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="holds no run"):
        single_run.run(small_config(), tmp_path, fresh=True)
    with pytest.raises(UserError, match="is a file"):
        single_run.run(small_config(), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


@pytest.mark.slow
def test_memory_is_given_back_once_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiling has left: not at every step, which would find none kept."""
    given = []
    monkeypatch.setattr(malloc, "give_back", lambda: given.append(1))
    config = one_stage_config()
    config.stages.head.epochs = 2
    single_run.run(config, tmp_path / "run")
    assert given == [1]


def test_damaged_micro_batch_of_a_run_is_named(tmp_path: Path) -> None:
    config = one_stage_config()
    single_run.run(config, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text("utf-8").replace('"micro_batch": 8', '"micro_batch": null'))
    with pytest.raises(UserError, match="damaged"):
        single_run.run(config, tmp_path / "run")


@pytest.mark.slow
def test_kill_before_splits_are_written_loses_nothing(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((reference / "run.json").read_text(encoding="utf-8"))
    text = json.dumps({**record, "status": "started"})
    (run / "run.json").write_text(text, encoding="utf-8")
    single_run.run(small_config(), run)
    assert _outcome(run) == _outcome(reference)


def test_every_image_once_per_epoch_and_padding_weighs_nothing() -> None:
    order, real = loop.epoch_order(seed=3, stage=1, epoch=2, images=10, batch_size=4)
    assert order.shape == real.shape == (3, 4)
    assert sorted(order[real == 1].tolist()) == list(range(10))
    assert real.sum() == 10 and real[-1].tolist() == [1, 1, 0, 0]
    assert all(len(set(step)) == 4 for step in order.tolist())  # none twice in a batch
    other, _ = loop.epoch_order(seed=3, stage=1, epoch=3, images=10, batch_size=4)
    assert not np.array_equal(order, other)


@pytest.mark.slow
def test_a_set_that_is_read_from_disk_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, their copies and the features, all in memory or none of them."""
    folder = write_folder(tmp_path / "images")
    found = []
    for name, megabytes in (("memory", 1000), ("disk", 0)):
        config = small_config()
        config.data.path = str(folder)
        config.augment.copies = 1
        config.stages.head.epochs = config.stages.finetune.epochs = 2
        config.stages.finetune.freeze_first = 5
        config.stages.finetune.online_augment = False
        config.data.max_megabytes = config.features.max_megabytes = megabytes
        # Each computes its own features.
        monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / f"cache {name}"))
        single_run.run(config, tmp_path / name)
        found.append(_outcome(tmp_path / name))
    assert found[0] == found[1]
    assert len(list((tmp_path / "cache disk" / "prepared").glob("*.npy"))) == 1
    # Of originals and of copies; both stages begin behind the one block, so the second finds them.
    assert len(list((tmp_path / "cache disk" / "features").glob("*.npy"))) == 2
    assert not (tmp_path / "cache memory" / "prepared").exists()
