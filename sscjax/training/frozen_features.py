"""Activations of the frozen prefix of a network, computed once.

While nothing upstream of a layer trains, is augmented on line or normalises by the batch, its
activations are constants: a stage then starts at that layer.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from sscjax.data import lazy
from sscjax.data.lazy import Keep, Rows, Target
from sscjax.errors import UserError
from sscjax.models import Model, base
from sscjax.system import machine
from sscjax.training import freezing, programs

_LOG = logging.getLogger(__name__)

# JAX's own settings by which the same program rounds otherwise.
_ROUNDING = ("jax_default_matmul_precision", "jax_disable_most_optimizations", "jax_enable_x64")


def prefix_length(model: Model, labels: Mapping[str, str]) -> int:
    """How many layers from the input can be computed once: the last cut before what trains."""
    names = model.layer_names
    first_trained = min(names.index(name) for name, to in labels.items() if to == freezing.TRAIN)
    return max(cut for cut in model.cut_points if cut <= first_trained)


def prefix_shape(
    model: Model, variables: Mapping[str, Any], last: int, images: tuple[int, ...]
) -> tuple[int, ...]:
    """Shape of the outputs of the first `last` layers for `images` [N,H,W,3]; they are float32."""
    image = jax.ShapeDtypeStruct((1, *images[1:]), np.float32)
    shape = jax.eval_shape(
        lambda variables, x: model.apply(variables, x, train=False, last=last), variables, image
    )
    return (images[0], *shape.shape[1:])


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
    keep: Keep = lazy.in_memory,
) -> Rows:
    """Outputs of the first `last` layers for all `stored` [N,H,W,3]: [N,...] float32.

    Args:
      program: how the network is run, with its inputs.
      last: number of layers to apply.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      stored: inputs as the program takes them.
      batch_size: images per call.
      progress: called with the number of images done since the last call, those that `keep` has
        already among them.
      keep: where the outputs go.
    """
    function = programs.make_features(program, last)
    computed = 0

    def fill(target: Target) -> None:
        nonlocal computed
        apply = functools.partial(function, params, batch_stats)
        for part, result in _parts(apply, stored, batch_size):
            target[part] = result
            computed += len(result)
            progress(len(result))

    variables = base.variables(params, batch_stats)
    shape = prefix_shape(program.model, variables, last, tuple(stored.shape))
    outputs = keep(shape, np.float32, fill)
    if not computed:  # an earlier run stored them
        progress(len(stored))
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
    digest.update(machine.source_sha256().encode())
    return digest.hexdigest()[:40]


class Store:
    """A folder of computed features, by key; when it is full, the longest unused are removed."""

    def __init__(self, folder: Path, max_bytes: float):
        """The folder is made when something is kept in it."""
        self._folder, self._max_bytes = folder, max_bytes

    def takes(self, count: float) -> bool:
        """Whether features of so many bytes are kept."""
        return count <= self._max_bytes

    def keep(self, key: str, *, held: bool) -> Keep:
        """Features under `key`: read, or computed and stored; in memory as well if `held`.

        Where the folder cannot be written, what would be held in memory is only held there.
        """
        path = self._folder / f"{key}.npy"

        def read_or_compute(
            shape: tuple[int, ...], dtype: Any, fill: Callable[[Target], None]
        ) -> Rows:
            stored = lazy.open_file(path, shape, dtype)
            if stored is not None:
                try:
                    features = stored[:] if held else stored
                    _LOG.info("features: read from %s", path)
                    with contextlib.suppress(OSError):  # a read-only cache, or just removed
                        os.utime(path)
                    return features
                except lazy.DamagedError:
                    _LOG.warning("%s: was damaged, so these features are computed again", path)
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if not held:
                return self._write(path, size, lambda: lazy.in_file(path)(shape, dtype, fill))
            made = lazy.in_memory(shape, dtype, fill)
            if self.takes(size):
                try:
                    self._write(path, size, lambda: lazy.write(path, made))
                except UserError as error:
                    _LOG.warning("%s", error)
            return made

        return read_or_compute

    def _write(self, path: Path, size: int, write: Callable[[], Any]) -> Any:
        try:
            self._make_room(size)
            return write()
        except OSError as error:
            raise UserError(
                f"{path}: features cannot be kept there ({error.strerror}); free the space, or set "
                "SSCJAX_CACHE to a folder elsewhere"
            ) from error

    def _make_room(self, count: int) -> None:
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
