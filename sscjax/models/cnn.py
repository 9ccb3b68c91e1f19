"""The CNN that the paper compares with MobileNetV2: a contracting path and dense layers.

Akay et al. 2021, section II.C: blocks of two unpadded 3x3 convolutions, each with ReLU, then 2x2
max pooling with stride 2, channels doubling from block to block, then fully connected layers. The
widths are in a figure only; the default is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from sscjax.models import layers as ops
from sscjax.models.ops import elementwise


class CNN(nn.Module):
    """Contracting blocks, dense layers, logits.

    Attributes:
      outputs: number of logits.
      widths: channels of each block.
      dense: units of each hidden fully connected layer.
      dropout_rate: share of the inputs of each fully connected layer dropped in training.
    """

    outputs: int
    widths: tuple[int, ...] = (32, 64, 128, 256)
    dense: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The name of every layer after the input, in order."""
        names: list[str] = []
        for block in range(1, len(self.widths) + 1):
            for conv in (f"conv{block}_1", f"conv{block}_2"):
                names += [conv, f"{conv}_relu"]
            names.append(f"pool{block}")
        names.append("flatten")
        for index in range(1, len(self.dense) + 1):
            names += [f"dropout{index}", f"dense{index}", f"dense{index}_relu"]
        return (*names, "dropout", "predictions")

    @property
    def head_start(self) -> int:
        """Index of the first fully connected layer's part in `layer_names`."""
        return self.layer_names.index("flatten")

    @property
    def features_end(self) -> int:
        """How many layers make the features of an image: the last map, not yet flattened."""
        return self.head_start

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The last convolution's activations, which the classifier reads after max pooling."""
        return (f"conv{len(self.widths)}_2_relu",)

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts n after which the network may be cut: the ends of the blocks."""
        names = self.layer_names
        return (0, *(i + 1 for i, name in enumerate(names) if name.startswith("pool")))

    def smallest_input(self) -> int:
        """The least height and width in pixels that leave one pixel after the last block."""
        size = 1
        for _ in self.widths:
            size = 2 * size + 4
        return size

    def initializer(self, layer: str) -> ops.KernelDraw:
        """How the kernel of a layer starts."""
        return ops.GLOROT_UNIFORM if layer == "predictions" else ops.HE_NORMAL

    @property
    def mask_classes(self) -> int:
        """0: the network predicts no masks."""
        return 0

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution: there are none."""
        return {}

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

        `x` is [B,H,W,3] float32 in [-1,1], height and width at least `smallest_input`.
        `batch_statistics_from` and `folded` have no effect, because there is no BatchNorm.
        """
        if first == 0 and min(x.shape[1:3]) < self.smallest_input():
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for {len(self.widths)} "
                f"blocks: at least {self.smallest_input()} pixels are needed"
            )
        taps = ops.Taps(capture, shift)
        for name in self.layer_names[first:last]:
            if name.endswith("_relu"):
                x = elementwise.relu(x)
            elif name.startswith("conv"):
                x = self._conv(name, x)
            elif name.startswith("pool"):
                x = elementwise.max_pool(x)
            elif name == "flatten":
                x = x.reshape(x.shape[0], -1)
            elif name.startswith("dropout"):
                if train and self.dropout_rate > 0:
                    x = ops.dropout(x, self.dropout_rate, self.make_rng("dropout"), drawn)
            elif name == "predictions":
                x = ops.Dense(self.outputs, self.initializer(name), name=name)(x)
            else:
                units = self.dense[int(name[5:]) - 1]
                x = ops.Dense(units, self.initializer(name), name=name)(x)
            x = taps(name, x)
        return taps.result(x)

    def _conv(self, name: str, x: jax.Array) -> jax.Array:
        width = self.widths[int(name[4:].split("_")[0]) - 1]
        return ops.Conv((3, 3, x.shape[-1], width), self.initializer(name), name=name)(x)
