"""The fast operations but for convolutions against their plain formulations, and the layers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import SIZES, compare, normal, plain_conv
from trees import assert_close

from sscjax.models import layers
from sscjax.models.ops import conv
from sscjax.models.ops import elementwise as ops


@pytest.mark.parametrize("shape", ((4, 3), (5, 2, 3), (2, 5, 4, 3), (3, 8, 48, 2), (1, 7, 97, 2)))
def test_channel_sum(shape: tuple[int, ...]) -> None:
    """Also of more columns than are added at once, and of a prime number of them."""
    x = normal(0, *shape)
    expected = np.asarray(x, np.float64).reshape(-1, shape[-1]).sum(axis=0)
    np.testing.assert_allclose(ops.channel_sum(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(ops.channel_sum)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", ((4, 3), (2, 5, 4, 3)))
def test_add_bias(shape: tuple[int, ...]) -> None:
    def plain(x: jax.Array, bias: jax.Array) -> jax.Array:
        return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)

    compare(ops.add_bias, plain, normal(0, *shape), normal(1, 3))


# ---- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        (8, 3, 1, "keras", (1, 1)),
        (7, 3, 1, "keras", (1, 1)),
        (8, 3, 2, "keras", (0, 1)),
        (7, 3, 2, "keras", (1, 1)),
        (128, 3, 2, "keras", (0, 1)),
        (97, 3, 2, "keras", (1, 1)),
        (1, 3, 2, "keras", (1, 1)),
        (8, 5, 2, "keras", (1, 2)),
        (8, 1, 2, "keras", (0, 0)),
        (8, 3, 1, "torch", (1, 1)),
        (8, 3, 2, "torch", (1, 1)),
        (7, 3, 2, "torch", (1, 1)),
        (8, 5, 2, "torch", (2, 2)),
        (8, 1, 1, "torch", (0, 0)),
        (8, 3, 2, "valid", (0, 0)),
    ],
)
def test_pad_amounts(
    size: int, kernel: int, stride: int, padding: ops.Padding, expected: tuple[int, int]
) -> None:
    assert ops.pad_amounts(size, kernel, stride, padding) == expected


def test_pad_image() -> None:
    x = normal(0, 1, 4, 3, 2)
    padded = np.asarray(ops.pad_image(x, 3, 2, "keras"))
    assert padded.shape == (1, 5, 5, 2)  # 4 rows: one below; 3 columns: one on each side
    np.testing.assert_array_equal(padded[:, :4, 1:4], x)
    padded = padded.copy()
    padded[:, :4, 1:4] = 0
    assert not padded.any()
    assert ops.pad_image(x, 3, 2, "valid").shape == x.shape


# ---- batch normalisation ------------------------------------------------------------------------

EPSILON, MOMENTUM = 1e-3, 0.9


def norm_variables() -> dict[str, dict[str, jax.Array]]:
    return {
        "params": {"scale": normal(2, 5), "bias": normal(3, 5)},
        "batch_stats": {"mean": normal(4, 5), "var": jnp.exp(normal(5, 5))},
    }


def flax_norm(by_batch: bool) -> nn.BatchNorm:
    # Its fast variance, a difference of squares, loses digits where the mean is large.
    return nn.BatchNorm(
        use_running_average=not by_batch,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        use_fast_variance=False,
    )


@pytest.mark.parametrize("shape", ((16, 5), (2, 7, 4, 5)))
@pytest.mark.parametrize("by_batch", (True, False))
def test_batch_norm(by_batch: bool, shape: tuple[int, ...]) -> None:
    """Value, gradients by input, scale and bias, and running averages, as Flax has them."""
    variables = norm_variables()
    ours, plain = layers.BatchNorm(5, EPSILON, MOMENTUM), flax_norm(by_batch)
    x = 2.0 * normal(0, *shape) + 3.0
    g = normal(1, *shape)

    def run(model: nn.Module, **kwargs: Any) -> Any:
        def apply(params: Any, x: jax.Array) -> Any:
            both = {**variables, "params": params}
            y, updated = model.apply(both, x, mutable=["batch_stats"], **kwargs)
            return (y * g).sum(), (y, updated)

        return jax.value_and_grad(apply, argnums=(0, 1), has_aux=True)

    # Flax adds [C] vectors to images.
    with jax.numpy_rank_promotion("allow"):
        (_, reference), gradients = run(plain)(variables["params"], x)
    fast = run(ours, batch_statistics=by_batch)
    for mode in (fast, jax.jit(fast)) if len(shape) > 2 else (jax.jit(fast),):
        (_, found), found_gradients = mode(variables["params"], x)
        assert_close(found, reference)
        assert_close(found_gradients, gradients)
    if not by_batch:
        for name, value in variables["batch_stats"].items():
            np.testing.assert_array_equal(found[1]["batch_stats"][name], value)


def test_batch_norm_keeps_averages_that_are_not_mutable() -> None:
    variables = norm_variables()
    x = normal(0, 8, 5)
    norm = layers.BatchNorm(5, EPSILON, MOMENTUM)
    y = norm.apply(variables, x, batch_statistics=True)
    again, updated = norm.apply(variables, x, batch_statistics=True, mutable=["batch_stats"])
    assert_close(y, again)
    assert np.abs(updated["batch_stats"]["mean"] - variables["batch_stats"]["mean"]).max() > 0.1


def test_batch_norm_starts_at_zero_and_one() -> None:
    """Initialising by batch statistics leaves the running averages alone."""
    x = 5.0 + normal(0, 8, 5)
    variables = layers.BatchNorm(5, EPSILON, MOMENTUM).init(
        jax.random.key(0), x, batch_statistics=True
    )
    expected = {"params": {"bias": 0, "scale": 1}, "batch_stats": {"mean": 0, "var": 1}}
    assert jax.tree.map(lambda leaf: set(np.asarray(leaf)), variables) == jax.tree.map(
        lambda value: {np.float32(value)}, expected
    )


def test_normalize_batch_statistics() -> None:
    """Mean and biased variance in float64; they carry no gradient."""
    x = 2.0 * normal(0, 3, 4, 5, 6) + 3.0
    one = jnp.ones(6)
    y, mean, variance = ops.normalize_batch(x, one, one, EPSILON)
    exact = np.asarray(x, np.float64).reshape(-1, 6)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + EPSILON) + 1
    np.testing.assert_allclose(np.asarray(y).reshape(-1, 6), expected, atol=1e-5)

    def statistics(x: jax.Array) -> jax.Array:
        _, mean, variance = ops.normalize_batch(x, one, one, EPSILON)
        return (mean + variance).sum()

    assert not np.asarray(jax.grad(statistics)(x)).any()


def test_fold_batch_norm() -> None:
    """The folded kernel and its bias are the convolution followed by BatchNorm."""
    variables = norm_variables()
    stats = variables["batch_stats"]

    def fast(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        norm = {"scale": scale, "bias": bias}
        folded, shift = layers.fold_batch_norm(kernel, norm, stats, EPSILON)
        return ops.add_bias(conv.dense_conv(x, folded, 1), shift)

    def plain(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
        own = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        with jax.numpy_rank_promotion("allow"):
            return flax_norm(False).apply(own, plain_conv(1, "VALID", 1)(x, kernel))

    params = variables["params"]
    compare(
        fast, plain, normal(0, 2, 6, 5, 3), normal(1, 3, 3, 3, 5), params["scale"], params["bias"]
    )


# ---- relu and relu6 -----------------------------------------------------------------------------


def test_relu() -> None:
    compare(ops.relu, nn.relu, normal(0, 3, 50))
    x = jnp.asarray([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(jax.grad(lambda x: ops.relu(x).sum())(x), [0, 0, 1])


def test_relu6() -> None:
    compare(ops.relu6, lambda x: jnp.minimum(jnp.maximum(x, 0.0), 6.0), 4.0 * normal(0, 3, 50))


def test_relu6_at_its_bounds() -> None:
    """No gradient at 0 and 6, as torch.nn.ReLU6 and tf.nn.relu6 have it."""
    x = jnp.asarray([-1.0, 0.0, 3.0, 6.0, 7.0])
    np.testing.assert_array_equal(ops.relu6(x), [0, 0, 3, 6, 6])
    gradient = jax.grad(lambda x: ops.relu6(x).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 0, 1, 0, 0])


# ---- max pooling --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", (*SIZES, (2, 2)))
def test_max_pool(size: tuple[int, int]) -> None:
    compare(ops.max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)), normal(0, 2, *size, 3))


def test_max_pool_where_maxima_are_equal() -> None:
    """The first of them, row by row, has the gradient, as in torch."""
    image = jnp.asarray([[1.0, 1, 0, 2, 9], [1, 1, 2, 2, 9]])[None, :, :, None]
    np.testing.assert_array_equal(ops.max_pool(image)[0, :, :, 0], [[1, 2]])
    gradient = jax.grad(lambda x: ops.max_pool(x).sum())(image)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])


# ---- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", (0.2, 0.5))
def test_dropout_statistics(rate: float) -> None:
    x = 1.0 + jnp.abs(normal(0, 100, 1000))
    y = np.asarray(layers.dropout(x, rate, jax.random.key(0)))
    dropped = y == 0
    # 100,000 draws: the standard deviation of the share is at most 0.0016.
    assert abs(dropped.mean() - rate) < 0.008
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / (1 - rate), rtol=1e-6)
    assert abs(y.mean() / np.asarray(x).mean() - 1) < 0.02
    # Neither whole images nor whole features drop together.
    assert 0 < dropped.mean(0).min() and dropped.mean(0).max() < 1
    assert abs(dropped.mean(1) - rate).max() < 0.08


def test_dropout_key_and_gradient() -> None:
    x, key = normal(0, 8, 50), jax.random.key(3)
    y = layers.dropout(x, 0.5, key)
    np.testing.assert_array_equal(y, layers.dropout(x, 0.5, key))
    assert (np.asarray(y) != np.asarray(layers.dropout(x, 0.5, jax.random.key(4)))).any()
    gradient = jax.grad(lambda x: layers.dropout(x, 0.5, key).sum())(x)
    np.testing.assert_array_equal(gradient, np.where(np.asarray(y) == 0, 0.0, 2.0))
    np.testing.assert_array_equal(layers.dropout(x, 0.0, key), x)


# ---- modules with parameters --------------------------------------------------------------------


def test_dense_and_conv_modules() -> None:
    """Flax' own layers take the same parameters to the same values."""
    for ours, plain, x in (
        (layers.Dense(5), nn.Dense(5), normal(0, 4, 6)),
        (
            layers.Conv((3, 3, 2, 5), layers.HE_NORMAL),
            nn.Conv(5, (3, 3), padding="VALID"),
            normal(0, 2, 6, 7, 2),
        ),
    ):
        variables = ours.init(jax.random.key(0), x)
        assert not np.asarray(variables["params"]["bias"]).any()
        variables["params"]["bias"] = normal(1, 5)
        assert_close(ours.apply(variables, x), plain.apply(variables, x))


