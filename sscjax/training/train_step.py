"""One training step: gradients over micro-batches, the optimizer's update, an epoch as one scan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sscjax.data.masks import IGNORE
from sscjax.models import MASK
from sscjax.training import freezing
from sscjax.training.losses import Objective
from sscjax.training.programs import Program, jit, part_size


@flax.struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: int32, steps taken in this stage.
      params: all parameters, by layer; those of frozen layers do not change by a bit.
      batch_stats: BatchNorm running averages of the whole network, by layer.
      opt_state: of the optimizer over `params`, masked by the labels of the layers.
    """

    step: jax.Array
    params: freezing.Params
    batch_stats: freezing.Params
    opt_state: Any


@flax.struct.dataclass
class Sums:
    """Sums over images, to be divided once: unweighted losses, correct classes, images."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


def _micro_size(program: Program, batch: int) -> int:
    """The largest divisor of the batch not above `program.micro_batch`."""
    if program.batch_statistics_from is not None:
        return batch
    return part_size(program.micro_batch, batch)


def _fold(
    program: Program,
    params: freezing.Params,
    *,
    frozen: freezing.Params,
    batch_stats: freezing.Params,
) -> tuple[freezing.Params, freezing.Params]:
    """Folded parameters: those that depend on the trained `params`, and the others."""
    folded = program.model.fold(freezing.combine(params, frozen), batch_stats, program.folded)
    norms = program.model.norm_after
    depends = {name for name in folded if name in params or norms.get(name) in params}
    return (
        {name: folded[name] for name in folded if name in depends},
        {name: folded[name] for name in folded if name not in depends},
    )


@flax.struct.dataclass
class Targets:
    """What B images are trained to be.

    Attributes:
      labels: [B] int32.
      weights: [B] float32, 1; 0 for images that only fill up a batch.
      masks: [B,H,W] int32, `IGNORE` where nothing is known; None without masks.
    """

    labels: jax.Array
    weights: jax.Array
    masks: jax.Array | None = None


@flax.struct.dataclass
class _Totals:
    """What sums over the batch are divided by, so that micro-batches weigh by their content."""

    images: jax.Array
    pixels: jax.Array
    with_mask: jax.Array


def _network_inputs(
    program: Program, batch: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array
) -> tuple[jax.Array, Targets, _Totals]:
    """Augmented inputs of the network, their targets, and the totals of the whole batch."""
    stored, labels, weights = batch
    images = (weights > 0).sum(dtype=weights.dtype)
    # On the whole batch: small matrix products inside a scan would run on one thread.
    x, targets = program.inputs(stored, key), Targets(labels, weights)
    pixels = with_mask = jnp.ones((), weights.dtype)
    if program.predicts_masks:
        x, masks = x[..., :-1], x[..., -1].astype(jnp.int32)
        targets = Targets(labels, weights, masks=masks)
        # Of the whole batch, so that micro-batches with few known pixels do not weigh more.
        known = (masks != IGNORE) * (weights > 0)[:, None, None]
        pixels = jnp.maximum(known.sum(dtype=weights.dtype), 1.0)
        with_mask = jnp.maximum(known.any(axis=(1, 2)).sum(dtype=weights.dtype), 1.0)
    return x, targets, _Totals(images, pixels, with_mask)


def _loss(
    objective: Objective,
    logits: jax.Array,
    mask_logits: jax.Array | None,
    targets: Targets,
    totals: _Totals,
) -> tuple[jax.Array, Sums]:
    """A micro-batch's share of the loss of its batch, and its sums."""
    losses = objective.losses(logits, targets.labels)
    correct = objective.probabilities(logits).argmax(-1) == targets.labels
    real = (targets.weights > 0).astype(losses.dtype)
    sums = Sums((losses * real).sum(), (correct.astype(real.dtype) * real).sum(), real.sum())
    weighted = losses * objective.weights(targets.labels)
    value = (weighted * targets.weights).sum() / totals.images
    if objective.classification != 1.0:
        value *= objective.classification
    if mask_logits is not None and targets.masks is not None:
        per_image = objective.mask_losses(mask_logits, targets.masks).sum(axis=(1, 2))
        of_masks = (per_image * real).sum() / totals.pixels
        if objective.dice:
            has_mask = real * (targets.masks != IGNORE).any(axis=(1, 2)).astype(real.dtype)
            dice = objective.dice_losses(mask_logits, targets.masks)
            of_masks += objective.dice * (dice * has_mask).sum() / totals.with_mask
        value += objective.segmentation * of_masks
    return value, sums


def _sizes(program: Program, batch: int) -> tuple[int, int]:
    """Images that go through the network at a time, and images that dropout is drawn for at once.

    The second is the first, or a multiple of it where a run resumed with a smaller micro-batch.
    """
    size = _micro_size(program, batch)
    block = max(size, part_size(program.drawn_by, batch) if program.drawn_by else 0)
    if block % size:
        raise ValueError(f"dropout is drawn for {block} images, no multiple of {size}")
    return size, block


def _gradients(
    program: Program,
    params: freezing.Params,
    frozen: freezing.Params,
    batch_stats: freezing.Params,
    batch: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
) -> tuple[freezing.Params, freezing.Params, Sums]:
    """Gradients over `params` alone, new running averages, and sums; a scan over micro-batches."""
    count = len(batch[1])
    size, block = _sizes(program, count)
    augment_key, drop_key = jax.random.split(key)
    x, targets, totals = _network_inputs(program, batch, augment_key)
    # Folding, and its gradient, once per step: the scan below differentiates what was folded.
    fold = functools.partial(_fold, program, frozen=frozen, batch_stats=batch_stats)
    trained, unfold, constant = jax.vjp(fold, params, has_aux=True)

    def loss(folded: freezing.Params, part: tuple[jax.Array, Targets], *dropout: Any) -> Any:
        pixels, targets = part
        (logits, captured), updated = program.logits(
            freezing.combine(folded, constant), batch_stats, pixels, *dropout
        )
        value, sums = _loss(program.objective, logits, captured.get(MASK), targets, totals)
        return value, (updated, sums)

    def part_gradients(part: tuple[jax.Array, Targets], index: jax.Array) -> Any:
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

    if size == count:
        gradients, (updated, sums) = part_gradients((x, targets), jnp.int32(0))
        return unfold(gradients)[0], updated, sums

    def add(carry: Any, item: Any) -> tuple[Any, None]:
        index, part = item
        gradients, (_, sums) = part_gradients(part, index)
        return jax.tree.map(jnp.add, carry, (gradients, sums)), None

    steps = count // size
    parts = jax.tree.map(lambda leaf: leaf.reshape(steps, size, *leaf.shape[1:]), (x, targets))
    zero = jnp.zeros((), targets.weights.dtype)
    start = (jax.tree.map(jnp.zeros_like, trained), Sums(zero, zero, zero))
    (gradients, sums), _ = jax.lax.scan(add, start, (jnp.arange(steps), parts))
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
