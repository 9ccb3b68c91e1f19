"""One stage of training: what trains, epoch after epoch, the best kept, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sscjax.data import dataset, lazy, splits
from sscjax.data.dataset import Images, ImageSet
from sscjax.data.lazy import Rows
from sscjax.errors import DivergedError, UserError
from sscjax.evaluation import metrics, segmentation
from sscjax.reports import tables
from sscjax.system import malloc, signals
from sscjax.system.progress import Progress
from sscjax.training import (
    evaluate,
    freezing,
    frozen_features,
    linear_probe,
    optimizers,
    programs,
    stage_inputs,
    train_step,
)
from sscjax.training.checkpoint import Checkpoints
from sscjax.training.network import Network
from sscjax.training.stage import Course, Result, Stage

_LOG = logging.getLogger(__name__)

# Checkpoints are numbered by stage, epochs done, and steps of an epoch that was interrupted:
# stage 1 after epoch 7 is 1000007000000.
_PER_EPOCH = 1_000_000
_PER_STAGE = 1_000_000 * _PER_EPOCH

# Below this many bytes per image an epoch is one call: a linear classifier on stored features.
_WHOLE_EPOCH_BYTES = 65_536


@dataclasses.dataclass
class _Work:
    """Everything that the epochs of a stage use, made once.

    `program` begins at what is stored. `masked` are the validation images that have a mask, where
    masks are trained.
    """

    stage: Stage
    images: Images
    network: Network
    labels: dict[str, str]
    frozen: freezing.Params
    program: programs.Program
    optimizer: optax.GradientTransformation
    stored: Rows
    stored_originals: Rows
    masked: ImageSet | None
    training_labels: np.ndarray
    validation: np.ndarray
    checkpoints: Checkpoints
    on_epoch: Callable[[list[dict[str, Any]]], None]

    @property
    def in_one_call(self) -> bool:
        """Whether an epoch is so little work that a call for each step would be felt."""
        bytes_each = lazy.nbytes(self.stored) // len(self.stored)
        return self.program.first > 0 and bytes_each <= _WHOLE_EPOCH_BYTES

    @functools.cached_property
    def all_stored(self) -> jax.Array:
        """All training inputs where the network runs."""
        return jnp.asarray(self.stored[:])

    @functools.cached_property
    def all_labels(self) -> jax.Array:
        """Their labels."""
        return jnp.asarray(self.training_labels)


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
) -> Result:
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
    work = _set_up(stage, images, network, inputs, store, checkpoints, on_epoch)
    tree = _start_tree(work)
    course = Course(stage.name, rows=list(curves))
    kept = checkpoints.newest(tree, lambda info: info["stage"] == stage.name)
    if kept is not None:
        course, tree = Course(**kept[0]), kept[1]
        _LOG.info(
            "stage %s: going on after epoch %d of %d%s",
            *(stage.name, course.epoch, stage.epochs),
            f" and {course.steps} steps" if course.steps else "",
        )
    on_epoch(course.rows)
    tree = (_solve if stage.solved else _epochs)(work, tree, course)
    chosen = tree["best"] if "best" in tree else tree["last"]
    params = freezing.combine(chosen["params"], work.frozen)
    found = _predicted(work, params, chosen["batch_stats"])
    counts = freezing.count_parameters(network.params, network.batch_stats, work.labels)
    table = evaluate.table(images.originals, images.splits, found)
    return Result(params, chosen["batch_stats"], course, table, counts)


def _predicted(work: _Work, params: freezing.Params, batch_stats: freezing.Params) -> np.ndarray:
    """Probabilities of all originals, from what is stored."""
    return evaluate.probabilities(
        programs.make_predict(work.program),
        params,
        batch_stats,
        work.stored_originals,
        batch_size=work.stage.batch_size,
    )


def check(stage: Stage, network: Network) -> None:
    """Whether the stage can be run on this network, before anything is written.

    Raises:
      UserError: what the stage trains, or its optimizer, cannot be.
    """
    labels = _labels(stage, network)
    trained = [name for name, to in labels.items() if to == freezing.TRAIN]
    if stage.solved and len(trained) > 1:
        raise UserError(
            f"stage {stage.name}: optimizer='lbfgs' fits one dense layer, and the classifier has "
            f"{len(trained)} ({', '.join(trained)}); set another optimizer or model.cnn_dense=()"
        )
    trains_masks = network.objective.segmentation > 0 and not stage.solved
    if stage.metric == metrics.MASK_METRIC and not trains_masks:
        raise UserError(
            f"config.select.metric={metrics.MASK_METRIC}, and stage {stage.name} trains no masks: "
            "set it to another, or loss.segmentation above 0 and another optimizer than 'lbfgs'"
        )
    _optimizer(stage, labels, steps_per_epoch=1)


def _labels(stage: Stage, network: Network) -> dict[str, str]:
    return freezing.label_layers(
        network.model.layer_names,
        network.model.head_start,
        network.params,
        trainable=stage.trainable,
        freeze_first=stage.freeze_first,
    )


def _optimizer(
    stage: Stage, labels: Mapping[str, str], steps_per_epoch: int
) -> optax.GradientTransformation:
    """Over the whole network's parameters: it moves the layers that train, and no other."""
    schedule = optimizers.make_schedule(
        stage.schedule,
        stage.learning_rate,
        steps=steps_per_epoch * stage.epochs,
        warmup_steps=round(stage.warmup_epochs * steps_per_epoch),
        end_factor=stage.end_factor,
    )
    optimizer = optimizers.make_optimizer(
        stage.optimizer, schedule, weight_decay=stage.weight_decay, clip_norm=stage.clip_norm
    )
    return freezing.freeze_mask(optimizer, labels)


