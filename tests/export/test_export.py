"""Exported files predict as their run does, in runtimes of their own.

The snippets of docs/export.md are run as they stand there.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import EXACT, LAYERS, MULTILAYER, REASON, Runs, assert_as_run, noise, run_both
from snippets import run_snippet, snippets

from sscjax import export
from sscjax.export import graph
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, saliency
from sscjax.inference.classifier import Classifier
from sscjax.models.pretrained import preprocessing

onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("flatbuffers", reason=REASON)


pytestmark = [pytest.mark.extra, pytest.mark.usefixtures("quick_compiler")]


def test_snippets_answer_as_the_run(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the documentation says how to read gives, of each format, what `Classifier` gives."""
    opened, pixels = classifier.open_run(runs("cnn")), noise(5, 32)
    for name, suffix in EXACT.items():
        text = export_file.export(runs("cnn"), name, tmp_path / f"skin{suffix}", ExportOptions())
        assert "0 decisions" in text and "For research only" in text
    read, compiled = (run_snippet(name, tmp_path, pixels) for name in ("ONNX", "StableHLO"))
    for names in (read, compiled):
        assert_as_run(opened, pixels, names["outputs"])
    assert compiled["about"] == read["about"]
    assert list(read["outputs"]) == read["about"]["outputs"] and "maps" not in read["outputs"]
    assert read["about"]["maps"] is None and read["about"]["maps_absent"]
    # onnxruntime complains on the process's own streams, which Python does not see.
    assert "onnxruntime" not in capfd.readouterr().err


def test_stablehlo_needs_nothing_of_this_package(runs: Runs, tmp_path: Path) -> None:
    export_file.export(runs("cnn"), "stablehlo", tmp_path / "skin.zip", ExportOptions())
    pixels = noise(3, 32)
    np.save(tmp_path / "images.npy", pixels)
    code = "\n".join(
        [
            "import sys; sys.modules['sscjax'] = None",
            "import numpy as np; images = np.load('images.npy')",
            snippets("StableHLO"),
            "assert set(network.platforms) == {'cpu', 'cuda', 'rocm', 'tpu'}",
            "np.savez('outputs.npz', **outputs)",
        ]
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_as_run(classifier.open_run(runs("cnn")), pixels, outputs)
    call, about = export.load_stablehlo(tmp_path / "skin.zip")
    for count in (1, 4):
        assert call(noise(count, 32))["probabilities"].shape == (count, 3)
    assert about["classes"] == ["early", "late", "normal"]


def changed(opened: Classifier, kind: str) -> Classifier:
    """A run of another kind, with this one's parameters."""
    model, params = opened.model, opened.params
    if kind == "size":
        return dataclasses.replace(opened, image_size=97)
    if kind == "torch":

        def inputs(images: jax.Array, key: Any) -> jax.Array:
            return preprocessing.preprocess(images.astype(np.float32), "imagenet")

        model = model.clone(padding="torch")  # type: ignore[attr-defined]
        program = dataclasses.replace(opened.program, model=model, inputs=inputs)
        return dataclasses.replace(opened, program=program, scaling="imagenet", image_size=64)
    if kind == "temperature":
        return _calibrated(opened, 2.5)
    if kind == "probabilities near 0":
        # Below the least number of float32 the run's logarithms stop, and so must the file's.
        bias = np.array([0.0, 100.0, 250.0], np.float32)
        head = {**params["predictions"], "bias": bias}
        return _calibrated(
            dataclasses.replace(opened, params={**params, "predictions": head}), 20.0
        )
    if kind == "no components":
        # Few training images leave none: every direction counts alike.
        detector = opened.detector
        bare = dataclasses.replace(
            detector, components=detector.components[:0], variances=detector.variances[:0]
        )
        return dataclasses.replace(opened, detector=bare)
    if kind == "sigmoid":
        kernel = params["predictions"]["kernel"][:, :1]
        head = {"kernel": kernel, "bias": np.array([0.3], np.float32)}
        objective = dataclasses.replace(opened.program.objective, kind="sigmoid")
        model = model.clone(outputs=1)  # type: ignore[attr-defined]
        opened = dataclasses.replace(
            opened,
            classes=("a", "b"),
            columns=("a", "b"),
            program=dataclasses.replace(opened.program, model=model, objective=objective),
            params={**params, "predictions": head},
        )
        return _calibrated(opened, 0.5)
    assert kind == "as it is"
    return opened


def _calibrated(opened: Classifier, temperature: float) -> Classifier:
    image = dataclasses.replace(opened.rules.image, temperature=temperature)
    return dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, image=image))


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        pytest.param(MULTILAYER, "as it is", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "size", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "torch", marks=pytest.mark.slow),
        *(("cnn", kind) for kind in ("temperature", "probabilities near 0")),
        *(("cnn", kind) for kind in ("no components", "sigmoid")),
    ],
)
def test_other_networks(runs: Runs, tmp_path: Path, model: str, kind: str) -> None:
    """Sizes that divide by nothing, either padding and scaling, limits of numbers; and the maps."""
    opened = changed(classifier.open_run(runs(model)), kind)
    pixels = noise(3, opened.image_size)
    for outputs in run_both(opened, pixels, tmp_path):
        assert_as_run(opened, pixels, outputs, 1e-5 if model == "cnn" else 2e-5)
        if kind == "probabilities near 0":
            assert np.asarray(outputs["probabilities"])[:, 0].min() > 0.01
        if model == "mobilenet_v2":
            assert_maps(opened, pixels, np.asarray(outputs["maps"]))