def test_kernel_initialisation() -> None:
    """Glorot uniform: bounded by sqrt(6 / (inputs + outputs)), and close to the bound."""
    for shape, module, arguments in (
        ((1, 1, 40, 60), layers.ConvKernel((1, 1, 40, 60)), ()),
        ((40, 60), layers.Dense(60), (jnp.zeros((1, 40)),)),
    ):
        kernel = module.init(jax.random.key(0), *arguments)["params"]["kernel"]
        assert kernel.shape == shape
        bound = np.sqrt(6 / 100)
        assert 0.98 * bound < np.abs(kernel).max() < bound
        assert abs(float(kernel.mean())) < 0.05 * bound


@pytest.mark.parametrize(
    ("draw", "plain"),
    [
        (layers.GLOROT_UNIFORM, nn.initializers.glorot_uniform()),
        (layers.HE_NORMAL, nn.initializers.he_normal()),
    ],
)
def test_kernels_are_drawn_as_flax_draws_them(draw: layers.KernelDraw, plain: Any) -> None:
    """Linen's own initializer to the bit; NumPy's draw has its quantiles and its bounds."""
    shape, key = (3, 3, 40, 60), jax.random.key(0)
    expected = np.asarray(plain(key, shape))
    np.testing.assert_array_equal(draw(key, shape), expected)
    found = draw.draw(np.random.default_rng(0), shape)
    assert found.shape == shape and found.dtype == np.float32
    bound = np.abs(expected).max()
    assert np.abs(found).max() == pytest.approx(bound, rel=0.01)
    steps = np.linspace(0.05, 0.95, 19)
    # 21,600 draws: the standard deviation of a quantile is below 1 % of the bound.
    np.testing.assert_allclose(
        np.quantile(found, steps), np.quantile(expected, steps), atol=0.03 * bound
    )
