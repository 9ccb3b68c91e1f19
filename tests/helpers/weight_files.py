"""Random weights of MobileNetV2 in files as Keras lays them out, for the tests that read them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sscjax.models.pretrained.load import Loaded, backbone_tree

ALPHA = 0.35
Arrays = dict[str, np.ndarray]


@functools.cache
def tree() -> tuple[dict[str, Any], dict[str, Any]]:
    """Params and batch_stats of the backbone, as shapes."""
    return backbone_tree(ALPHA)


@functools.cache
def keras_arrays() -> Arrays:
    """Random weights in Keras' layout and names: depthwise kernels (3, 3, channels, 1)."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    for part in tree():
        for layer, variables in part.items():
            for name, spec in variables.items():
                shape = spec.shape
                if layer.endswith("_depthwise"):
                    shape = (*shape[:2], shape[3], shape[2])
                draw = rng.uniform(0.5, 1.5, shape).astype(np.float32)
                arrays[f"{layer}/{names.get(name, name)}"] = draw
    assert len(arrays) == 260  # 35 convolutions, 17 depthwise, 52 BatchNorms of 4
    return arrays


def write_legacy(path: Path, arrays: Arrays, root: str = "", suffix: str = ":0") -> None:
    """As keras-applications files are laid out: group LAYER, data set LAYER/VARIABLE:0 in it."""
    layers: dict[str, list[str]] = {"input_1": [], "Conv1_relu": []}
    for key in arrays:
        layers.setdefault(key.split("/")[0], []).append(key)
    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        top.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, keys in layers.items():
            group = top.create_group(layer)
            names = []
            for key in keys:
                name = key
                if layer.endswith("_depthwise"):
                    name = key.replace("/kernel", "/depthwise_kernel")
                names.append(name + suffix)
                group[name + suffix] = arrays[key]
            group.attrs["weight_names"] = [name.encode() for name in names]


def assert_holds(loaded: Loaded, keras_arrays: Arrays) -> None:
    """The loaded trees are exactly these weights, transposed here by hand."""
    count = 0
    for key, array in keras_arrays.items():
        layer, name = key.split("/")
        if layer.endswith("_depthwise"):
            array = np.swapaxes(array, 2, 3)
        stats = {"moving_mean": "mean", "moving_variance": "var"}
        params = {"gamma": "scale", "beta": "bias", "kernel": "kernel"}
        found = (
            loaded.batch_stats[layer][stats[name]]
            if name in stats
            else loaded.params[layer][params[name]]
        )
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array, err_msg=key)
        count += 1
    assert count == sum(len(v) for t in (loaded.params, loaded.batch_stats) for v in t.values())


def garbage(path: Path) -> None:
    path.write_bytes(b"These are not the weights you are looking for. " * 30)
