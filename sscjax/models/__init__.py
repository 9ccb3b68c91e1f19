"""The networks; `models.factory` builds them by the name that a config gives them.

Every model is a Linen module with the interface of `base.Model`: `layer_names` (its layers in
order, which are also the keys of its parameter tree), `head_start` (where the classifier begins in
them), `features_end` (where its input is complete), `cut_points` (where prefix and suffix can be
run apart), `mask_classes`, `norm_after`, `initializer` (how kernels start), `fold` (BatchNorm into
the kernels) and one `__call__` that runs any range of layers.
"""

from __future__ import annotations

from sscjax.models.base import Model
from sscjax.models.cnn import CNN
from sscjax.models.init import initial_variables
from sscjax.models.layers import MASK
from sscjax.models.mobilenet_unet import MobileNetUNet
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.unet import FDUNet

__all__ = [
    "CNN",
    "FDUNet",
    "MASK",
    "MobileNetUNet",
    "MobileNetV2",
    "Model",
    "initial_variables",
]
