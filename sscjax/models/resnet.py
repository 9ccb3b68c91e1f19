"""ResNet-18, -34 and -50 (He et al. 2016, arXiv:1512.03385), as torchvision and timm build them.

The stride of ResNet-50's halving blocks lies in the 3x3 convolution, as in these libraries, not in
the first 1x1 of the paper. Layers are one ordered tuple with flat names, as in the other networks:
`layer2_0_conv1`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sscjax.models import layers as ops
from sscjax.models.ops import conv, elementwise

Kind = Literal["conv", "bn", "relu", "max_pool", "add", "pool", "dropout", "predictions"]

EPSILON = 1e-5

# Blocks of each stage, and whether they are bottlenecks of three convolutions.
DEPTHS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
"""The networks by name."""

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4  # of a bottleneck's output


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: its name, its kind, its output channels, kernel width and stride."""

    name: str
    kind: Kind
    channels: int = 0
    kernel: int = 1
    stride: int = 1


def _block(prefix: str, inputs: int, width: int, stride: int, bottleneck: bool) -> list[Layer]:
    outputs = width * _EXPANSION if bottleneck else width
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    layers: list[Layer] = []
    for number, kernel in enumerate(kernels, 1):
        last = number == len(kernels)
        channels = outputs if last else width
        here = stride if number == (2 if bottleneck else 1) else 1
        layers += [
            Layer(f"{prefix}_conv{number}", "conv", channels, kernel, here),
            Layer(f"{prefix}_bn{number}", "bn", channels),
        ]
        layers += [] if last else [Layer(f"{prefix}_relu{number}", "relu")]
    if stride != 1 or inputs != outputs:
        layers += [
            Layer(f"{prefix}_downsample_conv", "conv", outputs, 1, stride),
            Layer(f"{prefix}_downsample_bn", "bn", outputs),
        ]
    return [*layers, Layer(f"{prefix}_add", "add"), Layer(f"{prefix}_relu", "relu")]


def backbone_layers(name: str) -> tuple[Layer, ...]:
    """All layers after the input, up to the last block."""
    depths, bottleneck = DEPTHS[name]
    layers = [
        Layer("conv1", "conv", 64, 7, 2),
        Layer("bn1", "bn", 64),
        Layer("relu", "relu"),
        Layer("maxpool", "max_pool", 0, 3, 2),
    ]
    inputs = 64
    for stage, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True), 1):
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            layers += _block(f"layer{stage}_{index}", inputs, width, stride, bottleneck)
            inputs = width * (_EXPANSION if bottleneck else 1)
    return tuple(layers)


