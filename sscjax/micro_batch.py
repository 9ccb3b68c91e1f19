"""How many images go through a network at a time: measured once for a machine and a network.

Too few, and each operation has too little work; too many, and activations no longer stay in the
processor's cache. Which is best depends on the processor. Compiling the whole step for every
candidate would take minutes, so a few stretches of the network stand for it.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import sscjax
from sscjax import files, machine, steps
from sscjax.models import Model

_LOG = logging.getLogger(__name__)

LIMITS = (4, 8, 16)
USUAL = 8
"""Taken unless another is clearly quicker: differences of a few per cent are noise."""

_CLEARLY = 0.95
_FILE = "micro_batch.json"
_RULE = "ratios"  # by which it is chosen: what another rule chose is no answer
_REPEATS = 5


def choose(
    model: Model, variables: Mapping[str, Any], first: int, size: int, batch: int, folder: Path
) -> int:
    """The micro-batch for training `model` from layer `first` on: measured, or remembered.

    Args:
      model: the network.
      variables: its 'params' and 'batch_stats'.
      first: layers that are computed once, one of the model's `cut_points` before its head.
      size: height and width of the images in pixels.
      batch: images of a step; on a GPU they go through the network at once.
      folder: keeps what was measured, by machine, network and sizes.
    """
    if jax.default_backend() != "cpu":
        return batch
    fitting = [number for number in range(1, batch + 1) if batch % number == 0]
    candidates = sorted({max(n for n in fitting if n <= limit) for limit in LIMITS})
    if len(candidates) == 1:
        return candidates[0]
    key = _key(model, first, size, batch)
    known = _read(folder / _FILE).get(key)
    if known in candidates:
        return int(known)
    _LOG.info("micro-batch: measuring which is quickest here (once for this machine and network)")
    usual = max(number for number in candidates if number <= USUAL)
    stretched = measure(model, variables, first, size, batch, candidates)
    # Each stands for as much of the network as the others. By their sum the first would decide,
    # whose images are the largest.
    score = {
        number: statistics.geometric_mean(one[number] / one[usual] for one in stretched)
        for number in candidates
    }
    best = min(candidates, key=score.__getitem__)
    if score[best] > _CLEARLY:
        best = usual
    _LOG.info("micro-batch: %d of %s images at a time", best, "/".join(map(str, candidates)))
    try:
        files.write_json(folder / _FILE, {**_read(folder / _FILE), key: best})
    except OSError as error:
        _LOG.warning("the cache folder %s cannot be written (%s)", folder, error.strerror)
    return best


def stretches(model: Model, variables: Mapping[str, Any], first: int) -> list[tuple[int, int]]:
    """The first, the middle and the last block with parameters that trains: [start, end) each."""
    cuts = [end for end in model.block_ends if first <= end]
    blocks = [
        (start, end)
        for start, end in itertools.pairwise(cuts)
        if set(model.layer_names[start:end]) & set(variables["params"])
    ]
    chosen = sorted({0, len(blocks) // 2, len(blocks) - 1})
    return [blocks[index] for index in chosen]


def measure(
    model: Model,
    variables: Mapping[str, Any],
    first: int,
    size: int,
    batch: int,
    candidates: Sequence[int],
) -> list[dict[int, float]]:
    """Seconds of a training step of each of the `stretches`, by micro-batch."""
    found = []
    for start, end in stretches(model, variables, first):
        calls = {n: _stretch(model, variables, start, end, size, batch, n) for n in candidates}
        least = dict.fromkeys(candidates, math.inf)
        for _ in range(_REPEATS):  # in turn, so that a slow moment meets all of them
            for number, call in calls.items():
                started = time.perf_counter()
                call()
                # Whatever else the machine does only ever adds.
                least[number] = min(least[number], time.perf_counter() - started)
        found.append(least)
    return found


def _stretch(
    model: Model,
    variables: Mapping[str, Any],
    first: int,
    last: int,
    size: int,
    batch: int,
    number: int,
) -> Callable[[], Any]:
    """A compiled step of layers `first` to `last`, in a loop over parts as training has it."""
    images = jax.ShapeDtypeStruct((number, size, size, 3), jnp.float32)
    shape = jax.eval_shape(lambda x: model.apply(variables, x, train=False, last=first), images)
    layers = len(model.layer_names)
    names = set(model.layer_names[first:last])
    folded = model.fold(variables["params"], variables["batch_stats"], layers)
    params = {name: leaves for name, leaves in folded.items() if name in names}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        found = model.apply(
            {"params": params, "batch_stats": {}},
            x,
            train=False,
            first=first,
            last=last,
            folded=layers,
        )
        return (found * found).sum()

    # The images themselves need no gradient.
    gradient = jax.grad(loss, argnums=(0, 1) if first else (0,))

    def step(params: Any, parts: jax.Array) -> Any:
        def add(total: Any, x: jax.Array) -> tuple[Any, Any]:
            found, *rest = gradient(params, x)
            return jax.tree.map(jnp.add, total, found), [leaf.sum() for leaf in rest]

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)

    compiled = steps.jit(step)
    parts = jnp.full((batch // number, *shape.shape), 0.5, jnp.float32)

    def call() -> Any:
        return jax.block_until_ready(compiled(params, parts))

    call()
    return call


def _key(model: Model, first: int, size: int, batch: int) -> str:
    versions = (sscjax.__version__, jax.__version__)
    here = (machine.processor(), machine.parallelism())
    known = (_RULE, here, versions, repr(model), first, size, batch)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        found = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
