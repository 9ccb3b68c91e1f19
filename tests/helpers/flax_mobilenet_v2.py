"""MobileNetV2 as Flax is usually written: `nn.Conv`, grouped where it works by channel.

It takes the package's own variables, for its layers bear the same names. It is what the fast
formulation must equal, and what the benchmark measures it against.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sscjax.models.mobilenet_v2 import MobileNetV2


class PlainMobileNetV2(nn.Module):
    """The layers of `like`, from the first to the logits, BatchNorm by running averages."""

    like: MobileNetV2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut, padded = x, False
        cuts = self.like.cut_points
        for index, layer in enumerate(self.like.layers):
            if index in cuts:
                shortcut = x
            if layer.kind in ("conv", "depthwise"):
                groups = x.shape[-1] if layer.kind == "depthwise" else 1
                padding: Any = "VALID" if padded else "SAME"
                if self.like.padding == "torch":
                    padding = layer.kernel // 2
                x = nn.Conv(
                    layer.channels,
                    (layer.kernel, layer.kernel),
                    layer.stride,
                    padding=padding,
                    feature_group_count=groups,
                    use_bias=False,
                    name=layer.name,
                )(x)
                padded = False
            elif layer.kind == "bn":
                norm = nn.BatchNorm(True, epsilon=self.like.bn_epsilon, name=layer.name)
                with jax.numpy_rank_promotion("allow"):
                    x = norm(x)
            elif layer.kind == "relu6":
                x = nn.relu6(x)
            elif layer.kind == "pad" and self.like.padding == "keras":
                odd = (x.shape[1] % 2, x.shape[2] % 2)
                x = jnp.pad(x, ((0, 0), (odd[0], 1), (odd[1], 1), (0, 0)))
                padded = True
            elif layer.kind == "add":
                x = x + shortcut
            elif layer.kind == "pool":
                x = x.mean((1, 2))
            elif layer.kind == "dense":
                x = nn.Dense(layer.channels, name=layer.name)(x)
        return x
