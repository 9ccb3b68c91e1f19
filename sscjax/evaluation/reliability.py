"""How far the predictions of a finished network can be trusted: the content of calibration.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import (
    abstention,
    calibration,
    calibration_error,
    conformal,
    ood,
    thresholds,
)
from sscjax.evaluation.predictions import (
    AGGREGATIONS,
    SPLITS,
    Aggregation,
    Predictions,
    SubjectLabel,
)
from sscjax.evaluation.rules import UNITS, Rules, Unit, UnitRules
from sscjax.system import run_dir

# Images of held-out patients and of test that are listed as the least like those of the training.
_LISTED = 20

# Of calibration.json: another number means that its fields mean something else.
FORMAT = 2

# Where held-out rows come from: images that were never trained on, or each development patient
# predicted by a network of a fold in which that patient was not trained on.
Source = Literal["validation", "out-of-fold"]

# What the held-out rows are used for here; epoch and stage may have been chosen on them before.
USES = (
    "temperature",
    "threshold of disease",
    "confidence threshold",
    "prediction sets",
    "limit of the out-of-distribution flag",
)


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
    aggregation: Aggregation = "mean"
    set_level: float = 0.9

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"config.calibration.bins={self.bins}: expected 1 or more")
        for name, known in (
            ("binning", calibration_error.BINNINGS),
            ("threshold", thresholds.RULES),
            ("aggregation", AGGREGATIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                expected = " or ".join(map(repr, known))
                raise UserError(f"config.calibration.{name}={value!r}: expected {expected}")
        for name in ("sensitivity", "target_accuracy"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UserError(f"config.calibration.{name}={value}: expected more than 0, up to 1")
        for name in ("outlier_rate", "set_level"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise UserError(f"config.calibration.{name}={value}: expected between 0 and 1")


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
class UnitFit:
    """The rules of a unit, as they were chosen."""

    temperature: calibration.Temperature
    disease: thresholds.Choice
    confidence: thresholds.Choice
    sets: conformal.Sets

    @property
    def rules(self) -> UnitRules:
        """What is applied to new rows."""
        assert self.disease.value is not None
        return UnitRules(
            temperature=self.temperature.value,
            threshold=self.disease.value,
            threshold_rule=self.disease.text,
            confidence_threshold=self.confidence.value,
            abstention_rule=self.confidence.text,
            sets=self.sets,
        )


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What is known of a network's predictions.

    Attributes:
      predictions: the table of images with calibrated probabilities.
      subjects: the table of subjects, aggregated from it, with calibrated probabilities.
      rules: chosen on the held-out rows.
      content: of calibration.json: format, classes, aggregation, held_out (source, images,
        subjects, used_for), several_labels (subjects whose images have several labels), `subject`
        and `image`, each with what `unit_content` gives, and outliers: method, file, rate,
        threshold, usable, warnings, share_flagged by split, made_up_flagged by kind, and the
        farthest images.
      detector: flags images unlike the training images.
    """

    predictions: Predictions
    subjects: Predictions
    rules: Rules
    content: dict[str, Any]
    detector: ood.Detector


# One argument for each thing that its callers have.
def assess(
    predictions: Predictions,
    held_out: Predictions,
    classes: tuple[str, ...],
    features: Features,
    options: Options,
    *,
    subject_label: SubjectLabel = "majority",
    source: Source = "validation",
    also_used_for: Sequence[str] = (),
) -> Assessment:
    """Calibrate, choose thresholds and learn what the training images look like.

    Everything is chosen on the training and held-out images; the test images are only reported.
    First the images' temperature; a subject's row is aggregated from calibrated images, and has
    rules of its own, chosen on the rows of held-out subjects.

    Args:
      predictions: all images, as the network gave them.
      held_out: the images on which the rules are chosen, as predicted by a network that was not
        trained on any image of their subjects: the validation images, or out-of-fold predictions
        of the development patients, who may then stand in `predictions` as 'train'.
      classes: the names of the classes, without those of unused outputs.
      features: of the same images, and of made-up ones.
      options: the rules.
      subject_label: what a subject is whose images have several labels.
      source: where the held-out rows come from.
      also_used_for: what else was chosen on them before, such as the epoch.
    """
    fits: dict[Unit, UnitFit] = {}
    content: dict[Unit, Any] = {}
    tables = {"held_out": held_out, "test": predictions.where("test")}
    of_images = fit_unit(tables["held_out"], "image", len(classes), options, source)
    calibrated = {
        name: calibration.apply(table, of_images.temperature.value)
        for name, table in tables.items()
    }
    raw: dict[Unit, dict[str, Predictions]] = {
        "image": tables,
        "subject": {
            name: of_subjects(table, options, subject_label) for name, table in calibrated.items()
        },
    }
    fits["image"] = of_images
    fits["subject"] = fit_unit(raw["subject"]["held_out"], "subject", len(classes), options, source)
    for unit in UNITS:
        content[unit] = unit_content(raw[unit], fits[unit], classes, options)
    images = calibration.apply(predictions, of_images.temperature.value)
    detector, of_outliers = outliers(predictions, held_out, features, options.outlier_rate)
    rules = Rules(
        subject=fits["subject"].rules,
        image=of_images.rules,
        aggregation=options.aggregation,
        positive=" or ".join(classes[1:]),
        negative=classes[0],
    )
    return Assessment(
        predictions=images,
        subjects=calibration.apply(
            of_subjects(images, options, subject_label), fits["subject"].temperature.value
        ),
        rules=rules,
        content={
            "format": FORMAT,
            "classes": list(classes),
            "aggregation": options.aggregation,
            "held_out": {
                "source": source,
                "images": len(held_out),
                "subjects": len(set(held_out.subjects.tolist())),
                "used_for": [*also_used_for, *USES],
            },
            "subject_label": subject_label,
            "several_labels": predictions.subjects_of_several_labels,
            "rules": rules.to_json(),
            "subject": content["subject"],
            "image": content["image"],
            "outliers": of_outliers,
        },
        detector=detector,
    )


