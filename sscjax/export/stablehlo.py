"""A run as StableHLO, compiled by whoever has JAX, on a CPU, a GPU (NVIDIA, AMD) or a TPU.

The file is a zip of two: what `jax.export` serialises, and the metadata as JSON. It needs no class,
no config and nothing of this package to be run.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from sscjax.errors import UserError
from sscjax.export import graph, graph_jax, metadata, verify
from sscjax.export.graph import Graph
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference.classifier import Classifier

NETWORK, ABOUT = "network.stablehlo", "metadata.json"

# The same program for all: it holds nothing that is made for a kind of device.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# JAX's option: how many lines of the calling sources are recorded with each operation.
_FRAMES = "jax_traceback_in_locations_limit"


def write(opened: Classifier, path: Path, options: ExportOptions) -> Outcome:
    """Write the zip, read it again, run it and compare; arguments and errors as of `onnx_file`."""
    _require_flatbuffers()
    about = metadata.metadata(opened, options.intended_use)
    program = _serialised(graph.from_classifier(opened))
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in ((ABOUT, metadata.text(about).encode()), (NETWORK, program)):
            # Without a date, so that the same run gives the same file.
            archive.writestr(zipfile.ZipInfo(name), content)
    path.write_bytes(memory.getvalue())
    call, _ = load(path)
    agreement = verify.compare(opened, _numpy(call), verify.sample(opened, options.data))
    verify.demand(agreement, path.name)
    return Outcome(about, agreement)


def load(path: Path | str) -> tuple[Callable[[Any], dict[str, jax.Array]], dict[str, Any]]:
    """Read an exported zip.

    Returns:
      a compiled f(uint8 [N,S,S,3]) -> the outputs by their names, for any N, which compiles again
      for each new N; and the metadata.

    Raises:
      UserError: it is no such file, or flatbuffers is missing.
    """
    _require_flatbuffers()
    try:
        with zipfile.ZipFile(path) as archive:
            network, about = bytearray(archive.read(NETWORK)), json.loads(archive.read(ABOUT))
        exported = export.deserialize(network)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}): expected what "
            "'sscjax export --format=stablehlo' writes"
        ) from error
    return jax.jit(exported.call), about


def _serialised(folded: Graph) -> bytearray:
    def network(images: jax.Array) -> dict[str, jax.Array]:
        return graph_jax.outputs(folded, images)

    [batch] = export.symbolic_shape("N")
    size = folded.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
    with _without_source_lines():
        return export.export(jax.jit(network), platforms=PLATFORMS)(images).serialize()


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """Keeps source files and lines of the machine that exports out of what it exports."""
    before = jax.config.values[_FRAMES]
    jax.config.update(_FRAMES, 0)
    try:
        yield
    finally:
        jax.config.update(_FRAMES, before)


def _numpy(call: Callable[[Any], dict[str, jax.Array]]) -> verify.Run:
    return lambda images: {name: np.asarray(value) for name, value in call(images).items()}


def _require_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise verify.missing(error) from error