def _set_up(
    stage: Stage,
    images: Images,
    network: Network,
    inputs: programs.Inputs,
    store: frozen_features.Store,
    checkpoints: Checkpoints,
    on_epoch: Callable[[list[dict[str, Any]]], None],
) -> _Work:
    model = network.model
    training = images.training_for(online=stage.online_augment)
    labels = _labels(stage, network)
    trained, frozen = freezing.partition(network.params, labels)
    counts = freezing.count_parameters(network.params, network.batch_stats, labels)
    frozen_names = [name for name, to in labels.items() if to == freezing.FREEZE]
    line = tables.parameter_line(counts.frozen, counts.trained, frozen_names)
    _LOG.info("stage %s: %s", stage.name, line)
    first_trained = min(model.layer_names.index(name) for name in trained)
    program = programs.Program(
        model,
        network.objective,
        inputs,
        first=0,
        batch_statistics_from=first_trained if stage.batch_norm == "batch" else None,
        micro_batch=stage.micro_batch,
        drawn_by=stage.drawn_by,
    )
    program, training_inputs, originals = stage_inputs.prepare(
        stage, images, network, program, labels, store
    )
    optimizer = _optimizer(stage, labels, math.ceil(len(training) / stage.batch_size))
    validation = np.flatnonzero(images.splits == "val")
    return _Work(
        stage=stage,
        images=images,
        network=network,
        labels=labels,
        frozen=frozen,
        program=program,
        optimizer=optimizer,
        stored=training_inputs,
        stored_originals=originals,
        masked=_masked(images, validation) if program.tells_masks else None,
        training_labels=training.labels,
        validation=validation,
        checkpoints=checkpoints,
        on_epoch=on_epoch,
    )


def _masked(images: Images, chosen: np.ndarray) -> ImageSet | None:
    """Those of the chosen originals that have a mask; None where none has."""
    has = dataset.with_masks(images.originals, chosen)
    return images.originals.take(has) if len(has) else None


def _start_tree(work: _Work) -> dict[str, Any]:
    """What a checkpoint holds, at the start of the stage: the trained layers alone."""
    trained, _ = freezing.partition(work.network.params, work.labels)
    trained, batch_stats = _copied(trained), _copied(work.network.batch_stats)
    last = {"step": jnp.int32(0), "params": trained, "batch_stats": batch_stats}
    # As one program: one by one, its arrays would be as many programs as they have shapes.
    opt_state = jax.jit(work.optimizer.init)(work.network.params)
    tree: dict[str, Any] = {"last": last, "opt_state": opt_state}
    if work.stage.metric != "none":
        tree["best"] = _snapshot(trained, batch_stats)
    return tree


def _copied(tree: freezing.Params) -> freezing.Params:
    """In memory of its own: a step donates its state, and the network's arrays are needed again."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _snapshot(params: freezing.Params, batch_stats: freezing.Params) -> dict[str, freezing.Params]:
    """A copy on the host that later steps cannot touch."""
    return jax.tree.map(np.array, {"params": params, "batch_stats": batch_stats})


def _giving_back(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, after whose first call the memory that compiling it took is returned."""
    new = True

    def call(*arguments: Any) -> Any:
        nonlocal new
        found = run(*arguments)
        if new:
            malloc.give_back()
            new = False
        return found

    return call


