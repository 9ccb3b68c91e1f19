"""What a set of MobileNetV2 weights assumes of the network around it.

Two families of released weights exist. They differ in how stride-2 convolutions pad, in the
epsilon of BatchNorm and in how pixels are scaled. Weights of one family in a network of the other
give features that look plausible and are wrong, so these choices travel with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Padding = Literal["keras", "torch"]
Scaling = Literal["minus_one_one", "imagenet"]

# Mean and standard deviation of the ImageNet training pixels in [0, 1], by channel (R, G, B), as
# torchvision documents them for its classification weights (`transforms.Normalize`).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Convention:
    """The assumptions of one source of weights.

    Attributes:
        name: key in `CONVENTIONS`, and what converted files record.
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


def preprocess(images: Any, scaling: Scaling) -> Any:
    """Scale pixels as the weight source demands.

    Args:
        images: NumPy or JAX array [..., 3], channels R, G, B, uint8 or float in [0, 255].
        scaling: `minus_one_one`: x / 127.5 - 1, so [-1, 1]; `imagenet`: (x / 255 - mean) / std by
            channel, about [-2.2, 2.7].

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
    if scaling == "imagenet":
        # Same rank as the images: the tests forbid broadcasting between ranks.
        shape = (1,) * (pixels.ndim - 1) + (3,)
        mean = np.asarray(IMAGENET_MEAN, np.float32).reshape(shape)
        std = np.asarray(IMAGENET_STD, np.float32).reshape(shape)
        return (pixels / 255.0 - mean) / std
    raise ValueError(f"scaling is {scaling!r}, expected 'minus_one_one' or 'imagenet'")
