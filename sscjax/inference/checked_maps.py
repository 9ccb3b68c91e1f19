"""The maps of a model: one method and one choice of layers for all places, checked once.

At the end of a run a few images are checked, and what came out lies in the run's folder
(`run_dir.MAPS`). Report, `explain`, `predict` and exported pages ask `Classifier.maps`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from sscjax.evaluation.map_check import Check, Maps, Method
from sscjax.evaluation.predictions import Predictions
from sscjax.inference import saliency
from sscjax.models import Model
from sscjax.system import files
from sscjax.system.run_dir import MAPS, RunDir
from sscjax.training import programs

_LOG = logging.getLogger(__name__)

METHOD: Method = "hires_cam"
"""The only method whose maps add up to what the classifier computes, over all layers it reads."""

IMAGES = 8
"""Images that the model of a run is checked on."""

IMAGES_OF_FOLD = 2
"""The same of each fold of a cross-validation; the report counts those of all."""

# Classifiers drawn at random, and patches along a side of the image.
_DRAWS, _PATCHES = 5, 8


def of_model(model: Model) -> Maps:
    """What maps of a network are made by; not yet checked."""
    return Maps(METHOD, model.read_layers)


def drawing(model: Model, inputs: programs.Inputs) -> saliency.Drawing:
    """What draws the maps of a network; `inputs` turn stored images into what it is fed."""
    return saliency.Drawing(model, inputs, of_model(model).layers, METHOD)


def choose(predictions: Predictions, count: int) -> np.ndarray:
    """Rows to check on: [count] int or fewer, of each class in turn, each of another subject.

    Args:
      predictions: of the run; its test images are taken, else those of validation or training.
      count: 1 or more.
    """
    split = next(name for name in ("test", "val", "train") if name in predictions.splits)
    rows = np.flatnonzero(predictions.splits == split)
    labels, subjects = predictions.labels[rows], predictions.subjects[rows]
    # How many images of the same subject and class stand before each; then of the same class.
    earlier = _earlier(np.rec.fromarrays([labels, subjects]))
    order = np.lexsort([np.arange(len(rows)), earlier])
    turn = np.empty(len(rows), np.int64)
    turn[order] = _earlier(labels[order])
    return rows[np.lexsort([labels, turn])][:count]


def _earlier(keys: np.ndarray) -> np.ndarray:
    """[N] int, how many of the keys before each are the same."""
    counts: dict[Any, int] = {}
    found = []
    for key in keys.tolist():
        found.append(counts.get(key, 0))
        counts[key] = found[-1] + 1
    return np.array(found, np.int64)


def check(
    drawn_by: saliency.Drawing,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: np.ndarray,
) -> Check:
    """Check maps of the most probable class of each image.

    Args:
      drawn_by: what draws the network's maps.
      params: its parameters, by layer.
      batch_stats: its running averages, by layer.
      images: uint8 [N,H,W,3].
    """

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        logits = drawn_by.logits(params, batch_stats, pixels)
        if logits.shape[1] == 1:
            logits = np.concatenate([-logits, logits], axis=1) / 2
        return special.softmax(logits.astype(np.float64), axis=1)

    classes = probabilities(images).argmax(axis=1)
    maps = drawn_by(params, batch_stats, images, classes)
    patch = -(-images.shape[1] // _PATCHES)
    hidden = saliency.occlusion(probabilities, images, classes, patch=patch, stride=patch)
    return Check(
        tuple(saliency.agreement(*pair) for pair in zip(maps, hidden, strict=True)),
        with_random_classifier(drawn_by, params, batch_stats, images, classes, maps),
    )


# As of `check`, with the maps that are compared.
def with_random_classifier(
    drawn_by: saliency.Drawing,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    images: np.ndarray,
    classes: np.ndarray,
    maps: np.ndarray,
) -> tuple[float | None, ...]:
    """Of each map how like those of random classifiers it is, see `Check.random`."""
    likeness = [
        [saliency.agreement(*pair) for pair in zip(maps, others, strict=True)]
        for others in (
            drawn_by(random_classifier(params, seed), batch_stats, images, classes)
            for seed in range(_DRAWS)
        )
    ]
    return tuple(_mean_size(values) for values in zip(*likeness, strict=True))


def _mean_size(values: tuple[float | None, ...]) -> float | None:
    known = [abs(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def random_classifier(params: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The parameters with the classifier's kernel drawn at random, each feature as wide as it was.

    Features of several layers have units of their own: drawn with one width for all, those of one
    layer would count for all the others.
    """
    head = params["predictions"]
    kernel = np.asarray(head["kernel"])
    width = np.sqrt(np.mean(kernel**2, axis=-1, keepdims=True))
    drawn = np.random.default_rng(seed).normal(0.0, 1.0, kernel.shape) * width
    drawn = drawn.astype(np.float32)
    return {**params, "predictions": {**head, "kernel": drawn}}


def write(
    run: RunDir,
    drawn_by: saliency.Drawing,
    variables: Mapping[str, Any],
    pixels: Any,
    predictions: Predictions,
    count: int = IMAGES,
) -> Maps:
    """Check the maps of a finished model on images of its run, and keep what came out.

    Args:
      run: its folder.
      drawn_by: of the network, see `drawing`.
      variables: its parameters and running averages.
      pixels: rows of uint8 [N,H,W,3], in the order of `predictions`.
      predictions: of the model, for every original image.
      count: images to check on, 1 or more.
    """
    rows = np.sort(choose(predictions, count))
    chosen = np.asarray(pixels[rows])
    checked = check(drawn_by, variables["params"], variables["batch_stats"], chosen)
    maps = Maps(METHOD, drawn_by.layers, checked)
    files.write_json(run.path / MAPS, maps.to_json())
    _LOG.info("maps: %s", maps.verdict)
    return maps


def read(run: RunDir, model: Model) -> Maps:
    """The maps of a finished run, as they were checked; of an earlier version's unchecked ones.

    Raises:
      UserError: the file is damaged.
    """
    content = run.optional(MAPS)
    return of_model(model) if content is None else Maps.of_folder(content, run.path)
