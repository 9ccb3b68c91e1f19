"""Keras' own MobileNetV2, on its JAX backend, as a reference: random weights, every activation."""

from __future__ import annotations

import functools
import os
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np


def build(alpha: float, size: int, seed: int) -> keras.Model:
    """The backbone with random kernels and BatchNorm statistics far from 0 and 1.

    Their ranges keep activations of every depth between about -20 and 20: with larger ones the
    network itself amplifies rounding a thousandfold, in Keras as in any other implementation.
    """
    # All weights are set below: spare the compilation of a random generator for every shape.
    empty = mock.patch.object(
        keras.initializers.GlorotUniform,
        "__call__",
        lambda self, shape, dtype=None: np.zeros(shape, dtype),
    )
    with empty:
        model = keras.applications.MobileNetV2(
            input_shape=(size, size, 3), alpha=alpha, include_top=False, weights=None
        )
    rng = np.random.default_rng(seed)
    model.set_weights([_draw(rng, v.path.split("/")[-1], v.shape) for v in model.weights])
    return model


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "kernel":
        depthwise = shape[-1] == 1
        inputs = shape[0] * shape[1] * (1 if depthwise else shape[2])
        return rng.normal(0, np.sqrt(1 / inputs), shape).astype(np.float32)
    low, high = {
        "gamma": (0.4, 1.2),
        "beta": (-1.0, 3.0),
        "moving_mean": (-0.5, 0.5),
        "moving_variance": (0.5, 2.0),
    }[name]
    return rng.uniform(low, high, shape).astype(np.float32)


def activations(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Output of every layer after the input, in inference mode, by layer name."""
    layers = model.layers[1:]
    every = keras.Model(model.inputs, [layer.output for layer in layers])

    # The reference runs once: spare LLVM's work on it.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(trainable, other, x):
        return every.stateless_call(trainable, other, x, training=False)[0]

    # Keras broadcasts between ranks, which these tests otherwise forbid.
    with jax.numpy_rank_promotion("allow"):
        outputs = run(
            [v.value for v in every.trainable_variables],
            [v.value for v in every.non_trainable_variables],
            images,
        )
    return {layer.name: np.asarray(y) for layer, y in zip(layers, outputs, strict=True)}
