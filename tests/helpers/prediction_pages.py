"""Documents of `sscjax predict` made by hand, and small pictures, for tests of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from sscjax.evaluation.map_check import Check, Maps
from sscjax.reports import overlays
from sscjax.reports.html.predictions import Picture

CLASSES = ("normal", "early", "late")
PASSED = Maps("hires_cam", ("out_relu",), Check((0.8,) * 8, (0.2,) * 8))
FAILED = Maps("hires_cam", ("out_relu",), Check((0.1,) * 8, (0.2,) * 8))


def row(
    subject: str, probabilities: tuple[float, float, float], decision: str = "", **more: Any
) -> dict[str, Any]:
    """A row of an image (`file=`) or of a subject (`images=`)."""
    best = CLASSES[int(np.argmax(probabilities))]
    return {
        "subject": subject,
        "decision": decision or best,
        "prediction_set": [best],
        "most_probable": best,
        "confidence": max(probabilities),
        "disease_score": 1 - probabilities[0],
        "positive": probabilities[0] < 0.6,
        "abstained": decision == "abstain",
        "out_of_distribution": decision == "out_of_distribution",
        "distance": 1.0,
        "probabilities": dict(zip(CLASSES, probabilities, strict=True)),
        **more,
    }


def document(
    images: list[dict[str, Any]],
    subjects: list[dict[str, Any]],
    maps: Maps = PASSED,
    drawn: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """As predictions.json."""
    unit = {
        "temperature": 1.0,
        "threshold": 0.4,
        "threshold_rule": "most right",
        "confidence_threshold": 0.55,
        "abstention_rule": "90 % right",
        "prediction_set": {"rule": "90 % of patients"},
    }
    return {
        "use": "For research only: this is no diagnosis.",
        "made": "2026-11-30T14:12:59+00:00",
        "sscjax": "0.3.0",
        "run": {
            "name": "skin",
            "warnings": [],
            "tested": ["40 patients never seen in training: 32 right, 80 % (64 to 91 %)."],
        },
        "rules": {
            "aggregation": "mean",
            "positive": "early or late",
            "distance_limit": 2.0,
            "subject": unit,
            "image": {**unit, "confidence_threshold": 0.7},
        },
        "maps": {**maps.to_json(), "drawn": drawn},
        "trained_on": 0,
        "failed": [],
        "against_labels": None,
        "labels_problem": "",
        "slides": [],
        "subjects": subjects,
        "images": images,
        "masks": [],
        **more,
    }


def picture(seed: int, with_map: bool = True) -> Picture:
    """Of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    uri = overlays.jpeg_uri(pixels, 32)
    return Picture(uri, uri if with_map else "", "late")


def three_patients(**more: Any) -> dict[str, Any]:
    """One with an answer, one without, one that is unlike the training images."""
    given = {
        "p1": ((0.1, 0.2, 0.7), ""),
        "p2 <b>": ((0.4, 0.35, 0.25), "abstain"),
        "p3": ((0.9, 0.05, 0.05), "out_of_distribution"),
    }
    images = [
        row(name, probabilities, decision, file=f"{name}/{number}.png")
        for name, (probabilities, decision) in given.items()
        for number in range(3)
    ]
    subjects = [
        row(name, probabilities, decision, images=3)
        for name, (probabilities, decision) in given.items()
    ]
    return document(images, subjects, **more)
