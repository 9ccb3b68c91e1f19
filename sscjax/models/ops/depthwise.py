"""Depthwise convolution, with the ReLU6 before and behind it, in the form that XLA compiles well.

On a CPU a grouped convolution runs a slow loop, and its kernel gradient becomes a dense
convolution. Here it is a sum of shifted products, with hand-written gradients. In MobileNetV2 a
ReLU6 stands before it and another behind. Done together, the padded input is all that is kept of
the first, and the gradient is masked once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sscjax.models.ops import elementwise

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Rows before and after, columns before and after."""

_NONE: Pads = ((0, 0), (0, 0))

KERNEL_GRADIENT = "depthwise_kernel_gradient"
"""What profilers see it as."""


def depthwise_conv(
    padded: jax.Array, kernel: jax.Array, bias: jax.Array | None, stride: int
) -> jax.Array:
    """Convolve each channel with its own kernel; all arrays are of one type.

    Args:
      padded: [B,H,W,C], already padded (`elementwise.pad_image`).
      kernel: [K,K,1,C].
      bias: [C] to add, or None.
      stride: 1 or more, the same on both axes.

    Returns:
      [B,(H-K)//stride+1,(W-K)//stride+1,C].
    """
    if elementwise.on_cpu():
        return _depthwise(padded, kernel, bias, _How(stride))
    return _plain(padded, kernel, bias, stride)


def clipped_depthwise_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, padding: elementwise.Padding
) -> jax.Array:
    """ReLU6, padding, depthwise convolution, ReLU6; all arrays are of one type.

    Args:
      x: [B,H,W,C], neither clipped nor padded.
      kernel: [K,K,1,C].
      bias: [C], added before the second ReLU6.
      stride: 1 or more, the same on both axes.
      padding: see `elementwise.pad_amounts`.

    Returns:
      [B,h,w,C].
    """
    size = kernel.shape[0]
    if elementwise.on_cpu():
        rows, columns = (elementwise.pad_amounts(n, size, stride, padding) for n in x.shape[1:3])
        return _depthwise(x, kernel, bias, _How(stride, (rows, columns), clipped=True))
    padded = elementwise.pad_image(elementwise.relu6(x), size, stride, padding)
    return elementwise.relu6(_plain(padded, kernel, bias, stride))


def _plain(padded: jax.Array, kernel: jax.Array, bias: jax.Array | None, stride: int) -> jax.Array:
    found = elementwise.plain_conv(padded, kernel, stride, groups=padded.shape[-1])
    return found if bias is None else found + elementwise.channels(bias, found)


def _shifted_products(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    taps = elementwise.taps(padded, size, stride)
    terms = [
        lax.mul(taps[i][j], elementwise.channels(kernel[i, j, 0], taps[i][j]))
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(lax.add, terms)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


# The padded input, the kernel, the bias, and the clipped result [N,C] where it is clipped.
_Saved = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]


class _How(NamedTuple):
    """Padded by `pads` and convolved; `clipped`: with a ReLU6 before and one behind."""

    stride: int
    pads: Pads = _NONE
    clipped: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _depthwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, how: _How) -> jax.Array:
    return _forward(x, kernel, bias, how)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, how: _How
) -> tuple[jax.Array, _Saved]:
    stride, pads, clipped = how
    if clipped:
        x = elementwise.clip6(x)
    padded = x if pads == _NONE else jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def result(padded: jax.Array) -> jax.Array:
        found = _shifted_products(padded, kernel, stride)
        if bias is not None:
            found += elementwise.channels(bias, found)
        # Flat, as the product behind it reads it: XLA would compute it once for each shape.
        flat = found.reshape(-1, found.shape[-1])
        return elementwise.clip6(flat) if clipped else flat

    height, width = elementwise.result_size(padded, kernel.shape[0], stride)
    shape = (len(x), height, width, x.shape[-1])
    # The entries that a slice takes from within the padding would be computed once more.
    flat = elementwise.after_storing(kernel, _flat(shape), result, padded)
    found = flat.reshape(shape)
    return found, (padded, kernel, bias, flat if clipped else None)


