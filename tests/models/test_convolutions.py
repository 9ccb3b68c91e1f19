"""The fast convolutions beside XLA's own, whatever their size, stride, padding and channels.

And what takes the place of all fast operations on other devices.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import pytest
from numeric import LAX_PADDING, SIZES, compare, normal, plain_conv, value_and_pullback, with_bias
from trees import assert_close

from sscjax.models.ops import conv, depthwise
from sscjax.models.ops import elementwise as ops


def each_geometry(test: Callable[..., None]) -> Any:
    """Every size, stride and padding; Keras' padding of the first size alone is not slow."""
    every = itertools.product(("keras", "torch", "valid"), (1, 2), SIZES)
    return pytest.mark.parametrize(
        ("padding", "stride", "size"),
        [
            pytest.param(*case, marks=() if case[::2] == ("keras", SIZES[0]) else pytest.mark.slow)
            for case in every
        ],
    )(test)


@each_geometry
def test_depthwise_conv(padding: ops.Padding, stride: int, size: tuple[int, int]) -> None:
    def fast(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        padded = ops.pad_image(x, 3, stride, padding)
        return depthwise.depthwise_conv(padded, kernel, bias, stride)

    plain = with_bias(plain_conv(stride, LAX_PADDING[padding], groups=6))
    modes = ("eager", "jit") if size == SIZES[0] and padding == "keras" else ("jit",)
    compare(fast, plain, normal(0, 2, *size, 6), normal(1, 3, 3, 1, 6), normal(2, 6), modes=modes)


@each_geometry
def test_depthwise_conv_between_relu6(
    padding: ops.Padding, stride: int, size: tuple[int, int]
) -> None:
    def fast(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return depthwise.clipped_depthwise_conv(x, kernel, bias, stride, padding)

    plain_depthwise = with_bias(plain_conv(stride, LAX_PADDING[padding], groups=6))

    def plain(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return nn.relu6(plain_depthwise(nn.relu6(x), kernel, bias))

    # Large enough for either bound, on either side.
    x, kernel, bias = 6 * normal(0, 2, *size, 6), normal(1, 3, 3, 1, 6), normal(2, 6)
    modes = ("eager", "jit") if size == SIZES[0] and padding == "keras" else ("jit",)
    compare(fast, plain, x, kernel, bias, modes=modes)
    middle = plain_depthwise(nn.relu6(x), kernel, bias)
    for values in (x, middle):
        assert float((values < 0).mean()) > 0.05 and float((values > 6).mean()) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("batch", (1, 3, 4))
def test_depthwise_conv_of_other_batches(batch: int) -> None:
    compare(
        lambda x, kernel, bias: depthwise.depthwise_conv(x, kernel, bias, 1),
        with_bias(plain_conv(1, "VALID", groups=3)),
        normal(0, batch, 20, 35, 3),
        normal(1, 3, 3, 1, 3),
        normal(2, 3),
        modes=("jit",),
    )


@each_geometry
def test_dense_conv(padding: ops.Padding, stride: int, size: tuple[int, int]) -> None:
    def fast(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv.dense_conv(ops.pad_image(x, 3, stride, padding), kernel, stride)

    plain = plain_conv(stride, LAX_PADDING[padding], groups=1)
    modes = ("eager", "jit") if size == SIZES[0] and padding == "keras" else ("jit",)
    compare(fast, plain, normal(0, 2, *size, 3), normal(1, 3, 3, 3, 9), modes=modes)


# Of few channels, of the input or the output, there are other formulations; of the last ones
# the products of rows are turned.
@pytest.mark.slow
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize(
    "shape", ((3, 3, 5), (3, 8, 2), (3, 8, 9), (2, 8, 5), (5, 44, 7), (3, 40, 2))
)
def test_dense_conv_of_few_and_many_channels(shape: tuple[int, int, int], stride: int) -> None:
    compare(
        lambda x, kernel: conv.dense_conv(x, kernel, stride),
        plain_conv(stride, "VALID", groups=1),
        normal(0, 2, 18, 11, shape[1]),
        normal(1, shape[0], *shape),
        modes=("eager", "jit") if shape == (3, 8, 2) else ("jit",),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", (1, 2, 5))
def test_convolutions_of_other_widths(kernel: int) -> None:
    """The gradients' index arithmetic, where 3 might hide a mistake; stride 3 skips pixels."""
    x = normal(0, 2, 9, 11, 4)

    def by_channel(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
        return depthwise.depthwise_conv(x, kernel, None, stride)

    for fast, groups, outputs in ((by_channel, 4, 4), (conv.dense_conv, 1, 3)):
        weights = normal(1, kernel, kernel, 4 // groups, outputs)
        compare(
            lambda x, k, fast=fast: fast(x, k, 3),
            plain_conv(3, "VALID", groups),
            x,
            weights,
            modes=("jit",),
        )


# More channels, many more, fewer, and fewer of so many pixels that the product is turned.
@pytest.mark.parametrize(
    "shape", ((2, 5, 4, 3, 6), (2, 5, 4, 3, 13), (2, 5, 4, 6, 3), (2, 16, 16, 6, 3))
)
def test_pointwise_conv(shape: tuple[int, ...]) -> None:
    *image, inputs, outputs = shape
    x, kernel = normal(0, *image, inputs), normal(1, 1, 1, inputs, outputs)
    compare(lambda x, k: conv.pointwise_conv(x, k), plain_conv(1, "VALID", 1), x, kernel)
    plain = with_bias(plain_conv(1, "VALID", 1))
    compare(conv.pointwise_conv, plain, x, kernel, normal(2, outputs))


# ---- other devices ------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_devices_take_the_plain_formulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs: equal to what a CPU runs, and without the shifted products."""
    x, bias = normal(0, 2, 8, 7, 9), normal(1, 9)
    wide, dense, single = normal(2, 3, 3, 1, 9), normal(3, 3, 3, 9, 4), normal(4, 1, 1, 9, 4)

    def together(x: jax.Array) -> tuple[jax.Array, ...]:
        return (
            depthwise.depthwise_conv(x, wide, bias, 2),
            conv.dense_conv(x, dense, 1),
            conv.pointwise_conv(x, single, bias[:4]),
            ops.max_pool(x),
            ops.channel_sum(x),
        )

    def traced() -> str:
        return str(jax.make_jaxpr(lambda x: together(x))(x))  # not the trace of the call before

    here, found = traced(), value_and_pullback(together)((x,), together(x))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = traced()
    assert_close(value_and_pullback(together)((x,), together(x)), found)
    assert "feature_group_count=9" in elsewhere
    assert "feature_group_count=9" not in here
    assert "custom_vjp" in here
    assert "custom_vjp" not in elsewhere

    def clipped(x: jax.Array) -> jax.Array:
        return depthwise.clipped_depthwise_conv(x, wide, bias, 2, "keras")

    assert "feature_group_count=9" in str(jax.make_jaxpr(lambda x: clipped(x))(x))
    found = value_and_pullback(clipped)((6 * x,), clipped(x))
    monkeypatch.undo()
    assert_close(value_and_pullback(clipped)((6 * x,), clipped(x)), found)


def test_what_a_depthwise_convolution_slices_is_stored() -> None:
    """XLA does not see that the branches are taken: else only the speed would be gone."""
    x, kernel, bias = normal(0, 2, 8, 8, 9), normal(1, 3, 3, 1, 9), normal(2, 9)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise.clipped_depthwise_conv(x, kernel, bias, 1, "keras").sum()

    text = str(jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile().as_text())
    assert len(re.findall(r" conditional\(", text)) == 3