def of_subjects(
    images: Predictions, options: Options, subject_label: SubjectLabel = "majority"
) -> Predictions:
    """A row per subject of calibrated images, before the subject's own temperature.

    Raises:
      UserError: every subject has images of several labels, and these are to be left out.
    """
    table = images.by_subject(options.aggregation, subject_label)
    if len(images) and not len(table):
        raise UserError(
            "config.data.subject_label='image' leaves no subject: all have images of several "
            "labels; take 'majority' or 'worst'"
        )
    return table


def fit_unit(
    held_out: Predictions,
    unit: Unit,
    classes: int,
    options: Options,
    source: Source,
    *,
    with_odds: bool = True,
) -> UnitFit:
    """Choose the rules of a unit.

    Args:
      held_out: its held-out rows, before the unit's temperature.
      unit: what a row is.
      classes: how many of the columns stand for a class.
      options: the rules.
      source: where the rows come from.
      with_odds: whether the odds of missing a target are computed.
    """
    rows = f"{source} {unit}s"
    temperature = calibration.Temperature(1.0, "config.calibration.temperature is off")
    if options.temperature:
        temperature = calibration.fit_temperature(held_out)
    after = calibration.apply(held_out, temperature.value)
    return UnitFit(
        temperature=temperature,
        disease=thresholds.choose_disease(
            after, classes, options.threshold, options.sensitivity, rows
        ),
        confidence=abstention.choose_confidence(
            after, options.target_accuracy, rows, with_odds=with_odds
        ),
        sets=conformal.fit(after, classes, options.set_level, cross=source == "out-of-fold"),
    )


def unit_content(
    tables: dict[str, Predictions], fit: UnitFit, classes: tuple[str, ...], options: Options
) -> dict[str, Any]:
    """What the rules of a unit do, ready for JSON.

    Args:
      tables: rows before the unit's temperature, 'held_out' and 'test'.
      fit: its rules.
      classes: their names.
      options: as of `fit_unit`.

    Returns:
      temperature, reason, gain, standard_error (see `calibration.Temperature`); what
      `calibration.compare` gives; threshold (`thresholds.operating_point`), coverage
      (`abstention.coverage_curve` of the test rows), abstention (`abstention.report`) and
      prediction_set (the rule, and `conformal.figures` of the test rows).
    """
    value = fit.temperature.value
    after = {name: calibration.apply(table, value) for name, table in tables.items()}
    return {
        "temperature": value,
        "reason": fit.temperature.reason,
        "gain": fit.temperature.gain,
        "standard_error": fit.temperature.standard_error,
        **reported(tables, after, options),
        "threshold": thresholds.operating_point(fit.disease, after, classes),
        "abstention": abstention.report(fit.confidence, after, options.target_accuracy),
        "prediction_set": {
            **fit.rules.to_json()["prediction_set"],
            "test": conformal.figures(after["test"], fit.sets.members(after["test"].probabilities)),
        },
    }


def reported(
    before: dict[str, Predictions], after: dict[str, Predictions], options: Options
) -> dict[str, Any]:
    """Calibration of some tables before and after scaling, and the coverage curve of 'test'."""
    test = after["test"]
    return {
        **calibration.compare(before, after, options.bins, options.binning),
        "coverage": abstention.coverage_curve(test) if len(test) else [],
    }


# --- unlike the training images -------------------------------------------------------------------


def outliers(
    predictions: Predictions, held_out: Predictions, features: Features, rate: float
) -> tuple[ood.Detector, dict[str, Any]]:
    """The detector, and the block `outliers` of calibration.json; arguments as of `assess`."""
    detector = ood.fit(features.images[predictions.splits == "train"])
    of_held_out = features.held_out
    if of_held_out is None:
        of_held_out = detector.distances(features.images[_rows_of(held_out, predictions)])
    # Distances need no labels: there may be some where no rules could be chosen. Without any, those
    # of the training images must do.
    if not len(of_held_out):
        of_held_out = detector.distances(features.images[predictions.splits == "train"])
    detector = detector.with_rate(of_held_out, rate)
    distances = detector.distances(features.images)
    flagged = distances > detector.threshold
    shares = {
        split: float(flagged[predictions.splits == split].mean())
        for split in SPLITS
        if (predictions.splits == split).any()
    }
    made_up = {kind: float(detector.flag(rows).mean()) for kind, rows in features.made_up.items()}
    others = np.flatnonzero(predictions.splits != "train")
    farthest = others[np.argsort(-distances[others], kind="stable")][:_LISTED]
    chosen_on = held_out if len(held_out) else predictions.where("train")
    subjects = len(set(chosen_on.subjects.tolist()))
    return detector, {
        "method": ood.METHOD,
        "file": run_dir.OUTLIERS,
        "rate": rate,
        "threshold": detector.threshold,
        "usable": ood.usable(made_up),
        "warnings": ood.warnings(len(chosen_on), subjects, made_up),
        "share_flagged": shares,
        "made_up_flagged": made_up,
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


def _rows_of(held_out: Predictions, predictions: Predictions) -> np.ndarray:
    """The row of each held-out image among all images: [H] int."""
    row_of = {file: row for row, file in enumerate(predictions.files.tolist())}
    return np.array([row_of[file] for file in held_out.files.tolist()], np.int64)
