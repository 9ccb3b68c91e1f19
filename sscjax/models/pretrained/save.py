"""Writing a backbone to one plain file that `formats.read_weights` reads back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from sscjax.errors import UserError
from sscjax.models.pretrained.formats import METADATA_KEY
from sscjax.models.pretrained.preprocessing import Convention
from sscjax.system.files import write_bytes

FORMATS = (".safetensors", ".npz")


def save_backbone(
    path: Path,
    params: Mapping[str, Mapping[str, Any]],
    batch_stats: Mapping[str, Mapping[str, Any]],
    convention: Convention,
    *,
    half: bool = False,
) -> None:
    """Write the backbone's arrays and what they assume.

    Args:
        path: ends in .safetensors or .npz.
        params: `params[layer][variable]`, without the head.
        batch_stats: `batch_stats[layer]['mean' or 'var']`.
        convention: of padding, BatchNorm and scaling.
        half: kernels as float16, which halves the file; BatchNorm, a fiftieth of the numbers, stays
            float32: small variances have few digits in float16.

    Raises:
        UserError: another suffix, a kernel beyond the range of float16, or the file cannot be
            written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: ends in {path.suffix!r}, expected {' or '.join(FORMATS)}")
    arrays = _flat("params", params) | _flat("batch_stats", batch_stats)
    if half:
        arrays = {name: _halved(name, array) for name, array in arrays.items()}
    record = json.dumps({"convention": convention.name})
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{METADATA_KEY: np.array(record)}, **arrays)
        data = buffer.getvalue()
    else:
        data = safetensors.numpy.save(arrays, metadata={METADATA_KEY: record})
    try:
        write_bytes(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _flat(collection: str, tree: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {
        f"{collection}/{layer}/{name}": np.ascontiguousarray(array)
        for layer, variables in sorted(tree.items())
        for name, array in sorted(variables.items())
    }


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    if not name.endswith("/kernel"):
        return array
    with np.errstate(over="ignore"):
        halved = array.astype(np.float16)
    if not np.isfinite(halved).all():
        raise UserError(f"{name} has values beyond 65504, the range of float16; keep float32")
    return halved
