"""What the layers compute, in the form that XLA compiles well on a CPU.

What XLA does badly on a CPU, and what stands here instead:

- A grouped convolution runs a slow loop, and its kernel gradient becomes a dense convolution.
  `depthwise`, a module of its own, has sums of shifted products.
- A 1x1 convolution is not recognised as the matrix product that it is. `pointwise_conv` is one, and
  a sum of products where it has few inputs and many outputs.
- A sum over all leading axes (batch, height, width) keeps few numbers and runs down the memory in
  strides. `channel_sum` writes out sums of up to 16 neighbouring pixels instead, which stay in
  registers, and a matrix product adds up what is left.
- The gradient of a clip is a division and a product over both bounds. `relu6` and `relu` have a
  mask.
- What is read in two shapes, or in slices, is computed anew for each. `relu6` keeps one shape;
  `after_storing` has its operands stored.
- BatchNorm by running averages is a product and a sum per activation, and its gradient a sum over
  all of them. `fold` in the models multiplies it into the kernels, once per step.
- The kernel gradient of a dense convolution is slow, and so is one of few input or few output
  channels. `dense_conv` takes these as matrix products, and of colours as a sum of products.
- The gradient of max pooling looks for the maximum again, window by window, and scatters.
  `max_pool` compares all pixels with their window's maximum at once.

On another device than a CPU the plain convolutions, sums and pooling are quick, and are taken. Each
is equal to its plain formulation within float32 rounding; `tests/test_layers_numeric.py` holds that
for values and gradients.
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


# From so many rows on `_row_products` may take its product the other way round.
_MANY_ROWS = 256

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
    some = functools.reduce(lax.add, parts)
    some = some.reshape(-1, some.shape[-1])
    # A product, because XLA would merge a second sum with the first and run in strides again.
    return jnp.ones((1, len(some)), some.dtype) @ some


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
    unknown: jax.Array, function: Callable[..., jax.Array], *operands: jax.Array
) -> jax.Array:
    """`function(*operands)` with the operands computed before it and stored.

    What XLA finds cheap it computes anew for every slice that is taken of it, and a slice within a
    padding it takes from what was padded; but not across the border of a branch. This one is always
    taken, which XLA does not see.

    Args:
      unknown: floats of which XLA cannot know the first, such as parameters.
      function: of arrays, gives one array.
      operands: its arguments.
    """
    first = unknown.reshape(-1)[0]
    bits = lax.bitcast_convert_type(first, f"int{8 * first.dtype.itemsize}")
    return lax.cond(
        (bits | 1) != 0,
        function,
        lambda *operands: jnp.zeros_like(jax.eval_shape(function, *operands)),
        *operands,
    )


def pointwise_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """1x1 convolution of [B,H,W,C] with kernel [1,1,C,D] as one matrix product: [B,H,W,D].

    `bias` [D] is added where there is one.
    """
    return (_pointwise if on_cpu() else _plain_pointwise)(x, kernel, bias)


def _plain_pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    found = flat.reshape(*x.shape[:-1], kernel.shape[-1])
    return found if bias is None else found + channels(bias, found)


# Up to so many inputs, to more than this many times as many outputs, a product of matrices takes
# longer to write than to compute: added up in registers, the next operation writes its own.
_FEW_INPUTS, _MANY_OUTPUTS = 16, 4


@jax.custom_vjp
def _pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    inputs, outputs = kernel.shape[-2:]
    if inputs > _FEW_INPUTS or outputs <= _MANY_OUTPUTS * inputs:
        return _plain_pointwise(x, kernel, bias)
    found = _sum_of_products(x, kernel, 1)
    return found if bias is None else found + channels(bias, found)


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
        bias_gradient = channel_sum(g)
    return x_gradient, _row_products(rows, flat).reshape(kernel.shape), bias_gradient


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2x2 convolution of stride 2: [B,H,W,C] with kernel [2,2,C,D] to [B,2H,2W,D].

    Every pixel becomes four, so that it is a 1x1 convolution to four times the channels.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, inputs, 4 * outputs)
    found = pointwise_conv(x, flat).reshape(batch, height, width, 2, 2, outputs)
    return found.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


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
    rows = taps(padded, size, stride)
    return jnp.concatenate([tap for row in rows for tap in row], axis=-1)


def _sum_of_products(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Each entry of the kernel times its pixels, added up in registers."""
    size, _, inputs, outputs = kernel.shape
    shape = (len(padded), *result_size(padded, size, stride), outputs)
    rows = taps(padded, size, stride)

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
    return plain_conv(padded, kernel, stride)


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
    return (_dense_with_gradients if on_cpu() else plain_conv)(padded, kernel, stride)


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
        found = _row_products(padded.reshape(len(patches), -1), patches)
        found = found.reshape(-1, size, size, g.shape[-1])[:, ::-1, ::-1]
        return x_gradient, found.transpose(1, 2, 0, 3)

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _kernel_gradient(*image, size, stride), None

    # Image by image, because the patches of one stay in the processor's cache.
    zero = jnp.zeros((size, size * padded.shape[3], g.shape[3]), g.dtype)
    kernel_gradient = lax.scan(add, zero, (padded, g))[0].reshape(kernel.shape)
    return _dense(spread, flipped, 1), kernel_gradient


_dense_with_gradients.defvjp(_dense_forward, _dense_backward)


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
    best, place = first, jnp.zeros(first.shape, jnp.int32)
    for index, corner in enumerate(others, 1):
        place = jnp.where(corner > best, index, place)
        best = jnp.maximum(best, corner)
    batch, height, width, features = g.shape
    whole = (batch, height, 2, width, 2, features)

    def spread(values: jax.Array) -> jax.Array:
        return lax.broadcast_in_dim(values, whole, (0, 1, 3, 5))

    corner = 2 * lax.broadcasted_iota(jnp.int32, whole, 2) + lax.broadcasted_iota(
        jnp.int32, whole, 4
    )
    found = jnp.where(spread(place) == corner, spread(g), 0.0)
    found = found.reshape(batch, 2 * height, 2 * width, features)
    odd = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return (jnp.pad(found, odd),)


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
