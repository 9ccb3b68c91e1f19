"""The stages of a run: adapted to its weights, run one after the other, kept in its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sscjax.data.dataset import Images
from sscjax.errors import UserError
from sscjax.evaluation import metrics, predictions
from sscjax.reports import figures, tensorboard
from sscjax.system import files, locks, run_dir, whole_run
from sscjax.training import checkpoint, frozen_features, programs, setup
from sscjax.training.freezing import Counts
from sscjax.training.loop import run_stage
from sscjax.training.network import Network
from sscjax.training.settings import Settings
from sscjax.training.stage import FinishedStage, Stage, StageProgress, StageResult

_LOG = logging.getLogger(__name__)


def fit_to_weights(stages: list[Stage], network: Network, learning_rate: float) -> list[Stage]:
    """The stages as they suit the starting weights; logs where these come from.

    With random weights BatchNorm has no running averages worth keeping, so it normalises by the
    batch. Where they replace ImageNet's weights, which could not be had, `learning_rate` replaces
    that of the stages that train every layer: fine-tuning's is too low for random weights.
    """
    if network.weights.kind == "file":
        if network.weights.fallback:
            _LOG.warning(
                "BUNDLED WEIGHTS: ImageNet's, which are better, are not to be had here; "
                "name a file of them by --config.pretrained=FILE"
            )
        _LOG.info("weights: %s, sha256 %s", network.weights.name, network.weights.sha256[:16])
        return stages
    if not network.batch_stats:
        return stages
    _LOG.warning(
        "RANDOM WEIGHTS: %s; far below pre-trained ones, such as --config.pretrained=bundled",
        network.weights.name,
    )
    changed: dict[str, Any] = {"batch_norm": "batch"}
    if network.weights.fallback:
        changed["learning_rate"] = learning_rate
    return [
        dataclasses.replace(stage, **changed) if stage.trainable == "all" else stage
        for stage in stages
    ]


def keep_dropout_draws(stages: list[Stage], earlier: Mapping[str, Any] | None) -> list[Stage]:
    """The stages with dropout drawn as before, where a run resumes with a smaller micro-batch.

    Raises:
      UserError: the micro-batch does not divide the one that the run started with.
    """
    if earlier is None:
        return stages
    before, now, batch = earlier["stages"][0], stages[0].micro_batch, stages[0].batch_size
    first = before["drawn_by"] or before["micro_batch"]
    if programs.part_size(first, batch) % programs.part_size(now, batch):
        raise UserError(
            f"config.micro_batch={now}: this run was started with {first}; set it to {first}, or "
            "to a number that divides it"
        )
    if now != before["micro_batch"]:
        _LOG.warning(
            "config.micro_batch: %d before, %d from here on: the result differs in its rounding",
            before["micro_batch"],
            now,
        )
    return [dataclasses.replace(stage, drawn_by=0 if first == now else first) for stage in stages]


def warn_of_small_parts(stages: list[Stage]) -> None:
    """Warn where no divisor of the batch is near the micro-batch, as of a prime number."""
    for stage in stages[:1]:
        batch, limit = stage.batch_size, stage.micro_batch
        part = programs.part_size(limit, batch)
        if 2 * part < min(limit, batch):
            near = max(1, round(batch / limit)) * limit
            _LOG.warning(
                "config.batch_size=%d has no divisor near config.micro_batch=%d: %d image(s) go "
                "through the network at a time, which is slow; --config.batch_size=%d is not",
                *(batch, limit, part, near),
            )


# One argument for each part of the run: bundled they would be a class for this call alone.
def run_stages(
    settings: Settings,
    folder: Path,
    stages: list[Stage],
    images: Images,
    network: Network,
    *,
    store: frozen_features.Store,
    lock: locks.Lock,
) -> dict[str, FinishedStage]:
    """Run the stages in order, each from the network of the one before; finished ones are read.

    Args:
      settings: of the run.
      folder: the run's.
      stages: as `keep_dropout_draws` gives them.
      images: the run's images.
      network: with its starting weights.
      store: where outputs of frozen layers are kept.
      lock: of the folder, checked before anything is written.

    Returns:
      the finished stages by name, in their order.
    """
    curves: list[dict[str, Any]] = []
    finished: dict[str, FinishedStage] = {}
    warn_of_small_parts(stages)
    run = run_dir.RunDir(folder)
    with checkpoint.Checkpoints(run.checkpoints, settings.checkpoint.keep) as checkpoints:
        for stage in stages:
            stage_dir = run.stage(stage.name)
            done = _read_finished(stage_dir)
            if done is None:
                with (
                    whole_run.step(f"stage {stage.name}"),
                    tensorboard.EventLog(folder / run_dir.TENSORBOARD, curves) as log,
                ):
                    inputs = setup.make_inputs(
                        network.weights.convention.scaling,
                        settings.augment.changes if stage.online_augment else None,
                    )
                    result = run_stage(
                        stage,
                        images,
                        network,
                        inputs,
                        store=store,
                        checkpoints=checkpoints,
                        curves=curves,
                        on_epoch=CurveFiles(folder, log, len(curves), lock),
                    )
                lock.check()
                done = _write_finished(stage_dir, stage, result)
                model = result.variables
            else:
                with whole_run.step(f"stage {stage.name}"):
                    _LOG.info("stage %s: already finished", stage.name)
                model = checkpoint.load_model(stage_dir.model, network.variables)
            network = dataclasses.replace(
                network, params=dict(model["params"]), batch_stats=dict(model["batch_stats"])
            )
            curves = done.progress.curves
            finished[stage.name] = done
    return finished


class CurveFiles:
    """Keeps curves.csv and the TensorBoard events up to date with the training."""

    def __init__(
        self, folder: Path, log: tensorboard.EventLog, written: int, lock: locks.Lock
    ) -> None:
        """`written` rows of the curves are in the events already."""
        self._folder, self._log, self._written, self._lock = folder, log, written, lock

    def __call__(self, curves: list[dict[str, Any]]) -> None:
        """Write the rows that are new."""
        self._lock.check()
        for epoch in curves[self._written :]:
            self._log.add(epoch)
        self._written = len(curves)
        if curves:
            figures.write_curves_csv(self._folder / run_dir.CURVES, curves)


def _write_finished(
    stage_dir: run_dir.StageDir, stage: Stage, result: StageResult
) -> FinishedStage:
    """Write a stage's model and predictions; stage.json comes last and marks it as complete."""
    checkpoint.save_model(stage_dir.model, result.variables)
    result.predictions.write_csv(stage_dir.predictions)
    if result.out_of_fold is not None:
        result.out_of_fold.write_csv(stage_dir.out_of_fold)
    value = result.progress.best_value
    validation = result.predictions.where("val")
    if stage.metric in metrics.VALIDATION_METRICS and len(validation):
        value = metrics.validation_metric(stage.metric, validation)
    about = {
        "progress": dataclasses.asdict(result.progress),
        "counts": dataclasses.asdict(result.counts),
        "value": value,
        "out_of_fold": result.out_of_fold is not None,
    }
    files.write_json(stage_dir.about, about)
    return FinishedStage(
        result.progress, result.counts, result.predictions, value, result.out_of_fold
    )


def _read_finished(stage_dir: run_dir.StageDir) -> FinishedStage | None:
    about = stage_dir.read()
    if about is None:
        return None
    try:
        return FinishedStage(
            progress=StageProgress(**about["progress"]),
            counts=Counts(**about["counts"]),
            predictions=predictions.Predictions.read_csv(stage_dir.predictions),
            value=about["value"],
            out_of_fold=(
                predictions.Predictions.read_csv(stage_dir.out_of_fold)
                if about.get("out_of_fold")
                else None
            ),
        )
    except UserError as error:
        raise UserError(f"{error}; or delete {stage_dir.path} to train this stage again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{stage_dir.about} is damaged ({type(error).__name__}: {error}): delete "
            f"{stage_dir.path} to train this stage again"
        ) from error
