"""Activations of the frozen prefix of a network, computed once.

While nothing upstream of a layer trains, is augmented on line or normalises by the batch, its
activations are constants: a stage then starts at that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscjax import optim, steps
from sscjax.models import Model


def prefix_length(model: Model, labels: Mapping[str, str]) -> int:
    """How many layers from the input can be computed once: the last cut before what trains."""
    names = model.layer_names
    first_trained = min(names.index(name) for name, to in labels.items() if to == optim.TRAIN)
    return max(cut for cut in model.cut_points if cut <= first_trained)


def prefix_bytes(
    model: Model, variables: Mapping[str, Any], last: int, images: tuple[int, ...]
) -> int:
    """Bytes that the outputs of the first `last` layers take for `images` [N,H,W,3]."""
    one = jax.ShapeDtypeStruct((1, *images[1:]), np.float32)
    shape = jax.eval_shape(
        lambda variables, x: model.apply(variables, x, train=False, last=last), variables, one
    )
    return images[0] * int(np.prod(shape.shape)) * 4


def compute(
    program: steps.Program,
    last: int,
    params: optim.Params,
    batch_stats: optim.Params,
    stored: np.ndarray,
    *,
    batch_size: int,
    progress: Callable[[int], Any],
) -> np.ndarray:
    """Outputs of the first `last` layers for all `stored` [N,...]: [N,...] float32.

    Args:
      program: how the network is run, with its inputs.
      last: number of layers to apply.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      stored: inputs as the program takes them.
      batch_size: images per call.
      progress: called with the number of images done since the last call.
    """
    function = steps.make_features(program, last)
    return batched(lambda x: function(params, batch_stats, x), stored, batch_size, progress)


def batched(
    function: Callable[[jax.Array], jax.Array],
    stored: np.ndarray | jax.Array,
    batch_size: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """Apply `function` to [N,...] in batches of one shape, the last one filled up: [N,...]."""
    total = len(stored)
    found: np.ndarray | None = None
    for start in range(0, total, batch_size):
        # Repeating the last image keeps one compiled shape; its results are dropped.
        index = np.minimum(np.arange(start, start + batch_size), total - 1)
        result = np.asarray(function(jnp.asarray(stored[index])))
        if found is None:
            found = np.empty((total, *result.shape[1:]), result.dtype)
        count = min(batch_size, total - start)
        found[start : start + count] = result[:count]
        progress(count)
    if found is None:
        raise ValueError("no images to compute")
    return found


def calibrate_batch_norm(
    model: Model,
    params: optim.Params,
    batch_stats: optim.Params,
    batches: list[jax.Array],
) -> optim.Params:
    """Running averages of a network with random weights, measured on a few batches.

    The paper asks that the initial weights give every feature map about unit variance (section
    II.F); with random weights the default averages (0 and 1) are far from that.

    Args:
      model: a network whose BatchNorm keeps `momentum` of the old average.
      params: its parameters.
      batch_stats: its present running averages (the result has their structure).
      batches: inputs [B,H,W,3] as the network takes them.

    Returns:
      the mean over the batches of each batch's own statistics.
    """
    if not batch_stats:
        return batch_stats

    @jax.jit
    def statistics(x: jax.Array) -> optim.Params:
        variables = {"params": params, "batch_stats": batch_stats}
        _, updated = model.apply(
            variables, x, train=False, batch_statistics_from=0, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    found = [statistics(x) for x in batches]
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *found)
