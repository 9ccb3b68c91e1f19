"""A model of all images, to be handed on: its figures and rules are those of a cross-validation.

Nothing is left to test it on. How well models do that are trained in this way says the
cross-validation, whose models saw a part of the patients each; with more of them the model is
rather a little better. Its temperature, thresholds and prediction sets are chosen on the
predictions of the images by models that had not seen their patients; so is the limit of the
out-of-distribution flag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.dataset import Images
from sscjax.evaluation import calibration, reliability
from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.rules import Rules
from sscjax.experiments import run_text, summarize
from sscjax.reports import calibration_text, tables
from sscjax.system import files, formatting, run_dir
from sscjax.training.settings import Settings
from sscjax.training.stage import FinishedStage


@dataclasses.dataclass(frozen=True, eq=False)
class Tested:
    """How models did that were trained in the same way, on a part of the same patients.

    Attributes:
      about: what identifies the cross-validation, for the record: 'protocol', 'folds' (how many
        models), 'repeats', 'subjects', 'images'.
      figures: its metrics.json.
      calibration: its calibration.json.
      rules: for new patients.
      held_out: the rows on which they were chosen.
      folds: [N] int, the fold of each image among all; images of no fold are in one of their own.
    """

    about: dict[str, Any]
    figures: dict[str, Any]
    calibration: dict[str, Any]
    rules: Rules
    held_out: Predictions
    folds: np.ndarray


def sentence(about: Mapping[str, Any]) -> str:
    """Which figures the model of all images is described by.

    Args:
      about: of `Tested`.
    """
    return (
        f"The model is fitted to all {about['images']:,} images of {about['subjects']:,} subjects. "
        "No image is left to test it: its figures and rules are those of the cross-validation, "
        f"whose {about['folds']} models were trained in the same way without the patients that "
        "they were tested on."
    )


def write(
    settings: Settings,
    folder: Path,
    images: Images,
    finished: Mapping[str, FinishedStage],
    features: reliability.Features,
    tested: Tested,
) -> str:
    """Write predictions, figures and rules of a model of all images; returns the report.

    Args:
      settings: of the run.
      folder: the run's.
      images: the run's, each in the split 'train'.
      finished: its stages.
      features: what the network hands to its classifier.
      tested: where figures and rules come from.
    """
    chosen = summarize.choose(settings.select, finished)
    raw, rules, run = finished[chosen].predictions, tested.rules, run_dir.RunDir(folder)
    detector, outliers = reliability.outliers(
        raw, tested.held_out, features, settings.calibration.outlier_rate
    )
    of_images = calibration.apply(raw, rules.image.temperature)
    of_subjects = calibration.apply(
        reliability.of_subjects(of_images, settings.calibration, settings.data.subject_label),
        rules.subject.temperature,
    )
    detector.save(run.outliers)
    of_images.write_csv(run.predictions)
    of_subjects.write_csv(run.subject_predictions)
    calibrated = {**tested.calibration, "outliers": outliers}
    files.write_json(folder / run_dir.CALIBRATION, calibrated)
    files.write_json(folder / run_dir.METRICS, _metrics(finished, chosen, tested))
    text = _text(images, tested, calibrated)
    files.write_text(folder / run_dir.REPORT, text)
    return text


def _metrics(finished: Mapping[str, FinishedStage], chosen: str, tested: Tested) -> dict[str, Any]:
    """The content of metrics.json: the cross-validation's figures, the run's own stages."""
    figures, rules = tested.figures, tested.rules
    return {
        "final_stage": chosen,
        "tested_by": tested.about,
        "probabilities": {
            **figures["probabilities"],
            "temperature": rules.image.temperature,
            "temperature_of_subjects": rules.subject.temperature,
        },
        "warnings": figures["warnings"],
        **({"tested": figures["tested"]} if "tested" in figures else {}),
        "splits": figures["splits"],
        "test_intervals": figures["test_intervals"],
        "stages": {
            name: {
                **figures["stages"][name],
                "epochs": stage.progress.epoch,
                "best_epoch": stage.progress.best_epoch or None,
                "best_value": stage.progress.best_value,
                "stopped_early": stage.progress.stopped_early,
            }
            for name, stage in finished.items()
        },
    }


def _text(images: Images, tested: Tested, calibrated: dict[str, Any]) -> str:
    """The report, which stands beside the cross-validation's."""
    figures = tested.figures
    repeated = figures["over_repeats"] is not None
    parts = [
        *map(formatting.paragraph, figures["warnings"]),
        *run_text.test_lines(figures.get("tested")),
        formatting.paragraph(sentence(tested.about)),
        tables.results_table(figures["splits"], repeated=repeated),
        tables.intervals_table(
            figures["splits"]["test"],
            figures["test_intervals"],
            run_text.reach(images, figures["test_intervals"]),
        ),
        calibration_text.text(calibrated, repeated),
    ]
    return "\n\n".join(parts) + "\n"
