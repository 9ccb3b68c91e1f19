"""From the names and layouts of torchvision, timm and transformers to the tree of `ResNet`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from sscjax.models.pretrained.convert import Converted, Tree

# What a file may hold beyond the backbone. Everything else that is not recognised is an error.
_DROPPED = re.compile(r"(fc|classifier\.1|head\.fc)\.(weight|bias)|.*\.num_batches_tracked")
_WRAPPERS = re.compile(r"^(?:module\.|model\.|backbone\.|resnet\.)+")

_VARIABLES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
# transformers: `encoder.stages.0.layers.1.layer.2.convolution.weight`, parts counted from 0.
_STEM = {"convolution": "conv1", "normalization": "bn1"}
_TRANSFORMERS = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|(shortcut))\.(convolution|normalization)"
)
_TORCH = re.compile(r"layer(\d+)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))")


def convert(weights: Mapping[str, np.ndarray]) -> Converted:
    """Rename and transpose what `read_weights` returned.

    Args:
        weights: arrays by name, as torchvision and timm (`layer1.0.conv1.weight`) or transformers
            (`encoder.stages.0.layers.0.layer.0.convolution.weight`) name them.

    Returns:
        the tree: convolutions (height, width, in, out).
    """
    trees: dict[str, Tree] = {"params": {}, "batch_stats": {}}
    dropped, unknown = [], []
    for name, array in weights.items():
        bare = _WRAPPERS.sub("", name)
        module, _, variable = bare.rpartition(".")
        layer = _layer(module)
        if _DROPPED.fullmatch(bare):
            dropped.append(name)
        elif layer is None or variable not in _VARIABLES:
            unknown.append(name)
        elif array.ndim == 4:
            trees["params"].setdefault(layer, {})["kernel"] = array.transpose(2, 3, 1, 0)
        else:
            collection, key = _VARIABLES[variable]
            trees[collection].setdefault(layer, {})[key] = array
    return Converted(trees["params"], trees["batch_stats"], tuple(dropped), tuple(unknown))


def _layer(module: str) -> str | None:
    """The layer of a module by either library's name; None where there is none."""
    if module in ("conv1", "bn1"):
        return module
    if module.startswith("embedder.embedder."):
        return _STEM.get(module.rpartition(".")[2])
    found = _TORCH.fullmatch(module)
    if found:
        stage, block, part, number, beside = found.groups()
        prefix = f"layer{stage}_{block}"
        if beside is not None:
            return f"{prefix}_downsample_{'bn' if beside == '1' else 'conv'}"
        return f"{prefix}_{part}{number}"
    found = _TRANSFORMERS.fullmatch(module)
    if not found:
        return None
    stage, block, number, shortcut, part = found.groups()
    prefix = f"layer{int(stage) + 1}_{block}"
    kind = "conv" if part == "convolution" else "bn"
    return f"{prefix}_downsample_{kind}" if shortcut else f"{prefix}_{kind}{int(number) + 1}"
