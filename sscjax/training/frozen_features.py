"""Activations of the frozen prefix of a network, computed once.

While nothing upstream of a layer trains, is augmented online or normalises by the batch, its
activations are constants: a stage then starts at that layer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from sscjax import models
from sscjax.data import augment, lazy, offline_augment, stain_jitter
from sscjax.data.lazy import Rows
from sscjax.errors import UserError
from sscjax.models import Model, base
from sscjax.system import machine
from sscjax.training import freezing, programs

_LOG = logging.getLogger(__name__)

# JAX's own settings by which the same program rounds otherwise.
_ROUNDING = ("jax_default_matmul_precision", "jax_disable_most_optimizations", "jax_enable_x64")

# Besides the inputs' own module, the code that the features' bits depend on. The decoder is not
# needed: `images` is a hash of its pixels, while copies are hashed by their random numbers.
_DECIDING = (models, programs, augment, offline_augment, stain_jitter, sys.modules[__name__])


_SHAPES: dict[str, tuple[int, ...]] = {}
"""Of an image's outputs, by network, number of layers and size of the image."""


def prefix_length(model: Model, labels: Mapping[str, str]) -> int:
    """How many layers from the input can be computed once: the last cut before what trains."""
    names = model.layer_names
    first_trained = min(names.index(name) for name, to in labels.items() if to == freezing.TRAIN)
    return max(cut for cut in model.cut_points if cut <= first_trained)


def prefix_shape(
    model: Model, variables: Mapping[str, Any], last: int, images: tuple[int, ...]
) -> tuple[int, ...]:
    """Shape of the outputs of the first `last` layers for `images` [N,H,W,3]; they are float32."""
    key = repr((model, last, images[1:]))
    if key not in _SHAPES:
        # Tracing a network takes a second, and each fold asks several times.
        image = jax.ShapeDtypeStruct((1, *images[1:]), np.float32)
        shape = jax.eval_shape(
            lambda variables, x: model.apply(variables, x, train=False, last=last), variables, image
        )
        _SHAPES[key] = shape.shape[1:]
    return (images[0], *_SHAPES[key])


# The arguments behind the star change how it is computed, not what.
def compute(
    program: programs.Program,
    last: int,
    params: freezing.Params,
    batch_stats: freezing.Params,
    stored: Rows,
    *,
    batch_size: int,
    progress: Callable[[int], Any],
    entry: Entry | None = None,
) -> Rows:
    """Outputs of the first `last` layers for all `stored` [N,H,W,3]: [N,...] float32.

    Args:
      program: how the network is run, with its inputs.
      last: number of layers to apply.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      stored: inputs as the program takes them.
      batch_size: images per call.
      progress: called with the number of images done since the last call; with all of them if an
        earlier run stored the outputs.
      entry: where the outputs are stored; None: only in memory.
    """
    variables = base.variables(params, batch_stats)
    shape = prefix_shape(program.model, variables, last, tuple(stored.shape))
    outputs = entry.read(shape) if entry else None
    if outputs is not None:
        progress(len(stored))
        return outputs
    function = functools.partial(programs.make_features(program, last), params, batch_stats)
    batches = _counted(_parts(function, stored, batch_size), progress)
    return entry.write(shape, batches) if entry else _in_memory(shape, batches)


Batches = Iterable[tuple[slice, np.ndarray]]
"""Position and outputs of each batch."""


def _counted(batches: Batches, progress: Callable[[int], Any]) -> Batches:
    """The same batches; `progress` is called with the size of each when it was used."""
    for part, result in batches:
        yield part, result
        progress(len(result))


def _in_memory(shape: tuple[int, ...], batches: Batches) -> np.ndarray:
    outputs = np.empty(shape, np.float32)
    for part, result in batches:
        outputs[part] = result
    return outputs


