"""What the layers compute, in the form that XLA compiles well on a CPU.

What XLA does badly on a CPU, and what stands here instead:

- Convolutions: `depthwise` and `conv`, modules of their own, say it of theirs.
- A sum over all leading axes (batch, height, width) keeps few numbers and runs down the memory in
  strides. `channel_sum` writes out sums of up to 16 neighbouring pixels instead, which stay in
  registers, and a matrix product adds up what is left.
- The gradient of a clip is a division and a product over both bounds. `relu6` and `relu` have a
  mask.
- What is read in two shapes, or in slices, is computed again for each. `relu6` keeps one shape;
  `after_storing` has its operands stored.
- BatchNorm by running averages is a product and a sum per activation, and its gradient a sum over
  all of them. `fold` in the models multiplies it into the kernels, once per step.
- The gradient of max pooling looks for the maximum again, window by window, and scatters.
  `max_pool` compares all pixels with their window's maximum at once.

On another device than a CPU the plain convolutions, sums and pooling are quick, and are taken. Each
is equal to its plain formulation within float32 rounding, which
`tests/models/test_layers_numeric.py` and `tests/models/test_convolutions.py` check for values and
gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
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


def on_cpu() -> bool:
    """Whether programs are compiled for the processors that the formulations here are made for."""
    return jax.default_backend() == "cpu"


def pixels(x: jax.Array, rows: slice, columns: slice) -> jax.Array:
    """`x[:, rows, columns]` of [B,H,W,C]: indexing takes JAX ten times as long to trace."""
    top, bottom, down = rows.indices(x.shape[1])
    left, right, across = columns.indices(x.shape[2])
    limits = (x.shape[0], bottom, right, x.shape[3])
    return lax.slice(x, (0, top, left, 0), limits, (1, down, across, 1))


def channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A vector [C] for every pixel of `like` [..., C]."""
    return lax.broadcast_in_dim(vector, like.shape, (like.ndim - 1,))


# Up to so many terms are added in one expression: more compile slowly, fewer store more.
_TERMS = 16


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, max(1, min(number, limit)) + 1) if number % d == 0)


