"""How far the predictions of a finished network can be trusted: the content of calibration.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import calibration, calibration_error, ood, thresholds
from sscjax.evaluation.predictions import SPLITS, Predictions
from sscjax.system import run_dir

# Images of validation and test that are listed as the least like those of the training.
_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.calibration`, see `configs/default.py`.

    Raises:
      UserError: a field makes no sense.
    """

    temperature: bool = True
    bins: int = 10
    binning: calibration_error.Binning = "mass"
    threshold: str = "youden"
    sensitivity: float = 0.95
    target_accuracy: float = 0.9
    outlier_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"config.calibration.bins={self.bins}: expected 1 or more")
        choices = {"binning": calibration_error.BINNINGS, "threshold": thresholds.RULES}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                expected = " or ".join(map(repr, known))
                raise UserError(f"config.calibration.{name}={value!r}: expected {expected}")
        for name in ("sensitivity", "target_accuracy"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UserError(f"config.calibration.{name}={value}: expected more than 0, up to 1")
        if not 0 < self.outlier_rate < 1:
            raise UserError(
                f"config.calibration.outlier_rate={self.outlier_rate}: expected between 0 and 1"
            )


@dataclasses.dataclass(frozen=True)
class Features:
    """What the network hands to its classifier, a row per image.

    Attributes:
      images: [N,D] of all images of the run.
      made_up: [M,D] of each kind of `ood.made_up`.
    """

    images: np.ndarray
    made_up: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What was found.

    Attributes:
      predictions: the table with calibrated probabilities.
      found: the content of calibration.json: what `calibration.compare` gives; classes;
        threshold (`thresholds.operating_point`), coverage (`thresholds.coverage_curve` of the test
        images) and abstention (`thresholds.abstention`), all of calibrated probabilities; and
        outliers: method, file, rate, threshold, share_flagged by split, made_up_flagged by kind,
        and the farthest images of validation and test.
      detector: flags images unlike the training images.
    """

    predictions: Predictions
    found: dict[str, Any]
    detector: ood.Detector


def assess(
    predictions: Predictions,
    classes: tuple[str, ...],
    features: Features,
    options: Options,
) -> Assessment:
    """Calibrate, choose thresholds and learn what the training images look like.

    Everything is chosen on the training and validation images; the test images are only reported.

    Args:
      predictions: all images, as the network gave them.
      classes: the names of the classes, without those of unused outputs.
      features: of the same images, and of made-up ones.
      options: the rules.
    """
    temperature = calibration.Temperature(1.0, "config.calibration.temperature is off")
    if options.temperature:
        temperature = calibration.fit_temperature(predictions.where("val"))
    after = calibration.apply(predictions, temperature.value)
    rows = {split: predictions.splits == split for split in SPLITS}
    of_split = {split: features.images[chosen] for split, chosen in rows.items()}
    detector = ood.fit(of_split["train"], of_split["val"], options.outlier_rate)
    test = after.where("test")
    content = {
        **calibration.compare(predictions, temperature, options.bins, options.binning),
        "classes": list(classes),
        "threshold": thresholds.operating_point(
            after, classes, options.threshold, options.sensitivity
        ),
        "coverage": thresholds.coverage_curve(test) if len(test) else [],
        "abstention": thresholds.abstention(after, options.target_accuracy),
        "outliers": _outliers(predictions, features, detector, options.outlier_rate),
    }
    return Assessment(after, content, detector)


def _outliers(
    predictions: Predictions, features: Features, detector: ood.Detector, rate: float
) -> dict[str, Any]:
    distances = detector.distances(features.images)
    flagged = distances > detector.threshold
    shares = {}
    for split in SPLITS:
        chosen = predictions.splits == split
        if chosen.any():
            shares[split] = float(flagged[chosen].mean())
    held_out = np.flatnonzero(predictions.splits != "train")
    farthest = held_out[np.argsort(-distances[held_out], kind="stable")][:_LISTED]
    return {
        "method": ood.METHOD,
        "file": run_dir.OUTLIERS,
        "rate": rate,
        "threshold": detector.threshold,
        "share_flagged": shares,
        "made_up_flagged": {
            kind: float(detector.flag(rows).mean()) for kind, rows in features.made_up.items()
        },
        "farthest": [
            {
                "file": str(predictions.files[row]),
                "split": str(predictions.splits[row]),
                "distance": float(distances[row]),
                "flagged": bool(flagged[row]),
            }
            for row in farthest.tolist()
        ],
    }