# Blocks of one shape are traced once; inlined, so that nothing changes in what is compiled.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(
    how: _How, saved: _Saved, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    stride, pads, clipped = how
    padded, kernel, bias, flat = saved
    if flat is not None:
        g = elementwise.within6(flat, g.reshape(flat.shape)).reshape(g.shape)
    size, (height, width) = kernel.shape[0], g.shape[1:3]
    (top, bottom), (left, right) = pads
    # Spread over the input, as far as the flipped kernel reaches.
    before = (size - 1 - top, size - 1 - left)
    config = [(0, 0, 0)]
    for axis in (1, 2):
        length = padded.shape[axis] - sum(pads[axis - 1]) + size - 1
        dilated = (g.shape[axis] - 1) * stride + 1
        config.append((before[axis - 1], length - before[axis - 1] - dilated, stride - 1))
    spread = lax.pad(g, jnp.zeros((), g.dtype), [*config, (0, 0, 0)])
    flipped = kernel[::-1, ::-1]

    def of_input(padded: jax.Array, spread: jax.Array) -> jax.Array:
        found = _shifted_products(spread, flipped, 1)
        if clipped:
            rows = slice(top, padded.shape[1] - bottom)
            columns = slice(left, padded.shape[2] - right)
            found = elementwise.within6(elementwise.pixels(padded, rows, columns), found)
        return found.reshape(-1, found.shape[-1])

    rows, columns = (n - sum(pad) for n, pad in zip(padded.shape[1:3], pads, strict=True))
    shape = (len(g), rows, columns, g.shape[-1])
    x_gradient = elementwise.after_storing(kernel, _flat(shape), of_input, padded, spread)
    x_gradient = x_gradient.reshape(shape)
    # At stride 1 `spread` has all of `g`, and is stored already. A branch of its own, because
    # nothing waits for it.
    origin = before if stride == 1 else (0, 0)
    sums = functools.partial(_sums, size, stride, (height, width), origin, bias is not None)
    with jax.named_scope(KERNEL_GRADIENT):
        found = elementwise.after_storing(
            kernel,
            (size * size + (bias is not None), g.shape[-1]),
            sums,
            padded,
            spread if stride == 1 else g,
        )
    kernel_gradient = found[: size * size].reshape(kernel.shape)
    return x_gradient, kernel_gradient, None if bias is None else found[-1]


def _sums(
    size: int,
    stride: int,
    shape: tuple[int, int],
    origin: tuple[int, int],
    with_bias: bool,
    padded: jax.Array,
    holding: jax.Array,
) -> jax.Array:
    """The kernel's gradient and behind it the bias' one: [K*K,C] or [K*K+1,C].

    Args:
      size: K.
      stride: of the convolution.
      shape: rows and columns of its result.
      origin: row and column of `holding` where the result's gradient begins.
      with_bias: whether there is a bias.
      padded: [B,H,W,C].
      holding: [B,h,w,C], the result's gradient, or one that holds it.
    """
    height, width = shape

    def of_g(rows: slice, columns: slice) -> jax.Array:
        return elementwise.pixels(holding, _along(rows, origin[0]), _along(columns, origin[1]))

    def products(i: int, j: int) -> Callable[[slice, slice], jax.Array]:
        # One slice each: a slice of a slice would be stored in between.
        return lambda rows, columns: lax.mul(
            elementwise.pixels(padded, _along(rows, i, stride), _along(columns, j, stride)),
            of_g(rows, columns),
        )

    entries = [products(i, j) for i in range(size) for j in range(size)]
    if with_bias:
        entries.append(of_g)
    return jnp.concatenate([elementwise.pixel_sum(height, width, entry) for entry in entries])


def _along(part: slice, first: int, stride: int = 1) -> slice:
    """Where the pixels `part` of a result lie, of which the first one lies at `first`."""
    return slice(
        first + stride * part.start, first + stride * (part.stop - 1) + 1, stride * part.step
    )


_depthwise.defvjp(_forward, _backward)
