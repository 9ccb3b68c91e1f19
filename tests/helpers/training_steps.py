"""Training steps of a CNN of 1400 parameters on images of 16 x 16 pixels.

What shows gradients: an optimizer without decay keeps the last gradient as its state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import random_weights

from sscjax.models.cnn import CNN
from sscjax.training import freezing, programs, train_step
from sscjax.training.losses import Objective

MODEL = CNN(outputs=3, widths=(4,), dense=(8,))


SOFTMAX = Objective("softmax")


KEEP_GRADIENT = optax.trace(decay=0.0)


IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)


LABELS = np.random.default_rng(1).integers(0, 3, 24).astype(np.int32)


EIGHT = np.array([3, 1, 4, 15, 9, 2, 6, 5])


def scaled(stored: Any, key: jax.Array | None) -> jax.Array:
    return stored / 127.5 - 1.0


def noisy(stored: jax.Array, key: jax.Array | None) -> jax.Array:
    x = scaled(stored, None)
    return x if key is None else x + 0.1 * jax.random.uniform(key, (len(x), 1, 1, 1))


def program(**changes: Any) -> programs.Program:
    settings = {"model": MODEL, "objective": SOFTMAX, "inputs": scaled, **changes}
    return programs.Program(**settings)


def begin(
    what: programs.Program,
    variables: Any,
    optimizer: optax.GradientTransformation = KEEP_GRADIENT,
    frozen: Collection[str] = (),
) -> tuple[Callable[..., Any], train_step.TrainState]:
    """The epoch of a program and the state at its start; all but the `frozen` layers train."""
    params = jax.tree.map(jnp.array, dict(variables["params"]))
    labels = {name: freezing.FREEZE if name in frozen else freezing.TRAIN for name in params}
    masked = freezing.freeze_mask(optimizer, labels)
    statistics = dict(variables.get("batch_stats", {}))
    start = train_step.TrainState(jnp.int32(0), params, statistics, masked.init(params))
    return train_step.make_epoch(what, masked, labels), start


@functools.cache
def gradient_keeper(
    what: programs.Program, frozen: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[[], train_step.TrainState]]:
    """Compiled once for all tests of one program; with what makes its state at the start."""
    run, _ = begin(what, random_weights.draw(MODEL, 16), frozen=frozen)
    return run, lambda: begin(what, random_weights.draw(MODEL, 16), frozen=frozen)[1]


def gradients_kept(end: train_step.TrainState) -> Any:
    """By layer, of those that train."""
    trace = end.opt_state.inner_states[freezing.TRAIN].inner_state.trace
    return {name: layer for name, layer in trace.items() if jax.tree.leaves(layer)}


def gradient_of_one_step(
    what: programs.Program, order: Any, real: Any, frozen: tuple[str, ...] = ()
) -> tuple[Any, train_step.Sums]:
    run, start = gradient_keeper(what, frozen)
    order, real = jnp.asarray([order]), jnp.asarray([real], jnp.float32)
    end, sums = run(start(), IMAGES, LABELS, order, real, jax.random.key(0))
    return gradients_kept(end), sums


def log_softmax(logits: Any) -> np.ndarray:
    """In float64."""
    z = np.asarray(logits, np.float64)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def logistic(z: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def logits_of(indices: Any) -> np.ndarray:
    variables = random_weights.draw(MODEL, 16)
    x = IMAGES[indices].astype(np.float32) / 127.5 - 1
    return np.asarray(MODEL.apply(variables, x, train=False), np.float64)
