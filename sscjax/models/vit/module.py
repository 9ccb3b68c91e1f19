"""The vision transformer as one ordered tuple of layers, so that any range of them can be run.

Parameters lie flat under the layers' names: `params['block_0_qkv']['kernel']`. So "the first ten
blocks" is a slice of the tuple, as in the other networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sscjax.models import layers as ops
from sscjax.models.vit import parts, positions
from sscjax.models.vit.architecture import Architecture

Pooling = Literal["token", "mean", "token_and_mean"]
"""What the classifier reads of the tokens: the class token, the mean of the patches, or both."""

_Kind = Literal[
    "patches",
    "tokens",
    "norm",
    "qkv",
    "attention",
    "dense",
    "scale",
    "add",
    "activation",
    "pool",
    "dropout",
    "predictions",
]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: its name, its kind, and its output channels where it has a kernel."""

    name: str
    kind: _Kind
    channels: int = 0


def block_layers(shape: Architecture, index: int) -> tuple[Layer, ...]:
    """The layers of one block: attention and a perceptron, each normalised before and added."""
    gated = shape.mlp == "swiglu"
    branches: tuple[tuple[Layer, ...], ...] = (
        (
            Layer("qkv", "qkv"),
            Layer("attention", "attention"),
            Layer("projection", "dense", shape.width),
        ),
        (
            Layer("fc1", "dense", shape.hidden * (2 if gated else 1)),
            Layer("gate" if gated else "gelu", "activation"),
            Layer("fc2", "dense", shape.width),
        ),
    )
    layers: list[Layer] = []
    for number, branch in enumerate(branches, 1):
        scale = (Layer(f"scale{number}", "scale"),) if shape.layer_scale else ()
        layers += [
            Layer(f"norm{number}", "norm"),
            *branch,
            *scale,
            Layer(f"add{number}", "add"),
        ]
    return tuple(dataclasses.replace(layer, name=f"block_{index}_{layer.name}") for layer in layers)


