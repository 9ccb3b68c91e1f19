"""The metadata of an exported file, as one JSON object.

Its keys:

- format ('sscjax'), version (int), sscjax (the version that exported), notice (for people,
  always to be shown).
- input: name, dtype, layout, channels, and range of the graph's input.
- preparation: image_size in pixels, and in words how a photo becomes such an image: crop,
  reduce, transparency, orientation, colour. scaling: scale and shift by channel; these are
  applied inside the graph.
- classes, columns (names of the probabilities: the classes, then outputs without
  a class), ordered (whether the classes are a scale).
- outputs: names, in their order.
- temperature: float, of images, applied inside the graph.
- rules: aggregation ('mean' or 'geometric'), positive, negative, and for `subject` and `image`
  each: temperature, threshold, threshold_rule, confidence_threshold (float or null),
  abstention_rule, and prediction_set: level, limits (of each class a float or null), by_class,
  subjects (how many patients the limits rest on), cross, rule.
- distance: limit (float, or null where the flag is not usable and nothing is flagged), rule.
- maps: method, layers (whose maps are added), size [h,w], verdict (whether they agree with
  occlusion and change with a random classifier) and shown (false where they should be hidden
  unless asked for); or null where there are none, and maps_absent says why.
- mask_classes: names of what the values of masks mean, from 0; empty without masks.
- network: name, parameters (count), sha256 of the exported arrays.
- run: name, stage, trained (date and time, or null), versions, weights (kind, sha256,
  convention, fallback, name), data (fingerprint, images, training_images, synthetic),
  split_by.
- intended_use: text, and stated (whether anybody stated it).
- tested: how the run was tested: sentence, detail, and the numbers in them, see
  `reports.tested.about`; null of runs that do not record it.
- training: images, subjects, and by class; subjects is null where no image names one; null where
  the run does not record it.
- limits: sentences on what the network does not know or was not tried on.
- warnings: what is weak about the test, in sentences.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np

import sscjax
from sscjax.data.manifest import read
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Maps
from sscjax.export import graph, intended_use
from sscjax.export.graph import Graph
from sscjax.inference import predict
from sscjax.inference.classifier import Classifier
from sscjax.system import files, formatting

# The key of the JSON text in a file's own table of properties.
KEY = "sscjax"

# Of the keys below; another number means that they mean something else.
VERSION = 3

INPUT = "images"
PROBABILITIES, DISTANCE, MAPS, MASKS = "probabilities", "distance", "maps", "masks"


def metadata(opened: Classifier, use: str | None = None) -> dict[str, Any]:
    """What a program needs to use an opened run's network, and a reader to judge it.

    The rules are those of `decisions.decide`: with p the row of probabilities of an image, s the
    sum of p over the classes (without unused columns), and r the key `rules.image`, the decision is

    - 'out_of_distribution' where `distance.limit` is not null and distance is above it;
    - else 'abstain' where r.confidence_threshold is not null and max(p) is below it;
    - else `columns[argmax(p)]`.

    Apart from that, (s - p[0]) / s is the score of disease, called `rules.positive` from
    r.threshold on, else `rules.negative`; and the prediction set holds each class whose
    1 - p is at most its limit in r.prediction_set.limits (null: always), and the most probable one.

    Of a subject with several images the row is their mean p, or, where `rules.aggregation` is
    'geometric', the softmax of their mean ln p; then p^(1 / temperature), scaled to a sum of 1,
    with the temperature of `rules.subject`, whose other rules are then applied. The distance is the
    median; the subject is out-of-distribution where more than half of its images are.

    Args:
      opened: the run.
      use: whom the file is meant for; None takes what the run's config says.

    Returns:
      a dict, ready for JSON, with the keys that this module's docstring lists.

    Raises:
      UserError: `use` is too long.
    """
    network, manifest = graph.from_classifier(opened), _manifest(opened)
    trained_on = intended_use.training(opened, manifest)
    return {
        "format": "sscjax",
        "version": VERSION,
        "sscjax": sscjax.__version__,
        "notice": predict.RESEARCH_ONLY,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "layout": "NHWC",
            "channels": "RGB",
            "range": [0, 255],
        },
        "preparation": _preparation(network),
        "classes": list(opened.classes),
        "columns": list(opened.columns),
        "ordered": opened.ordered,
        "outputs": [
            *(PROBABILITIES, DISTANCE),
            *([MAPS] if network.maps else []),
            *([MASKS] if network.masks else []),
        ],
        **_rules(opened),
        **_maps(network, opened.maps),
        "mask_classes": list(opened.mask_classes),
        "network": {
            "name": opened.record["config"]["model"]["name"],
            "parameters": sum(part.size for part in _arrays(network).values()),
            "sha256": files.arrays_sha256(
                (name, np.ascontiguousarray(values, "<f4"))
                for name, values in _arrays(network).items()
            ),
        },
        "run": _run(opened, manifest),
        "intended_use": intended_use.use(opened, use),
        "tested": intended_use.test(opened),
        "training": trained_on,
        "limits": intended_use.limits(opened, trained_on),
        "warnings": list(opened.warnings),
    }


def _preparation(network: Graph) -> dict[str, Any]:
    """How a photo becomes the network's input."""
    return {
        "image_size": network.image_size,
        "orientation": "as EXIF says",
        "colour": "RGB, grey repeated, colour profiles ignored; of 16 bit the high byte",
        "transparency": "laid on white",
        "crop": "central square of the shorter side, its corner rounded down to whole pixels",
        "reduce": "Lanczos of 3 lobes, widened by the factor of reduction, along one side and "
        f"then the other, each rounded to 8 bit: LANCZOS of Pillow {version('pillow')}",
        "scaling": {"scale": _numbers(network.scale), "shift": _numbers(network.shift)},
    }


