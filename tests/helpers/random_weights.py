"""Random variables for the package's models, without compiling their initialisation."""

from __future__ import annotations

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def shapes(model: nn.Module, size: int) -> dict[str, Any]:
    """Shapes of the variables for images of `size` pixels."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)


def draw(model: nn.Module, size: int) -> dict[str, Any]:
    """Weights that keep activations at about one scale, BatchNorm far from 0 and 1; no two alike.

    Each call returns arrays of its own, which a training step may take over.
    """
    return jax.tree_util.tree_map_with_path(_draw, shapes(model, size))


def _draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    name = path[-1].key
    if name == "kernel":
        found = rng.normal(0, 1.3 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
    else:
        low, high = {
            "scale": (0.5, 1.2),
            "bias": (-0.5, 1.0),
            "mean": (-0.5, 0.5),
            "var": (0.5, 2.0),
        }[name]
        found = rng.uniform(low, high, leaf.shape)
    # On the host: JAX would compile a program for each shape.
    return jnp.asarray(found.astype(np.float32))
