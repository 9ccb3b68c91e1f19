"""The networks by name, and how each is built: where a backbone is added.

A backbone is a Linen module with the surface of `models.base.Model`, a function here that builds it
from `ModelSettings`, and a row of `BACKBONES`. Fields of its own go into `ModelSettings` and, with
the same default and a comment, into `configs/default.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable
from typing import Any, get_args

from sscjax.errors import UserError
from sscjax.models import resnet
from sscjax.models.base import Model
from sscjax.models.cnn import CNN
from sscjax.models.mobilenet_unet import MobileNetUNet
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.pretrained import load, preprocessing
from sscjax.models.resnet import ResNet
from sscjax.models.unet import Block as UNetBlock
from sscjax.models.unet import FDUNet
from sscjax.models.vit import ARCHITECTURES, Architecture, VisionTransformer
from sscjax.models.vit.module import Pooling


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The block `config.model`; `configs/default.py` says what each field means.

    Raises:
      UserError: a field is out of its range.
    """

    name: str = "mobilenet_v2"
    alpha: float = 1.0
    outputs: int = 0
    dropout: float = 0.2
    feature_layers: tuple[str, ...] = ()
    vit_pooling: Pooling = "token"
    cnn_widths: tuple[int, ...] = (32, 64, 128, 256)
    cnn_dense: tuple[int, ...] = (128,)
    unet_block: UNetBlock = "dense"
    unet_depth: int = 3
    unet_width: int = 16
    unet_growth: int = 4
    unet_layers: int = 4

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            near = difflib.get_close_matches(self.name, BACKBONES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"config.model.name={self.name!r}: expected one of {', '.join(BACKBONES)}{hint}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"config.model.dropout={self.dropout}: expected 0 to less than 1")
        if self.alpha <= 0:
            raise UserError(f"config.model.alpha={self.alpha}: expected a width above 0")
        if self.outputs < 0:
            raise UserError(f"config.model.outputs={self.outputs}: expected 0 or more")
        for field in ("cnn_widths", "cnn_dense"):
            if min(getattr(self, field), default=1) < 1:
                raise UserError(f"config.model.{field}={getattr(self, field)}: expected 1 or more")
        for field in ("unet_depth", "unet_width", "unet_growth", "unet_layers"):
            if getattr(self, field) < 1:
                raise UserError(f"config.model.{field}={getattr(self, field)}: expected 1 or more")
        if self.unet_block not in get_args(UNetBlock):
            known = " or ".join(map(repr, get_args(UNetBlock)))
            raise UserError(f"config.model.unet_block={self.unet_block!r}: expected {known}")
        if self.vit_pooling not in get_args(Pooling):
            known = ", ".join(map(repr, get_args(Pooling)))
            raise UserError(f"config.model.vit_pooling={self.vit_pooling!r}: expected {known}")

    @property
    def backbone(self) -> Backbone:
        """The row of `BACKBONES` that `name` gives."""
        return BACKBONES[self.name]

    def output_count(self, classes: int) -> int:
        """The number of logits of a network for so many classes.

        Raises:
          UserError: fewer logits than classes, or one logit for other than two classes.
        """
        outputs = int(self.outputs or classes)
        if outputs != 1 and outputs < classes:
            raise UserError(
                f"config.model.outputs={outputs}: expected at least {classes}, the classes"
            )
        if outputs == 1 and classes != 2:
            raise UserError(f"config.model.outputs=1 is for two classes; the set has {classes}")
        return outputs


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is built for.

    Attributes:
      outputs: number of logits, 1 or more.
      image_size: height and width of the images, in pixels.
      mask_classes: classes of the masks; 0 for a network that predicts no masks.
    """

    outputs: int
    image_size: int
    mask_classes: int = 0


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A kind of network.

    Attributes:
      build: makes the module; raises a UserError if the settings do not suit the task.
      predicts_masks: whether it has a head for masks.
      family: how files of its weights are read; None: there are none.
      published: whether weights of ImageNet are fetched for it, or bundled.
      exported: whether `sscjax.export` writes it.
    """

    build: Callable[[ModelSettings, Task], Model]
    predicts_masks: bool = False
    family: Callable[[Any], load.Family] | None = None
    published: bool = False
    exported: bool = True


def build_model(settings: ModelSettings, task: Task) -> Model:
    """The Linen module, with Keras' conventions of padding and BatchNorm.

    Raises:
      UserError: the settings do not suit the task, or a feature layer does not exist.

    Example:
      >>> build_model(ModelSettings("cnn", cnn_widths=(4,)), Task(outputs=3, image_size=32)).widths
      (4,)
    """
    return settings.backbone.build(settings, task)


def with_convention(model: Model, convention: preprocessing.Convention) -> Model:
    """The module with the padding and the epsilon of BatchNorm that its weights assume."""
    if isinstance(model, (MobileNetV2, MobileNetUNet)):
        return model.clone(padding=convention.padding, bn_epsilon=convention.bn_epsilon)
    return model


def check_feature_layers(model: MobileNetV2, layers: tuple[str, ...]) -> None:
    """Raise a UserError unless a classifier can use the outputs of these layers."""
    # A convolution's own output is never seen: BatchNorm is folded into its kernel.
    known = [
        layer.name
        for layer in model.layers[: model.head_start]
        if layer.kind not in ("conv", "depthwise", "pad")
    ]
    for name in layers:
        if name not in known or layers.count(name) > 1:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"config.model.feature_layers={layers}: {name!r} is not the output of a BatchNorm, "
                f"an activation or an addition of the backbone, or is there twice{hint}"
            )


