"""The manifest against hashes by hand, and runs that are run again: identical, or what differs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import images_of, one_stage_config, write_folder

import sscjax
from sscjax import models
from sscjax.cli import reproduce as cli_reproduce
from sscjax.data.manifest import image_rows, read
from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import (
    provenance,
    reproduce,
    run_differences,
    single_run,
    summarize,
)
from sscjax.system import run_dir, terminal
from sscjax.training import frozen_features, setup

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Any:
    """They take a third of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "skin")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run on files."""
    config = one_stage_config()
    config.data.path = str(images)
    folder = tmp_path_factory.mktemp("finished") / "run"
    single_run.run(config, folder)
    return folder


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """The same, run again."""
    target = tmp_path_factory.mktemp("again") / "run"
    assert reproduce.reproduce(finished, target) == 0
    return target


# ---- the manifest -------------------------------------------------------------------------------


def test_every_image_by_its_bytes(finished: Path, images: Path) -> None:
    manifest = read(finished)
    table = predictions.Predictions.read_csv(finished / "predictions.csv")
    split_of = dict(zip(table.files.tolist(), table.splits.tolist(), strict=True))
    assert len(manifest["images"]) == 36 == len(table)
    for row in manifest["images"]:
        assert row["of"] == "file" and row["split"] == split_of[row["file"]]
        assert row["sha256"] == hashlib.sha256((images / row["file"]).read_bytes()).hexdigest()
    assert manifest["seed"] == manifest["split_seed"] == 0
    assert manifest["config"] == json.loads((finished / "run.json").read_text("utf-8"))["config"]
    [session] = manifest["sessions"]
    assert session["started"] <= session["finished"] and session["command"]
    assert session["code"]["version"] == sscjax.__version__
    versions = session["environment"]["versions"]
    assert versions["numpy"] == np.__version__
    assert {"jax", "jaxlib", "scipy", "pillow"} <= set(versions)


def test_drawn_images_and_copies_by_their_pixels(images: Path) -> None:
    config = one_stage_config()
    config.data.path = str(images)
    config.split.by = "image"
    config.augment.counts_before_split = "normal:14,early:12,late:12"
    found = images_of(config).originals
    rows = image_rows(found, np.array(["test"] * len(found)), images)
    assert Counter(row["of"] for row in rows) == {"file": 36, "pixels": 2}
    for index, row in enumerate(rows):
        if row["of"] == "pixels":
            text = b"(32, 32, 3)" + found.images[index].tobytes()
            assert row["sha256"] == hashlib.sha256(text).hexdigest() and "#" in row["file"]
    nowhere = image_rows(found, np.array(["test"] * len(found)), None)
    assert {row["of"] for row in nowhere} == {"pixels"}


def test_code_changes_with_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sscjax"
    shutil.copytree(provenance.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = provenance.code()
    monkeypatch.setattr(provenance, "PACKAGE", package)
    copied = provenance.code()
    assert copied["source_sha256"] == before["source_sha256"]
    assert copied["git_commit"] is None and copied["git_dirty"] is None
    # Line ends and configs are no other code; a number in a source is.
    path = package / "training" / "optimizers.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (package / "configs" / "mine.py").write_text("x = 1\n", encoding="utf-8")
    assert provenance.code() == copied
    path.write_bytes(path.read_bytes() + b"x = 1\n")
    assert provenance.code()["source_sha256"] != before["source_sha256"]
    assert {"jax", "numpy"} <= set(provenance._dependencies())  # of the installed package, or none


# ---- run again ----------------------------------------------------------------------------------


def test_each_session_has_its_code_and_machine(finished: Path, tmp_path: Path) -> None:
    """A run that was begun by other code and gone on with by this one does not hide the former."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "report.txt").unlink()
    other = {**provenance.code(), "version": "0.0.1", "source_sha256": "0" * 64}
    manifest = read(run)
    manifest["sessions"][0]["code"] = other
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    kept = json.loads((run / "run.json").read_text("utf-8"))
    single_run.run(reproduce.recorded_config(kept, None, None), run)
    first, second = read(run)["sessions"]
    assert first["code"] == other and second["code"] == provenance.code()
    assert any("code.version: 0.0.1 then" in line for line in reproduce.changed_surroundings(run))


