"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), layer by layer as Keras numbers it.

The classifier is one ordered tuple of layers with Keras' names (`Conv1`, `bn_Conv1`, ...,
`predictions`). The parameter tree is flat under the same names, so that "the first ten layers" is
a slice of the tuple, and prefix and suffix of the network are sub-dicts of the tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sscjax.models import layers as ops
from sscjax.models.ops import conv, depthwise, elementwise

Kind = Literal["conv", "depthwise", "bn", "relu6", "pad", "add", "pool", "dropout", "dense"]

# (expansion, channels, repeats, stride of the first), table 2 of the paper.
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# The middle of a block; where it halves, a layer of its own pads.
_MIDDLE = ("relu6", "depthwise", "bn", "relu6")
_PADDED_MIDDLE = ("relu6", "pad", "depthwise", "bn", "relu6")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One Keras layer: its name, its kind, its output channels, kernel width and stride."""

    name: str
    kind: Kind
    channels: int = 0
    kernel: int = 1
    stride: int = 1


def _divisible(value: float, divisor: int = 8) -> int:
    """Round channels to a multiple of 8, never down by more than 10 % (as in the reference)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _conv_bn(
    name: str, bn: str, channels: int, *, relu: str | None, kernel: int = 1, stride: int = 1
) -> list[Layer]:
    layers = [Layer(name, "conv", channels, kernel, stride), Layer(bn, "bn", channels)]
    return layers + ([Layer(relu, "relu6", channels)] if relu else [])


def _block(prefix: str, inputs: int, expansion: int, channels: int, stride: int) -> list[Layer]:
    layers: list[Layer] = []
    hidden = inputs * expansion
    if expansion != 1:
        name = f"{prefix}_expand"
        layers += _conv_bn(name, f"{name}_BN", hidden, relu=f"{name}_relu")
    if stride == 2:
        layers.append(Layer(f"{prefix}_pad", "pad", hidden, 3, stride))
    name = f"{prefix}_depthwise"
    layers += [
        Layer(name, "depthwise", hidden, 3, stride),
        Layer(f"{name}_BN", "bn", hidden),
        Layer(f"{name}_relu", "relu6", hidden),
    ]
    name = f"{prefix}_project"
    layers += _conv_bn(name, f"{name}_BN", channels, relu=None)
    if stride == 1 and inputs == channels:
        layers.append(Layer(f"{prefix}_add", "add", channels))
    return layers


def backbone_layers(alpha: float) -> tuple[Layer, ...]:
    """All layers of Keras' `MobileNetV2(include_top=False, alpha=alpha)` after the input."""
    inputs = _divisible(32 * alpha)
    layers = _conv_bn("Conv1", "bn_Conv1", inputs, relu="Conv1_relu", kernel=3, stride=2)
    index = 0
    for expansion, width, repeats, stride in _BLOCKS:
        channels = _divisible(width * alpha)
        for repeat in range(repeats):
            prefix = f"block_{index}" if index else "expanded_conv"
            layers += _block(prefix, inputs, expansion, channels, stride if repeat == 0 else 1)
            inputs, index = channels, index + 1
    last = _divisible(1280 * alpha) if alpha > 1.0 else 1280
    layers += _conv_bn("Conv_1", "Conv_1_bn", last, relu="out_relu")
    return tuple(layers)


def head_layers(outputs: int) -> tuple[Layer, ...]:
    """Global average pooling, dropout and one dense layer."""
    return (
        Layer("global_average_pooling2d", "pool"),
        Layer("dropout", "dropout"),
        Layer("predictions", "dense", outputs),
    )


