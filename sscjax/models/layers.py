"""The layers that the models are made of, as Linen modules; what they compute is in `ops`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sscjax.models.ops import conv, elementwise


@dataclasses.dataclass(frozen=True)
class KernelDraw:
    """How a kernel starts, for Linen (compiled) and for NumPy (at once, nothing to compile).

    Attributes:
      scale: variance of the entries times `mode`.
      mode: 'fan_in', or 'fan_avg', the mean of fan-in and fan-out.
      distribution: 'uniform', or 'truncated_normal' at two standard deviations.
    """

    scale: float
    mode: Literal["fan_in", "fan_avg"]
    distribution: Literal["uniform", "truncated_normal"]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        """For `Module.param`."""
        draw = nn.initializers.variance_scaling(self.scale, self.mode, self.distribution)
        return draw(key, shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """A kernel [...,inputs,outputs] float32."""
        field = math.prod(shape[:-2])
        fan_in, fan_out = field * shape[-2], field * shape[-1]
        fan = fan_in if self.mode == "fan_in" else (fan_in + fan_out) / 2
        deviation = math.sqrt(self.scale / fan)
        if self.distribution == "uniform":
            kernel = rng.uniform(-1, 1, shape) * math.sqrt(3) * deviation
        else:
            kernel = rng.standard_normal(shape)
            while (far := np.abs(kernel) > 2).any():
                kernel[far] = rng.standard_normal(int(far.sum()))
            # The standard deviation of a normal variable cut at 2.
            kernel *= deviation / 0.87962566103423978
        return kernel.astype(np.float32)


class Taps:
    """Layers whose outputs are changed or returned while a network runs.

    Call it with the name and output of every layer, and use what it returns in the output's place.
    """

    def __init__(self, capture: Sequence[str], shift: Mapping[str, jax.Array] | None):
        """Return the outputs of the layers `capture`; add `shift` to those that it names."""
        self._capture, self._shift = capture, shift or {}
        self._captured: dict[str, jax.Array] = {}

    def __call__(self, name: str, output: jax.Array) -> jax.Array:
        """The output of a layer, shifted; it is remembered if it is to be returned."""
        if name in self._shift:
            output = output + self._shift[name]
        if name in self._capture:
            self._captured[name] = output
        return output

    def result(self, x: jax.Array) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """The network's result: `x`, with `capture` also the captured outputs by name."""
        return (x, self._captured) if self._capture else x


GLOROT_UNIFORM = KernelDraw(1.0, "fan_avg", "uniform")
"""Glorot and Bengio 2010, as Keras starts convolutions and dense layers."""

HE_NORMAL = KernelDraw(2.0, "fan_in", "truncated_normal")
"""He et al. 2015, for layers with ReLU and no BatchNorm."""


class ConvKernel(nn.Module):
    """Holds the kernel of a convolution."""

    shape: tuple[int, ...]
    initializer: KernelDraw = GLOROT_UNIFORM

    @nn.compact
    def __call__(self) -> jax.Array:
        """The kernel, HWIO."""
        return self.param("kernel", self.initializer, self.shape)


