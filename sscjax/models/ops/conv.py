"""Ordinary convolutions, 1x1 ones among them, in the form that XLA compiles well on a CPU.

What is slow there, and what stands here instead:

- A 1x1 convolution is not recognised as the matrix product that it is. `pointwise_conv` is one, and
  a sum of products where it has few inputs and many outputs.
- The kernel gradient of a dense convolution is slow, and so is one of few input or few output
  channels. `dense_conv` takes these as matrix products, and of colours as a sum of products.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from sscjax.models.ops import elementwise

# From so many rows on `_row_products` may take its product the other way round.
_MANY_ROWS = 256


def pointwise_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """1x1 convolution of [B,H,W,C] with kernel [1,1,C,D] as one matrix product: [B,H,W,D].

    `bias` [D] is added where there is one.
    """
    return (_pointwise if elementwise.on_cpu() else _plain_pointwise)(x, kernel, bias)


def _plain_pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    result = flat.reshape(*x.shape[:-1], kernel.shape[-1])
    return result if bias is None else result + elementwise.channels(bias, result)


# Up to so many inputs, to more than this many times as many outputs, a product of matrices takes
# longer to write than to compute: added up in registers, the next operation writes its own.
_FEW_INPUTS, _MANY_OUTPUTS = 16, 4


@jax.custom_vjp
def _pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    inputs, outputs = kernel.shape[-2:]
    if inputs > _FEW_INPUTS or outputs <= _MANY_OUTPUTS * inputs:
        return _plain_pointwise(x, kernel, bias)
    result = _sum_of_products(x, kernel, 1)
    return result if bias is None else result + elementwise.channels(bias, result)


def _pointwise_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return _pointwise(x, kernel, bias), (x.reshape(-1, x.shape[-1]), kernel, bias)


def _pointwise_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array | None], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    rows, kernel, bias = saved
    inputs, outputs = kernel.shape[-2:]
    flat, bias_gradient = g.reshape(-1, outputs), None
    x_gradient = (flat @ kernel.reshape(inputs, outputs).T).reshape(*g.shape[:-1], inputs)
    if bias is not None and inputs < outputs:
        # A channel of ones: its row of the kernel gradient is the sum over the wider array.
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], axis=1)
        both = rows.T @ flat
        return x_gradient, both[:-1].reshape(kernel.shape), both[-1]
    if bias is not None:
        bias_gradient = elementwise.channel_sum(g)
    return x_gradient, _row_products(rows, flat).reshape(kernel.shape), bias_gradient


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2x2 convolution of stride 2: [B,H,W,C] with kernel [2,2,C,D] to [B,2H,2W,D].

    Every pixel becomes four, so that it is a 1x1 convolution to four times the channels.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, inputs, 4 * outputs)
    result = pointwise_conv(x, flat).reshape(batch, height, width, 2, 2, outputs)
    return result.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


def _row_products(left: jax.Array, right: jax.Array) -> jax.Array:
    """[N,C] and [N,D] to [C,D], the sum of the products of their rows."""
    if left.shape[1] > right.shape[1] and len(left) >= _MANY_ROWS:
        # Quicker with the narrow array first; without the (exact) rounding between them XLA would
        # make one product of the product and its transpose.
        turned = lax.dot_general(right, left, (((0,), (0,)), ((), ())))
        bits = jnp.finfo(turned.dtype)
        return lax.reduce_precision(turned, bits.nexp, bits.nmant).T
    return left.T @ right


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


# A 3x3 convolution of colours: as many products are quicker added up than copied for a product of
# matrices, two to three times.
_FEW_TERMS = 27

# Below this many input channels a convolution is quicker as one product over whole patches.
_FEW_CHANNELS = 8


def _has_few_outputs(kernel: jax.Array, stride: int) -> bool:
    """Whether a product with every entry of the kernel is quicker, and no more than 4 inputs large.

    At a greater stride most of it would not be used.
    """
    size, _, inputs, outputs = kernel.shape
    return stride == 1 and outputs < _FEW_CHANNELS and size * size * outputs <= 4 * inputs


def _patches(padded: jax.Array, size: int, stride: int) -> jax.Array:
    """All that each pixel of a convolution's result reads of [B,H,W,C]: [B,h,w,K*K*C]."""
    rows = elementwise.taps(padded, size, stride)
    return jnp.concatenate([tap for row in rows for tap in row], axis=-1)