# --- one function for each backbone ---------------------------------------------------------------


def _mobilenet_v2(settings: ModelSettings, task: Task) -> Model:
    model = MobileNetV2(task.outputs, alpha=settings.alpha, dropout_rate=settings.dropout)
    check_feature_layers(model, settings.feature_layers)
    return model.clone(feature_layers=settings.feature_layers)


def _cnn(settings: ModelSettings, task: Task) -> Model:
    model = CNN(task.outputs, settings.cnn_widths, settings.cnn_dense, settings.dropout)
    if task.image_size < model.smallest_input():
        raise UserError(
            f"config.data.image_size={task.image_size}: {len(model.widths)} blocks of the CNN need "
            f"at least {model.smallest_input()} pixels; shorten model.cnn_widths"
        )
    return model


def _fd_unet(settings: ModelSettings, task: Task) -> Model:
    model = FDUNet(depth=settings.unet_depth, **_unet_fields(settings, task))
    _check_divisible(model, task.image_size, "; or lower model.unet_depth")
    return model


def _mobilenet_unet(settings: ModelSettings, task: Task) -> Model:
    if not task.mask_classes:
        raise UserError(
            "model.name='mobilenet_unet' trains masks, and config.loss.segmentation=0: set it "
            "above 0, or model.name=mobilenet_v2, which is the same network without masks"
        )
    model = MobileNetUNet(alpha=settings.alpha, **_unet_fields(settings, task))
    _check_divisible(model, task.image_size, "")
    return model


def _unet_fields(settings: ModelSettings, task: Task) -> dict[str, Any]:
    """Arguments that both U-Nets have."""
    return {
        "outputs": task.outputs,
        "width": settings.unet_width,
        "growth": settings.unet_growth,
        "layers_per_block": settings.unet_layers,
        "block": settings.unet_block,
        "mask_classes": task.mask_classes,
        "dropout_rate": settings.dropout,
    }


def _check_divisible(model: FDUNet, size: int, other_fix: str) -> None:
    """Raise a UserError unless images of this size can be halved as often as the UNet does."""
    if size % model.multiple:
        below = max(size // model.multiple, 1) * model.multiple
        raise UserError(
            f"config.data.image_size={size}: the UNet halves images {model.depth} times, so that "
            f"the size must be divisible by {model.multiple}, such as {below} or "
            f"{below + model.multiple}{other_fix}"
        )


def _mobilenet_files(model: Any) -> load.Family:
    """The same files, whatever the width: `load.py` compares the shapes."""
    del model
    return load.MOBILENET_V2


def _resnet(name: str, settings: ModelSettings, task: Task) -> Model:
    if settings.feature_layers:
        raise UserError(
            f"config.model.feature_layers={settings.feature_layers}: a ResNet reads its last "
            "layer; expected ()"
        )
    return ResNet(task.outputs, name, settings.dropout)


def _resnet_files(model: Any) -> load.Family:
    """The same files, whatever the depth: `load.py` compares the names."""
    del model
    return load.RESNET


def _vit(shape: Architecture, settings: ModelSettings, task: Task) -> Model:
    if task.image_size % shape.patch or task.image_size < shape.patch:
        below = max(task.image_size // shape.patch, 1) * shape.patch
        raise UserError(
            f"config.data.image_size={task.image_size}: patches of {shape.patch} pixels need a "
            f"multiple of it, such as {below} or {below + shape.patch}"
        )
    blocks = []
    for name in settings.feature_layers:
        found = re.fullmatch(r"block_(\d+)_add2", name)
        if not found or int(found[1]) >= shape.depth or int(found[1]) in blocks:
            raise UserError(
                f"config.model.feature_layers={settings.feature_layers}: {name!r} is not the end "
                f"of a block, 'block_0_add2' to 'block_{shape.depth - 1}_add2', or is there twice"
            )
        blocks.append(int(found[1]))
    return VisionTransformer(
        task.outputs,
        shape,
        task.image_size,
        settings.dropout,
        settings.vit_pooling,
        tuple(sorted(blocks)),
    )


BACKBONES = {
    "mobilenet_v2": Backbone(_mobilenet_v2, family=_mobilenet_files, published=True),
    "cnn": Backbone(_cnn),
    "fd_unet": Backbone(_fd_unet, predicts_masks=True),
    "mobilenet_unet": Backbone(
        _mobilenet_unet, predicts_masks=True, family=_mobilenet_files, published=True
    ),
    **{
        name: Backbone(functools.partial(_resnet, name), family=_resnet_files, exported=False)
        for name in resnet.DEPTHS
    },
    **{
        name: Backbone(functools.partial(_vit, shape), family=load.vit_family, exported=False)
        for name, shape in ARCHITECTURES.items()
    },
}
"""Every network that a config can name."""