class Shift(nn.Module):
    """What is left of a BatchNorm whose scale is folded into the kernel before it."""

    features: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The bias [C] of that convolution."""
        return self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


def fold_batch_norm(
    kernel: jax.Array, norm: Mapping[str, jax.Array], stats: Mapping[str, jax.Array], epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """A kernel [K,K,C,D] with the inference form of the BatchNorm after it multiplied in.

    Args:
      kernel: the convolution's (depthwise: [K,K,1,D]).
      norm: 'scale' and 'bias' of the BatchNorm, each [D].
      stats: its running 'mean' and 'var', each [D].
      epsilon: added to the variance.

    Returns:
      the folded kernel and the bias [D] that is left to be added.
    """
    a = norm["scale"] * lax.rsqrt(stats["var"] + epsilon)
    # Two axes, because the gradient of `a` sums the others, which is quick over one axis only.
    folded = kernel.reshape(-1, kernel.shape[-1]) * a[None]
    return folded.reshape(kernel.shape), norm["bias"] - stats["mean"] * a


def fold_all(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    norm_after: Mapping[str, str],
    names: Sequence[str],
    epsilon: float,
) -> dict[str, Any]:
    """Parameters with every BatchNorm of some layers in the kernel of the convolution before it.

    Args:
      params: of the network, by layer.
      batch_stats: running averages, by layer.
      norm_after: the BatchNorm that follows each convolution.
      names: layers whose BatchNorm is folded.
      epsilon: added to the variance.

    Returns:
      parameters by layer; of a folded BatchNorm the 'bias' is left.
    """
    found, chosen = dict(params), set(names)
    for convolution, norm in norm_after.items():
        if convolution in params and norm in chosen:
            kernel, bias = fold_batch_norm(
                params[convolution]["kernel"], params[norm], batch_stats[norm], epsilon
            )
            found[convolution], found[norm] = {"kernel": kernel}, {"bias": bias}
    return found


class BatchNorm(nn.Module):
    """Batch normalisation by running averages or by the batch.

    Attributes:
      features: number of channels.
      epsilon: added to the variance; belongs to the source of the weights.
      momentum: share of the old running average kept at an update.
    """

    features: int
    epsilon: float
    momentum: float

    @nn.compact
    def __call__(self, x: jax.Array, *, batch_statistics: bool) -> jax.Array:
        """Normalise [..., C] by the running averages, or by the batch while updating them.

        The running variance is fed the biased variance, as Keras and Flax do (torch: unbiased).
        """
        shape = (self.features,)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        means = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variances = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not batch_statistics:
            a = scale * lax.rsqrt(variances.value + self.epsilon)
            return elementwise.add_bias(x * elementwise.channels(a, x), bias - means.value * a)
        y, mean, variance = elementwise.normalize_batch(x, scale, bias, self.epsilon)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            keep = self.momentum
            means.value = keep * means.value + (1 - keep) * mean
            variances.value = keep * variances.value + (1 - keep) * variance
        return y


MASK = "segmentation"
"""The layer whose output, seen by `capture`, are the logits of masks [B,H,W,classes]."""


def pool(x: jax.Array) -> jax.Array:
    """Global average pooling: activations [B,h,w,C] to their mean over space [B,C]."""
    return x.mean(axis=(1, 2))


class Dense(nn.Module):
    """A fully connected layer: [B,D] to [B,features]."""

    features: int
    initializer: KernelDraw = GLOROT_UNIFORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add the bias."""
        kernel = self.param("kernel", self.initializer, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return elementwise.add_bias(x @ kernel, bias)


Drawn = tuple[int, jax.Array]
"""Images are part of so many that dropout is drawn for at once, and the place of the first."""


def dropout(x: jax.Array, rate: float, key: jax.Array, drawn: Drawn | None = None) -> jax.Array:
    """Set a share `rate` of [B,D] to zero and scale the rest by 1/(1-rate) (inverted dropout).

    With `drawn` the images lose what they lose when they go through the network with the others.
    """
    total, first = (len(x), None) if drawn is None else drawn
    keep = jax.random.bernoulli(key, 1.0 - rate, (total, *x.shape[1:]))
    if first is not None:
        keep = jax.lax.dynamic_slice_in_dim(keep, first, len(x))
    return jnp.where(keep, x / (1.0 - rate), 0.0)


class PointwiseConv(nn.Module):
    """A 1x1 convolution with bias: [B,H,W,C] to [B,H,W,features]."""

    features: int
    initializer: KernelDraw

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add the bias, pixel by pixel."""
        shape = (1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", self.initializer, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return conv.pointwise_conv(x, kernel, bias)


class Conv(nn.Module):
    """An unpadded convolution with bias, stride 1."""

    shape: tuple[int, int, int, int]
    initializer: KernelDraw

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,H-K+1,W-K+1,D] for a kernel of `shape` [K,K,C,D]."""
        kernel = self.param("kernel", self.initializer, self.shape)
        bias = self.param("bias", nn.initializers.zeros, (self.shape[-1],), jnp.float32)
        return elementwise.add_bias(conv.dense_conv(x, kernel, 1), bias)
