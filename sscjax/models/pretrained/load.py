"""Putting a file's weights into a model: all of them, each in its place, or none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.errors import UserError
from sscjax.models.mobilenet_v2 import MobileNetV2, backbone_layers
from sscjax.models.pretrained import formats, resnet_names, vit_names
from sscjax.models.pretrained.convert import HEAD, Converted, Tree, convert_weights
from sscjax.models.pretrained.preprocessing import Convention
from sscjax.models.vit.module import VisionTransformer
from sscjax.system.files import sha256

ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""Width multipliers of which Keras publishes ImageNet weights."""


class Family(NamedTuple):
    """Networks whose weight files are read alike.

    Attributes:
        title: for messages, with its article where it has one.
        convert: from the arrays of a file to the model's names.
        sources: whose files these are, for messages.
        most: numbers that a file may hold.
    """

    title: str
    convert: Callable[[Mapping[str, np.ndarray]], Converted]
    sources: str
    most: int


MOBILENET_V2 = Family(
    "MobileNetV2", convert_weights, "Keras, torchvision or timm", formats.MAX_ELEMENTS
)


RESNET = Family(
    "this ResNet", resnet_names.convert, "torchvision, timm or transformers", 100_000_000
)


def vit_family(model: VisionTransformer) -> Family:
    """Files of this vision transformer, whatever size of image they were trained on."""
    shape = model.shape
    # The blocks' kernels and, with room to spare, everything else: positions, a classifier.
    largest = 12 * shape.depth * shape.width * max(shape.width, shape.hidden) + 50_000_000
    return Family(
        "this vision transformer",
        functools.partial(vit_names.convert, model=model),
        "timm or transformers",
        largest,
    )


class Loaded(NamedTuple):
    """A model's trees with the backbone from a file.

    Attributes:
        params: `params[layer][variable]`, float32 NumPy arrays; the head is the one given.
        batch_stats: `batch_stats[layer]['mean' or 'var']`, float32 NumPy arrays.
        convention: padding, BatchNorm epsilon and input scaling that the model must have.
        sha256: of the file, in hexadecimal.
        dropped: names in the file that are not for the backbone.
        kept: `layer/variable` of the arrays that were not replaced: the head.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    convention: Convention
    sha256: str
    dropped: tuple[str, ...]
    kept: tuple[str, ...]


def load_backbone(
    path: Path | str,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    family: Family = MOBILENET_V2,
) -> Loaded:
    """Replace the backbone in a model's trees by the weights in a file.

    Args:
        path: a file that `read_weights` reads.
        params: the model's parameters, `params[layer][variable]`: arrays or `ShapeDtypeStruct`s.
        batch_stats: the model's BatchNorm statistics, likewise.
        family: how the file is read.

    Returns:
        the filled trees and facts about the file.

    Raises:
        UserError: the file is unreadable, or not exactly the backbone of this model: names every
            missing, surplus, misshapen and non-finite array.
    """
    path = Path(path)
    weights, convention = formats.read_weights(path, most=family.most)
    converted = family.convert(weights)
    if not converted.params and not converted.batch_stats:
        names = ", ".join(list(weights)[:3])
        raise UserError(
            f"{path}: not {family.title}, its names are {names}, ...; give weights of"
            f" {family.title} by {family.sources}"
        )
    differences = [
        *(f"surplus {name}" for name in converted.unknown),
        *_differences(params, converted.params),
        *_differences(batch_stats, converted.batch_stats),
    ]
    if differences:
        raise UserError(
            f"{path}: does not fit the model ({len(differences)} differences):"
            f" {_first(differences)}; give a file of this width (alpha) and architecture"
        )
    kept = {layer: variables for layer, variables in params.items() if layer == HEAD}
    return Loaded(
        params={layer: converted.params.get(layer, params[layer]) for layer in params},
        batch_stats={layer: converted.batch_stats[layer] for layer in batch_stats},
        convention=convention,
        sha256=sha256(path),
        dropped=converted.dropped,
        kept=tuple(f"{layer}/{name}" for layer in kept for name in kept[layer]),
    )


def backbone_tree(alpha: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Params and batch_stats of the backbone of MobileNetV2 as `ShapeDtypeStruct`s.

    Args:
        alpha: width multiplier.
    """
    model = MobileNetV2(outputs=1, alpha=alpha)
    # Shapes do not depend on the size of the image; 32 is the least that Keras takes.
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    start = functools.partial(model.init, train=False)
    variables = jax.eval_shape(start, jax.random.key(0), image)
    params = {layer: v for layer, v in variables["params"].items() if layer != HEAD}
    return params, dict(variables["batch_stats"])


def infer_alpha(params: Tree) -> float:
    """Return the published width multiplier that fits the last convolution of the backbone.

    Raises:
        UserError: the convolution is missing, or no published width has its channels.
    """
    kernel = params.get("Conv_1", {}).get("kernel")
    shape = None if kernel is None else kernel.shape
    for alpha in ALPHAS:
        channels = {layer.name: layer.channels for layer in backbone_layers(alpha)}
        if shape == (1, 1, channels["block_16_project"], channels["Conv_1"]):
            return alpha
    raise UserError(
        f"last convolution (Conv_1) has shape {shape}, which is none of MobileNetV2 with alpha"
        f" {', '.join(map(str, ALPHAS))}"
    )


def _first(differences: list[str], most: int = 12) -> str:
    """The first of them; a file of another network differs in hundreds."""
    more = len(differences) - most
    return "; ".join(differences[:most]) + (f"; and {more} more" if more > 0 else "")


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for layer, variables in tree.items():
        for name, array in variables.items():
            yield f"{layer}/{name}", array


def _differences(expected_tree: Mapping[str, Any], tree: Tree) -> Iterable[str]:
    expected = {n: a for n, a in _flat(expected_tree) if not n.startswith(f"{HEAD}/")}
    arrays = dict(_flat(tree))
    for name in expected:
        if name not in arrays:
            yield f"missing {name}"
    for name, array in arrays.items():
        if name not in expected:
            yield f"surplus {name}"
        elif array.shape != tuple(expected[name].shape):
            yield f"{name} has shape {array.shape}, expected {tuple(expected[name].shape)}"
        elif not np.isfinite(array).all():
            yield f"{name} has {int((~np.isfinite(array)).sum())} values that are not finite"
        elif name.endswith("/var") and (array < 0).any():
            yield f"{name} has negative variances"
