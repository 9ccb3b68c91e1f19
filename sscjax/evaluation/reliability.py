"""How far the predictions of a finished network can be trusted: the content of calibration.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import calibration, ood, thresholds
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
    binning: calibration.Binning = "mass"
    threshold: str = "youden"
    sensitivity: float = 0.95
    target_accuracy: float = 0.9
    outlier_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"config.calibration.bins={self.bins}: expected 1 or more")
        for name, known in (("binning", calibration.BINNINGS), ("threshold", thresholds.RULES)):
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
      held_out: [H] float64, distances of the held-out rows, each from a detector that was not
        fitted on that subject's images, see `ood.out_of_fold_distances`; None where the held-out
        images are not among those of the split 'train': their features are then in `images`.
    """

    images: np.ndarray
    made_up: dict[str, np.ndarray]
    held_out: np.ndarray | None = None


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
    held_out: Predictions,
    classes: tuple[str, ...],
    features: Features,
    options: Options,
) -> Assessment:
    """Calibrate, choose thresholds and learn what the training images look like.

    Everything is chosen on the training and held-out images; the test images are only reported.

    Args:
      predictions: all images, as the network gave them.
      held_out: the images on which the rules are chosen, as predicted by a network that was not
        trained on any image of their subjects: the validation images, or out-of-fold predictions
        of the development patients, who may then stand in `predictions` as 'train'.
      classes: the names of the classes, without those of unused outputs.
      features: of the same images, and of made-up ones.
      options: the rules.
    """
    temperature = calibration.Temperature(1.0, "config.calibration.temperature is off")
    if options.temperature:
        temperature = calibration.fit_temperature(held_out)
    detector = ood.fit(features.images[predictions.splits == "train"])
    distances = features.held_out
    if distances is None:
        distances = detector.distances(features.images[_rows_of(held_out, predictions)])
    detector = detector.with_rate(distances, options.outlier_rate)
    # What is reported: figures where the rules were chosen, and on the test images.
    reported = Predictions.join(
        [
            dataclasses.replace(held_out, splits=np.full(len(held_out), "val")),
            predictions.where("test"),
        ]
    )
    after = calibration.apply(reported, temperature.value)
    test = after.where("test")
    content = {
        **calibration.compare(reported, temperature, options.bins, options.binning),
        "classes": list(classes),
        "threshold": thresholds.operating_point(
            after, classes, options.threshold, options.sensitivity
        ),
        "coverage": thresholds.coverage_curve(test) if len(test) else [],
        "abstention": thresholds.abstention(after, options.target_accuracy),
        "outliers": _outliers(predictions, features, detector, options.outlier_rate),
    }
    return Assessment(calibration.apply(predictions, temperature.value), content, detector)


def _rows_of(held_out: Predictions, predictions: Predictions) -> np.ndarray:
    """The row of each held-out image among all images: [H] int."""
    row_of = {file: row for row, file in enumerate(predictions.files.tolist())}
    return np.array([row_of[file] for file in held_out.files.tolist()], np.int64)


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
