"""Runs of the UNet from a config: complete, interrupted, used to predict, and refused."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from small_runs import images_of, put, small_config, write_folder, written

from sscjax import export
from sscjax.configs import default
from sscjax.data import masks, synthetic
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import metrics, predictions, segmentation
from sscjax.experiments import single_run, summarize
from sscjax.experiments.cross_validation import folds, outcomes
from sscjax.export import onnx_file, verify
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, explanations, mask_writer, predict
from sscjax.inference.outputs import Outputs
from sscjax.models import factory
from sscjax.models.unet import FDUNet
from sscjax.reports import html
from sscjax.reports.html import render
from sscjax.system import run_dir
from sscjax.training import checkpoint, frozen_features, programs, settings, setup

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]


def unet_config(images: Path) -> ConfigDict:
    """Two epochs of a network of one level, as configs/fd_unet_three_class.py trains."""
    config = small_config()
    config = default.as_unet(config, "unet", epochs=2)
    config.data.path = str(images)
    config.data.classes = ("normal", "early", "late")
    config.data.image_size = 32
    config.model.unet_depth = 1
    config.model.unet_width = 4
    config.model.unet_growth = 2
    config.model.unet_layers = 1
    return config


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "skin")


@pytest.fixture(scope="module")
def run(quick_compiler: None, tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    single_run.run(unet_config(images), folder)
    return folder


@pytest.fixture
def no_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del run
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    monkeypatch.setattr(html, "write", lambda folder: ())


def test_a_run_writes_report_and_page(run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text("utf-8"))
    # From random weights BatchNorm trains on the batch.
    assert recorded["status"] == "finished" and recorded["stages"][0]["batch_norm"] == "batch"
    figures = json.loads((run / "metrics.json").read_text("utf-8"))
    assert set(figures["splits"]) == set(predictions.SPLITS)
    text = (run / "report.txt").read_text("utf-8")
    assert "Everything lies in" in text and "The paper" not in text
    assert "UNet" in (run / "report.html").read_text("utf-8")
    maps = json.loads((run / "explanations/explanations.json").read_text("utf-8"))
    assert maps["layers"] == ["up1_1_concat"]


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_run_ends_identical(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first epoch, with running averages and Adam's moments on disk."""
    save = checkpoint.Checkpoints.save

    def save_then_stop(self: checkpoint.Checkpoints, *args: Any) -> None:
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.Checkpoints, "save", save_then_stop)
        single_run.run(unet_config(images), tmp_path / "run")
    single_run.run(unet_config(images), tmp_path / "run")
    for name in ("predictions.csv", "metrics.json", "curves.csv", "calibration.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_answers_are_those_of_the_run(run: Path, images: Path, tmp_path: Path) -> None:
    assert predict.predict(run, [images], tmp_path / "out") == 0
    table = predictions.Predictions.read_csv(run / "predictions.csv")
    expected = dict(zip(table.files.tolist(), table.probabilities.tolist(), strict=True))
    found = json.loads((tmp_path / "out" / predict.ALL).read_text("utf-8"))
    assert len(found["images"]) == len(table) == 36
    for row in found["images"]:
        got = [row["probabilities"][name] for name in table.classes]
        np.testing.assert_allclose(got, expected[row["file"]], atol=1e-6)


def test_training_moves_every_layer(run: Path, images: Path) -> None:
    config = unet_config(images)
    network = setup.build_network(
        settings.read(config),
        images_of(config),
        earlier_fallback=False,
    )
    assert isinstance(network.model, FDUNet) and network.model.bn_momentum == 0.9
    # Measured on the images, not 0 and 1.
    assert all(np.abs(leaf["mean"]).max() > 0 for leaf in network.batch_stats.values())
    opened = classifier.open_run(run)
    for name, leaves in network.params.items():
        for leaf, before in leaves.items():
            assert np.abs(np.asarray(opened.params[name][leaf]) - before).max() > 0, name
    logits = jax.jit(opened.program.outputs)(
        opened.params, opened.batch_stats, np.zeros((2, 32, 32, 3), np.uint8)
    )
    assert np.isfinite(logits).all() and logits.shape == (2, 3)


def test_the_classifier_alone_trains_on_features(images: Path) -> None:
    """What is frozen up to the pooling is computed once; a part of the path up to a cut."""
    config = unet_config(images)
    of_run = settings.read(config)
    model = factory.build_model(of_run.model, factory.Task(3, of_run.data.image_size))
    names = model.layer_names

    def labels(first: str) -> dict[str, str]:
        start = names.index(first)
        return {name: "train" if i >= start else "freeze" for i, name in enumerate(names)}

    assert names[frozen_features.prefix_length(model, labels("predictions")) - 1] == (
        "global_average_pooling2d"
    )
    assert names[frozen_features.prefix_length(model, labels("bottom_1")) - 1] == "down1_1_concat"
    assert frozen_features.prefix_length(model, labels("stem")) == 0


# ---- with masks ---------------------------------------------------------------------------------


def masked_config(images: Path) -> ConfigDict:
    """The same, for masks beside two of three images."""
    config = unet_config(images)
    config.data.mask_classes = synthetic.TISSUES
    config.loss.segmentation = 1.0
    # Few steps: the running averages must follow them.
    config.batch_size = 8
    config.scratch.momentum = 0.5
    config.loss.dice = 0.5
    config.select.metric = metrics.MASK_METRIC
    config.stages.train.epochs = 10
    config.stages.train.learning_rate = 1e-2
    return config


@dataclasses.dataclass(frozen=True, eq=False)
class Masked:
    """A finished run with masks, what it said, and the images as they were drawn."""

    images: Path
    run: Path
    text: str
    drawn: ImageSet
    maps: np.ndarray


@pytest.fixture(scope="module")
def masked(quick_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Masked:
    """Masks beside two of three images."""
    place = tmp_path_factory.mktemp("masked")
    folder = write_folder(place / "skin")
    names = ("normal", "early", "late")
    drawn = synthetic.skin_biopsies(
        image_size=32, tiles=dict.fromkeys(names, 12), subjects=dict.fromkeys(names, 6)
    )
    assert drawn.masks is not None
    for index, file in enumerate(drawn.files.tolist()):
        if index % 3:
            Image.fromarray(drawn.masks[index]).save(masks.beside_name(folder / file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        patch.setattr(html, "write", lambda folder: ())
        text = single_run.run(masked_config(folder), place / "run")
    return Masked(folder, place / "run", text, drawn, np.asarray(drawn.masks))


def test_predictions_of_a_run_with_masks(
    masked: Masked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mask of each image at its own size; the border that the network did not see has none."""
    opened = classifier.open_run(masked.run)
    predicted_masks = np.asarray(
        programs.make_masks(opened.program)(opened.params, opened.batch_stats, masked.drawn.images)
    )
    wide = tmp_path / "new"
    for index in (0, 1):
        path = wide / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((32, 40, 3), 255, np.uint8)
        pixels[:, 4:36] = masked.drawn.images[index]
        Image.fromarray(pixels).save(path)
    (wide / "2.png").write_bytes(b"no image")
    # Left by a start that was interrupted.
    put(tmp_path / "out" / mask_writer.PARTIAL / "000009.png")
    assert predict.predict(masked.run, [wide], tmp_path / "out") == 1
    left = sorted(path.name for path in (tmp_path / "out" / mask_writer.FOLDER).iterdir())
    assert left == ["000001.png", "000002.png"]
    assert not (tmp_path / "out" / mask_writer.PARTIAL).exists()
    assert "Masks: " in capsys.readouterr().out
    with (tmp_path / "out/masks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["0.png", "1.png"]
    recorded = json.loads((tmp_path / "out" / predict.ALL).read_text("utf-8"))
    assert recorded["mask_classes"] == list(synthetic.TISSUES)
    for index, row in enumerate(rows):
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        np.testing.assert_array_equal(mask[:, 4:36], predicted_masks[index])
        assert (mask[:, :4] == masks.IGNORE).all() and (mask[:, 36:] == masks.IGNORE).all()
        shares = np.bincount(predicted_masks[index].ravel(), minlength=4) / 32**2
        for place, name in enumerate(synthetic.TISSUES):
            assert float(row[f"share {name}"]) == pytest.approx(shares[place], abs=1e-6)
            assert recorded["masks"][index]["shares"][name] == pytest.approx(shares[place])


def test_masks_of_earlier_predictions(masked: Masked, run: Path, tmp_path: Path) -> None:
    """Kept where nothing comes in their place, gone with it; a folder of the user's stays."""
    image = put(tmp_path / "a.png")
    out = tmp_path / "out"
    assert predict.predict(masked.run, [image], out) == 0
    before = written(out)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        predict.predict(masked.run, [tmp_path / "b.png"], out, overwrite=True)
    assert written(out) == before
    assert predict.predict(run, [image], out, overwrite=True) == 0
    assert not (out / mask_writer.FOLDER).exists() and not (out / mask_writer.TABLE).exists()
    own = put(out / mask_writer.FOLDER / "own.png")
    with pytest.raises(
        UserError, match="holds a folder masks of something else: name another folder"
    ):
        predict.predict(masked.run, [image], out, overwrite=True)
    assert own.is_file()


def test_masks_of_folds_are_aggregated(masked: Masked, tmp_path: Path) -> None:
    """Each image once; a fold's table that is not its own is refused."""
    names = masked.drawn.files
    found = segmentation.read_csv(masked.run / run_dir.MASKS).where("test")
    tested = np.flatnonzero(np.isin(names, masked.drawn.files))
    config = masked_config(masked.images)
    fold = folds.Fold("fold_0", 0, config, tested)
    recorded = json.loads((masked.run / "metrics.json").read_text("utf-8"))["segmentation"]
    predicted_masks = outcomes._masks(fold, masked.run / run_dir.MASKS, masked.drawn, recorded)
    assert predicted_masks is not None and predicted_masks.files.tolist() == found.files.tolist()
    twice = segmentation.by_split(segmentation.join([predicted_masks, predicted_masks]))
    once = segmentation.by_split(predicted_masks)
    assert twice["splits"]["test"]["mean_dice"] == once["splits"]["test"]["mean_dice"]
    assert (
        f"of {len(predicted_masks)} images added up, tested {2 * len(predicted_masks)} times"
        in segmentation.note(twice)
    )
    other = folds.Fold("fold_0", 0, config, tested[:1])
    with pytest.raises(UserError, match="are not the masks that fold_0 tests; delete this fold's"):
        outcomes._masks(other, masked.run / run_dir.MASKS, masked.drawn, recorded)


@pytest.mark.extra
def test_exported_masks_are_those_of_the_run(masked: Masked, tmp_path: Path) -> None:
    """In every runtime; other answers are detected."""
    for package in ("flatbuffers", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra 'export', is not installed")
    opened = classifier.open_run(masked.run)
    pixels = np.asarray(masked.drawn.images[:5])
    predicted_masks = programs.make_masks(opened.program)(opened.params, opened.batch_stats, pixels)
    export_file.export(masked.run, "stablehlo", tmp_path / "a.zip", ExportOptions())
    call, _ = export.load_stablehlo(tmp_path / "a.zip")
    said = export_file.export(masked.run, "onnx", tmp_path / "a.onnx", ExportOptions())
    assert "0 decisions differ" in said and "of the masks 0 % of the pixels" in said
    outputs = onnx_file.load(tmp_path / "a.onnx")(pixels)
    assert outputs["masks"].dtype == np.uint8
    np.testing.assert_array_equal(outputs["masks"], predicted_masks)
    compiled = call(pixels)
    np.testing.assert_array_equal(compiled["masks"], predicted_masks)
    np.testing.assert_allclose(compiled["maps"], outputs["maps"], atol=2e-4)
    np.testing.assert_allclose(compiled["probabilities"], outputs["probabilities"], atol=2e-5)
    about = json.loads((tmp_path / "a.onnx.json").read_text("utf-8"))
    assert about["mask_classes"] == list(synthetic.TISSUES)
    assert about["outputs"] == ["probabilities", "distance", "maps", "masks"]
    assert about["check"]["mask_pixels_changed"] == 0.0

    def other(images: np.ndarray) -> Any:
        found = onnx_file.load(tmp_path / "a.onnx")(images)
        return {**found, "masks": (found["masks"] + 1) % 4}

    wrong = verify.compare(opened, other, verify.sample(opened, None))
    assert wrong.pixels == 1.0
    with pytest.raises(UserError, match="100 % of the pixels of masks differ"):
        verify.demand(wrong, "a.onnx")


@pytest.mark.usefixtures("no_pictures")
def test_a_run_with_masks(masked: Masked, tmp_path: Path) -> None:
    """Told better than by the commonest tissue; counted, reported, gone on with, and answered."""
    folder, drawn, text = masked.images, masked.drawn, masked.text
    config = masked_config(folder)
    recorded = json.loads((masked.run / "metrics.json").read_text("utf-8"))["segmentation"]
    assert recorded["classes"] == list(synthetic.TISSUES)
    counts = [part["n"] for part in recorded["splits"].values()]
    assert sum(counts) == 24 and "masks, test" in text
    # The best epoch is the one of the best Dice on validation, which the curves have.
    with (masked.run / "curves.csv").open(encoding="utf-8", newline="") as file:
        dice = [float(row["val_mean_dice"]) for row in csv.DictReader(file)]
    assert max(dice) == pytest.approx(recorded["splits"]["val"]["mean_dice"])
    stage = json.loads((masked.run / "stages/train/stage.json").read_text("utf-8"))
    assert stage["value"] == max(dice) == dice[stage["progress"]["best_epoch"] - 1]
    # The file's counts are those of masks predicted again from the run's folder.
    opened = classifier.open_run(masked.run)
    assert opened.model.mask_classes == 4
    predicted_masks = programs.make_masks(opened.program)(
        opened.params, opened.batch_stats, drawn.images
    )
    written = (masked.run / "masks.csv").read_text("utf-8").splitlines()
    rows = list(csv.DictReader(written))
    assert len(rows) == 24
    right = {
        file: int((predicted_masks[index] == masked.maps[index]).sum())
        for index, file in enumerate(drawn.files.tolist())
    }
    for row in rows:
        both = [int(row[f"both {name}"]) for name in synthetic.TISSUES]
        assert abs(sum(both) - right[row["file"]]) <= 2
    # Who says the commonest tissue everywhere has Dice of it alone.
    known = masked.maps[[index for index in range(36) if index % 3]]
    share = np.bincount(known.ravel()).max() / known.size
    assert recorded["splits"]["train"]["mean_dice"] > 1.2 * (2 * share / (1 + share)) / 4
    sheet = np.asarray(Image.open(masked.run / run_dir.MASKS_SHEET).convert("RGB"))
    assert sheet.shape[1] > 400 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 50
    shown = render.write(masked.run)[0].read_text("utf-8")
    assert 'id="masks-h"' in shown and "edges apart, pixels" in shown
    answers = Outputs.join(opened.outputs([drawn.images[:32], drawn.images[32:]]))
    table = predictions.Predictions.read_csv(masked.run / "predictions.csv")
    np.testing.assert_allclose(answers.probabilities, table.probabilities, atol=1e-6)
    # A finished run is left alone; with another weight it is another run.
    assert single_run.run(config, masked.run) == text
    config.loss.segmentation = 0.5
    with pytest.raises(UserError, match="config.loss.segmentation: 1.0 then, 0.5 now"):
        single_run.run(config, masked.run)


# ---- mistakes -----------------------------------------------------------------------------------


def test_a_metric_of_masks_needs_masks_that_are_trained(images: Path, tmp_path: Path) -> None:
    config = unet_config(images)
    config.select.metric = "mean_dice"
    with pytest.raises(UserError, match="and stage train trains no masks: set it to another"):
        single_run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