class MobileNetV2(nn.Module):
    """MobileNetV2 with a classifier head.

    Attributes:
      outputs: number of logits.
      alpha: width multiplier (0.35, 0.5, 0.75, 1.0, 1.3, 1.4 have ImageNet weights).
      dropout_rate: share of the pooled features dropped in training.
      padding: 'keras' or 'torch', as the source of the weights demands.
      bn_epsilon: added to the variance, likewise.
      bn_momentum: of the running averages, used only with batch statistics.
      feature_layers: layers of the backbone whose outputs the classifier reads, in any order; ()
        reads the last one. Early layers see texture and colour, late ones shapes. Of each of
        their channels it reads the mean over the image.
    """

    outputs: int
    alpha: float = 1.0
    dropout_rate: float = 0.0
    padding: elementwise.Padding = "keras"
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.999
    feature_layers: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in order."""
        return backbone_layers(self.alpha) + head_layers(self.outputs)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Keras' name of every layer after the input, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def head_start(self) -> int:
        """Index of the first layer of the head in `layer_names`."""
        return len(self.layers) - len(head_layers(self.outputs))

    @property
    def features_end(self) -> int:
        """How many layers make the features that the classifier reads: up to the pooling."""
        return self.head_start + 1

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The feature layers in the order of the network."""
        last = self.layer_names[self.head_start - 1]
        chosen = self.feature_layers or (last,)
        return tuple(name for name in self.layer_names[: self.head_start] if name in chosen)

    @property
    def block_ends(self) -> tuple[int, ...]:
        """Layer counts after which a block has ended, 0 and `head_start` among them.

        Only one activation passes these points, and it is narrow there.
        """
        names = self.layer_names
        ends = [0]
        for index, name in enumerate(names):
            block = name.removesuffix("_project_BN")
            if name.endswith("_add") or (block != name and f"{block}_add" not in names):
                ends.append(index + 1)
        return (*ends, self.head_start)

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts n such that the output of the first n layers is all that the rest needs.

        From the first layer that the classifier reads to the pooling there are none.
        """
        first = self.layer_names.index(self.read_layers[0])
        return (*(end for end in self.block_ends if end <= first + 1), self.features_end)

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts: as in Keras, all alike."""
        del layer
        return ops.GLOROT_UNIFORM

    @property
    def mask_classes(self) -> int:
        """0: the network predicts no masks."""
        return 0

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution, by the convolution's name."""
        pairs = zip(self.layers, self.layers[1:], strict=False)
        return {layer.name: norm.name for layer, norm in pairs if norm.kind == "bn"}

    def fold(
        self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], layers: int
    ) -> dict[str, Any]:
        """Parameters for `folded=layers`: BatchNorm multiplied into the kernels before it.

        Args:
          params: of the network, by layer.
          batch_stats: running averages, by layer.
          layers: how many layers from the input are folded.

        Returns:
          parameters by layer; of a folded BatchNorm the 'bias' is left.
        """
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
        """Run layers `first` up to, not including, `last`.

        Args:
          x: [B,H,W,3] float32 as `pretrained.preprocessing.preprocess` scales them when `first` is
            0, else the output of the first `first` layers, one of `block_ends` or `features_end`.
          train: whether dropout acts (it needs an rng named 'dropout').
          batch_statistics_from: BatchNorm layers from this index on normalise by the batch and
            update their running averages; the others, and all of them at None, use the averages.
          first: number of layers already applied.
          last: number of layers to have been applied at the end; None runs to the logits.
          capture: names of layers whose activations are returned too, [B,h,w,c] or [B,c].
          folded: the parameters come from `fold` for this many layers; the output of a convolution
            among them is then already that of its BatchNorm.
          shift: added to the outputs of the layers it names. Zeros change nothing, and the gradient
            over them is that of the layer's output, wherever in the network it stands.
          drawn: of which images these are a part where dropout is drawn, see `layers.dropout`.

        Returns:
          [B,outputs] float32 logits, or the last activation; with `capture` also a dict of
          activations by name.

        Raises:
          ValueError: the rest of the network reads a layer before `first`.
        """
        stack = self.layers[:last]
        pools = first < self.features_end <= len(stack)
        reads = self.read_layers if pools else ()
        if reads and first > self.layer_names.index(reads[0]) + 1:
            raise ValueError(f"first={first}: the classifier reads {reads[0]}, a layer before it")
        features = [ops.pool(x)] if self.layer_names[:first][-1:] == reads[:1] else []
        # The end of the stem, too: in very narrow networks the first block has a shortcut.
        ends = sorted({*self.block_ends, self.layer_names.index("Conv1_relu") + 1})
        adds = [index for index, layer in enumerate(stack) if layer.kind == "add"]
        starts = {max(end for end in ends if end <= index) for index in adds}
        batch_from = len(stack) if batch_statistics_from is None else batch_statistics_from
        taps = ops.Taps(capture, shift)
        shortcut = x
        padded = False
        observed = {*capture, *reads, *(shift or ())}
        groups = self._groups(first, stack[:folded], starts, observed)
        done = first
        for index in range(first, len(stack)):
            if index < done:
                continue
            group = groups.get(index, stack[index : index + 1])
            done, layer = index + len(group), group[-1]
            if index in starts:
                shortcut = x
            with jax.named_scope(layer.name):  # for profilers
                if len(group) > 1:
                    x = self._clipped_depthwise(group, x)
                elif layer.kind in ("conv", "depthwise"):
                    norm = stack[index + 1] if index + 1 < min(len(stack), folded) else None
                    x = self._convolve(layer, x, norm, padded)
                    padded = False
                elif layer.kind == "bn" and index >= folded:
                    x = self._norm(layer)(x, batch_statistics=index >= batch_from)
                elif layer.kind == "relu6":
                    x = elementwise.relu6(x)
                elif layer.kind == "pad":
                    x = elementwise.pad_image(x, layer.kernel, layer.stride, self.padding)
                    padded = True
                elif layer.kind == "add":
                    x = x + shortcut
                elif layer.kind == "pool":
                    x = features[0] if len(features) == 1 else jnp.concatenate(features, axis=-1)
                elif layer.kind == "dropout" and train and self.dropout_rate > 0:
                    x = ops.dropout(x, self.dropout_rate, self.make_rng("dropout"), drawn)
                elif layer.kind == "dense":
                    x = ops.Dense(layer.channels, name=layer.name)(x)
            x = taps(layer.name, x)
            if layer.name in reads:
                features.append(ops.pool(x))
        return taps.result(x)

    def _groups(
        self, first: int, folded: tuple[Layer, ...], starts: set[int], observed: set[str]
    ) -> dict[int, tuple[Layer, ...]]:
        """Layers from a ReLU6 to the one behind a depthwise convolution, computed together.

        Args:
          first: the first layer that is run.
          folded: layers from the input on whose BatchNorm is in the kernel before it.
          starts: indices of blocks whose input is added later.
          observed: layers whose own output is needed or changed.

        Returns:
          the layers of each group by the index of the first.
        """
        groups = {}
        for index in range(first, len(folded)):
            for kinds in (_MIDDLE, _PADDED_MIDDLE):
                group = folded[index : index + len(kinds)]
                if (
                    tuple(layer.kind for layer in group) == kinds
                    and not {layer.name for layer in group[:-1]} & observed
                    and not starts & {*range(index + 1, index + len(kinds))}
                ):
                    groups[index] = group
        return groups

    def _clipped_depthwise(self, group: tuple[Layer, ...], x: jax.Array) -> jax.Array:
        """The layers of a group of `_groups` as one operation."""
        convolution, norm = group[-3:-1]
        kernel = self._kernel(convolution, x.shape[-1])
        bias = ops.Shift(norm.channels, name=norm.name)()
        return depthwise.clipped_depthwise_conv(x, kernel, bias, convolution.stride, self.padding)

    def _norm(self, layer: Layer) -> ops.BatchNorm:
        return ops.BatchNorm(layer.channels, self.bn_epsilon, self.bn_momentum, name=layer.name)

    def _kernel(self, layer: Layer, inputs: int) -> jax.Array:
        size = layer.kernel
        shape = (size, size, 1 if layer.kind == "depthwise" else inputs, layer.channels)
        return ops.ConvKernel(shape, name=layer.name)()

    def _convolve(self, layer: Layer, x: jax.Array, norm: Layer | None, padded: bool) -> jax.Array:
        """A convolution, with the shift of the BatchNorm `norm` if that is folded into it."""
        kernel = self._kernel(layer, x.shape[-1])
        bias = None if norm is None else ops.Shift(norm.channels, name=norm.name)()
        if layer.kernel == 1:
            return conv.pointwise_conv(x, kernel, bias)
        if not padded:
            x = elementwise.pad_image(x, layer.kernel, layer.stride, self.padding)
        if layer.kind == "depthwise":
            return depthwise.depthwise_conv(x, kernel, bias, layer.stride)
        outputs = conv.dense_conv(x, kernel, layer.stride)
        return outputs if bias is None else elementwise.add_bias(outputs, bias)
