"""Jitted training and prediction: one step, micro-batches inside it, an epoch as one scan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sscjax.data.masks import IGNORE
from sscjax.models import MASK, Model
from sscjax.training import freezing
from sscjax.training.losses import Objective

# XLA hands convolutions to a library (YNNPACK) that takes three times as long as its own code for
# some widths. Matrix products, which that library does well, stay with it.
_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def _compiler_options() -> dict[str, str]:
    """The options above, where this version of XLA knows them: they are experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_COMPILER_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _COMPILER_OPTIONS


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with the compiler options of all programs here."""
    return jax.jit(function, compiler_options=_compiler_options(), **options)


Inputs = Callable[[jax.Array, jax.Array | None], jax.Array]
"""Turns stored inputs [B,...] (uint8 images or features) into what the network is fed; the key is
None where nothing may be random."""


@flax.struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: int32, steps taken in this stage.
      params: all parameters, by layer; those of frozen layers stay as they are, to the bit.
      batch_stats: BatchNorm running averages of the whole network, by layer.
      opt_state: of the optimizer over `params`, masked by the labels of the layers.
    """

    step: jax.Array
    params: freezing.Params
    batch_stats: freezing.Params
    opt_state: Any


@flax.struct.dataclass
class Sums:
    """Sums over images, to be divided once: loss (unweighted), right answers, images."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """How a network is run in one stage.

    Attributes:
      model: the network.
      objective: turns logits into losses and probabilities.
      inputs: turns stored inputs into what layer `first` is fed.
      first: layers already applied to the stored inputs.
      batch_statistics_from: see `MobileNetV2.__call__`.
      micro_batch: images that go through the network at a time, so that their activations stay
        in the processor's cache; 0 takes the batch whole. Gradients are summed, so that the
        result is the whole batch's as long as BatchNorm uses its running averages.
      drawn_by: the micro-batch that dropout is drawn by, a multiple of `micro_batch`: one that is
        made smaller later changes no draw; 0: `micro_batch` itself.
    """

    model: Model
    objective: Objective
    inputs: Inputs
    first: int = 0
    batch_statistics_from: int | None = None
    micro_batch: int = 0
    drawn_by: int = 0

    @property
    def folded(self) -> int:
        """How many layers run with BatchNorm folded into their kernels while training."""
        layers = len(self.model.layer_names)
        return layers if self.batch_statistics_from is None else self.batch_statistics_from

    @property
    def tells_masks(self) -> bool:
        """Whether masks are trained: they are then a fourth channel of what is stored."""
        return self.objective.segmentation > 0 and self.model.mask_classes > 0

    def logits(
        self,
        folded: freezing.Params,
        batch_stats: freezing.Params,
        x: jax.Array,
        key: jax.Array,
        drawn: tuple[int, jax.Array] | None = None,
    ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], freezing.Params]:
        """Logits [B,outputs] in training and the running averages after this batch.

        `folded` are the parameters after `model.fold` of the first `self.folded` layers, `drawn`
        see `models.layers.dropout`. With the logits goes a dict: the masks' logits [B,H,W,M] by
        `MASK`, where they are trained.
        """
        capture = (MASK,) if self.tells_masks else ()
        batch_from = self.batch_statistics_from
        result = self.model.apply(
            {"params": folded, "batch_stats": batch_stats},
            x,
            train=True,
            batch_statistics_from=batch_from,
            first=self.first,
            folded=self.folded,
            capture=capture,
            drawn=drawn,
            rngs={"dropout": key},
            mutable=["batch_stats"] if batch_from is not None else False,
        )
        if batch_from is not None:
            result, updated = result
            batch_stats = {**batch_stats, **updated["batch_stats"]}
        return (result if capture else (result, {})), batch_stats

    def outputs(
        self,
        params: freezing.Params,
        batch_stats: freezing.Params,
        stored: jax.Array,
        last: int | None = None,
        capture: str = "",
    ) -> jax.Array:
        """Output of the first `last` layers (None: logits) for `stored` [B,...], nothing random.

        With `capture` the output of that layer instead, which must be among them.
        """
        names = (capture,) if capture else ()
        found, seen = self.captured(params, batch_stats, stored, last, names)
        return seen[capture] if capture else found

    def captured(
        self,
        params: freezing.Params,
        batch_stats: freezing.Params,
        stored: jax.Array,
        last: int | None = None,
        names: tuple[str, ...] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Output of the first `last` layers, and of those of them that are named.

        Goes through the network in micro-batches where the program asks for them.
        """
        layers = len(self.model.layer_names)
        variables = {
            "params": self.model.fold(params, batch_stats, layers),
            "batch_stats": batch_stats,
        }

        def some(stored: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            x = self.inputs(stored, None)
            found = self.model.apply(
                variables,
                x,
                train=False,
                first=self.first,
                last=last,
                folded=layers,
                capture=names,
            )
            return found if names else (found, {})

        size, batch = self.micro_batch, len(stored)
        if size <= 0 or batch % size or batch == size:
            return some(stored)
        found = jax.lax.map(some, stored.reshape(batch // size, size, *stored.shape[1:]))
        return jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[2:]), found)


def _micro_size(program: Program, batch: int) -> int:
    """The largest divisor of the batch not above the wished micro-batch."""
    if program.batch_statistics_from is not None:
        return batch
    return part_size(program.micro_batch, batch)


def part_size(micro_batch: int, batch: int) -> int:
    """Images that go through a network at a time: the largest divisor of the batch up to a wish.

    0 wishes for the whole batch.
    """
    if micro_batch <= 0:
        return batch
    return max(size for size in range(1, min(micro_batch, batch) + 1) if batch % size == 0)


def _fold(
    program: Program,
    params: freezing.Params,
    *,
    frozen: freezing.Params,
    batch_stats: freezing.Params,
) -> tuple[freezing.Params, freezing.Params]:
    """Folded parameters: those that depend on the trained `params`, and the others."""
    whole = program.model.fold(freezing.combine(params, frozen), batch_stats, program.folded)
    norms = program.model.norm_after
    depends = {name for name in whole if name in params or norms.get(name) in params}
    return (
        {name: whole[name] for name in whole if name in depends},
        {name: whole[name] for name in whole if name not in depends},
    )


@flax.struct.dataclass
class Targets:
    """What B images are trained to be.

    Attributes:
      labels: [B] int32.
      weights: [B] float32, 1; 0 for images that only fill up a batch.
      masks: [B,H,W] int32, `IGNORE` where nothing is known; None where none are told.
    """

    labels: jax.Array
    weights: jax.Array
    masks: jax.Array | None = None


def _gradients(
    program: Program,
    params: freezing.Params,
    frozen: freezing.Params,
    batch_stats: freezing.Params,
    batch: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
) -> tuple[freezing.Params, freezing.Params, Sums]:
    """Gradients over the trained `params`, new running averages, sums; a scan over micro-batches.

    Nothing is differentiated by `frozen`.
    """
    stored, labels, weights = batch
    size = _micro_size(program, len(labels))
    # Images that dropout is drawn for at once: `size` of them, or several such parts.
    block = max(size, part_size(program.drawn_by, len(labels)) if program.drawn_by else 0)
    if block % size:
        raise ValueError(f"dropout is drawn for {block} images, no multiple of {size}")
    total = (weights > 0).sum()
    augment_key, drop_key = jax.random.split(key)
    # On the whole batch: small matrix products inside the scan below would run on one thread.
    whole, targets = program.inputs(stored, augment_key), Targets(labels, weights)
    pixels = with_mask = jnp.ones(())
    if program.tells_masks:
        whole, masks = whole[..., :-1], whole[..., -1].astype(jnp.int32)
        targets = Targets(labels, weights, masks=masks)
        # Of the whole batch, so that micro-batches with few known pixels do not weigh more.
        known = (masks != IGNORE) * (weights > 0)[:, None, None]
        pixels = jnp.maximum(known.sum(), 1.0)
        with_mask = jnp.maximum(known.any(axis=(1, 2)).sum(), 1.0)
    # Folding, and its gradient, once per step: the scan below differentiates what was folded.
    fold = functools.partial(_fold, program, frozen=frozen, batch_stats=batch_stats)
    trained, unfold, constant = jax.vjp(fold, params, has_aux=True)

    def loss(
        folded: freezing.Params,
        part: tuple[jax.Array, Targets],
        key: jax.Array,
        drawn: tuple[int, jax.Array] | None,
    ) -> tuple[jax.Array, Any]:
        x, targets = part
        (logits, seen), updated = program.logits(
            freezing.combine(folded, constant), batch_stats, x, key, drawn
        )
        losses = program.objective.losses(logits, targets.labels)
        right = program.objective.probabilities(logits).argmax(-1) == targets.labels
        real = (targets.weights > 0).astype(losses.dtype)
        sums = Sums((losses * real).sum(), (right * real).sum(), real.sum())
        weighted = losses * program.objective.weights(targets.labels)
        value = (weighted * targets.weights).sum() / total
        if program.objective.classification != 1.0:
            value *= program.objective.classification
        if targets.masks is not None:
            told, objective = seen[MASK], program.objective
            per_image = objective.mask_losses(told, targets.masks).sum(axis=(1, 2))
            of_masks = (per_image * real).sum() / pixels
            if objective.dice:
                has = real * (targets.masks != IGNORE).any(axis=(1, 2))
                dice = objective.dice_losses(told, targets.masks)
                of_masks += objective.dice * (dice * has).sum() / with_mask
            value += objective.segmentation * of_masks
        return value, (updated, sums)

    def one(part: tuple[jax.Array, Targets], index: jax.Array) -> Any:
        drawn = None
        if block > size:
            first = index * size
            index, drawn = first // block, (block, first % block)
        part_key = jax.random.fold_in(drop_key, index)
        value, pullback, aux = jax.vjp(
            lambda folded: loss(folded, part, part_key, drawn), trained, has_aux=True
        )
        # A branch, because XLA would otherwise fuse the forward pass into the backward one and
        # compute activations again for every gradient that reads them.
        gradients = jax.lax.cond(
            jnp.isfinite(value),
            lambda pullback: pullback(jnp.ones_like(value))[0],
            lambda pullback: jax.tree.map(jnp.zeros_like, trained),
            pullback,
        )
        return gradients, aux

    if size == len(labels):
        gradients, (updated, sums) = one((whole, targets), jnp.int32(0))
        return unfold(gradients)[0], updated, sums
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(len(labels) // size, size, *leaf.shape[1:]),
        (whole, targets),
    )

    def add(carry: Any, item: Any) -> tuple[Any, None]:
        index, part = item
        gradients, (_, sums) = one(part, index)
        return jax.tree.map(jnp.add, carry, (gradients, sums)), None

    zero = jnp.zeros(())
    start = (jax.tree.map(jnp.zeros_like, trained), Sums(zero, zero, zero))
    (gradients, sums), _ = jax.lax.scan(add, start, (jnp.arange(len(labels) // size), parts))
    return unfold(gradients)[0], batch_stats, sums


def make_epoch(
    program: Program, optimizer: optax.GradientTransformation, layer_labels: Mapping[str, str]
) -> Callable[..., Any]:
    """A jitted function that takes any number of training steps.

    Args:
      program: how the network is run.
      optimizer: over the whole tree of parameters, `freezing.freeze_mask` of `layer_labels`.
      layer_labels: 'train' or 'freeze' by layer name.

    Returns:
      f(state, stored, labels, order, weights, key) -> (state, Sums): `stored` [N,...] and `labels`
      [N] are the training set, `order` [S,B] int32 the images of each step, `weights` [S,B] float32
      1, 0 for padding, `key` the random key of the epoch. Every step draws its randomness from the
      key and the state's step, so that an epoch taken in several calls equals the epoch taken in
      one. `state` is donated, with the parameters of frozen layers.
    """

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array
    ) -> tuple[TrainState, Sums]:
        step_key = jax.random.fold_in(key, state.step)
        # Differentiated over the trained layers alone, updated over all: there the masks act.
        trained, frozen = freezing.partition(state.params, layer_labels)
        gradients, batch_stats, sums = _gradients(
            program, trained, frozen, state.batch_stats, batch, step_key
        )
        gradients = freezing.with_frozen(gradients, frozen)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), sums

    @functools.partial(jit, donate_argnums=0)
    def run(
        state: TrainState,
        stored: jax.Array,
        labels: jax.Array,
        order: jax.Array,
        weights: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, Sums]:
        def chosen(state: TrainState, item: tuple[jax.Array, jax.Array]) -> Any:
            index, weights = item
            return step(state, (stored[index], labels[index], weights), key)

        if len(order) == 1:  # no loop around a single step
            return chosen(state, (order[0], weights[0]))
        state, sums = jax.lax.scan(chosen, state, (order, weights))
        return state, jax.tree.map(lambda leaf: leaf.sum(), sums)

    return run


def make_predict(program: Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> probabilities [B,C], nothing random.

    Runs in micro-batches where the program asks for them.
    """

    @jit
    def predict(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array
    ) -> jax.Array:
        return program.objective.probabilities(program.outputs(params, batch_stats, stored))

    return predict


def make_masks(program: Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,H,W,3]) -> masks [B,H,W] uint8, nothing random."""

    @jit
    def predict(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array
    ) -> jax.Array:
        logits = program.outputs(params, batch_stats, stored, capture=MASK)
        return logits.argmax(-1).astype(jnp.uint8)

    return predict


def make_features(program: Program, last: int) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> output of the first `last` layers."""
    return jit(functools.partial(program.outputs, last=last))