def _rules(opened: Classifier) -> dict[str, Any]:
    """Rules of subjects and of images, and the limit of the distance."""
    rules, rate = opened.rules, float(opened.record["config"]["calibration"]["outlier_rate"])
    return {
        "temperature": rules.image.temperature,
        "rules": rules.to_json(),
        "distance": {
            "limit": opened.distance_limit if opened.flags else None,
            "rule": f"chosen on held-out images so that about {formatting.percent(rate)} of images "
            "like these lie beyond: a target, met only roughly with few images or patients"
            if opened.flags
            else "nothing is flagged: the flag misses most of the images made up to try it",
        },
    }


def _run(opened: Classifier, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Where the network comes from."""
    record = opened.record
    return {
        "name": opened.name,
        "stage": opened.stage,
        "trained": None if manifest is None else manifest["sessions"][-1].get("finished"),
        "versions": dict(record["versions"]),
        "weights": {**record["weights"], "name": (manifest or record)["weights"].get("name")},
        "data": {
            key: record["data"][key]
            for key in ("fingerprint", "images", "training_images", "synthetic")
        },
        "split_by": record["config"]["split"]["by"],
    }


def text(about: dict[str, Any]) -> str:
    """Metadata as one line of JSON, the same for the same content."""
    return json.dumps(about, ensure_ascii=False, allow_nan=False)


def _arrays(network: Graph) -> dict[str, np.ndarray]:
    """The network's kernels and biases, as `<operation>/kernel` and `<operation>/bias`."""
    arrays = {}
    for operation in network.operations:
        for part in ("kernel", "bias"):
            value = getattr(operation, part)
            if value is not None:
                arrays[f"{operation.name}/{part}"] = value
    return arrays


def _maps(network: Graph, checked: Maps) -> dict[str, Any]:
    if not network.maps:
        reason = "the logits are not linear in the spatial means of a layer"
        return {"maps": None, "maps_absent": reason}
    layers = [evidence.name for evidence in network.maps]
    side = max(graph.sides(network.operations, network.image_size)[name] for name in layers)
    return {
        "maps": {
            "method": "HiResCAM",
            "layers": layers,
            "size": [side, side],
            "shown": checked.shown,
            "verdict": checked.verdict,
        }
    }


def _numbers(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]


def _manifest(opened: Classifier) -> dict[str, Any] | None:
    """The run's, or None: dates and names can be missing, all else is known without it."""
    try:
        return read(opened.folder)
    except UserError:
        return None
