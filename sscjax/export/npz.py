"""A run as plain arrays, for a reader that has NumPy and a free afternoon.

The folded kernels and biases by operation, the detector's arrays, and the metadata as UTF-8 JSON in
an array of bytes, with the list of operations. Nothing is pickled. docs/export.md runs it in NumPy.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sscjax.export import apply, check, frozen, metadata
from sscjax.export.check import Outcome, Wish
from sscjax.export.frozen import Evidence, Frozen, Operation
from sscjax.trained import Trained

ABOUT = "metadata"

# Of `Frozen`, as they stand in the file.
_DETECTOR = ("mean", "components", "variances", "noise")


def write(opened: Trained, place: Path, wish: Wish) -> Outcome:
    """Write the arrays, read them again, run and compare; arguments and errors as of `onnx_file`.

    The metadata has four keys more than `metadata.metadata` says: trunk, features, masks_from (the
    operation whose output are the logits of masks, '' without) and operations, each of these with
    name, kind, stride, padding, groups, other and reads as `frozen.Operation` says.
    """
    whole, found = frozen.freeze(opened), metadata.metadata(opened)
    steps = [
        {
            "name": one.name,
            "kind": one.kind,
            "stride": one.stride,
            "padding": list(one.padding),
            "groups": one.groups,
            "other": one.other,
            "reads": list(one.reads),
        }
        for one in whole.operations
    ]
    names = {"trunk": whole.trunk, "features": whole.features, "masks_from": whole.masks}
    about = {**found, "operations": steps, **names}
    arrays = metadata.arrays(whole)
    arrays |= {
        f"detector/{name}": np.asarray(getattr(whole, name), np.float32) for name in _DETECTOR
    }
    for one in whole.maps:
        arrays[f"maps/{one.name}/kernel"] = one.kernel
        if one.up is not None:
            arrays[f"maps/{one.name}/up"] = one.up
    arrays[ABOUT] = np.frombuffer(metadata.text(about).encode(), np.uint8)
    memory = io.BytesIO()
    np.savez(memory, allow_pickle=False, **arrays)
    place.write_bytes(memory.getvalue())
    agreement = check.compare(opened, _run(read(place)), check.sample(opened, wish.data))
    check.demand(agreement, place.name)
    return Outcome(found, agreement)


def read(path: Path) -> Frozen:
    """The network in a file that `write` made."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    about: dict[str, Any] = json.loads(arrays[ABOUT].tobytes())
    scaling = about["preparation"]["scaling"]
    detector = {name: arrays[f"detector/{name}"] for name in _DETECTOR}
    return Frozen(
        image_size=about["preparation"]["image_size"],
        scale=np.array(scaling["scale"], np.float32),
        shift=np.array(scaling["shift"], np.float32),
        operations=tuple(_operation(one, arrays) for one in about["operations"]),
        temperature=about["temperature"],
        trunk=about["trunk"],
        features=about["features"],
        masks=about["masks_from"],
        maps=tuple(
            Evidence(name, arrays[f"maps/{name}/kernel"], arrays.get(f"maps/{name}/up"))
            for name in (about["maps"] or {"layers": []})["layers"]
        ),
        mean=detector["mean"],
        components=detector["components"],
        variances=detector["variances"],
        noise=float(detector["noise"]),
    )


def _operation(one: dict[str, Any], arrays: dict[str, np.ndarray]) -> Operation:
    return Operation(
        **{**one, "padding": tuple(one["padding"])},
        kernel=arrays.get(f"{one['name']}/kernel"),
        bias=arrays.get(f"{one['name']}/bias"),
    )


def _run(whole: Frozen) -> check.Run:
    call = jax.jit(lambda images: apply.outputs(whole, images))
    return lambda images: {name: np.asarray(value) for name, value in call(images).items()}
