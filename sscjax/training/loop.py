"""One stage of training: epoch after epoch, the best parameters kept, checkpoints, resuming."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.data.dataset import Images
from sscjax.errors import DivergedError
from sscjax.reports import tables
from sscjax.system import malloc, signals
from sscjax.system.progress import Progress
from sscjax.training import (
    evaluate,
    freezing,
    frozen_features,
    linear_stage,
    programs,
    stage_work,
    validation,
)
from sscjax.training.checkpoint import Checkpoints
from sscjax.training.network import Network
from sscjax.training.stage import Stage, StageProgress, StageResult
from sscjax.training.stage_work import StageWork
from sscjax.training.train_step import TrainState, make_epoch

_LOG = logging.getLogger(__name__)


# The arguments behind the star are services of the run, the same for all its stages.
def run_stage(
    stage: Stage,
    images: Images,
    network: Network,
    inputs: programs.Inputs,
    *,
    store: frozen_features.Store,
    checkpoints: Checkpoints,
    curves: list[dict[str, Any]],
    on_epoch: Callable[[list[dict[str, Any]]], None],
) -> StageResult:
    """Train one stage to its end, from the newest checkpoint of this stage where there is one.

    Args:
      stage: what to do.
      images: the run's images.
      network: the network with the parameters that the stage starts from.
      inputs: turns uint8 images into the network's input.
      store: where the outputs of frozen layers are kept.
      checkpoints: of the run.
      curves: the learning curves of the stages before.
      on_epoch: called with the learning curves of the run after each epoch, and at the start.

    Raises:
      UserError: the loss stops being finite, or the stage's fields contradict each other.
    """
    labels = stage_work.layer_labels(stage, network)
    counts = freezing.count_parameters(network.params, network.batch_stats, labels)
    frozen_names = [name for name, label in labels.items() if label == freezing.FREEZE]
    line = tables.parameter_line(counts.frozen, counts.trained, frozen_names)
    _LOG.info("stage %s: %s", stage.name, line)
    work = stage_work.set_up(
        stage, images, network, inputs, store=store, checkpoints=checkpoints, on_epoch=on_epoch
    )
    progress, tree = _resume(work, curves)
    on_epoch(progress.curves)
    tree = (linear_stage.fit if stage.uses_lbfgs else _epochs)(work, tree, progress)
    chosen = tree["best"] if "best" in tree else tree["last"]
    params = freezing.combine(chosen["params"], work.frozen)
    probabilities = evaluate.probabilities(
        programs.make_predict(work.program),
        params,
        chosen["batch_stats"],
        work.stored_originals,
        batch_size=stage.batch_size,
    )
    predictions = evaluate.table(images.originals, images.splits, probabilities)
    out_of_fold = None
    if "out_of_fold" in tree:
        out_of_fold = validation.out_of_fold_table(images, tree["out_of_fold"])
    return StageResult(params, chosen["batch_stats"], progress, predictions, counts, out_of_fold)


def _resume(work: StageWork, curves: list[dict[str, Any]]) -> tuple[StageProgress, dict[str, Any]]:
    """Progress and arrays of the stage's newest checkpoint, or those of its start."""
    stage, tree = work.stage, work.start_tree()
    checkpoint = work.checkpoints.newest(tree, lambda info: info["stage"] == stage.name)
    if checkpoint is None:
        return StageProgress(stage.name, curves=list(curves)), tree
    info, tree = checkpoint
    progress = StageProgress(**info)
    _LOG.info(
        "stage %s: resumed after epoch %d of %d%s",
        *(stage.name, progress.epoch, stage.epochs),
        f" and {progress.steps} steps" if progress.steps else "",
    )
    return progress, tree