def batched(
    function: Callable[[jax.Array], jax.Array],
    stored: Rows,
    batch_size: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """Apply `function` to [N,...] in batches of one shape, the last one filled up: [N,...]."""
    results = []
    for _, result in _parts(function, stored, batch_size):
        results.append(result)
        progress(len(result))
    return np.concatenate(results)


def batch_rows(total: int, batch_size: int, start: int = 0) -> np.ndarray:
    """The rows of a batch, [batch_size] int: from `start` on, of fewer the last one repeated.

    It keeps one compiled shape; the results of the repeated row are to be dropped.
    """
    return np.minimum(np.arange(start, start + batch_size), total - 1)


def _parts(
    function: Callable[[jax.Array], jax.Array], stored: Rows, batch_size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Each batch's place and its results."""
    total = len(stored)
    if total == 0:
        raise ValueError("no images to compute")
    for start in range(0, total, batch_size):
        index = batch_rows(total, batch_size, start)
        count = min(batch_size, total - start)
        result = np.asarray(function(jnp.asarray(stored[index])))
        yield slice(start, start + count), result[:count]


# Each argument is one thing that the bits of the features depend on.
def key(
    program: programs.Program,
    last: int,
    params: freezing.Params,
    batch_stats: freezing.Params,
    *,
    images: str,
    scaling: str,
    batch_size: int,
) -> str:
    """Hexadecimal digits over everything that features depend on, to their last bits.

    Args:
      program: how the network is run.
      last: number of layers applied.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      images: fingerprint of the images and their augmented copies.
      scaling: what the program's inputs do with pixels.
      batch_size: images per call.
    """
    names = program.model.layer_names[:last]
    digest = hashlib.sha256(repr((program.model, names, scaling, images)).encode())
    for tree in (params, batch_stats):
        prefix = {name: tree[name] for name in names if name in tree}
        for path, leaf in jax.tree_util.tree_leaves_with_path(prefix):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
            digest.update(np.asarray(leaf).tobytes())
    where = (
        *(jax.default_backend(), jax.devices()[0].device_kind, machine.processor()),
        *(
            machine.parallelism(),
            jax.__version__,
            jaxlib.version.__version__,
            os.environ.get("XLA_FLAGS"),
            *(jax.config.values[name] for name in _ROUNDING),
        ),
    )
    digest.update(repr((where, program.micro_batch, batch_size)).encode())
    inputs = sys.modules[program.inputs.__module__]
    digest.update(machine.modules_sha256(*_DECIDING, inputs).encode())
    return digest.hexdigest()[:40]


class Store:
    """A folder of computed features, by key; when it is full, the longest unused are removed."""

    def __init__(self, folder: Path, max_bytes: float):
        """The folder is made when something is kept in it."""
        self._folder, self._max_bytes = folder, max_bytes

    def takes(self, count: float) -> bool:
        """Whether features of so many bytes are kept."""
        return count <= self._max_bytes

    def entry(self, key: str, *, held: bool) -> Entry:
        """The features under `key`; they are read into memory if `held`."""
        return Entry(self, self._folder / f"{key}.npy", held)

    def make_room(self, count: int) -> None:
        """Remove what was unused longest until so many bytes fit."""
        files = []
        for path in self._folder.glob("*.npy"):
            with contextlib.suppress(OSError):  # another run may be removing it
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + count <= self._max_bytes:
                break
            with contextlib.suppress(OSError):  # on Windows, one that is being read
                path.unlink()
                total -= size


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of features in a store.

    Attributes:
      store: that it belongs to.
      path: of its file.
      held: whether the features are held in memory. Then the file is only a copy, and a folder that
        cannot be written is no error.
    """

    store: Store
    path: Path
    held: bool

    def read(self, shape: tuple[int, ...]) -> Rows | None:
        """Features of an earlier run, or None if there are none or their file is damaged."""
        stored = lazy.open_file(self.path, shape, np.float32)
        if stored is None:
            return None
        try:
            features = stored[:] if self.held else stored
        except lazy.DamagedError:
            _LOG.warning("%s: was damaged, so these features are computed again", self.path)
            return None
        _LOG.info("features: read from %s", self.path)
        with contextlib.suppress(OSError):  # a read-only cache, or just removed
            os.utime(self.path)
        return features

    def write(self, shape: tuple[int, ...], batches: Batches) -> Rows:
        """Store the outputs of all batches.

        Raises:
          UserError: they are not held in memory, and the file cannot be written.
        """
        size = math.prod(shape) * np.dtype(np.float32).itemsize
        if not self.held:
            self._write(size, shape, batches)
            stored = lazy.open_file(self.path, shape, np.float32)
            if stored is None:
                raise UserError(f"{self.path}: was removed right after it was written; run again")
            return stored
        features = _in_memory(shape, batches)
        if self.store.takes(size):
            try:
                self._write(size, shape, [(slice(None), features)])
            except UserError as error:
                _LOG.warning("%s", error)
        return features

    def _write(self, size: int, shape: tuple[int, ...], batches: Batches) -> None:
        try:
            self.store.make_room(size)
            with lazy.create(self.path, shape, np.float32) as file:
                for part, result in batches:
                    file[part] = result
        except OSError as error:
            raise UserError(
                f"{self.path}: features cannot be stored there ({error.strerror}); free the space, "
                "or set SSCJAX_CACHE to a folder elsewhere"
            ) from error


def calibrate_batch_norm(
    model: Model,
    params: freezing.Params,
    batch_stats: freezing.Params,
    batches: list[jax.Array],
    first: int = 0,
) -> freezing.Params:
    """Running averages of a network with random weights, measured on a few batches.

    The paper requires that the initial weights give every feature map about unit variance (section
    II.F); with random weights the default averages (0 and 1) are far from that.

    Args:
      model: a network whose BatchNorm keeps `momentum` of the old average.
      params: its parameters.
      batch_stats: its present running averages (the result has their structure).
      batches: inputs [B,H,W,3] as the network takes them.
      first: layers whose averages stay as they are.

    Returns:
      the mean over the batches of each batch's own statistics.
    """
    if not batch_stats:
        return batch_stats

    @jax.jit
    def statistics(x: jax.Array) -> freezing.Params:
        variables = base.variables(params, batch_stats)
        _, updated = model.apply(
            variables, x, train=False, batch_statistics_from=first, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    measured = [statistics(x) for x in batches]
    # As they were, to the bit, where nothing was measured.
    unchanged = {
        name: batch_stats[name] for name in model.layer_names[:first] if name in batch_stats
    }
    mean = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *measured)
    return {**mean, **unchanged}
