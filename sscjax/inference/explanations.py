"""At the end of a run: where the network looked, in confident errors and right predictions.

`explanations/` in the run's folder holds the images and the maps over them as PNG, and
`explanations.json`, written last, says what each is. Reports are made from these alone: the data
may have moved.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import dataset
from sscjax.evaluation.predictions import Predictions
from sscjax.inference import checked_maps, saliency
from sscjax.reports import overlays
from sscjax.system import files, run_dir
from sscjax.training import checkpoint, setup
from sscjax.training.network import Network

_LOG = logging.getLogger(__name__)

# Few enough to look at each: errors in all, right predictions of each class, and of all classes.
ERRORS = 12
RIGHT_OF_CLASS = 2
RIGHT = 12

# Of an error there are two.
MOST_MAPS = 2 * ERRORS + RIGHT


def write(
    folder: Path,
    images: dataset.Images,
    network: Network,
    stage: str,
    predictions: Predictions,
    checked: int = checked_maps.IMAGES,
) -> None:
    """Check the maps of a finished run, and write `explanations/` in place of what is there.

    Args:
      folder: the run's.
      images: the run's images, in the order of `predictions`.
      network: the run's network; its parameters are read from the stage's model.
      stage: whose model is explained.
      predictions: of that model, for every original image.
      checked: images that the maps are checked on.
    """
    split = next(name for name in ("test", "val", "train") if name in predictions.splits)
    errors, right = choose(predictions, split)
    chosen = np.concatenate([errors, right])
    run = run_dir.RunDir(folder)
    target = run.explanations
    (target / run_dir.EXPLANATIONS_INDEX).unlink(missing_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    model = checkpoint.load_model(run.stage(stage).model, network.variables)
    inputs = setup.make_inputs(network.weights.convention.scaling)
    draw = checked_maps.drawing(network.model, inputs)
    checked_maps.write(run, draw, model, images.originals.images, predictions, checked)
    if not len(chosen):
        return
    # Of an error there are two maps: of the prediction, and of what would have been right.
    numbers = np.concatenate([chosen, errors])
    classes = np.concatenate([predictions.predicted[chosen], predictions.labels[errors]])
    pixels = images.originals.images[numbers]
    maps = draw(model["params"], model["batch_stats"], pixels, classes)
    entries = []
    for index, row in enumerate(chosen.tolist()):
        entry = _entry(predictions, row, f"{index:02d}")
        files.write_bytes(target / entry["image"], overlays.png(pixels[index]))
        drawn = [index] + ([len(chosen) + index] if index < len(errors) else [])
        for drawn_map, shown in zip(entry["maps"], drawn, strict=True):
            overlay = overlays.overlay(pixels[index], maps[shown])
            files.write_bytes(target / drawn_map["overlay"], overlays.png(overlay))
        entries.append(entry)
    index_of = {
        "method": saliency.TITLES[checked_maps.METHOD],
        "layers": list(draw.layers),
        "map_size": list(maps.shape[1:]),
        "stage": stage,
        "split": split,
        "errors_in_all": int(_wrong(predictions, split).sum()),
        "images": entries,
    }
    files.write_json(target / run_dir.EXPLANATIONS_INDEX, index_of)
    _LOG.info("explanations: %d images with their maps", len(entries))


def _wrong(predictions: Predictions, split: str) -> np.ndarray:
    return (predictions.splits == split) & (predictions.predicted != predictions.labels)


def choose(predictions: Predictions, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the most confident errors, and of the most confident right predictions of each class.

    Args:
      predictions: a table.
      split: whose rows are looked at.

    Returns:
      [E] and [R] int, the most confident first, right predictions class by class and, as far as
      there are others, each of another subject.
    """
    confidence = predictions.probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = _wrong(predictions, split)
    errors = order[wrong[order]][:ERRORS]
    right: list[int] = []
    correct = (predictions.splits == split) & ~wrong
    for label in range(len(predictions.classes)):
        candidates = order[correct[order] & (predictions.labels[order] == label)]
        # The most confident of each subject, then the others.
        _, first = np.unique(predictions.subjects[candidates], return_index=True)
        firsts = np.zeros(len(candidates), bool)
        firsts[first] = True
        right += [*candidates[firsts].tolist(), *candidates[~firsts].tolist()][:RIGHT_OF_CLASS]
    return errors, np.array(right[:RIGHT], np.int64)


def _entry(predictions: Predictions, row: int, number: str) -> dict[str, Any]:
    """What one image is, and the names of its files."""
    label, predicted = int(predictions.labels[row]), int(predictions.predicted[row])
    shown = [predicted] if predicted == label else [predicted, label]
    return {
        "file": str(predictions.files[row]),
        "subject": str(predictions.subjects[row]),
        "label": predictions.classes[label],
        "prediction": predictions.classes[predicted],
        "right": predicted == label,
        "probability": float(predictions.probabilities[row, predicted]),
        "probability_of_label": float(predictions.probabilities[row, label]),
        "image": f"{number}.png",
        "maps": [
            {
                "class": predictions.classes[index],
                "overlay": f"{number}_{'prediction' if index == predicted else 'label'}.png",
            }
            for index in shown
        ],
    }
