"""The fully dense UNet with classifier layers, and the plain UNet as one setting of it.

Guan et al. 2020, IEEE J. Biomed. Health Inform. 24(2), 568-576, arXiv:1808.10848: a UNet whose
blocks, on the way down and on the way up, are dense: each of their layers reads what all layers
before it in the block gave. A 3x3 convolution makes f channels of the image; a block of four layers
makes 2f of them, and every level down has twice as many. Akay et al. 2021, section II.B, propose
such a network with classifier layers on top, and show none: those here read the average of the last
map of the expanding path, from which the masks are predicted, too.

Each convolution is followed by BatchNorm and ReLU, but for the last 1x1 to the classes of the
masks. Images are padded with zeros, so that every map has a size of its own and no cropping is
needed; for this both sides must be divisible by 2^depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sscjax.models import layers as ops
from sscjax.models.ops import conv, elementwise

# The last four are those of an encoder that is another network's backbone.
Kind = Literal[
    "conv",
    "transpose",
    "bn",
    "relu",
    "concat",
    "max_pool",
    "mask",
    "pool",
    "dropout",
    "dense",
    "depthwise",
    "relu6",
    "pad",
    "add",
]
Block = Literal["dense", "plain"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: its name, its kind, its output channels, and what it needs besides.

    Attributes:
      kernel: width of a convolution.
      joins: of 'concat', the layer whose output stands before that of the layer before; of 'add',
        the one that is added; of 'pool', the one that is pooled, '' for the layer before.
      ends_block: whether the network's next part begins behind it.
      stride: of a convolution in an encoder.
    """

    name: str
    kind: Kind
    channels: int = 0
    kernel: int = 1
    joins: str = ""
    ends_block: bool = False
    stride: int = 1


def _conv(name: str, channels: int, kernel: int, kind: Kind = "conv") -> list[Layer]:
    return [
        Layer(name, kind, channels, kernel),
        Layer(f"{name}_bn", "bn", channels),
        Layer(f"{name}_relu", "relu", channels),
    ]


def _dense_block(prefix: str, before: str, width: int, growth: int, count: int) -> list[Layer]:
    """`count` layers, each a 1x1 convolution to `width` channels and a 3x3 one to `growth`."""
    layers: list[Layer] = []
    for index in range(1, count + 1):
        layers += _conv(f"{prefix}_{index}_narrow", width, 1)
        layers += _conv(f"{prefix}_{index}", growth, 3)
        joined = f"{prefix}_{index}_concat"
        layers.append(Layer(joined, "concat", width + index * growth, joins=before))
        before = joined
    return layers


def _plain_block(prefix: str, channels: int) -> list[Layer]:
    """Two 3x3 convolutions."""
    return [layer for index in (1, 2) for layer in _conv(f"{prefix}_{index}", channels, 3)]


def _ended(layers: list[Layer]) -> list[Layer]:
    return [*layers[:-1], dataclasses.replace(layers[-1], ends_block=True)]


