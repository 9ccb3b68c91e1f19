"""How many images go through a network at a time: measured once for a machine and a network.

Too few, and each operation has too little work; too many, and activations no longer stay in the
processor's cache. Which is best depends on the processor. Compiling the whole step for every
candidate would take minutes, so a few stretches of the network stand for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sscjax import files
from sscjax.models import Model

_LOG = logging.getLogger(__name__)

CANDIDATES = (2, 4, 8, 16, 32)
_FILE = "micro_batch.json"
_REPEATS = 5


def choose(
    model: Model, variables: Mapping[str, Any], first: int, size: int, batch: int, folder: Path
) -> int:
    """The micro-batch for training `model` from layer `first` on: measured, or remembered.

    Args:
      model: the network.
      variables: its 'params' and 'batch_stats'.
      first: layers that are computed once, one of the model's `cut_points`.
      size: height and width of the images in pixels.
      batch: images of a step; on a GPU they go through the network at once.
      folder: keeps what was measured, by machine, network and sizes.
    """
    if jax.default_backend() != "cpu":
        return batch
    candidates = [number for number in CANDIDATES if number < batch and batch % number == 0]
    candidates.append(batch)
    if len(candidates) == 1:
        return batch
    key = _key(model, first, size, batch)
    known = _read(folder / _FILE)
    if known.get(key) in candidates:
        return int(known[key])
    _LOG.info("micro-batch: measuring which is quickest here (once for this machine and network)")
    seconds = {number: _seconds(model, variables, first, size, number) for number in candidates}
    best = min(candidates, key=seconds.__getitem__)
    _LOG.info("micro-batch: %d of %s images at a time", best, "/".join(map(str, candidates)))
    try:
        files.write_json(folder / _FILE, {**known, key: best})
    except OSError as error:
        _LOG.warning("the cache folder %s cannot be written (%s)", folder, error.strerror)
    return best


def _seconds(
    model: Model, variables: Mapping[str, Any], first: int, size: int, number: int
) -> float:
    """Time per image of a training step through the first, middle and last trained stretch."""
    cuts = [cut for cut in model.cut_points if cut >= first]
    starts = sorted({0, (len(cuts) - 1) // 2, max(0, len(cuts) - 2)})
    stretches = [(cuts[start], (*cuts, None)[start + 1]) for start in starts]
    return sum(_stretch(model, variables, *stretch, size, number) for stretch in stretches)


def _stretch(
    model: Model,
    variables: Mapping[str, Any],
    first: int,
    last: int | None,
    size: int,
    number: int,
) -> float:
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

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    x = jnp.full(shape.shape, 0.5, jnp.float32)
    jax.block_until_ready(step(params, x))
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        # Of all candidates the same number of images, so that none is timed too briefly.
        for _ in range(math.ceil(max(CANDIDATES) / number)):
            jax.block_until_ready(step(params, x))
        times.append(time.perf_counter() - started)
    # Whatever else the machine does only ever adds.
    return min(times) / (math.ceil(max(CANDIDATES) / number) * number)


def _key(model: Model, first: int, size: int, batch: int) -> str:
    known = (_processor(), os.cpu_count(), jax.__version__, repr(model), first, size, batch)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
