"""What an exported network computes, in JAX and for any device.

Plainer than `models.fast` and its neighbours: nothing here is differentiated, and a compiled file
may meet any device.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sscjax.export import graph, metadata
from sscjax.export.graph import Evidence, Frozen, Operation
from sscjax.models.layers import pool


def outputs(whole: Frozen, images: jax.Array) -> dict[str, jax.Array]:
    """Everything that an exported file gives for images.

    Args:
      whole: the network.
      images: uint8 [N,S,S,3].

    Returns:
      float32, by the names in `metadata`: probabilities [N,C], distance [N], and, where the network
      has any, maps [N,h,w,C] and, uint8, masks [N,S,S].
    """
    shape = (1, 1, 1, 3)
    pixels = images.astype(np.float32)
    x = pixels * whole.scale.reshape(shape) + whole.shift.reshape(shape)
    found = {graph.INPUT: x}
    for one in whole.operations:
        x = found[one.name] = step(one, x, found)
    result = {
        metadata.PROBABILITIES: _probabilities(x, whole.temperature),
        metadata.DISTANCE: _distance(whole, _averaged(found[whole.features])),
    }
    if whole.maps:
        parts = [_evidence(one, found[one.name]) for one in whole.maps]
        result[metadata.MAPS] = functools.reduce(jnp.add, parts)
    if whole.masks:
        result[metadata.MASKS] = found[whole.masks].argmax(-1).astype(np.uint8)
    return result


def step(one: Operation, x: jax.Array, found: dict[str, jax.Array]) -> jax.Array:
    """The output of one operation.

    Args:
      one: the operation.
      x: output of the one before it, channels last.
      found: outputs by name, of those that are read later.
    """
    if one.kind == "conv":
        assert one.bias is not None
        return _conv(one, x) + one.bias.reshape(1, 1, 1, -1)
    if one.kind == "dense":
        assert one.kernel is not None and one.bias is not None
        return x @ one.kernel + one.bias.reshape(1, -1)
    if one.kind == "relu":
        return jnp.maximum(x, 0.0)
    if one.kind == "relu6":
        return jnp.clip(x, 0.0, 6.0)
    if one.kind == "add":
        return x + found[one.other]
    if one.kind == "concat":
        return jnp.concatenate([found[one.other], x], axis=-1)
    if one.kind == "transpose":
        assert one.bias is not None
        return _transpose(one, x) + one.bias.reshape(1, 1, 1, -1)
    if one.kind == "pool":
        return jnp.concatenate([pool(found[name]) for name in one.reads], axis=-1)
    if one.kind == "flatten":
        return x.reshape(x.shape[0], -1)
    assert one.kind == "max_pool"
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _evidence(one: Evidence, x: jax.Array) -> jax.Array:
    """[N,S,S,C]."""
    said = x @ one.kernel
    return said if one.up is None else jnp.einsum("Hh,nhwc,Ww->nHWc", one.up, said, one.up)


def _averaged(x: jax.Array) -> jax.Array:
    """A map [N,h,w,D] over space; [N,D] as it is."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _conv(one: Operation, x: jax.Array) -> jax.Array:
    assert one.kernel is not None
    if one.kernel.shape[:2] == (1, 1):
        return x @ one.kernel[0, 0]
    top, left, bottom, right = one.padding
    if one.groups > 1:
        return _depthwise(one, jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    return lax.conv_general_dilated(
        x,
        jnp.asarray(one.kernel),
        (one.stride, one.stride),
        ((top, bottom), (left, right)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _transpose(one: Operation, x: jax.Array) -> jax.Array:
    """Each pixel becomes four."""
    assert one.kernel is not None
    batch, height, width, _ = x.shape
    four = jnp.einsum("nhwc,ijcd->nhiwjd", x, one.kernel)
    return four.reshape(batch, 2 * height, 2 * width, -1)


def _depthwise(one: Operation, padded: jax.Array) -> jax.Array:
    """A sum of shifted products: a grouped convolution is eleven times as slow on a CPU."""
    assert one.kernel is not None
    size, stride = len(one.kernel), one.stride
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:3])
    terms = []
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            terms.append(padded[:, rows, columns] * one.kernel[i, j, 0].reshape(1, 1, 1, -1))
    return functools.reduce(lax.add, terms)


def _probabilities(logits: jax.Array, temperature: float) -> jax.Array:
    """As `calibration.calibrate`, its lower limit included."""
    if temperature != 1.0:
        logs = jax.nn.log_softmax(logits, axis=-1)
        logits = jnp.maximum(logs, np.float32(np.log(graph.LEAST))) / np.float32(temperature)
    return jax.nn.softmax(logits, axis=-1)


def _distance(whole: Frozen, features: jax.Array) -> jax.Array:
    """As `ood.Detector.distances`; what the components leave is taken before it is squared."""
    length = jnp.sqrt((features**2).sum(axis=1, keepdims=True))
    offset = features / jnp.maximum(length, 1e-12) - whole.mean.reshape(1, -1)
    along = offset @ whole.components.T
    rest = offset - along @ whole.components
    squares = (along**2 / whole.variances.reshape(1, -1)).sum(axis=1)
    squares += (rest**2).sum(axis=1) / np.float32(whole.noise)
    return jnp.sqrt(squares / len(whole.mean))