class FDUNet(nn.Module):
    """Contracting and expanding path of dense blocks, a head for masks and one for the classes.

    Level l, from 1 to `depth`, and the bottom below it, adds `layers_per_block` times
    `2^(l-1) * growth` channels to those it begins with. The original begins with 32 and adds four
    times 8, so that every block doubles them. On the way up a level begins with as many channels as
    on the way down: a 1x1 convolution makes them of what came from below and by the skip.

    Attributes:
      outputs: number of logits.
      depth: how often the image is halved, 1 or more.
      width: channels that the first block begins with.
      growth: channels that each of its layers adds.
      layers_per_block: how many these are.
      block: 'dense', or 'plain' for the UNet: no first convolution, and blocks of two 3x3
        convolutions to as many channels as the dense ones end with.
      mask_classes: classes of the masks; 0 for a network without masks.
      dropout_rate: share of the pooled features dropped in training.
      bn_epsilon: added to the variance.
      bn_momentum: of the running averages, used only with batch statistics.
      padding: of convolutions of stride 1, for which 'keras' and 'torch' are the same.
    """

    outputs: int
    depth: int = 4
    width: int = 32
    growth: int = 8
    layers_per_block: int = 4
    block: Block = "dense"
    mask_classes: int = 0
    dropout_rate: float = 0.0
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.9
    padding: elementwise.Padding = "keras"

    @property
    def multiple(self) -> int:
        """Height and width of images must be divisible by this, in pixels."""
        return 2**self.depth

    def _width_at(self, level: int) -> int:
        """Channels that a level's block begins with; level `depth + 1` is the bottom."""
        return self.width + (2 ** (level - 1) - 1) * self.layers_per_block * self.growth

    def _channels_after(self, level: int) -> int:
        """Channels that a level's block ends with, and the next one's begins with."""
        return self._width_at(level + 1)

    def _block(self, prefix: str, before: str, level: int) -> list[Layer]:
        if self.block == "plain":
            return _plain_block(prefix, self._channels_after(level))
        growth = 2 ** (level - 1) * self.growth
        return _dense_block(prefix, before, self._width_at(level), growth, self.layers_per_block)

    def _down(self) -> list[Layer]:
        layers: list[Layer] = []
        if self.block == "dense":
            layers += _ended(_conv("stem", self.width, 3))
        for level in range(1, self.depth + 1):
            layers += _ended(self._block(f"down{level}", layers[-1].name if layers else "", level))
            layers.append(Layer(f"pool{level}", "max_pool", self._channels_after(level)))
        return layers + self._block("bottom", layers[-1].name, self.depth + 1)

    def _up(self, ends: Mapping[int, str]) -> list[Layer]:
        """From the bottom to the top; `ends` are the layers that skip to each level, where any."""
        layers: list[Layer] = []
        for level in range(self.depth, 0, -1):
            channels = self._channels_after(level)
            layers += _conv(f"up{level}_transpose", channels, 2, "transpose")
            if level in ends:
                layers.append(Layer(f"up{level}_skip", "concat", joins=ends[level]))
            if self.block == "dense":
                layers += _ended(_conv(f"up{level}_narrow", self._width_at(level), 1))
            layers += _ended(self._block(f"up{level}", layers[-1].name, level))
        return layers

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in order."""
        down = self._down()
        ends = {level: self._end_of(down, level) for level in range(1, self.depth + 1)}
        return (*down, *self._up(ends), *self._head())

    def _head(self, reads: str = "") -> list[Layer]:
        """The head for masks, where there is one, and that for the classes; see `Layer.joins`."""
        masks = [Layer(ops.MASK, "mask", self.mask_classes)] if self.mask_classes else []
        return [
            *masks,
            Layer("global_average_pooling2d", "pool", joins=reads),
            Layer("dropout", "dropout"),
            Layer("predictions", "dense", self.outputs),
        ]

    @staticmethod
    def _end_of(down: list[Layer], level: int) -> str:
        names = [layer.name for layer in down]
        return names[names.index(f"pool{level}") - 1]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The name of every layer after the input, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def head_start(self) -> int:
        """Index of the first layer behind the expanding path: that of the masks, where it is."""
        return len(self.layers) - (4 if self.mask_classes else 3)

    @property
    def features_end(self) -> int:
        """How many layers make the features that the classifier reads: up to the pooling."""
        return len(self.layers) - 2

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layer of which the classifier reads the means."""
        pool = self.features_end - 1
        return (self.layers[pool].joins or self.layer_names[self.head_start - 1],)

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts n after which one activation is all that the rest needs.

        There is none between the first block on the way down and its skip connection on the way up.
        """
        stack = self.layers
        places = {layer.name: index for index, layer in enumerate(stack)}
        joins = [(places[layer.joins], places[layer.name]) for layer in stack if layer.joins]
        ends = [index + 1 for index, layer in enumerate(stack) if layer.ends_block]
        # A cut after n layers has the output of layer n - 1, counted from 0, and no earlier one.
        cuts = [n for n in ends if not any(a < n - 1 and n <= b for a, b in joins)]
        return (0, *cuts, self.features_end)

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts."""
        if layer in ("predictions", ops.MASK):
            return ops.GLOROT_UNIFORM
        # Of the four entries of a transposed 2x2 kernel one alone meets each pixel.
        return _HE_TRANSPOSE if layer.endswith("_transpose") else ops.HE_NORMAL

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution, by the convolution's name."""
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return {layer.name: norm.name for layer, norm in pairs if norm.kind == "bn"}

    def fold(
        self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], layers: int
    ) -> dict[str, Any]:
        """Parameters for `folded=layers`: BatchNorm in the kernels; see `MobileNetV2.fold`."""
        return ops.fold_all(
            params, batch_stats, self.norm_after, self.layer_names[:layers], self.bn_epsilon
        )

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

        `x` is [B,H,W,3] float32 in [-1,1], height and width divisible by `multiple`, if `first` is
        0; else the output of the first `first` layers, one of `cut_points`. With `layers.MASK` in
        `capture` the logits of the masks [B,H,W,mask_classes] are returned, too.

        Raises:
          ValueError: the image cannot be halved `depth` times, or the rest of the network reads a
            layer before `first`.
        """
        if first == 0 and any(side % self.multiple for side in x.shape[1:3]):
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]}: height and width must be divisible by "
                f"{self.multiple}, because they are halved {self.depth} times"
            )
        stack = self.layers[:last]
        batch_from = len(stack) if batch_statistics_from is None else batch_statistics_from
        read = {layer.joins for layer in stack[first:] if layer.joins}
        earlier = {stack[first - 1].name: x} if first else {}
        missing = read - {layer.name for layer in stack[max(first - 1, 0) :]}
        if missing:
            raise ValueError(f"first={first}: a later layer reads {min(missing)}, one before it")
        taps = ops.Taps(capture, shift)
        for index in range(first, len(stack)):
            layer = stack[index]
            with jax.named_scope(layer.name):  # for profilers
                follows = stack[index + 1].name if index + 1 < min(len(stack), folded) else ""
                if layer.kind == "bn" and index < folded:
                    output = x
                else:
                    by_batch = index >= batch_from
                    output = self._apply(layer, x, earlier, train, by_batch, follows, drawn)
            output = taps(layer.name, output)
            x = x if layer.kind == "mask" else output
            if layer.name in read:
                earlier[layer.name] = x
        return taps.result(x)

    def _apply(
        self,
        layer: Layer,
        x: jax.Array,
        earlier: Mapping[str, jax.Array],
        train: bool,
        by_batch: bool,
        norm: str,
        drawn: ops.Drawn | None,
    ) -> jax.Array:
        """The output of one layer.

        Args:
          layer: which.
          x: output of the layer before it.
          earlier: outputs of earlier layers that later ones read.
          train: whether dropout acts.
          by_batch: whether BatchNorm normalises by the batch.
          norm: the BatchNorm that is folded into the kernel of a convolution, or ''.
          drawn: of which images these are a part where dropout is drawn.
        """
        match layer.kind:
            case "conv" | "transpose" | "depthwise":
                return self._convolve(layer, x, norm)
            case "bn":
                norms = ops.BatchNorm(
                    layer.channels, self.bn_epsilon, self.bn_momentum, name=layer.name
                )
                return norms(x, batch_statistics=by_batch)
            case "relu":
                return elementwise.relu(x)
            case "relu6":
                return elementwise.relu6(x)
            case "add":
                return x + earlier[layer.joins]
            case "pad":
                return elementwise.pad_image(x, layer.kernel, layer.stride, self.padding)
            case "concat":
                return jnp.concatenate([earlier[layer.joins], x], axis=-1)
            case "max_pool":
                return elementwise.max_pool(x)
            case "mask":
                draw = self.initializer(layer.name)
                return ops.PointwiseConv(layer.channels, draw, name=layer.name)(x)
            case "pool":
                return ops.pool(earlier[layer.joins] if layer.joins else x)
            case "dropout" if train and self.dropout_rate > 0:
                return ops.dropout(x, self.dropout_rate, self.make_rng("dropout"), drawn)
            case "dense":
                return ops.Dense(layer.channels, self.initializer(layer.name), name=layer.name)(x)
        return x

    def _convolve(self, layer: Layer, x: jax.Array, norm: str) -> jax.Array:
        """A convolution, with what is left of the BatchNorm after it where that is folded."""
        shape = (layer.kernel, layer.kernel, x.shape[-1], layer.channels)
        kernel = ops.ConvKernel(shape, self.initializer(layer.name), name=layer.name)()
        bias = ops.Shift(layer.channels, name=norm)() if norm else None
        if layer.kind == "transpose":
            x = conv.double(x, kernel)
        elif layer.kernel == 1:
            return conv.pointwise_conv(x, kernel, bias)
        else:
            x = conv.dense_conv(elementwise.pad_image(x, layer.kernel, 1, self.padding), kernel, 1)
        return x if bias is None else elementwise.add_bias(x, bias)


_HE_TRANSPOSE = dataclasses.replace(ops.HE_NORMAL, scale=4 * ops.HE_NORMAL.scale)