def _epochs(work: _Work, tree: dict[str, Any], course: Course) -> dict[str, Any]:
    """Train the epochs that are left; changes `course` and returns the checkpoint's tree.

    A first Ctrl-C or SIGTERM lets the step at hand end, and what is done is saved.
    """
    stage, last = work.stage, tree["last"]
    params = freezing.combine(last["params"], _copied(work.frozen))
    state = train_step.TrainState(last["step"], params, last["batch_stats"], tree["opt_state"])
    best = tree.get("best")
    run = _giving_back(train_step.make_epoch(work.program, work.optimizer, work.labels))
    predict = programs.make_predict(work.program)
    tell = programs.make_masks(work.program)
    saved = time.monotonic()
    count = len(work.training_labels)
    done = course.epoch * count + course.steps * stage.batch_size
    title = f"stage {stage.name}"
    with signals.held(), Progress(title, stage.epochs * count, done) as progress:
        for epoch in range(course.epoch + 1, stage.epochs + 1):
            if course.stopped_early:
                break
            started = time.monotonic()
            state, row = _epoch(work, run, state, course, epoch, progress)
            if row is None:
                course.seconds += time.monotonic() - started
                _save(work, course, _tree(work, state, best))
                break
            value = _validate(work, predict, tell, state, row, epoch)
            better = value is not None and _is_better(stage.metric, value, course.best_value)
            if better:
                course.best_epoch, course.best_value = epoch, value
                trained, _ = freezing.partition(state.params, work.labels)
                best = _snapshot(trained, state.batch_stats)
            _count(work, course, epoch, row)
            course.stopped_early = 0 < stage.patience <= epoch - course.best_epoch
            course.seconds += time.monotonic() - started
            progress.note(_note(row))
            work.on_epoch(course.rows)
            over = epoch == stage.epochs or course.stopped_early
            late = time.monotonic() - saved >= stage.checkpoint_seconds
            if over or late or signals.asked():
                _save(work, course, _tree(work, state, best))
                saved = time.monotonic()
            if signals.asked():
                break
    return _tree(work, state, best)


def _solve(work: _Work, tree: dict[str, Any], course: Course) -> dict[str, Any]:
    """The same for a stage that is solved: one row, one checkpoint."""
    if course.epoch:
        return tree
    stage, last, started = work.stage, tree["last"], time.monotonic()
    if work.program.first == 0:
        raise UserError(
            f"stage {stage.name}: optimizer='lbfgs' works on features that are computed ahead; "
            "raise config.features.max_megabytes"
        )
    [layer] = last["params"]
    problem = linear_probe.Problem(
        np.reshape(work.stored[:], (len(work.stored), -1)),
        work.training_labels,
        work.network.objective,
        last["params"][layer]["bias"].shape[0],
        passes=stage.epochs,
    )
    choice = _penalty(work, problem)
    found = problem.fit(choice.l2)
    params = {layer: {"kernel": jnp.asarray(found.kernel), "bias": jnp.asarray(found.bias)}}
    step = jnp.int32(found.passes)
    whole = freezing.combine(params, work.frozen)
    state = train_step.TrainState(step, whole, last["batch_stats"], tree["opt_state"])
    row = {"train_loss": found.loss, "train_accuracy": found.accuracy}
    predict, tell = programs.make_predict(work.program), programs.make_masks(work.program)
    course.best_value = _validate(work, predict, tell, state, row, epoch=1)
    _count(work, course, 1, row)
    course.best_epoch = 1
    course.l2, course.seconds = choice.l2, time.monotonic() - started
    work.on_epoch(course.rows)
    snapshot = None if stage.metric == "none" else _snapshot(params, state.batch_stats)
    tree = _tree(work, state, snapshot)
    _save(work, course, tree)
    _LOG.info("stage %s: solved after %d passes, %s", stage.name, found.passes, _note(row))
    return tree


