"""The metrics of held-out images: those of the learning curves, and the one that selects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sscjax.data import lazy
from sscjax.data.dataset import Images
from sscjax.errors import DivergedError
from sscjax.evaluation import metrics, segmentation
from sscjax.evaluation.predictions import Predictions
from sscjax.training import evaluate, programs
from sscjax.training.stage_work import StageWork
from sscjax.training.train_step import TrainState


def make_validate(work: StageWork) -> Callable[[TrainState, int], tuple[dict[str, Any], Any]]:
    """A function f(state, epoch) -> (figures, value) that predicts the validation images.

    `figures` are columns of the learning curves; `value` is the stage's metric, a float, or None
    without one. f raises a DivergedError where predictions are not finite.
    """
    predict = programs.make_predict(work.program)
    predict_masks = programs.make_masks(work.program)
    return lambda state, epoch: validate(work, predict, predict_masks, state, epoch)


def validate(
    work: StageWork,
    predict: Callable[..., jax.Array],
    predict_masks: Callable[..., jax.Array],
    state: TrainState,
    epoch: int,
) -> tuple[dict[str, Any], float | None]:
    """See `make_validate`, which compiles `predict` and `predict_masks`."""
    stage, images = work.stage, work.images
    probabilities = evaluate.probabilities(
        predict,
        state.params,
        state.batch_stats,
        lazy.View(work.stored_originals, work.validation),
        batch_size=stage.batch_size,
    )
    if not np.isfinite(probabilities).all():
        raise DivergedError(
            f"the validation predictions are not finite in epoch {epoch} of stage "
            f"{stage.name}: lower config.stages.{stage.name}.learning_rate and give "
            "--fresh"
        )
    table = evaluate.table(
        images.originals.take(work.validation), images.splits[work.validation], probabilities
    )
    figures = _figures("val", table)
    if work.masked is not None:
        counts, _ = evaluate.mask_counts(
            predict_masks,
            state.params,
            state.batch_stats,
            work.masked,
            batch_size=stage.batch_size,
            distances=False,
        )
        figures["val_mean_dice"] = segmentation.mean_dice(counts)
    if stage.metric == metrics.MASK_METRIC:
        return figures, figures["val_mean_dice"]
    if stage.metric == "none":
        return figures, None
    return figures, metrics.validation_metric(stage.metric, table)


def _figures(prefix: str, table: Predictions) -> dict[str, Any]:
    """Columns of the learning curves."""
    return {
        f"{prefix}_loss": metrics.validation_metric("log_loss", table),
        f"{prefix}_accuracy": metrics.validation_metric("accuracy", table),
        f"{prefix}_balanced_accuracy": metrics.validation_metric("balanced_accuracy", table),
    }


def out_of_fold(work: StageWork, probabilities: np.ndarray) -> tuple[dict[str, Any], float | None]:
    """As `validate`, of out-of-fold predictions of the training images.

    Args:
      work: of a stage without validation images.
      probabilities: [T,C] of the original training images; NaN where there are none.
    """
    table = out_of_fold_table(work.images, probabilities)
    if table is None:
        return {}, None
    metric = work.stage.metric
    value = None if metric == "none" else metrics.validation_metric(metric, table)
    return _figures("out_of_fold", table), value


def out_of_fold_table(images: Images, probabilities: np.ndarray) -> Predictions | None:
    """Out-of-fold predictions of the original training images; None where they are NaN."""
    if np.isnan(probabilities).any():
        return None
    chosen = np.flatnonzero(images.splits == "train")
    return evaluate.table(images.originals.take(chosen), images.splits[chosen], probabilities)


def is_better(metric: str, value: float | None, best: float | None) -> bool:
    """Whether a value of the metric is better than the best before; without a value it is not."""
    if value is None or best is None:
        return value is not None
    return value > best if metrics.HIGHER_IS_BETTER[metric] else value < best


def summary(figures: dict[str, Any]) -> str:
    """An epoch's figures on one line."""
    line = f"loss {figures['train_loss']:.3f}"
    for prefix, title in (("val", "val"), ("out_of_fold", "out-of-fold")):
        if f"{prefix}_loss" in figures:
            loss, accuracy = figures[f"{prefix}_loss"], figures[f"{prefix}_accuracy"]
            line += f", {title} loss {loss:.3f}, {title} accuracy {accuracy:.1%}"
    if "val_mean_dice" in figures:
        line += f", val Dice {figures['val_mean_dice']:.3f}"
    return line
