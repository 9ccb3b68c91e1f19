"""The rows that a run chooses by: validation images, or out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sscjax.evaluation import calibration, metrics, reliability
from sscjax.evaluation.predictions import Predictions
from sscjax.training.settings import SelectSettings, Settings
from sscjax.training.stage import FinishedStage


def figures(
    settings: Settings, images: Predictions, ordered: bool, subjects: Predictions | None = None
) -> dict[str, Any] | None:
    """{'subject': ..., 'image': ...} of rows of a single split; None without rows."""
    if not len(images):
        return None
    if subjects is None:
        subjects = reliability.of_subjects(
            images, settings.calibration, settings.data.subject_label
        )
    [by_unit] = metrics.figures_by_split(images, ordered, subjects).values()
    return by_unit


def out_of_fold_figures(
    settings: Settings, stage: FinishedStage, assessment: reliability.Assessment, ordered: bool
) -> dict[str, Any] | None:
    """Figures of the stage's out-of-fold predictions, calibrated; None where there are none."""
    if stage.out_of_fold is None:
        return None
    rules = assessment.rules
    images = calibration.apply(stage.out_of_fold, rules.image.temperature)
    subjects = reliability.of_subjects(images, settings.calibration, settings.data.subject_label)
    subjects = calibration.apply(subjects, rules.subject.temperature)
    return figures(settings, images, ordered, subjects)


def chosen_before(settings: SelectSettings, finished: Mapping[str, FinishedStage]) -> list[str]:
    """What was chosen by the held-out images before any rule was: 'epoch', 'stage'."""
    if settings.metric == "none":
        return []
    # A classifier that is fitted to convergence has no epochs.
    epochs = any(
        stage.progress.best_epoch and stage.progress.l2 is None for stage in finished.values()
    )
    stages = len(finished) > 1 and settings.stage != "last"
    return ["epoch"] * epochs + ["stage"] * stages
