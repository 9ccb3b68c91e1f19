"""Random initial variables without compiling their initialisation, which takes seconds."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np

from sscjax.models.base import Model

# Learned vectors of a vision transformer, which start as normal numbers (Dosovitskiy et al. 2021).
_TOKENS = ("class_token", "registers", "positions")


def _key(name: str) -> str:
    """What tells the arrays of a layer apart; its kernel has nothing, as it always had."""
    return "" if name == "kernel" else f"/{name}"


def initial_variables(model: Model, image_size: int, seed: int) -> dict[str, Any]:
    """What `model.init` gives, drawn by NumPy: each kernel by its layer's name and the seed.

    Args:
      model: the network.
      image_size: height and width of its images, in pixels.
      seed: 0 or more.

    Returns:
      'params' and, with BatchNorm, 'batch_stats', by layer name: float32 arrays.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)

    def start(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        layer, name = path[-2].key, path[-1].key
        rng = np.random.default_rng([seed, zlib.crc32(f"{layer}{_key(name)}".encode())])
        if name == "kernel":
            return model.initializer(layer).draw(rng, leaf.shape)
        if name in _TOKENS:
            return (0.02 * rng.standard_normal(leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, 1.0 if name in ("scale", "var") else 0.0, np.float32)

    params: dict[str, Any] = jax.tree_util.tree_map_with_path(start, shapes)
    return params