def assert_maps(opened: Classifier, pixels: np.ndarray, maps: np.ndarray) -> None:
    """Maps [N,h,w,C] of an exported file are those of `saliency`."""
    draw = saliency.Drawing(opened.model, opened.program.inputs)
    for column in range(len(opened.columns)):
        expected = draw(opened.params, opened.batch_stats, pixels, np.full(len(pixels), column))
        assert maps.shape[:3] == expected.shape and expected.shape[1:] != (1, 1)
        limit = 5e-4 * np.abs(expected).max()
        np.testing.assert_allclose(maps[..., column], expected, atol=limit)


@pytest.mark.slow
def test_maps_of_several_layers(runs: Runs, tmp_path: Path) -> None:
    """The sum of each layer's own, enlarged; they add up to the logits, but for the bias."""
    size = 96
    opened = dataclasses.replace(classifier.open_run(runs(MULTILAYER)), image_size=size)
    pixels = noise(2, size)
    results = [np.asarray(outputs["maps"]) for outputs in run_both(opened, pixels, tmp_path)]
    side, head = results[0].shape[1], opened.params["predictions"]
    program, start, expected = opened.program, 0, 0.0
    # Where several layers are read the network has no cut between them: as one that reads the last.
    model = opened.model.clone(feature_layers=())  # type: ignore[attr-defined]
    plain = dataclasses.replace(program, model=model)
    for name in LAYERS:
        last = opened.model.layer_names.index(name) + 1
        x = plain.outputs(opened.params, opened.batch_stats, jnp.asarray(pixels), last)
        evidence = x @ head["kernel"][start : start + x.shape[-1]]
        start += x.shape[-1]
        shape = (len(pixels), side, side, evidence.shape[-1])
        expected += jax.image.resize(evidence, shape, "linear") / side**2
    # Every side divides the largest.
    logits = program.outputs(opened.params, opened.batch_stats, jnp.asarray(pixels))
    for maps in results:
        np.testing.assert_allclose(maps, expected, atol=2e-4 * np.abs(expected).max())
        total = maps.sum((1, 2)) + np.asarray(head["bias"])
        np.testing.assert_allclose(total, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("few", "many"), [(4, 25), (7, 7), (1, 6), (12, 24)])
def test_maps_are_enlarged_as_jax_does(few: int, many: int) -> None:
    values = np.random.default_rng(few).normal(size=(few, few)).astype(np.float32)
    up = graph.bilinear(few, many)
    expected = jax.image.resize(values, (many, many), "linear")
    np.testing.assert_allclose(up @ values @ up.T, expected, atol=1e-5)


@pytest.mark.slow
def test_onnx_is_what_old_readers_read(runs: Runs, tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    export_file.export(runs("mobilenet_v2"), "onnx", path, ExportOptions())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    kinds = [node.op_type for node in model.graph.node]
    # 52 convolutions and the maps; BatchNorm is gone, and so are shifted products.
    assert kinds.count("Conv") == 53 and "BatchNormalization" not in kinds
    assert kinds.count("Clip") == 35 and "Slice" not in kinds
    [entry] = model.graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert entry.type.tensor_type.shape.dim[0].dim_param == "N"
