"""Jitted training and prediction: one step, micro-batches inside it, an epoch as one scan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sscjax import optim
from sscjax.models import Model

Inputs = Callable[[jax.Array, jax.Array | None], jax.Array]
"""Turns stored inputs [B,...] (uint8 images or features) into what the network is fed; the key is
None where nothing may be random."""


@flax.struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: int32, steps taken in this stage.
      params: the trained part of the parameters, by layer.
      batch_stats: BatchNorm running averages of the whole network, by layer.
      opt_state: of the optimizer over `params`.
    """

    step: jax.Array
    params: optim.Params
    batch_stats: optim.Params
    opt_state: Any


@flax.struct.dataclass
class Sums:
    """Sums over images, to be divided once: loss (unweighted), right answers, images."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a network's logits are trained to be.

    Attributes:
      kind: 'softmax' over the logits, or 'sigmoid' of a single logit for two classes.
      label_smoothing: share of the target spread evenly over the outputs, in [0, 1).
      class_weights: factor of the loss of each class; () weighs all alike.
    """

    kind: Literal["softmax", "sigmoid"]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Cross-entropy of each image, without class weights: [B]."""
        smooth = self.label_smoothing
        if self.kind == "sigmoid":
            target = labels.astype(logits.dtype)[:, None] * (1 - smooth) + smooth / 2
            return optax.sigmoid_binary_cross_entropy(logits, target)[:, 0]
        target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, smooth))

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Class probabilities [B,max(2,outputs)]."""
        if self.kind == "sigmoid":
            positive = jax.nn.sigmoid(logits)
            return jnp.concatenate([1.0 - positive, positive], axis=-1)
        return jax.nn.softmax(logits, axis=-1)

    def weights(self, labels: jax.Array) -> jax.Array:
        """Weight of each image in the loss by its class: [B]."""
        if not self.class_weights:
            return jnp.ones(labels.shape, jnp.float32)
        return jnp.asarray(self.class_weights, jnp.float32)[labels]


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
    """

    model: Model
    objective: Objective
    inputs: Inputs
    first: int = 0
    batch_statistics_from: int | None = None
    micro_batch: int = 0

    def logits(
        self, params: optim.Params, batch_stats: optim.Params, x: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, optim.Params]:
        """Logits [B,outputs] and the running averages after this batch; with a key, training."""
        train = key is not None
        batch_from = self.batch_statistics_from if train else None
        result = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            train=train,
            batch_statistics_from=batch_from,
            first=self.first,
            rngs={"dropout": key} if train else {},
            mutable=["batch_stats"] if batch_from is not None else False,
        )
        if batch_from is None:
            return result, batch_stats
        return result[0], {**batch_stats, **result[1]["batch_stats"]}


def _micro_size(program: Program, batch: int) -> int:
    """The largest divisor of the batch not above the wished micro-batch."""
    if program.micro_batch <= 0 or program.batch_statistics_from is not None:
        return batch
    return max(size for size in range(1, min(program.micro_batch, batch) + 1) if batch % size == 0)


def _gradients(
    program: Program,
    state: TrainState,
    frozen: optim.Params,
    batch: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
) -> tuple[optim.Params, optim.Params, Sums]:
    """Gradients over the trained part, new running averages, sums; a scan over micro-batches."""
    stored, labels, real = batch
    size = _micro_size(program, len(labels))
    total = real.sum()
    augment_key, drop_key = jax.random.split(key)
    # On the whole batch: small matrix products inside the scan below would run on one thread.
    whole = program.inputs(stored, augment_key)

    def loss(
        params: optim.Params, x: jax.Array, labels: jax.Array, real: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[optim.Params, Sums]]:
        logits, batch_stats = program.logits(
            optim.combine(params, frozen), state.batch_stats, x, key
        )
        losses = program.objective.losses(logits, labels)
        right = program.objective.probabilities(logits).argmax(-1) == labels
        sums = Sums((losses * real).sum(), (right * real).sum(), real.sum())
        weights = program.objective.weights(labels) * real
        return (losses * weights).sum() / total, (batch_stats, sums)

    def one(part: tuple[jax.Array, ...], index: jax.Array) -> Any:
        part_key = jax.random.fold_in(drop_key, index)
        return jax.grad(loss, has_aux=True)(state.params, *part, part_key)

    if size == len(labels):
        gradients, (batch_stats, sums) = one((whole, labels, real), jnp.int32(0))
        return gradients, batch_stats, sums
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(len(labels) // size, size, *leaf.shape[1:]),
        (whole, labels, real),
    )

    def add(carry: Any, item: Any) -> tuple[Any, None]:
        index, part = item
        gradients, (_, sums) = one(part, index)
        return jax.tree.map(jnp.add, carry, (gradients, sums)), None

    zero = jnp.zeros(())
    start = (jax.tree.map(jnp.zeros_like, state.params), Sums(zero, zero, zero))
    (gradients, sums), _ = jax.lax.scan(add, start, (jnp.arange(len(labels) // size), parts))
    return gradients, state.batch_stats, sums


def make_epoch(program: Program, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """A jitted function that takes any number of training steps.

    Returns:
      f(state, frozen, stored, labels, order, real, key) -> (state, Sums): `stored` [N,...] and
      `labels` [N] are the training set, `order` [S,B] int32 the images of each step, `real`
      [S,B] float32 1 for an image and 0 for padding, `key` the random key of the epoch. Every
      step draws its randomness from the key and the state's step, so that an epoch taken in
      several calls equals the epoch taken in one. `state` is donated.
    """

    def step(
        state: TrainState,
        frozen: optim.Params,
        batch: tuple[jax.Array, jax.Array, jax.Array],
        key: jax.Array,
    ) -> tuple[TrainState, Sums]:
        step_key = jax.random.fold_in(key, state.step)
        gradients, batch_stats, sums = _gradients(program, state, frozen, batch, step_key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), sums

    @functools.partial(jax.jit, donate_argnums=0)
    def run(
        state: TrainState,
        frozen: optim.Params,
        stored: jax.Array,
        labels: jax.Array,
        order: jax.Array,
        real: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, Sums]:
        def chosen(state: TrainState, item: tuple[jax.Array, jax.Array]) -> Any:
            index, real = item
            return step(state, frozen, (stored[index], labels[index], real), key)

        if len(order) == 1:  # no loop around a single step
            return chosen(state, (order[0], real[0]))
        state, sums = jax.lax.scan(chosen, state, (order, real))
        return state, jax.tree.map(lambda leaf: leaf.sum(), sums)

    return run


def make_predict(program: Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> probabilities [B,C], nothing random.

    Runs in micro-batches where the program asks for them.
    """

    def some(params: optim.Params, batch_stats: optim.Params, stored: jax.Array) -> jax.Array:
        logits, _ = program.logits(params, batch_stats, program.inputs(stored, None), None)
        return program.objective.probabilities(logits)

    return jax.jit(_in_parts(some, program.micro_batch))


def make_features(program: Program, last: int) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> output of the first `last` layers."""

    def some(params: optim.Params, batch_stats: optim.Params, stored: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        x = program.inputs(stored, None)
        return program.model.apply(variables, x, train=False, first=program.first, last=last)

    return jax.jit(_in_parts(some, program.micro_batch))


def _in_parts(function: Callable[..., jax.Array], size: int) -> Callable[..., jax.Array]:
    """Run `function` over slices of `size` images of its last argument, one after the other."""

    def run(params: optim.Params, batch_stats: optim.Params, stored: jax.Array) -> jax.Array:
        batch = len(stored)
        if size <= 0 or batch % size or batch == size:
            return function(params, batch_stats, stored)
        parts = stored.reshape(batch // size, size, *stored.shape[1:])
        found = jax.lax.map(lambda part: function(params, batch_stats, part), parts)
        return found.reshape(batch, *found.shape[2:])

    return run
