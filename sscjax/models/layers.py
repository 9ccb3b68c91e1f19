"""The layers that the models are made of, in the form that XLA compiles well on a CPU.

What XLA does badly on a CPU, and what stands here instead:

- A grouped convolution runs a slow loop, and its kernel gradient becomes a dense convolution.
  `depthwise_conv` is a sum of shifted products instead, with hand-written gradients.
- A 1x1 convolution is not recognised as the matrix product that it is. `pointwise_conv` is one.
- A sum over all leading axes (batch, height, width) keeps few numbers and runs down the memory in
  strides. `channel_sum` writes out sums of up to 16 neighbouring pixels instead, which stay in
  registers, and a matrix product adds up what is left.
- The gradient of a clip is a division and a product over both bounds. `relu6` has a mask.
- BatchNorm by running averages is a product and a sum per activation, and its gradient a sum over
  all of them. `fold` in the models multiplies it into the kernels, once per step.
- The kernel gradient of a dense convolution is slow, and so is one of few input channels.
  `dense_conv` takes these as matrix products over image patches.

Each is equal to the plain formulation within float32 rounding; `tests/test_layers_numeric.py`
holds that for values and gradients.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = Literal["keras", "torch", "valid"]
"""keras: TensorFlow 'same' (even sizes at stride 2 pad below and right only). torch: symmetric
(k // 2) on every side. valid: none."""


def pad_amounts(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Rows to add before and after an axis of `size` pixels for a convolution of width `kernel`."""
    if padding == "valid":
        return 0, 0
    if padding == "torch":
        return kernel // 2, kernel // 2
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_image(x: jax.Array, kernel: int, stride: int, padding: Padding) -> jax.Array:
    """Zero-pad images [B,H,W,C] for a `kernel` x `kernel` convolution."""
    rows = pad_amounts(x.shape[1], kernel, stride, padding)
    columns = pad_amounts(x.shape[2], kernel, stride, padding)
    if rows == columns == (0, 0):
        return x
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(vector, like.shape, (like.ndim - 1,))


# From so many pixels on the kernel gradient of `pointwise_conv` is taken the other way round.
_MANY_ROWS = 256

# Up to so many terms are added in one expression: more compile slowly, fewer store more.
_TERMS = 16


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, max(1, min(number, limit)) + 1) if number % d == 0)


def _pixel_sum(height: int, width: int, pixels: Callable[[slice, slice], jax.Array]) -> jax.Array:
    """Sum arrays [B,height,width,C] over all axes but the last: [1,C].

    Args:
      height: number of rows.
      width: number of columns.
      pixels: gives the part [B,h,w,C] of the array in these rows and columns; what it computes
        for that is done in registers.
    """
    columns = _largest_divisor(width, _TERMS)
    rows = _largest_divisor(height, _TERMS // columns)
    parts = [
        pixels(slice(row, None, rows), slice(column, None, columns))
        for row in range(rows)
        for column in range(columns)
    ]
    some = functools.reduce(jnp.add, parts)
    some = some.reshape(-1, some.shape[-1])
    # A product, because XLA would merge a second sum with the first and run in strides again.
    return jnp.ones((1, len(some)), some.dtype) @ some


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum [..., C] over all axes but the last: [C]."""
    if x.ndim < 3:
        return x.sum(axis=tuple(range(x.ndim - 1)))
    x = x.reshape(-1, *x.shape[-3:]) if x.ndim > 3 else x[None]
    height, width = x.shape[1:3]
    return _pixel_sum(height, width, lambda rows, columns: x[:, rows, columns])[0]


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` [..., C] plus `bias` [C]; the bias gradient is a `channel_sum`."""
    return x + _channels(bias, x)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), lambda _, g: (g, channel_sum(g)))


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Clip to [0, 6]; the gradient at the bounds themselves is 0, as in torch and TensorFlow."""
    return jnp.clip(x, 0.0, 6.0)


def _relu6_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu6(x)
    return y, y


# From the result, which the next layer keeps anyway.
relu6.defvjp(_relu6_forward, lambda y, g: (jnp.where((y > 0) & (y < 6), g, 0.0),))


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """1x1 convolution of [B,H,W,C] with kernel [1,1,C,D] as one matrix product: [B,H,W,D].

    `bias` [D] is added where there is one.
    """
    flat = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    found = flat.reshape(*x.shape[:-1], kernel.shape[-1])
    return found if bias is None else found + _channels(bias, found)


def _pointwise_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return pointwise_conv(x, kernel, bias), (x, kernel, bias)


def _pointwise_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array | None], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, kernel, bias = saved
    inputs, outputs = kernel.shape[-2:]
    flat = g.reshape(-1, outputs)
    x_gradient = (flat @ kernel.reshape(inputs, outputs).T).reshape(x.shape)
    rows, bias_gradient = x.reshape(-1, inputs), None
    if bias is not None and inputs < outputs:
        # A channel of ones: its row of the kernel gradient is the sum over the wider array.
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), x.dtype)], axis=1)
        both = rows.T @ flat
        return x_gradient, both[:-1].reshape(kernel.shape), both[-1]
    if bias is not None:
        bias_gradient = channel_sum(g)
    if inputs > outputs and len(rows) >= _MANY_ROWS:
        # Quicker with the narrow array first; without the (exact) rounding between them XLA would
        # make one product of the product and its transpose.
        turned = lax.dot_general(flat, rows, (((0,), (0,)), ((), ())))
        kernel_gradient = lax.reduce_precision(turned, 8, 23).T
    else:
        kernel_gradient = rows.T @ flat
    return x_gradient, kernel_gradient.reshape(kernel.shape), bias_gradient


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def _taps(
    padded: jax.Array, kernel: int, stride: int, height: int, width: int
) -> list[list[jax.Array]]:
    """For each kernel position, the [B,height,width,C] input pixels that it multiplies."""

    def tap(i: int, j: int) -> jax.Array:
        rows = slice(i, i + stride * (height - 1) + 1, stride)
        columns = slice(j, j + stride * (width - 1) + 1, stride)
        return padded[:, rows, columns]

    return [[tap(i, j) for j in range(kernel)] for i in range(kernel)]


def _shifted_products(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    height = (padded.shape[1] - size) // stride + 1
    width = (padded.shape[2] - size) // stride + 1
    taps = _taps(padded, size, stride, height, width)
    terms = [
        taps[i][j] * kernel[i, j].reshape(1, 1, 1, -1) for i in range(size) for j in range(size)
    ]
    return functools.reduce(jnp.add, terms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def depthwise_conv(
    padded: jax.Array, kernel: jax.Array, bias: jax.Array | None, stride: int
) -> jax.Array:
    """Convolve each channel with its own kernel, as a sum of shifted products.

    Args:
      padded: [B,H,W,C], already padded (`pad_image`).
      kernel: [K,K,1,C].
      bias: [C] to add, or None.
      stride: 1 or more, the same on both axes.

    Returns:
      [B,(H-K)//stride+1,(W-K)//stride+1,C].
    """
    found = _shifted_products(padded, kernel, stride)
    return found if bias is None else found + _channels(bias, found)


def _depthwise_forward(
    padded: jax.Array, kernel: jax.Array, bias: jax.Array | None, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return depthwise_conv(padded, kernel, bias, stride), (padded, kernel, bias)


def _depthwise_backward(
    stride: int, saved: tuple[jax.Array, jax.Array, jax.Array | None], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    padded, kernel, bias = saved
    size, (height, width) = kernel.shape[0], g.shape[1:3]

    def sums(padded: jax.Array, g: jax.Array) -> jax.Array:
        found = [
            _pixel_sum(height, width, _products(padded, g, stride, i, j))
            for i in range(size)
            for j in range(size)
        ]
        if bias is not None:
            found.append(_pixel_sum(height, width, lambda rows, columns: g[:, rows, columns]))
        return jnp.concatenate(found)

    def add(total: jax.Array, some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + sums(*some), None

    # A loop, because XLA would otherwise compute `g` again for each slice of it.
    group = 2 if len(g) % 2 == 0 else 1
    parts = jax.tree.map(lambda a: a.reshape(-1, group, *a.shape[1:]), (padded, g))
    zero = jnp.zeros((size * size + (bias is not None), g.shape[-1]), g.dtype)
    found = lax.scan(add, zero, parts)[0]
    return (
        _depthwise_input_gradient(g, kernel, stride, padded.shape),
        found[: size * size].reshape(kernel.shape),
        None if bias is None else found[-1],
    )


def _products(
    padded: jax.Array, g: jax.Array, stride: int, i: int, j: int
) -> Callable[[slice, slice], jax.Array]:
    """Of some pixels of `g` and those that the kernel's entry (i, j) multiplies for them."""
    height, width = g.shape[1:3]

    def along(part: slice, first: int, size: int) -> slice:
        return slice(
            first + stride * part.start, first + stride * (size - 1) + 1, stride * part.step
        )

    # One slice each: a slice of a slice would be stored in between.
    return lambda rows, columns: (
        padded[:, along(rows, i, height), along(columns, j, width)] * g[:, rows, columns]
    )


def _depthwise_input_gradient(
    g: jax.Array, kernel: jax.Array, stride: int, shape: tuple[int, ...]
) -> jax.Array:
    """Spread `g` back over the input: the flipped kernel over the dilated, padded gradient."""
    size = kernel.shape[0]
    config = [(0, 0, 0)]
    for axis in (1, 2):
        dilated = (g.shape[axis] - 1) * stride + 1
        config.append((size - 1, shape[axis] - dilated, stride - 1))
    config.append((0, 0, 0))
    spread = lax.pad(g, jnp.zeros((), g.dtype), config)
    return _shifted_products(spread, kernel[::-1, ::-1], 1)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


# Below this many input channels a convolution is quicker as one product over whole patches.
_FEW_CHANNELS = 8


def _dense(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, channels = kernel.shape[0], kernel.shape[2]
    if channels < _FEW_CHANNELS:
        height = (padded.shape[1] - size) // stride + 1
        width = (padded.shape[2] - size) // stride + 1
        rows = _taps(padded, size, stride, height, width)
        patches = jnp.concatenate([tap for row in rows for tap in row], axis=-1)
        flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
        return flat.reshape(len(padded), height, width, -1)
    return lax.conv_general_dilated(
        padded, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense_conv(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Ordinary convolution; of few channels, and for the kernel gradient, as matrix products.

    Args:
      padded: [B,H,W,C], already padded.
      kernel: [K,K,C,D].
      stride: the same on both axes.

    Returns:
      [B,(H-K)//stride+1,(W-K)//stride+1,D].
    """
    return _dense(padded, kernel, stride)


def _dense_forward(
    padded: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dense(padded, kernel, stride), (padded, kernel)


def _kernel_gradient(x: jax.Array, g: jax.Array, size: int, stride: int) -> jax.Array:
    """Of one image [H,W,C] and its gradient [h,w,D]: [K,K*C,D], a product per kernel row."""
    height, width, features = g.shape
    columns = [x[:, j : j + stride * (width - 1) + 1 : stride] for j in range(size)]
    side_by_side = jnp.concatenate(columns, axis=-1)
    flat = g.reshape(-1, features)
    rows = [side_by_side[i : i + stride * (height - 1) + 1 : stride] for i in range(size)]
    return jnp.stack([row.reshape(len(flat), -1).T @ flat for row in rows])


def _dense_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    size = kernel.shape[0]

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _kernel_gradient(*image, size, stride), None

    # Image by image, because the patches of one stay in the processor's cache.
    zero = jnp.zeros((size, size * padded.shape[3], g.shape[3]), g.dtype)
    kernel_gradient = lax.scan(add, zero, (padded, g))[0].reshape(kernel.shape)
    config = [(0, 0, 0)]
    for axis in (1, 2):
        dilated = (g.shape[axis] - 1) * stride + 1
        config.append((size - 1, padded.shape[axis] - dilated, stride - 1))
    config.append((0, 0, 0))
    spread = lax.pad(g, jnp.zeros((), g.dtype), config)
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _dense(spread, flipped, 1), kernel_gradient


dense_conv.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalisation by the statistics of `x` [..., C] itself.

    Returns:
      the normalised array, the mean [C] and the biased variance [C]. Mean and variance are for
      the running averages: no gradient flows through them.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    count = x.size // x.shape[-1]
    mean = channel_sum(x) / count
    centred = x - _channels(mean, x)
    variance = channel_sum(centred * centred) / count
    inverse = lax.rsqrt(variance + epsilon)
    y = centred * _channels(inverse * scale, x) + _channels(bias, x)
    return (y, mean, variance), (x, mean, inverse, scale)


def _normalize_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, mean, inverse, scale = saved
    g = gradients[0]
    count = x.size // x.shape[-1]
    normal = (x - _channels(mean, x)) * _channels(inverse, x)
    bias_gradient = channel_sum(g)
    scale_gradient = channel_sum(g * normal)
    inner = g - _channels(bias_gradient / count, x) - normal * _channels(scale_gradient / count, x)
    return inner * _channels(inverse * scale, x), scale_gradient, bias_gradient


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


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
            found = rng.uniform(-1, 1, shape) * math.sqrt(3) * deviation
        else:
            found = rng.standard_normal(shape)
            while (far := np.abs(found) > 2).any():
                found[far] = rng.standard_normal(int(far.sum()))
            # The standard deviation of a normal variable cut at 2.
            found *= deviation / 0.87962566103423978
        return found.astype(np.float32)


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
        return self.param("bias", nn.initializers.zeros, (self.features,))


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
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        means = self.variable("batch_stats", "mean", jnp.zeros, shape)
        variances = self.variable("batch_stats", "var", jnp.ones, shape)
        if not batch_statistics:
            a = scale * lax.rsqrt(variances.value + self.epsilon)
            return add_bias(x * _channels(a, x), bias - means.value * a)
        y, mean, variance = normalize_batch(x, scale, bias, self.epsilon)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            keep = self.momentum
            means.value = keep * means.value + (1 - keep) * mean
            variances.value = keep * variances.value + (1 - keep) * variance
        return y


class Dense(nn.Module):
    """A fully connected layer: [B,D] to [B,features]."""

    features: int
    initializer: KernelDraw = GLOROT_UNIFORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add the bias."""
        kernel = self.param("kernel", self.initializer, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return add_bias(x @ kernel, bias)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Set a share `rate` of [B,D] to zero and scale the rest by 1/(1-rate) (inverted dropout)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


class Conv(nn.Module):
    """An unpadded convolution with bias, stride 1."""

    shape: tuple[int, int, int, int]
    initializer: KernelDraw

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,H-K+1,W-K+1,D] for a kernel of `shape` [K,K,C,D]."""
        kernel = self.param("kernel", self.initializer, self.shape)
        bias = self.param("bias", nn.initializers.zeros, (self.shape[-1],))
        return add_bias(dense_conv(x, kernel, 1), bias)
