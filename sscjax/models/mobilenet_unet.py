"""MobileNetV2 as the contracting path, so that ImageNet's weights serve masks as well.

The expanding path is the UNet's (`unet`). Its skip connections come from the ends of the blocks
after which MobileNetV2 halves its maps, where these are narrowest; the level of the image's own
size has none, for there MobileNetV2 has only the image. The classifier reads what MobileNetV2's
reads: the average of its last map, for that is what the weights were trained for.
"""

from __future__ import annotations

import dataclasses
import functools

import jax

from sscjax.models import layers as ops
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.ops import conv, depthwise, elementwise
from sscjax.models.unet import FDUNet, Layer

# How often MobileNetV2 halves its images.
_HALVED = 5


@functools.cache
def _encoder(alpha: float) -> tuple[Layer, ...]:
    """The backbone of MobileNetV2, with what its additions read."""
    # `parent=None`, because another module may call this function.
    like = MobileNetV2(outputs=1, alpha=alpha, parent=None)
    stack, ends = like.layers[: like.head_start], like.block_ends
    # The end of the stem, too: in very narrow networks the first block has a shortcut.
    starts = {*ends, like.layer_names.index("Conv1_relu") + 1}
    layers = []
    for index, original in enumerate(stack):
        start = max(n for n in starts if n <= index)
        joins = stack[start - 1].name if original.kind == "add" else ""
        name, kind, channels = original.name, original.kind, original.channels
        layer = Layer(name, kind, channels, original.kernel, joins, index + 1 in ends)
        layers.append(dataclasses.replace(layer, stride=original.stride))
    return tuple(layers)


class MobileNetUNet(FDUNet):
    """The backbone under Keras' names, then everything new as the head: paths, masks, classes.

    Attributes:
      alpha: width multiplier of MobileNetV2.
      padding, bn_epsilon: as the source of the weights demands.
    """

    depth: int = _HALVED
    alpha: float = 1.0

    @property
    def skips(self) -> dict[int, str]:
        """The layer whose output skips to each level; level 1 has the size of the image."""
        skips: dict[int, str] = {}
        end = ""
        for layer in _encoder(self.alpha):
            if layer.kind == "pad":
                skips[len(skips) + 2] = end
            end = layer.name if layer.ends_block else end
        return skips

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in order."""
        stack = _encoder(self.alpha)
        return (*stack, *self._up(self.skips), *self._head(stack[-1].name))

    @property
    def head_start(self) -> int:
        """Index of the first layer behind the backbone."""
        return len(_encoder(self.alpha))

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts: the backbone's as in Keras."""
        return ops.GLOROT_UNIFORM if self._is_old(layer) else super().initializer(layer)

    def _is_old(self, layer: str) -> bool:
        """Whether a layer is one of the backbone."""
        return layer in {original.name for original in _encoder(self.alpha)}

    def _convolve(self, layer: Layer, x: jax.Array, norm: str) -> jax.Array:
        """A convolution of the expanding path, or of the backbone as `MobileNetV2` has it."""
        if not self._is_old(layer.name):
            return super()._convolve(layer, x, norm)
        size = layer.kernel
        shape = (size, size, 1 if layer.kind == "depthwise" else x.shape[-1], layer.channels)
        kernel = ops.ConvKernel(shape, name=layer.name)()
        bias = ops.Shift(layer.channels, name=norm)() if norm else None
        if size == 1:
            return conv.pointwise_conv(x, kernel, bias)
        if layer.kind == "depthwise":
            # Where it halves, a layer of its own has padded before it.
            x = x if layer.stride == 2 else elementwise.pad_image(x, size, 1, self.padding)
            return depthwise.depthwise_conv(x, kernel, bias, layer.stride)
        x = conv.dense_conv(
            elementwise.pad_image(x, size, layer.stride, self.padding), kernel, layer.stride
        )
        return x if bias is None else elementwise.add_bias(x, bias)