class ResNet(nn.Module):
    """A ResNet with a classifier head.

    Attributes:
      outputs: number of logits.
      name_of: 'resnet18', 'resnet34' or 'resnet50'.
      dropout_rate: share of the pooled features dropped in training.
      bn_momentum: of the running averages, used only with batch statistics.
    """

    outputs: int
    name_of: str
    dropout_rate: float = 0.0
    bn_momentum: float = 0.9

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in order."""
        return (
            *backbone_layers(self.name_of),
            Layer("pool", "pool"),
            Layer("dropout", "dropout"),
            Layer("predictions", "predictions", self.outputs),
        )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Name of every layer after the input, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def head_start(self) -> int:
        """Index of the first layer of the head, the pooling, in `layer_names`."""
        return len(self.layers) - 3

    @property
    def features_end(self) -> int:
        """How many layers make the features that the classifier reads: up to the pooling."""
        return self.head_start + 1

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layer of which the classifier reads the means."""
        return (self.layer_names[self.head_start - 1],)

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts after which a block has ended, with the stem's and the features' end."""
        names = self.layer_names
        ends = (i + 2 for i, name in enumerate(names) if name.endswith("_add"))
        return (0, names.index("maxpool") + 1, *ends, self.features_end)

    @property
    def mask_classes(self) -> int:
        """0: the network predicts no masks."""
        return 0

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution, by the convolution's name."""
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return {layer.name: norm.name for layer, norm in pairs if norm.kind == "bn"}

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts."""
        return ops.GLOROT_UNIFORM if layer == "predictions" else ops.HE_NORMAL

    def fold(
        self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], layers: int
    ) -> dict[str, Any]:
        """Parameters with BatchNorm in the kernels of the first layers; see `MobileNetV2.fold`."""
        names = self.layer_names[:layers]
        return ops.fold_all(params, batch_stats, self.norm_after, names, EPSILON)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        batch_statistics_from: int | None = None,
        first: int = 0,
        last: int | None = None,
        capture: tuple[str, ...] = (),
        folded: int = 0,
        shift: Mapping[str, jax.Array] | None = None,
        drawn: ops.Drawn | None = None,
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Run layers `first` up to, not including, `last`; arguments as in `MobileNetV2.__call__`.

        Raises:
          ValueError: `first` is within a block.
        """
        if first not in self.cut_points:
            raise ValueError(f"first={first}: expected one of {self.cut_points}")
        stack = self.layers[:last]
        batch_from = len(stack) if batch_statistics_from is None else batch_statistics_from
        taps = ops.Taps(capture, shift)
        start = shortcut = x
        for index, layer in enumerate(stack[first:], first):
            if index in self.cut_points:
                start = shortcut = x
            beside = "_downsample_" in layer.name
            with jax.named_scope(layer.name):  # for profilers
                if layer.kind == "conv":
                    norm = stack[index + 1] if index + 1 < min(len(stack), folded) else None
                    # What is added is the block's input, or that at the size of its output.
                    result = self._convolve(layer, start if beside else x, norm)
                elif layer.kind == "bn":
                    given = shortcut if beside else x
                    if index >= folded:
                        batch = index >= batch_from
                        given = self._norm(layer)(given, batch_statistics=batch)
                    result = given
                elif layer.kind == "add":
                    result = x + shortcut
                else:
                    result = self._plain(layer, x, train, drawn)
            result = taps(layer.name, result)
            if beside:
                shortcut = result
            else:
                x = result
        return taps.result(shortcut if stack and "_downsample_" in stack[-1].name else x)

    def _plain(self, layer: Layer, x: jax.Array, train: bool, drawn: ops.Drawn | None) -> jax.Array:
        """A layer that needs nothing but the output of the one before it."""
        if layer.kind == "relu":
            return elementwise.relu(x)
        if layer.kind == "max_pool":
            window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
            ends = ((0, 0), (1, 1), (1, 1), (0, 0))
            return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, ends)
        if layer.kind == "pool":
            return ops.pool(x)
        if layer.kind == "dropout":
            dropped = train and self.dropout_rate > 0
            return (
                ops.dropout(x, self.dropout_rate, self.make_rng("dropout"), drawn) if dropped else x
            )
        return ops.Dense(layer.channels, self.initializer(layer.name), name=layer.name)(x)

    def _norm(self, layer: Layer) -> ops.BatchNorm:
        return ops.BatchNorm(layer.channels, EPSILON, self.bn_momentum, name=layer.name)

    def _convolve(self, layer: Layer, x: jax.Array, norm: Layer | None) -> jax.Array:
        """A convolution, with the shift of the BatchNorm `norm` if that is folded into it."""
        shape = (layer.kernel, layer.kernel, x.shape[-1], layer.channels)
        kernel = ops.ConvKernel(shape, self.initializer(layer.name), name=layer.name)()
        bias = None if norm is None else ops.Shift(norm.channels, name=norm.name)()
        if layer.kernel == 1:
            x = x[:, :: layer.stride, :: layer.stride] if layer.stride > 1 else x
            return conv.pointwise_conv(x, kernel, bias)
        margin = layer.kernel // 2
        padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        result = conv.dense_conv(padded, kernel, layer.stride)
        return result if bias is None else elementwise.add_bias(result, bias)
