"""A fast operation beside its plain formulation: values and gradients, eager and compiled.

Errors are relative to the largest value of the reference, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from trees import assert_close

SIZES = ((7, 8), (10, 5))  # odd and even on either axis
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def value_and_pullback(function: Callable[..., Any]) -> Callable[..., Any]:
    """f(arguments, g) -> (value, gradients of <value, g> by every argument)."""

    def run(arguments: tuple[jax.Array, ...], g: Any) -> Any:
        value, pull = jax.vjp(function, *arguments)
        return value, pull(g)

    return run


def compare(
    fast: Callable[..., Any],
    plain: Callable[..., Any],
    *arguments: jax.Array,
    modes: tuple[str, ...] = ("eager", "jit"),
) -> None:
    shape = jax.eval_shape(plain, *arguments)
    g = jax.tree.map(lambda leaf: normal(99, *leaf.shape), shape)
    # The reference runs once: spare LLVM's work on it.
    options = {"xla_backend_optimization_level": "0"}
    reference = jax.jit(value_and_pullback(plain), compiler_options=options)(arguments, g)
    if "jit" in modes:
        assert_close(jax.jit(value_and_pullback(fast))(arguments, g), reference)
    if "eager" in modes:
        assert_close(value_and_pullback(fast)(arguments, g), reference)


def plain_conv(stride: int, padding: Any, groups: int) -> Callable[..., jax.Array]:
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=DIMENSIONS,
            feature_group_count=groups,
        )

    return run


def with_bias(convolution: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> Any:
        return convolution(x, kernel) + bias.reshape(1, 1, 1, -1)

    return run


# What lax calls the paddings; torch's is on all sides alike.
LAX_PADDING = {"keras": "SAME", "torch": ((1, 1), (1, 1)), "valid": "VALID"}
