"""What a set of weights assumes of the network around it.

Of MobileNetV2 two families of released weights exist. They differ in how stride-2 convolutions
pad, in the epsilon of BatchNorm and in how pixels are scaled. Weights of one family in a network of
the other give features that look plausible and are wrong, so these choices travel with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Padding = Literal["keras", "torch"]
Scaling = str
"""'minus_one_one', 'imagenet', or 'mean=R,G,B std=R,G,B' of pixels in [0, 1], see `preprocess`."""

# Mean and standard deviation of the ImageNet training pixels in [0, 1], by channel (R, G, B), as
# torchvision documents them for its classification weights (`transforms.Normalize`).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Convention:
    """The assumptions of one source of weights.

    Attributes:
        name: what converted files and runs record; `convention` finds it again.
        padding: of 3x3 stride-2 convolutions. `keras`: (0, 1) where the size is even and (1, 1)
            where it is odd; `torch`: always (1, 1).
        bn_epsilon: added to the variance in BatchNorm.
        bn_momentum: share of the OLD running average that is kept at each training step (the sense
            of Keras and Flax; PyTorch's `momentum` is one minus this).
        scaling: of the input pixels, see `preprocess`.
    """

    name: str
    padding: Padding
    bn_epsilon: float
    bn_momentum: float
    scaling: Scaling


# keras.applications.mobilenet_v2: ZeroPadding2D(correct_pad), BatchNormalization(epsilon=1e-3,
# momentum=0.999), preprocess_input(mode='tf').
KERAS = Convention("keras", "keras", 1e-3, 0.999, "minus_one_one")
# torchvision.models.mobilenet_v2 and timm mobilenetv2_100: padding=1, nn.BatchNorm2d defaults
# (eps=1e-5, momentum=0.1 of the NEW value).
TORCH = Convention("torch", "torch", 1e-5, 0.9, "imagenet")

CONVENTIONS: dict[str, Convention] = {c.name: c for c in (KERAS, TORCH)}

_OWN = re.compile(r"mean=([^ ]+) std=([^ ]+)")


def convention(name: str) -> Convention:
    """The convention that a run or a file records.

    Raises:
        KeyError: there is none of that name.

    Example:
        >>> convention("torch").padding
        'torch'
    """
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    if not _OWN.fullmatch(name):
        raise KeyError(name)
    return Convention(name, "torch", TORCH.bn_epsilon, TORCH.bn_momentum, name)


def convention_of(mean: Sequence[float], std: Sequence[float]) -> Convention:
    """PyTorch's convention with pixels scaled by the mean and standard deviation of a file.

    Args:
        mean: of pixels in [0, 1], by channel (R, G, B).
        std: likewise, above 0.

    Raises:
        ValueError: not three numbers each, or a deviation that is not above 0.

    Example:
        >>> convention_of((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).name
        'torch'
    """
    means, deviations = ([float(value) for value in values] for values in (mean, std))
    if len(means) != 3 or len(deviations) != 3 or not all(value > 0 for value in deviations):
        raise ValueError(f"mean {mean} and std {std}: expected three numbers each, std above 0")
    if (tuple(means), tuple(deviations)) == (IMAGENET_MEAN, IMAGENET_STD):
        return TORCH
    texts = (",".join(f"{value:.9g}" for value in values) for values in (means, deviations))
    return convention("mean={} std={}".format(*texts))


def preprocess(images: Any, scaling: Scaling) -> Any:
    """Scale pixels as the weight source demands.

    Args:
        images: NumPy or JAX array [..., 3], channels R, G, B, uint8 or float in [0, 255].
        scaling: `minus_one_one`: x / 127.5 - 1, so [-1, 1]; `imagenet`: (x / 255 - mean) / std by
            channel, about [-2.2, 2.7]; 'mean=R,G,B std=R,G,B': likewise by these.

    Returns:
        float32 array of the same kind and shape.

    Raises:
        ValueError: the last axis is not 3, or `scaling` is unknown.
    """
    if images.shape[-1:] != (3,):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [..., 3]")
    pixels = images.astype(np.float32)
    if scaling == "minus_one_one":
        return pixels / 127.5 - 1.0
    mean, std = _mean_and_std(scaling)
    # Same rank as the images: the tests forbid broadcasting between ranks.
    shape = (1,) * (pixels.ndim - 1) + (3,)
    return (pixels / 255.0 - mean.reshape(shape)) / std.reshape(shape)


def _mean_and_std(scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Of pixels in [0, 1], [3] float32 each."""
    if scaling == "imagenet":
        return np.asarray(IMAGENET_MEAN, np.float32), np.asarray(IMAGENET_STD, np.float32)
    found = _OWN.fullmatch(scaling)
    if found is None:
        raise ValueError(
            f"scaling is {scaling!r}, expected 'minus_one_one', 'imagenet' or "
            "'mean=R,G,B std=R,G,B'"
        )
    mean, std = (
        np.array([float(x) for x in text.split(",")], np.float32) for text in found.groups()
    )
    return mean, std
