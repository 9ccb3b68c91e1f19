"""From the names and layouts of other programs to the parameter tree of `MobileNetV2`.

Every function here is a renaming plus a transposition. Which names there must be is not decided
here: `load.py` compares the result with the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Tree = dict[str, dict[str, np.ndarray]]

HEAD = "predictions"
"""The model's classifier: never taken from a file, because its classes are others."""

# What a file may hold beyond the backbone. Everything else that is not recognised is an error.
_DROPPED = re.compile(
    r"""
      (predictions|Logits)/\w+                # Keras' classifier
    | dense(_\d+)?/\w+                        # a user's own in Keras: the backbone has no dense
    | classifier(\.1)?\.(weight|bias)         # timm's and torchvision's
    | .*\.num_batches_tracked                 # a counter of PyTorch's BatchNorm
    """,
    re.VERBOSE,
)


class Converted(NamedTuple):
    """Weights under the model's names.

    Attributes:
        params: kernels, scales and biases by Keras layer name: `params['Conv1']['kernel']`.
        batch_stats: `mean` and `var` by Keras layer name.
        dropped: names in the file that are not for the backbone (its classifier, counters).
        unknown: names in the file that no layer of MobileNetV2 has.
    """

    params: Tree
    batch_stats: Tree
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def convert_weights(weights: Mapping[str, np.ndarray]) -> Converted:
    """Rename and transpose what `read_weights` returned.

    Args:
        weights: arrays by name, as Keras (`Conv1/kernel`), torchvision (`features.0.0.weight`),
            timm (`conv_stem.weight`) or an earlier conversion (`params/Conv1/kernel`) name them.

    Returns:
        the tree: convolutions (height, width, in, out), depthwise (3, 3, 1, channels).
    """
    trees: dict[str, Tree] = {"params": {}, "batch_stats": {}}
    dropped, unknown = [], []
    for name, array in weights.items():
        target = _target(name)
        if _DROPPED.fullmatch(name):
            dropped.append(name)
        elif target is None:
            unknown.append(name)
        else:
            collection, layer, variable = target
            variables = trees[collection].setdefault(layer, {})
            variables[variable] = _transpose(name, layer, array)
    return Converted(trees["params"], trees["batch_stats"], tuple(dropped), tuple(unknown))


_KERAS_VARIABLES = {
    "kernel": ("params", "kernel"),
    "depthwise_kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
_TORCH_VARIABLES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def _target(name: str) -> tuple[str, str, str] | None:
    """Collection, layer and variable for a name of any source; None where it has no place."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] in ("params", "batch_stats"):
        return parts[0], parts[1], parts[2]
    if len(parts) == 2 and parts[1] in _KERAS_VARIABLES:
        collection, variable = _KERAS_VARIABLES[parts[1]]
        return collection, parts[0], variable
    module, _, variable = name.rpartition(".")
    if module in TORCHVISION_LAYERS or module in TIMM_LAYERS:
        layer = TORCHVISION_LAYERS.get(module) or TIMM_LAYERS[module]
        if not _is_norm(layer):
            return ("params", layer, "kernel") if variable == "weight" else None
        if variable in _TORCH_VARIABLES:
            collection, variable = _TORCH_VARIABLES[variable]
            return collection, layer, variable
    return None


def _is_norm(layer: str) -> bool:
    return layer.endswith(("_BN", "_bn")) or layer.startswith("bn_")


def _transpose(name: str, layer: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 4 or name.startswith("params/"):
        return array
    if "/" in name:  # Keras: (h, w, in, out), depthwise (h, w, channels, 1)
        return array.transpose(0, 1, 3, 2) if layer.endswith("_depthwise") else array
    return array.transpose(2, 3, 1, 0)  # PyTorch: (out, in, h, w), depthwise (channels, 1, h, w)


def _torchvision_layers() -> dict[str, str]:
    """`features.N` is block N - 1; inside, each ConvBNReLU counts as one."""
    names = {"features.0.0": "Conv1", "features.0.1": "bn_Conv1"}
    for block in range(17):
        prefix, start = _prefix(block), f"features.{block + 1}.conv."
        triples = [("depthwise", "0.0", "0.1"), ("project", "1", "2")]
        if block:
            triples = [
                ("expand", "0.0", "0.1"),
                ("depthwise", "1.0", "1.1"),
                ("project", "2", "3"),
            ]
        for part, conv, norm in triples:
            names[start + conv] = f"{prefix}_{part}"
            names[start + norm] = f"{prefix}_{part}_BN"
    return names | {"features.18.0": "Conv_1", "features.18.1": "Conv_1_bn"}


def _timm_layers() -> dict[str, str]:
    """`blocks.STAGE.REPEAT`; the parts are named by role, the BatchNorms numbered."""
    names = {"conv_stem": "Conv1", "bn1": "bn_Conv1"}
    block = 0
    for stage, repeats in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for repeat in range(repeats):
            prefix, start = _prefix(block), f"blocks.{stage}.{repeat}."
            parts = [("depthwise", "conv_dw"), ("project", "conv_pw")]
            if block:
                parts = [("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")]
            for number, (part, conv) in enumerate(parts, start=1):
                names[start + conv] = f"{prefix}_{part}"
                names[f"{start}bn{number}"] = f"{prefix}_{part}_BN"
            block += 1
    return names | {"conv_head": "Conv_1", "bn2": "Conv_1_bn"}


def _prefix(block: int) -> str:
    return f"block_{block}" if block else "expanded_conv"


TORCHVISION_LAYERS = _torchvision_layers()
"""Keras layer by torchvision module name."""
TIMM_LAYERS = _timm_layers()
"""Keras layer by timm module name (`mobilenetv2_*`)."""