def _sum_of_products(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Each entry of the kernel times its pixels, added up in registers."""
    size, _, inputs, outputs = kernel.shape
    shape = (len(padded), *elementwise.result_size(padded, size, stride), outputs)
    rows = elementwise.taps(padded, size, stride)

    def term(i: int, j: int, channel: int) -> jax.Array:
        of_input = lax.index_in_dim(rows[i][j], channel, axis=3, keepdims=False)
        # A number for each pixel, and one for each output.
        pixel = lax.broadcast_in_dim(of_input, shape, (0, 1, 2))
        return lax.mul(pixel, lax.broadcast_in_dim(kernel[i, j, channel], shape, (3,)))

    terms = [term(i, j, c) for i in range(size) for j in range(size) for c in range(inputs)]
    return functools.reduce(lax.add, terms)


def _dense(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if kernel[..., 0].size <= _FEW_TERMS:
        return _sum_of_products(padded, kernel, stride)
    if kernel.shape[2] < _FEW_CHANNELS:
        patches = _patches(padded, kernel.shape[0], stride)
        flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
        return flat.reshape(*patches.shape[:3], -1)
    if _has_few_outputs(kernel, stride):
        return _sum_of_planes(padded, kernel)
    return elementwise.plain_conv(padded, kernel, stride)


def _sum_of_planes(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """All pixels times all of the kernel, channels first; then the sum of the shifted planes."""
    (size, _, inputs, outputs), (batch, rows, columns, _) = kernel.shape, padded.shape
    flat = kernel.transpose(0, 1, 3, 2).reshape(-1, inputs)
    products = lax.dot_general(flat, padded.reshape(-1, inputs), (((1,), (1,)), ((), ())))
    products = products.reshape(size * size, outputs, batch, rows, columns)

    def plane(i: int, j: int) -> jax.Array:
        first, down, across = size * i + j, i + rows - size + 1, j + columns - size + 1
        last = (first + 1, outputs, batch, down, across)
        return lax.slice(products, (first, 0, 0, i, j), last)[0]

    planes = [plane(i, j) for i in range(size) for j in range(size)]
    return functools.reduce(lax.add, planes).transpose(1, 2, 3, 0)


def dense_conv(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Ordinary convolution; of few channels, and for its gradients, as matrix products.

    Args:
      padded: [B,H,W,C], already padded.
      kernel: [K,K,C,D].
      stride: the same on both axes.

    Returns:
      [B,(H-K)//stride+1,(W-K)//stride+1,D].
    """
    return (_dense_with_gradients if elementwise.on_cpu() else elementwise.plain_conv)(
        padded, kernel, stride
    )


_dense_with_gradients = jax.custom_vjp(_dense, nondiff_argnums=(2,))


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
    return jnp.stack([_row_products(row.reshape(len(flat), -1), flat) for row in rows])


def _dense_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    size = kernel.shape[0]
    config = [(0, 0, 0)]
    for axis in (1, 2):
        dilated = (g.shape[axis] - 1) * stride + 1
        config.append((size - 1, padded.shape[axis] - dilated, stride - 1))
    config.append((0, 0, 0))
    spread = lax.pad(g, jnp.zeros((), g.dtype), config)
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    if _has_few_outputs(kernel, stride):
        # Both gradients are products with the same patches.
        patches = _patches(spread, size, 1).reshape(-1, size * size * g.shape[-1])
        x_gradient = (patches @ flipped.reshape(len(patches.T), -1)).reshape(padded.shape)
        result = _row_products(padded.reshape(len(patches), -1), patches)
        result = result.reshape(-1, size, size, g.shape[-1])[:, ::-1, ::-1]
        return x_gradient, result.transpose(1, 2, 0, 3)

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _kernel_gradient(*image, size, stride), None

    # Image by image, because the patches of one stay in the processor's cache.
    zero = jnp.zeros((size, size * padded.shape[3], g.shape[3]), g.dtype)
    kernel_gradient = lax.scan(add, zero, (padded, g))[0].reshape(kernel.shape)
    return _dense(spread, flipped, 1), kernel_gradient


_dense_with_gradients.defvjp(_dense_forward, _dense_backward)
