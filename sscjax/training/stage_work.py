"""What the epochs of a stage share: inputs, program, optimizer, and the form of its checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sscjax.data import dataset, lazy
from sscjax.data.dataset import Images, ImageSet
from sscjax.data.lazy import Rows
from sscjax.errors import UserError
from sscjax.evaluation import metrics
from sscjax.training import freezing, frozen_features, optimizers, programs, stage_inputs
from sscjax.training.checkpoint import Checkpoints
from sscjax.training.network import Network
from sscjax.training.stage import Stage, StageProgress
from sscjax.training.train_step import TrainState

# Checkpoints are numbered by stage, epochs done, and steps of an epoch that was interrupted:
# stage 1 after epoch 7 is 1000007000000.
_PER_EPOCH = 1_000_000
_PER_STAGE = 1_000_000 * _PER_EPOCH

# Below this many bytes per image an epoch is one call: a linear classifier on stored features.
_ONE_CALL_BYTES = 65_536


@dataclasses.dataclass
class StageWork:
    """Everything that the epochs of a stage use, made once.

    Attributes:
      stage: its settings.
      images: the run's images.
      network: with the parameters that the stage starts from.
      labels: 'train' or 'freeze' by layer name.
      frozen: parameters of the frozen layers.
      program: how the network runs, from the stored inputs on.
      optimizer: over all parameters; it updates the layers that train.
      stored: training inputs [M,...]: images, or outputs of the frozen layers.
      stored_originals: the same of all originals [N,...].
      masked: the validation images that have a mask, where masks are trained; else None.
      training_labels: [M] int.
      validation: indices of the validation images among the originals; none where every stage of
        the run is fitted to convergence, which needs no validation.
      checkpoints: of the run.
      on_epoch: called with the learning curves of the run after each epoch.
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
        """Whether an epoch is so little work that a call for each step would slow it down."""
        bytes_each = lazy.nbytes(self.stored) // len(self.stored)
        return self.program.first > 0 and bytes_each <= _ONE_CALL_BYTES

    @functools.cached_property
    def all_stored(self) -> jax.Array:
        """All training inputs, on the device."""
        return jnp.asarray(self.stored[:])

    @functools.cached_property
    def all_labels(self) -> jax.Array:
        """Their labels."""
        return jnp.asarray(self.training_labels)

    def checkpoint_tree(
        self,
        state: TrainState,
        best: dict[str, freezing.Params] | None,
        out_of_fold: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """What a checkpoint holds. Frozen layers are those that the stage starts from: omitted."""
        trained, _ = freezing.partition(state.params, self.labels)
        last = {"step": state.step, "params": trained, "batch_stats": state.batch_stats}
        tree = {"last": last, "opt_state": state.opt_state}
        if out_of_fold is not None:
            tree["out_of_fold"] = out_of_fold
        return tree if best is None else {**tree, "best": best}

    def no_out_of_fold(self) -> np.ndarray:
        """[T,C] float32 NaN, in place of out-of-fold probabilities of the T original images."""
        trained, _ = freezing.partition(self.network.params, self.labels)
        [classifier] = trained.values()
        columns = max(2, classifier["bias"].shape[0])
        return np.full(((self.images.splits == "train").sum(), columns), np.nan, np.float32)

    def start_tree(self) -> dict[str, Any]:
        """What a checkpoint holds at the start of the stage: the trained layers alone."""
        trained, _ = freezing.partition(self.network.params, self.labels)
        trained, batch_stats = copied(trained), copied(self.network.batch_stats)
        last = {"step": jnp.int32(0), "params": trained, "batch_stats": batch_stats}
        # As one program: leaf by leaf XLA would compile a program for each of their shapes.
        opt_state = jax.jit(self.optimizer.init)(self.network.params)
        tree: dict[str, Any] = {"last": last, "opt_state": opt_state}
        if self.stage.metric != "none":
            tree["best"] = snapshot(trained, batch_stats)
        if self.stage.uses_lbfgs:
            tree["out_of_fold"] = self.no_out_of_fold()
        return tree

    def save(self, progress: StageProgress, tree: dict[str, Any]) -> None:
        """Write a checkpoint, numbered by stage, epoch and step."""
        number = self.stage.index * _PER_STAGE + progress.epoch * _PER_EPOCH + progress.steps
        self.checkpoints.save(number, tree, dataclasses.asdict(progress))


def copied(tree: freezing.Params) -> freezing.Params:
    """In memory of its own: a step donates its state, and the network's arrays are needed again."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def snapshot(params: freezing.Params, batch_stats: freezing.Params) -> dict[str, freezing.Params]:
    """A copy on the host that later steps cannot touch."""
    return jax.tree.map(np.array, {"params": params, "batch_stats": batch_stats})


# --- what trains, and by which optimizer ---------------------------------------------------------


def check(stage: Stage, network: Network) -> None:
    """Check that the stage can be run on this network, before anything is written.

    Raises:
      UserError: what the stage trains, or its optimizer, does not fit the network.
    """
    labels = layer_labels(stage, network)
    trained = [name for name, label in labels.items() if label == freezing.TRAIN]
    if stage.uses_lbfgs and len(trained) > 1:
        raise UserError(
            f"stage {stage.name}: optimizer='lbfgs' fits one dense layer, and the classifier has "
            f"{len(trained)} ({', '.join(trained)}); set another optimizer or model.cnn_dense=()"
        )
    trains_masks = network.objective.segmentation > 0 and not stage.uses_lbfgs
    if stage.metric == metrics.MASK_METRIC and not trains_masks:
        raise UserError(
            f"config.select.metric={metrics.MASK_METRIC}, and stage {stage.name} trains no masks: "
            "set it to another, or loss.segmentation above 0 and another optimizer than 'lbfgs'"
        )
    _optimizer(stage, labels, steps_per_epoch=1)


def layer_labels(stage: Stage, network: Network) -> dict[str, str]:
    """'train' or 'freeze' by layer name."""
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
    """Over the parameters of the whole network: it updates the layers that train, and no other."""
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


def _program(
    stage: Stage, network: Network, inputs: programs.Inputs, labels: Mapping[str, str]
) -> programs.Program:
    """How the network runs, from the image on."""
    names = network.model.layer_names
    trained = (name for name, label in labels.items() if label == freezing.TRAIN)
    first_trained = min(names.index(name) for name in trained)
    return programs.Program(
        network.model,
        network.objective,
        inputs,
        first=0,
        batch_statistics_from=first_trained if stage.batch_norm == "batch" else None,
        micro_batch=stage.micro_batch,
        drawn_by=stage.drawn_by,
    )


# The arguments behind the star are services of the run, the same for all its stages.
def set_up(
    stage: Stage,
    images: Images,
    network: Network,
    inputs: programs.Inputs,
    *,
    store: frozen_features.Store,
    checkpoints: Checkpoints,
    on_epoch: Callable[[list[dict[str, Any]]], None],
) -> StageWork:
    """Decide what trains, compute what the frozen layers give, make the optimizer.

    Arguments as of `loop.run_stage`.
    """
    labels = layer_labels(stage, network)
    _, frozen = freezing.partition(network.params, labels)
    program, training_inputs, originals = stage_inputs.prepare(
        stage, images, network, _program(stage, network, inputs, labels), labels, store
    )
    training = images.training_for(online=stage.online_augment)
    validation = np.flatnonzero(images.splits == "val")
    return StageWork(
        stage=stage,
        images=images,
        network=network,
        labels=labels,
        frozen=frozen,
        program=program,
        optimizer=_optimizer(stage, labels, math.ceil(len(training) / stage.batch_size)),
        stored=training_inputs,
        stored_originals=originals,
        masked=_masked(images, validation) if program.predicts_masks else None,
        training_labels=training.labels,
        validation=validation,
        checkpoints=checkpoints,
        on_epoch=on_epoch,
    )


def _masked(images: Images, chosen: np.ndarray) -> ImageSet | None:
    """Those of the chosen originals that have a mask; None where none has."""
    with_mask = dataset.with_masks(images.originals, chosen)
    return images.originals.take(with_mask) if len(with_mask) else None
