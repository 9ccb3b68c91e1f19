"""Small runs and images that the tests of exports share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import finished_run, write_folder

from sscjax.export import graph, graph_jax, metadata, onnx_file
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs

REASON = "the extra 'export' is not installed: pip install 'sscjax[export]'"

EXACT = {"onnx": ".onnx", "stablehlo": ".zip"}
"""Formats of one file, and how it ends."""

# MobileNetV2 whose classifier L-BFGS fits, on several layers.
MULTILAYER = "several layers"
LAYERS = ("block_2_add", "block_16_project_BN", "out_relu")
_FIELDS: dict[str, Any] = {
    "model__feature_layers": LAYERS,
    "stages__head__optimizer": "lbfgs",
    "stages__head__l2": (1e-2,),
    "stages__head__epochs": 50,
}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Finished runs of several networks, each trained when it is first used."""

    factory: pytest.TempPathFactory
    folders: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def images(self) -> Path:
        """The folder of the images that all are trained on."""
        if "" not in self.folders:
            self.folders[""] = write_folder(self.factory.mktemp("images") / "skin")
        return self.folders[""]

    def __call__(self, model: str) -> Path:
        """The run of 'cnn', 'mobilenet_v2' or `MULTILAYER`."""
        if model not in self.folders:
            name, fields = ("mobilenet_v2", _FIELDS) if model == MULTILAYER else (model, {})
            folder = self.factory.mktemp("run") / "run"
            self.folders[model] = finished_run(folder, self.images, name, **fields)
        return self.folders[model]


def page(run: Path, folder: Path, runtime: Path) -> Path:
    """The exported page of a run; `runtime` is the archive of onnxruntime-web."""
    text = export_file.export(run, "web", folder, ExportOptions(ort_web=runtime))
    assert "0 decisions differ" in text and "python -m http.server" in text
    return folder


def noise(count: int, size: int) -> np.ndarray:
    """Images of one colour with noise of another strength in each: far and near ones."""
    rng = np.random.default_rng(count)
    base = rng.integers(60, 200, (count, 1, 1, 3))
    strength = rng.integers(1, 60, (count, 1, 1, 1))
    grain = rng.standard_normal((count, size, size, 3))
    return np.clip(base + strength * grain, 0, 255).astype(np.uint8)


def run_both(classifier: Classifier, pixels: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    """The outputs in onnxruntime, of a file, and in JAX, of what StableHLO is compiled from."""
    network, about = graph.from_classifier(classifier), metadata.metadata(classifier)
    path = folder / "network.onnx"
    path.write_bytes(onnx_file.serialise(onnx_file.build(network, about), about))
    in_jax = jax.jit(lambda pixels: graph_jax.outputs(network, pixels))(pixels)
    return [dict(onnx_file.load(path)(pixels)), in_jax]


def assert_as_run(
    classifier: Classifier, pixels: np.ndarray, outputs: Any, tolerance: float = 2e-5
) -> None:
    """Probabilities and distances of an exported file are those of its run."""
    expected: Outputs = next(iter(classifier.outputs([pixels])))
    probabilities, distances = (np.asarray(outputs[k]) for k in ("probabilities", "distance"))
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=tolerance)
    np.testing.assert_allclose(distances, expected.distances, rtol=10 * tolerance)
