"""What an exported network computes, in JAX and for any device.

Plainer than `models/ops`: nothing here is differentiated, and a compiled file may run on any
device.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sscjax.export import graph, metadata
from sscjax.export.graph import Evidence, Graph, Operation
from sscjax.models.layers import pool


def outputs(network: Graph, images: jax.Array) -> dict[str, jax.Array]:
    """Everything that an exported file gives for images.

    Args:
      network: the network.
      images: uint8 [N,S,S,3].

    Returns:
      float32, by the names in `metadata`: probabilities [N,C], distance [N], and, where the network
      has any, maps [N,h,w,C] and, uint8, masks [N,S,S].
    """
    shape = (1, 1, 1, 3)
    pixels = images.astype(np.float32)
    x = pixels * network.scale.reshape(shape) + network.shift.reshape(shape)
    values = {graph.INPUT: x}
    for operation in network.operations:
        x = values[operation.name] = step(operation, x, values)
    result = {
        metadata.PROBABILITIES: _probabilities(x, network.temperature),
        metadata.DISTANCE: _distance(network, _averaged(values[network.features])),
    }
    if network.maps:
        parts = [_evidence(operation, values[operation.name]) for operation in network.maps]
        result[metadata.MAPS] = functools.reduce(jnp.add, parts)
    if network.masks:
        result[metadata.MASKS] = values[network.masks].argmax(-1).astype(np.uint8)
    return result


def step(operation: Operation, x: jax.Array, values: dict[str, jax.Array]) -> jax.Array:
    """The output of one operation.

    Args:
      operation: the operation.
      x: output of the one before it, channels last.
      values: outputs by name, of those that are read later.
    """
    if operation.kind == "conv":
        assert operation.bias is not None
        return _conv(operation, x) + operation.bias.reshape(1, 1, 1, -1)
    if operation.kind == "dense":
        assert operation.kernel is not None and operation.bias is not None
        return x @ operation.kernel + operation.bias.reshape(1, -1)
    if operation.kind == "relu":
        return jnp.maximum(x, 0.0)
    if operation.kind == "relu6":
        return jnp.clip(x, 0.0, 6.0)
    if operation.kind == "add":
        return x + values[operation.other]
    if operation.kind == "concat":
        return jnp.concatenate([values[operation.other], x], axis=-1)
    if operation.kind == "transpose":
        assert operation.bias is not None
        return _transpose(operation, x) + operation.bias.reshape(1, 1, 1, -1)
    if operation.kind == "pool":
        return jnp.concatenate([pool(values[name]) for name in operation.reads], axis=-1)
    if operation.kind == "flatten":
        return x.reshape(x.shape[0], -1)
    assert operation.kind == "max_pool"
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _evidence(evidence: Evidence, x: jax.Array) -> jax.Array:
    """[N,S,S,C]."""
    contribution = x @ evidence.kernel
    return (
        contribution
        if evidence.up is None
        else jnp.einsum("Hh,nhwc,Ww->nHWc", evidence.up, contribution, evidence.up)
    )


def _averaged(x: jax.Array) -> jax.Array:
    """A map [N,h,w,D] over space; [N,D] as it is."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _conv(operation: Operation, x: jax.Array) -> jax.Array:
    assert operation.kernel is not None
    if operation.kernel.shape[:2] == (1, 1):
        return x @ operation.kernel[0, 0]
    top, left, bottom, right = operation.padding
    if operation.groups > 1:
        return _depthwise(operation, jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    return lax.conv_general_dilated(
        x,
        jnp.asarray(operation.kernel),
        (operation.stride, operation.stride),
        ((top, bottom), (left, right)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _transpose(operation: Operation, x: jax.Array) -> jax.Array:
    """Each pixel becomes four."""
    assert operation.kernel is not None
    batch, height, width, _ = x.shape
    four = jnp.einsum("nhwc,ijcd->nhiwjd", x, operation.kernel)
    return four.reshape(batch, 2 * height, 2 * width, -1)


def _depthwise(operation: Operation, padded: jax.Array) -> jax.Array:
    """A sum of shifted products: a grouped convolution is eleven times as slow on a CPU."""
    assert operation.kernel is not None
    size, stride = len(operation.kernel), operation.stride
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:3])
    terms = []
    for i in range(size):
        for j in range(size):
            height_slice = slice(i, i + stride * (height - 1) + 1, stride)
            width_slice = slice(j, j + stride * (width - 1) + 1, stride)
            terms.append(
                padded[:, height_slice, width_slice]
                * operation.kernel[i, j, 0].reshape(1, 1, 1, -1)
            )
    return functools.reduce(lax.add, terms)


def _probabilities(logits: jax.Array, temperature: float) -> jax.Array:
    """As `calibration.calibrate`, its lower limit included."""
    if temperature != 1.0:
        logs = jax.nn.log_softmax(logits, axis=-1)
        logits = jnp.maximum(logs, np.float32(np.log(graph.LEAST))) / np.float32(temperature)
    return jax.nn.softmax(logits, axis=-1)


def _distance(network: Graph, features: jax.Array) -> jax.Array:
    """As `ood.Detector.distances`; what the components leave is taken before it is squared."""
    length = jnp.sqrt((features**2).sum(axis=1, keepdims=True))
    offset = features / jnp.maximum(length, 1e-12) - network.mean.reshape(1, -1)
    along = offset @ network.components.T
    rest = offset - along @ network.components
    squares = (along**2 / network.variances.reshape(1, -1)).sum(axis=1)
    squares += (rest**2).sum(axis=1) / np.float32(network.noise)
    return jnp.sqrt(squares / len(network.mean))
