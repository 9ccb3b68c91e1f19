"""Training and complete runs from a notebook: as by the command, and every mistake in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from small_runs import small_config, write_folder, written
from trees import assert_same

import sscjax
import sscjax.experiments.api
from sscjax.configs import default, smoke
from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions

CLASSES = ("normal", "early", "late")


pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("skin"), subjects=8, tiles=16)


def _cnn(**fields: Any) -> Any:
    given = {"cnn_widths": (4,), "cnn_dense": (8,), **fields}
    return sscjax.create_model("cnn", 3, pretrained="none", image_size=32, **given)


def _tree(classifier: Any) -> dict[str, Any]:
    return {"params": classifier.params, "batch_stats": classifier.batch_stats}


@pytest.fixture(scope="module")
def ran(skin: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two stages with copies and augmentation on line."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    return sscjax.run(
        small_config(), folder, **cast(Any, {"data.path": skin, "data.classes": CLASSES})
    )


def _fit_alike(skin: Path, **arguments: Any) -> Any:
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    train, val, _ = data.split(by="subject", seed=0)
    stages = [sscjax.Head(epochs=4), sscjax.Finetune(epochs=4, freeze_first=0)]
    fields = {"micro_batch": 8, "augment.copies": 1, "checkpoint.every_seconds": 0.0}
    given = {"stages": stages, "batch_size": 16, **fields, **arguments}
    return sscjax.fit(_cnn(), train, val, **given)


@pytest.mark.slow
def test_fit_gives_the_bits_of_a_run(ran: Any, skin: Path, tmp_path: Path) -> None:
    """Also where it is interrupted between its stages, and called again."""
    of_run = ran.classifier()
    fitted = _fit_alike(skin, workdir=tmp_path / "work")
    assert_same(_tree(fitted), _tree(of_run))
    assert fitted.rules == of_run.rules and fitted.distance_limit == of_run.distance_limit
    test = ran.predictions.where("test")
    images = [skin / file for file in test.files.tolist()]
    np.testing.assert_array_equal(fitted.predict_proba(images), of_run.predict_proba(images))
    np.testing.assert_allclose(fitted.predict_proba(images), test.probabilities, rtol=1e-6)
    before = written(tmp_path / "work" / "stages")
    assert_same(_tree(_fit_alike(skin, workdir=tmp_path / "work")), _tree(of_run))
    assert written(tmp_path / "work" / "stages") == before
    for name in ("stages/finetune", "checkpoints/1000004000000"):
        shutil.rmtree(tmp_path / "work" / name)
    (tmp_path / "work" / "report.txt").unlink()
    assert_same(_tree(_fit_alike(skin, workdir=tmp_path / "work")), _tree(of_run))
    with pytest.raises(UserError, match="config.seed: 0 then, 1 now"):
        _fit_alike(skin, workdir=tmp_path / "work", seed=1)


def test_stages_have_the_defaults_of_the_config() -> None:
    config = default.get_config()
    known = set(config.stages.head)
    for made, block in (
        (sscjax.Stage(), default.stage()),
        (sscjax.Head(), config.stages.head),
        (sscjax.Finetune(), config.stages.finetune),
    ):
        for name, value in made.fields().items():
            assert block[name] == value, name
        assert set(made.fields()) <= known


def test_fit_without_subjects_to_spare_and_other_mistakes(skin: Path) -> None:
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    model, (train, val, _) = _cnn(), data.split(seed=0)
    only_normal = train.take(np.flatnonzero(train.labels == 0))
    small: dict[str, Any] = {"pretrained": "none", "cnn_widths": (4,)}
    two = sscjax.create_model("cnn", 2, image_size=32, **small)
    large = sscjax.create_model("cnn", 3, image_size=48, **small)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ((model, only_normal, val), {}, "train has no image of class 'early'"),
        ((model, train, train), {}, "hold an image twice"),
        ((model, train.images, val), {}, "train is a View: expected an ImageSet"),
        ((two, train, val), {}, "num_classes=3"),
        ((large, train, val), {}, "the same image_size"),
        (("cnn", train, val), {}, "model is a str"),
        ((model, train, val), {"stages": []}, "stage_order is empty"),
        ((model, train, val), {"stages": [3]}, r"stages\[0\] is a int"),
        ((model, train, val), {"stages": [sscjax.Head(epochs=0)]}, "epochs=0"),
        ((model, train, val), {"stages": [sscjax.Head(optimizer="lion")]}, "lion"),  # type: ignore[arg-type]
        ((model, train, val), {"sed": 1}, "did you mean 'seed'"),
        ((model, train, val), {"model.dropout": 0.1}, "fixed by create_model"),
        ((model, train, val), {"seed": "one"}, "seed='one': expected int"),
    ]
    for arguments, more, message in wrong:
        with pytest.raises(UserError, match=message) as caught:
            sscjax.fit(*arguments, **more)
        assert "\n" not in str(caught.value)


def test_fit_to_convergence_uses_both_sets(skin: Path, tmp_path: Path) -> None:
    """No epoch is to be chosen: the validation images are trained on, too."""
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    train, val, test = data.split(by="subject", seed=0)
    stages = [sscjax.Head(optimizer="lbfgs", l2=(1e-1, 1.0))]
    fields: dict[str, Any] = {"micro_batch": 8, "augment.copies": 0}
    fitted = sscjax.fit(
        _cnn(cnn_dense=()), train, val, stages=stages, workdir=tmp_path / "work", **fields
    )
    record = json.loads((tmp_path / "work" / "run.json").read_text("utf-8"))
    assert record["data"]["training_images"] == len(train) + len(val)
    held_out = Predictions.read_csv(tmp_path / "work" / "stages" / "head" / "out_of_fold.csv")
    assert held_out.files.tolist() == [*train.files.tolist(), *val.files.tolist()]
    assert fitted.predict_proba(test.images).shape == (len(test), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mobilenet"}, "did you mean 'mobilenet_v2'"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"image_size": 8}, "image_size=8"),
        ({"alfa": 0.5}, "did you mean 'alpha'"),
        ({"alpha": "wide"}, "model.alpha='wide': expected float"),
        ({"pretrained": "missing.pth"}, "missing.pth"),
        ({"fallback": "hope", "pretrained": "imagenet"}, "hope"),
    ],
)
def test_create_model_refuses(arguments: dict[str, Any], message: str) -> None:
    given = {"name": "mobilenet_v2", "num_classes": 3, "pretrained": "none", "image_size": 32}
    with pytest.raises(UserError, match=message):
        sscjax.create_model(**{**given, **arguments})


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("missing", {}, "missing"),
        ("", {}, "path is empty"),
        (None, {"classes": "normal"}, "expected several names"),
        (None, {"image_size": 8}, "image_size=8"),
        (None, {"corupt": "skip"}, "did you mean 'corrupt'"),
        (None, {"synthetic": 3}, "block of fields"),
    ],
)
def test_load_images_refuses(path: str | None, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sscjax.load_images(path, **fields)


def test_split_is_that_of_a_run(ran: Any, skin: Path) -> None:
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    parts = dict(zip(("train", "val", "test"), data.split(seed=0), strict=True))
    for name, part in parts.items():
        assert part.files.tolist() == ran.predictions.where(name).files.tolist()
    by_image = data.split(by="image", seed=1, fractions=(0.5, 0.25, 0.25))
    assert [len(part) for part in by_image] == [24, 12, 12]
    with pytest.raises(UserError, match="expected 'subject' or 'image'"):
        data.split(by="patient")


def test_run_returns_what_the_command_writes(
    ran: Any, skin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"data.path": skin, "data.classes": list(CLASSES)}
    again = sscjax.run(small_config(), ran.folder, **fields)
    assert capsys.readouterr().out == ""
    assert again.text == ran.text == (ran.folder / "report.txt").read_text("utf-8")
    figures = json.loads((ran.folder / "metrics.json").read_text("utf-8"))
    test, ends = figures["splits"]["test"], figures["test_intervals"]
    for unit in ("image", "subject"):
        for name in ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss"):
            one = getattr(ran.figures[name], f"per_{unit}")
            # Sums in another order differ in the last bit.
            assert one.value == pytest.approx(test[unit][name], rel=1e-12)
            assert ([one.low, one.high] if one.method else None) == ends[unit][name]
    calibration = json.loads((ran.folder / "calibration.json").read_text("utf-8"))
    brier = calibration["image"]["splits"]["test"]["after"]["brier"]
    assert ran.figures["brier"].per_image.value == pytest.approx(brier, rel=1e-12)


@pytest.mark.slow
def test_run_of_a_cross_validation(tmp_path: Path) -> None:
    config = small_config()
    config.stage_order = ("head",)
    fields: dict[str, Any] = {
        "protocol": "kfold",
        "cv.folds": 2,
        "stages.head.epochs": 1,
        "seed": np.int64(3),
    }
    found = sscjax.run(config, tmp_path / "cv", **fields)
    assert config.protocol == "holdout" and config.seed == 0
    assert len(found.predictions) == 48 and "2 networks" in repr(found.classifier())
    written_figures = json.loads((tmp_path / "cv" / "metrics.json").read_text("utf-8"))
    test = written_figures["splits"]["test"]
    assert found.figures["accuracy"].per_subject.value == test["subject"]["accuracy"]
    assert found.figures["log_loss"].per_image.value == test["image"]["log_loss"]
    ensemble = found.classifier()
    ensemble.save(tmp_path / "saved")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), np.uint8)
    expected = np.mean([one.predict_proba(images) for one in ensemble.networks], axis=0)
    np.testing.assert_allclose(sscjax.load(tmp_path / "saved").predict_proba(images), expected)
    assert ensemble.explain(images).shape == (3, 32, 32)


def test_every_way_to_name_a_config_is_the_same(tmp_path: Path) -> None:
    from sscjax.experiments import overrides

    file = tmp_path / "mine.py"
    file.write_text(Path(str(smoke.__file__)).read_text("utf-8"), encoding="utf-8")
    for config in ("smoke", "configs/smoke.py", "smoke.py", smoke, file, smoke.get_config()):
        assert overrides.config_of(config).to_dict() == smoke.get_config().to_dict()


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ("thre_class", {}, "did you mean 'three_class'"),
        ("nothing/like.py", {}, "does not exist"),
        (3, {}, "config is a int"),
        (json, {}, "get_config"),
        ("three_class", {"data.pth": "x"}, "did you mean 'data.path'"),
        ("three_class", {"stages.head": 3}, "is a block of fields"),
        ("three_class", {"seed": 1.5}, "seed=1.5: expected int"),
        ("three_class", {"private": 1}, "private=1: expected bool"),
        ("three_class", {"protocol": "kfolds"}, "did you mean 'kfold'"),
    ],
)
def test_run_refuses(config: Any, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sscjax.run(config, tmp_path / "run", **fields)
    assert "\n" not in str(caught.value)