class VisionTransformer(nn.Module):
    """A vision transformer with a classifier head.

    Attributes:
      outputs: number of logits.
      shape: of the transformer.
      image_size: side of its images in pixels, a multiple of the patch.
      dropout_rate: share of the pooled features dropped in training.
      pooling: what the classifier reads.
      feature_blocks: blocks whose tokens it reads, in order, each through the last LayerNorm; ()
        reads the last. DINOv2 reads the last four.
    """

    outputs: int
    shape: Architecture
    image_size: int
    dropout_rate: float = 0.0
    pooling: Pooling = "token"
    feature_blocks: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in order."""
        found = [Layer("patches", "patches", self.shape.width), Layer("tokens", "tokens")]
        for index in range(self.shape.depth):
            found += block_layers(self.shape, index)
        return (
            *found,
            Layer("norm", "norm"),
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
    def read_blocks(self) -> tuple[int, ...]:
        """The blocks that the classifier reads, in order."""
        return tuple(sorted(self.feature_blocks)) or (self.shape.depth - 1,)

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layer whose tokens maps are made of.

        The mean of the patches is read behind the last LayerNorm. The class token has no place in
        the image: what it takes from the patches it takes in the attention of the last block, so
        the layer is that which the block's queries, keys and values are computed from.
        """
        if self.pooling == "mean":
            return ("norm",)
        return (f"block_{self.read_blocks[-1]}_norm1",)

    def patch_map(self, tokens: jax.Array) -> jax.Array:
        """The tokens [B,N,C] of the patches, where they lie in the image: [B,h,w,C]."""
        patches = tokens[:, self.shape.prefix :]
        return patches.reshape(len(tokens), self._side, self._side, tokens.shape[-1])

    @property
    def block_ends(self) -> tuple[int, ...]:
        """Layer counts after which a block has ended; 0 and the tokens' layer among them."""
        names = self.layer_names
        return (0, 2, *(i + 1 for i, name in enumerate(names) if name.endswith("_add2")))

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts n such that the output of the first n layers is all that the rest needs."""
        first = self.layer_names.index(f"block_{self.read_blocks[0]}_add2")
        return (*(end for end in self.block_ends if end <= first + 1), self.features_end)

    @property
    def mask_classes(self) -> int:
        """0: the network predicts no masks."""
        return 0

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution: there are none."""
        return {}

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts."""
        del layer
        return ops.GLOROT_UNIFORM

    def fold(
        self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], layers: int
    ) -> dict[str, Any]:
        """The parameters as they are, for there is no BatchNorm; see `MobileNetV2.fold`."""
        del batch_stats, layers
        return dict(params)

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

        `x` is [B,S,S,3] float32 of side `image_size`, or tokens [B,N,D] behind a block.
        `batch_statistics_from` and `folded` have no effect, because there is no BatchNorm.

        Raises:
          ValueError: `first` is within a block, or behind one that the classifier reads.
        """
        if first not in self.cut_points:
            raise ValueError(f"first={first}: expected one of {self.cut_points}")
        names = self.layer_names
        taps = ops.Taps(capture, shift)
        # The last block's tokens go through the last LayerNorm in any case.
        early = {
            f"block_{index}_add2" for index in self.read_blocks if index < self.shape.depth - 1
        }
        kept = [x] if first and names[first - 1] in early else []
        norm = parts.LayerNorm(self.shape.epsilon, name="norm")
        shortcut = x
        for layer in self.layers[first:last]:
            if layer.name.endswith(("_norm1", "_norm2")):
                shortcut = x
            with jax.named_scope(layer.name):  # for profilers
                if layer.name == "norm":
                    x = norm(x)
                elif layer.kind == "add":
                    x = x + shortcut
                elif layer.kind == "pool":
                    reads_last = self.shape.depth - 1 in self.read_blocks
                    tokens = [*map(norm, kept), *([x] if reads_last else [])]
                    x = jnp.concatenate([self._pooled(part) for part in tokens], axis=-1)
                elif layer.kind == "dropout":
                    if train and self.dropout_rate > 0:
                        x = ops.dropout(x, self.dropout_rate, self.make_rng("dropout"), drawn)
                else:
                    x = self._apply(layer, x)
            x = taps(layer.name, x)
            if layer.name in early:
                kept.append(x)
        return taps.result(x)

    def _apply(self, layer: Layer, x: jax.Array) -> jax.Array:
        """A layer that needs nothing but the output of the one before it."""
        shape, name = self.shape, layer.name
        if layer.kind == "patches":
            return parts.PatchEmbedding(shape.patch, shape.width, name=name)(x)
        if layer.kind == "tokens":
            learned = 0 if shape.positions == "rotary" else self._side**2
            return parts.Tokens(learned, shape.prefix_positions, shape.registers, name=name)(x)
        if layer.kind == "norm":
            return parts.LayerNorm(shape.epsilon, name=name)(x)
        if layer.kind == "qkv":
            return parts.QueriesKeysValues(shape.key_bias, name=name)(x)
        if layer.kind == "attention":
            return parts.attend(x, shape.heads, self._rotation(), shape.prefix)
        if layer.kind == "scale":
            return parts.LayerScale(name=name)(x)
        if layer.kind == "activation" and shape.mlp == "swiglu":
            gate, value = jnp.split(x, 2, axis=-1)
            return jax.nn.silu(gate) * value
        if layer.kind == "activation":
            return jax.nn.gelu(x, approximate=False)
        return ops.Dense(layer.channels, name=name)(x)

    @property
    def _side(self) -> int:
        """Patches along a side of an image."""
        return self.image_size // self.shape.patch

    def _rotation(self) -> tuple[jax.Array, jax.Array] | None:
        if self.shape.positions != "rotary":
            return None
        cosines, sines = positions.rotary(self._side, self.shape.width // self.shape.heads)
        return jnp.asarray(cosines), jnp.asarray(sines)

    def _pooled(self, tokens: jax.Array) -> jax.Array:
        """What the classifier reads of tokens [B,N,D]: [B,D], or [B,2*D] for both."""
        both = tokens[:, 0], tokens[:, self.shape.prefix :].mean(axis=1)
        if self.pooling == "token_and_mean":
            return jnp.concatenate(both, axis=-1)
        return both[self.pooling == "mean"]