def test_a_session_without_its_code(finished: Path, tmp_path: Path) -> None:
    """As older manifests have them."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    manifest = read(run)
    del manifest["sessions"][0]["code"]
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    expected = ["session 1: its code and machine were not recorded"]
    assert reproduce.changed_surroundings(run) == expected


@pytest.mark.slow
def test_run_again_computes_features_anew(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features in the cache are those of the first run, and prove nothing of the second."""
    made = []
    real = frozen_features.compute

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(frozen_features, "compute", counted)
    assert reproduce.reproduce(finished, tmp_path / "run") == 0
    assert made
    assert not list((tmp_path / "run").glob(".features*"))


def test_run_again_is_identical(finished: Path, again: Path) -> None:
    result = json.loads((again / run_dir.REPRODUCTION).read_text("utf-8"))
    assert result["identical"] and result["surroundings"] == []
    outcome = result["runs"]["."]
    assert outcome["tables"] == {"splits.csv": True, "curves.csv": True}
    assert outcome["n_figures"] > 300 and outcome["figures"] == []
    assert set(outcome["predictions"]) == {"predictions.csv", "stages/head/predictions.csv"}
    assert (again / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()


def test_figures_that_differ_are_named(finished: Path, again: Path, tmp_path: Path) -> None:
    """One probability and one figure changed by hand: these, and no other, are said."""
    run = tmp_path / "run"
    shutil.copytree(again, run)
    table = predictions.Predictions.read_csv(run / "predictions.csv")
    table.probabilities[3] = table.probabilities[3] * 0.9 + 0.1 * np.eye(3)[table.predicted[3]]
    table.write_csv(run / "predictions.csv")
    figures = json.loads((run / "metrics.json").read_text("utf-8"))
    figures["splits"]["test"]["image"]["log_loss"] += 0.25
    (run / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
    outcome = run_differences.compare_outcomes(finished, run)
    assert not outcome["identical"]
    changed = outcome["predictions"]["predictions.csv"]
    assert changed["rows"] == 36 and changed["differing"] == 1 and changed["changed"] == 0
    then = predictions.Predictions.read_csv(finished / "predictions.csv").probabilities
    assert changed["largest"] == pytest.approx(np.abs(table.probabilities - then).max())
    [entry] = outcome["figures"]
    assert entry["figure"] == "splits.test.image.log_loss"
    assert entry["difference"] == pytest.approx(0.25)
    text = run_differences.outcome_text("run", outcome)
    assert "splits.test.image.log_loss" in text and "+0.25" in text and "1 of 36 rows" in text


def test_figures_that_are_gone_differ(finished: Path, again: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(again, run)
    (run / "metrics.json").unlink()
    (run / "curves.csv").unlink()
    outcome = run_differences.compare_outcomes(finished, run)
    assert outcome["tables"]["curves.csv"] is False
    kept = [entry for entry in outcome["figures"] if entry["file"] != "metrics.json"]
    assert kept == [] and len(outcome["figures"]) > 100
    assert all(entry["now"] is None for entry in outcome["figures"])


def test_changed_images_are_named_and_not_run(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    target = tmp_path / "target"
    assert reproduce.reproduce(finished, target, data=str(moved), check_only=True) == 0
    names = [row["file"] for row in read(finished)["images"]]
    data = (moved / names[0]).read_bytes()
    (moved / names[0]).write_bytes(data + b"x")
    (moved / names[1]).unlink()
    capsys.readouterr()
    assert reproduce.reproduce(finished, target, data=str(moved)) == 1
    printed = capsys.readouterr().out
    assert f"image {names[0]}: sha256 {hashlib.sha256(data).hexdigest()[:16]}" in printed
    assert f"image {names[1]}: missing now" in printed and "2 differ" in printed
    assert not target.exists()


def test_changed_labels_subjects_and_surplus_images_are_named(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    manifest = moved / "manifest.csv"
    lines = manifest.read_text("utf-8").splitlines()
    file, _, subject = lines[1].split(",")
    lines[1] = f"{file},late,{subject}"
    other = lines[2].split(",")[0]
    shutil.copy(moved / other, moved / "new.png")
    lines.append("new.png,early,someone")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert reproduce.reproduce(finished, tmp_path / "target", data=str(moved)) == 1
    printed = capsys.readouterr().out
    assert f"image {file}: label normal then, late now" in printed
    assert "image new.png: new" in printed


def test_other_code_and_machine_are_said_but_no_obstacle(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert reproduce.reproduce(finished, tmp_path / "target", check_only=True) == 1
    printed = capsys.readouterr().out
    assert "environment.variables.OMP_NUM_THREADS: None then, 7 now" in printed
    assert "images and weights: as they were" in printed


def test_other_weights_are_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        setup,
        "initial_variables",
        lambda model, size, seed: models.initial_variables(model, size, seed + 1),
    )
    config = reproduce.recorded_config(read(finished), None, None)
    [line] = reproduce.changed_inputs(finished, config)
    assert line.startswith("weights.sha256: ")


def test_another_split_is_named(finished: Path) -> None:
    """As if another version split otherwise: each image that stands elsewhere, and the whole."""
    config = reproduce.recorded_config(read(finished), None, None)
    config.split.seed = 5
    lines = reproduce.changed_inputs(finished, config)
    named = [line for line in lines if ": split " in line]
    assert named and all(line.startswith("image ") for line in named)
    assert any(line.startswith("data.splits_fingerprint") for line in lines)


@pytest.mark.slow
def test_folds_are_run_again_one_by_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = tmp_path / "kfold"
    for name in ("fold_0", "fold_1"):
        shutil.copytree(finished, protocol / "folds" / name)
    assert reproduce.reproduce(protocol, tmp_path / "target") == 0
    printed = capsys.readouterr().out
    assert "kfold/folds/fold_1: identical to the bit" in printed
    result = json.loads((tmp_path / "target" / run_dir.REPRODUCTION).read_text("utf-8"))
    assert list(result["runs"]) == ["folds/fold_0", "folds/fold_1"]


def test_mistakes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no run"):
        reproduce.reproduce(tmp_path, tmp_path / "target")
    with pytest.raises(UserError, match="is the run itself"):
        reproduce.reproduce(finished, finished)
    with pytest.raises(UserError, match="name their folder by --data"):
        reproduce.reproduce(finished, tmp_path / "target", data=str(tmp_path / "nowhere"))
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="manifest.json is damaged"):
        reproduce.reproduce(run, tmp_path / "target")
    (run / "manifest.json").unlink()
    monkeypatch.setattr("sys.argv", ["reproduce", str(run)])
    assert terminal.call(cli_reproduce.main) == terminal.USER_ERROR
    record = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "status": "started"}), encoding="utf-8")
    with pytest.raises(UserError, match="is not finished"):
        reproduce.reproduce(run, tmp_path / "target")


def test_a_config_of_another_version(finished: Path, tmp_path: Path) -> None:
    """A field that this version needs is missing in the record."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("run.json", "manifest.json"):
        kept = json.loads((run / name).read_text("utf-8"))
        del kept["config"]["data"]["image_size"]
        for session in kept.get("sessions", []):
            session["code"].update(version="0.0.1", source_sha256="0" * 64)
        (run / name).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(UserError, match="that of sscjax 0.0.1 .*image_size.*install that version"):
        reproduce.reproduce(run, tmp_path / "target")