def pixel_sum(height: int, width: int, part: Callable[[slice, slice], jax.Array]) -> jax.Array:
    """Sum arrays [B,height,width,C] over all axes but the last: [1,C].

    Args:
      height: number of rows.
      width: number of columns.
      part: gives the part [B,h,w,C] of the array in these rows and columns; what it computes
        for that is done in registers.
    """
    columns = _largest_divisor(width, _TERMS)
    rows = _largest_divisor(height, _TERMS // columns)
    parts = [
        part(slice(row, height, rows), slice(column, width, columns))
        for row in range(rows)
        for column in range(columns)
    ]
    partial = functools.reduce(lax.add, parts)
    partial = partial.reshape(-1, partial.shape[-1])
    # A product, because XLA would merge a second sum with the first and run in strides again.
    return jnp.ones((1, len(partial)), partial.dtype) @ partial


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum [..., C] over all axes but the last: [C]."""
    if x.ndim < 3 or not on_cpu():
        return x.sum(axis=tuple(range(x.ndim - 1)))
    x = x.reshape(-1, *x.shape[-3:]) if x.ndim > 3 else x[None]
    height, width = x.shape[1:3]
    return pixel_sum(height, width, functools.partial(pixels, x))[0]


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` [..., C] plus `bias` [C]; the bias gradient is a `channel_sum`."""
    return x + channels(bias, x)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), lambda _, g: (g, channel_sum(g)))


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Maximum of `x` and 0; the gradient at 0 itself is 0, as in torch and TensorFlow."""
    return jnp.maximum(x, 0.0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


relu.defvjp(_relu_forward, lambda y, g: (jnp.where(y > 0, g, 0.0),))


def clip6(x: jax.Array) -> jax.Array:
    """The values of a ReLU6; where it is differentiated, its gradient is `within6`."""
    return jnp.clip(x, 0.0, 6.0)


def within6(y: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient of a ReLU6 that gave `y`: 0 at the bounds themselves, as in torch and TensorFlow."""
    return jnp.where((y > 0) & (y < 6), g, 0.0)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Clip to [0, 6]; the gradient at the bounds themselves is 0, as in torch and TensorFlow."""
    return _flat_relu6(x).reshape(x.shape)


def _flat_relu6(x: jax.Array) -> jax.Array:
    return clip6(x.reshape(-1, x.shape[-1]))


def _relu6_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _flat_relu6(x)
    return y.reshape(x.shape), y


# From the result, which the next layer keeps anyway, and flat, as the product after it reads it:
# XLA would compute it once for each shape.
relu6.defvjp(_relu6_forward, lambda y, g: (within6(y, g.reshape(y.shape)).reshape(g.shape),))


def after_storing(
    unknown: jax.Array,
    shape: tuple[int, ...],
    function: Callable[..., jax.Array],
    *operands: jax.Array,
) -> jax.Array:
    """`function(*operands)` with the operands computed before it and stored.

    What XLA finds cheap it computes again for every slice that is taken of it, and a slice within a
    padding it takes from what was padded; but not across the border of a branch. This one is always
    taken, which XLA does not see.

    Args:
      unknown: floats of which XLA cannot know the first, such as parameters.
      shape: of the result, of the same type as `unknown`. (`jax.eval_shape` would trace `function`
        once more.)
      function: of arrays, gives one array.
      operands: its arguments.
    """
    first = unknown.reshape(-1)[0]
    bits = lax.bitcast_convert_type(first, f"int{8 * first.dtype.itemsize}")
    return lax.cond(
        (bits | 1) != 0,
        function,
        lambda *operands: jnp.zeros(shape, first.dtype),
        *operands,
    )


def result_size(padded: jax.Array, kernel: int, stride: int) -> tuple[int, int]:
    """Rows and columns of the convolution of [B,H,W,C], already padded."""
    rows, columns = ((size - kernel) // stride + 1 for size in padded.shape[1:3])
    return rows, columns


def taps(padded: jax.Array, kernel: int, stride: int) -> list[list[jax.Array]]:
    """For each kernel position, the [B,h,w,C] input pixels that it multiplies."""
    height, width = result_size(padded, kernel, stride)

    def tap(i: int, j: int) -> jax.Array:
        rows = slice(i, i + stride * (height - 1) + 1, stride)
        columns = slice(j, j + stride * (width - 1) + 1, stride)
        return pixels(padded, rows, columns)

    return [[tap(i, j) for j in range(kernel)] for i in range(kernel)]


def plain_conv(padded: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """XLA's own convolution of [B,H,W,C], already padded, with [K,K,C//groups,D]: [B,h,w,D]."""
    return lax.conv_general_dilated(
        padded,
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2x2 window of [B,H,W,C]: [B,H//2,W//2,C]; an odd last row is left out.

    The gradient goes to the first of equal maxima, as in torch.
    """
    return (_max_pool if on_cpu() else _plain_max_pool)(x)


def _plain_max_pool(x: jax.Array) -> jax.Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _corners(x: jax.Array) -> list[jax.Array]:
    """The first, second, ... pixel of each 2x2 window, row by row: four times [B,H//2,W//2,C]."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in range(2) for j in range(2)]


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, _corners(x))


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x), x


def _max_pool_backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    first, *others = _corners(x)
    best, position = first, jnp.zeros(first.shape, jnp.int32)
    for index, corner in enumerate(others, 1):
        position = jnp.where(corner > best, index, position)
        best = jnp.maximum(best, corner)
    batch, height, width, features = g.shape
    windows = (batch, height, 2, width, 2, features)

    def spread(values: jax.Array) -> jax.Array:
        return lax.broadcast_in_dim(values, windows, (0, 1, 3, 5))

    corner = 2 * lax.broadcasted_iota(jnp.int32, windows, 2) + lax.broadcasted_iota(
        jnp.int32, windows, 4
    )
    gradient = jnp.where(spread(position) == corner, spread(g), 0.0)
    gradient = gradient.reshape(batch, 2 * height, 2 * width, features)
    odd = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return (jnp.pad(gradient, odd),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


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
    centred = x - channels(mean, x)
    variance = channel_sum(centred * centred) / count
    inverse = lax.rsqrt(variance + epsilon)
    y = centred * channels(inverse * scale, x) + channels(bias, x)
    return (y, mean, variance), (x, mean, inverse, scale)


def _normalize_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, mean, inverse, scale = saved
    g = gradients[0]
    count = x.size // x.shape[-1]
    normal = (x - channels(mean, x)) * channels(inverse, x)
    bias_gradient = channel_sum(g)
    scale_gradient = channel_sum(g * normal)
    inner = g - channels(bias_gradient / count, x) - normal * channels(scale_gradient / count, x)
    return inner * channels(inverse * scale, x), scale_gradient, bias_gradient


normalize_batch.defvjp(_normalize_forward, _normalize_backward)