def _penalty(work: _Work, problem: linear_probe.Problem) -> linear_probe.Choice:
    """The strength of the penalty, by cross-validation where the stage names several."""
    stage = work.stage
    folds = splits.subject_folds(work.images.training, linear_probe.FOLDS, stage.seed)
    if len(set(stage.l2)) > 1 and not folds.any():
        middle = sorted(stage.l2)[len(stage.l2) // 2]
        _LOG.warning(
            "stage %s: too few subjects of a class to choose l2 by cross-validation: %g is taken",
            stage.name,
            middle,
        )
        return linear_probe.Choice(middle, {}, 0)
    choice = problem.choose(stage.l2, folds)
    if choice.losses:
        losses = ", ".join(f"{l2:g}: {loss:.3f}" for l2, loss in choice.losses.items())
        _LOG.info(
            "stage %s: l2 %g, by %d-fold cross-validation over the subjects trained on (log loss "
            "%s)",
            *(stage.name, choice.l2, choice.folds, losses),
        )
    return choice


def _tree(work: _Work, state: train_step.TrainState, best: dict[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint holds. Frozen layers are those that the stage starts from: left out."""
    trained, _ = freezing.partition(state.params, work.labels)
    last = {"step": state.step, "params": trained, "batch_stats": state.batch_stats}
    tree = {"last": last, "opt_state": state.opt_state}
    return tree if best is None else {**tree, "best": best}


def _count(work: _Work, course: Course, epoch: int, row: dict[str, Any]) -> None:
    """An epoch of the stage is over; its figures are the next row of the run's curves."""
    course.epoch, course.steps, course.loss, course.correct = epoch, 0, 0.0, 0.0
    course.rows.append({"epoch": len(course.rows) + 1, "stage": work.stage.name, **row})


def _save(work: _Work, course: Course, tree: dict[str, Any]) -> None:
    step = work.stage.index * _PER_STAGE + course.epoch * _PER_EPOCH + course.steps
    work.checkpoints.save(step, tree, dataclasses.asdict(course))


def _is_better(metric: str, value: float, best: float | None) -> bool:
    if best is None:
        return True
    return value > best if metrics.HIGHER_IS_BETTER[metric] else value < best


def epoch_order(
    seed: int, stage: int, epoch: int, images: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images of each step of an epoch, every image once, and which places are real.

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


def _epoch(
    work: _Work,
    run: Callable[..., Any],
    state: train_step.TrainState,
    course: Course,
    epoch: int,
    progress: Progress,
) -> tuple[train_step.TrainState, dict[str, Any] | None]:
    """The steps of an epoch that are left; no figures where a signal stopped it before its end."""
    stage, images = work.stage, len(work.training_labels)
    order, real = epoch_order(stage.seed, stage.index, epoch, images, stage.batch_size)
    key = jax.random.fold_in(jax.random.key(stage.seed), stage.index)
    key = jax.random.fold_in(key, epoch)
    for part, stored, labels, places in _calls(work, order, course.steps):
        state, sums = run(state, stored, labels, places, real[part], key)
        course.loss += float(sums.loss)
        course.correct += float(sums.correct)
        course.steps += len(places)
        if not math.isfinite(course.loss):
            raise DivergedError(
                f"the loss is {course.loss} in epoch {epoch} of stage {stage.name}: lower "
                f"config.stages.{stage.name}.learning_rate (now {stage.learning_rate:g}) or set "
                f"clip_norm, and give --fresh"
            )
        progress.advance(int(real[part].sum()))
        if signals.asked() and course.steps < len(order):
            return state, None
    return state, {"train_loss": course.loss / images, "train_accuracy": course.correct / images}


def _calls(
    work: _Work, order: np.ndarray, done: int
) -> Iterator[tuple[slice, jax.Array, jax.Array, np.ndarray]]:
    """An epoch cut into calls: its steps, and the inputs, labels and places in them that they read.

    `done` steps were taken by an earlier start.

    With small features the whole epoch is one call, which looks up its batches itself. Otherwise
    each step is given its images alone, so that the set may be larger than memory.
    """
    if work.in_one_call:
        yield slice(done, None), work.all_stored, work.all_labels, order[done:]
        return
    places = np.arange(order.shape[1], dtype=np.int32)[None]
    for step in range(done, len(order)):
        chosen = order[step]
        stored, labels = work.stored[chosen], work.training_labels[chosen]
        yield slice(step, step + 1), jnp.asarray(stored), jnp.asarray(labels), places


def _validate(
    work: _Work,
    predict: Callable[..., jax.Array],
    tell: Callable[..., jax.Array],
    state: train_step.TrainState,
    row: dict[str, Any],
    epoch: int,
) -> float | None:
    """Add the validation figures to the row; the value of the stage's metric, if it has one."""
    images, chosen = work.images, work.validation
    found = evaluate.probabilities(
        predict,
        state.params,
        state.batch_stats,
        lazy.View(work.stored_originals, chosen),
        batch_size=work.stage.batch_size,
    )
    if not np.isfinite(found).all():
        raise DivergedError(
            f"the validation predictions are not finite in epoch {epoch} of stage "
            f"{work.stage.name}: lower config.stages.{work.stage.name}.learning_rate and give "
            "--fresh"
        )
    table = evaluate.table(images.originals.take(chosen), images.splits[chosen], found)
    row["val_loss"] = metrics.validation_metric("log_loss", table)
    row["val_accuracy"] = metrics.validation_metric("accuracy", table)
    row["val_balanced_accuracy"] = metrics.validation_metric("balanced_accuracy", table)
    if work.masked is not None:
        counts, _ = evaluate.mask_counts(
            tell,
            state.params,
            state.batch_stats,
            work.masked,
            batch_size=work.stage.batch_size,
            distances=False,
        )
        row["val_mean_dice"] = segmentation.mean_dice(counts)
    if work.stage.metric == metrics.MASK_METRIC:
        return row["val_mean_dice"]
    if work.stage.metric == "none":
        return None
    return metrics.validation_metric(work.stage.metric, table)


def _note(row: dict[str, Any]) -> str:
    dice = f", val Dice {row['val_mean_dice']:.3f}" if "val_mean_dice" in row else ""
    return (
        f"loss {row['train_loss']:.3f}, val loss {row['val_loss']:.3f}, "
        f"val accuracy {row['val_accuracy']:.1%}{dice}"
    )