def _epochs(work: StageWork, tree: dict[str, Any], progress: StageProgress) -> dict[str, Any]:
    """Train the remaining epochs; changes `progress` and returns the checkpoint's tree.

    A first Ctrl-C or SIGTERM lets the current step end, and what is done is saved.
    """
    stage, last, best = work.stage, tree["last"], tree.get("best")
    params = freezing.combine(last["params"], stage_work.copied(work.frozen))
    state = TrainState(last["step"], params, last["batch_stats"], tree["opt_state"])
    train = _giving_back(make_epoch(work.program, work.optimizer, work.labels))
    validate = validation.make_validate(work)
    saved = time.monotonic()
    count = len(work.training_labels)
    done = progress.epoch * count + progress.steps * stage.batch_size
    with signals.deferred(), Progress(f"stage {stage.name}", stage.epochs * count, done) as bar:
        for epoch in range(progress.epoch + 1, stage.epochs + 1):
            if progress.stopped_early:
                break
            started = time.monotonic()
            state, figures = _epoch(work, train, state, progress, epoch, bar)
            if figures is None:  # a signal came before the epoch's end
                progress.seconds += time.monotonic() - started
                work.save(progress, work.checkpoint_tree(state, best))
                break
            of_validation, value = validate(state, epoch)
            figures |= of_validation
            if validation.is_better(stage.metric, value, progress.best_value):
                progress.best_epoch, progress.best_value = epoch, value
                trained, _ = freezing.partition(state.params, work.labels)
                best = stage_work.snapshot(trained, state.batch_stats)
            progress.end_epoch(epoch, figures)
            progress.stopped_early = 0 < stage.patience <= epoch - progress.best_epoch
            progress.seconds += time.monotonic() - started
            bar.note(validation.summary(figures))
            work.on_epoch(progress.curves)
            ended = epoch == stage.epochs or progress.stopped_early
            due = time.monotonic() - saved >= stage.checkpoint_seconds
            if ended or due or signals.stop_requested():
                work.save(progress, work.checkpoint_tree(state, best))
                saved = time.monotonic()
            if signals.stop_requested():
                break
    return work.checkpoint_tree(state, best)


def _epoch(
    work: StageWork,
    train: Callable[..., Any],
    state: TrainState,
    progress: StageProgress,
    epoch: int,
    bar: Progress,
) -> tuple[TrainState, dict[str, Any] | None]:
    """The remaining steps of an epoch; no figures where a signal stopped it before its end."""
    stage, images = work.stage, len(work.training_labels)
    order, real = epoch_order(stage.seed, stage.index, epoch, images, stage.batch_size)
    key = jax.random.fold_in(jax.random.key(stage.seed), stage.index)
    key = jax.random.fold_in(key, epoch)
    for steps, stored, labels, positions in _calls(work, order, progress.steps):
        state, sums = train(state, stored, labels, positions, real[steps], key)
        progress.loss += float(sums.loss)
        progress.correct += float(sums.correct)
        progress.steps += len(positions)
        if not math.isfinite(progress.loss):
            raise DivergedError(
                f"the loss is {progress.loss} in epoch {epoch} of stage {stage.name}: lower "
                f"config.stages.{stage.name}.learning_rate (now {stage.learning_rate:g}) or set "
                f"clip_norm, and give --fresh"
            )
        bar.advance(int(real[steps].sum()))
        if signals.stop_requested() and progress.steps < len(order):
            return state, None
    return state, {
        "train_loss": progress.loss / images,
        "train_accuracy": progress.correct / images,
    }


def epoch_order(
    seed: int, stage: int, epoch: int, images: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images of each step of an epoch, every image once, and which of them are no padding.

    Returns:
      order [S,B] int32 and real [S,B] float32; the last step is filled up with images of the
      first, of weight 0.
    """
    rng = np.random.default_rng([seed, stage, epoch])
    total = math.ceil(images / batch_size) * batch_size
    # Filled up with images of this epoch: BatchNorm of the batch sees those of weight 0, too.
    order = np.resize(rng.permutation(images), total).astype(np.int32)
    real = np.zeros(total, np.float32)
    real[:images] = 1
    return order.reshape(-1, batch_size), real.reshape(-1, batch_size)


def _calls(
    work: StageWork, order: np.ndarray, done: int
) -> Iterator[tuple[slice, jax.Array, jax.Array, np.ndarray]]:
    """An epoch cut into calls: its steps, and the inputs, labels and positions that they read.

    `done` steps were taken before the run was interrupted.

    With small features the whole epoch is one call, which looks up its batches itself. Otherwise
    each step is given its images alone, so that the set may be larger than memory.
    """
    if work.in_one_call:
        yield slice(done, None), work.all_stored, work.all_labels, order[done:]
        return
    positions = np.arange(order.shape[1], dtype=np.int32)[None]
    for step in range(done, len(order)):
        batch = order[step]
        stored, labels = work.stored[batch], work.training_labels[batch]
        yield slice(step, step + 1), jnp.asarray(stored), jnp.asarray(labels), positions


def _giving_back(train: Callable[..., Any]) -> Callable[..., Any]:
    """`train`, after whose first call the memory that compiling took is returned to the system."""
    compiled = False

    def call(*arguments: Any) -> Any:
        nonlocal compiled
        result = train(*arguments)
        if not compiled:
            malloc.give_back()
            compiled = True
        return result

    return call
