"""Schedules and optimizers by hand, and beside Keras and Optax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_same

from sscjax.errors import UserError
from sscjax.training import optimizers

pytestmark = pytest.mark.usefixtures("quick_compiler")


def params() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "bn": {"scale": draw(4), "bias": draw(4)},
        "dense": {"kernel": draw(4, 3), "bias": draw(3)},
    }


# ---- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("constant", {}, {0: 0.4, 5: 0.4, 100: 0.4}),
        ("linear", {}, {0: 0.4, 2: 0.3, 4: 0.2, 8: 0.0, 9: 0.0}),
        ("linear", {"end_factor": 0.5}, {0: 0.4, 4: 0.3, 8: 0.2, 9: 0.2}),
        ("cosine", {}, {0: 0.4, 2: 0.2 * (1 + np.sqrt(0.5)), 4: 0.2, 8: 0.0, 9: 0.0}),
        ("cosine", {"end_factor": 0.25}, {0: 0.4, 4: 0.25, 8: 0.1, 9: 0.1}),
        # Four steps up from zero, then the whole decay in the four that are left.
        ("constant", {"warmup_steps": 4}, {0: 0.0, 1: 0.1, 3: 0.3, 4: 0.4, 8: 0.4}),
        ("linear", {"warmup_steps": 4}, {0: 0.0, 2: 0.2, 4: 0.4, 6: 0.2, 8: 0.0}),
        ("cosine", {"warmup_steps": 4}, {1: 0.1, 4: 0.4, 6: 0.2, 8: 0.0}),
    ],
)
def test_schedule(kind: Any, options: dict[str, Any], expected: dict[int, float]) -> None:
    schedule = optimizers.make_schedule(kind, 0.4, steps=8, **options)
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6), step


def test_unknown_schedule() -> None:
    with pytest.raises(UserError, match="'step': expected one of constant, cosine, linear"):
        optimizers.make_schedule("step", 0.1, steps=8)  # type: ignore[arg-type]


# ---- optimizers ---------------------------------------------------------------------------------

RATE = 0.1


def updates(name: Any, tree: Any, gradients: list[Any], **options: Any) -> list[Any]:
    """The updates that follow each other, with parameters that stay."""
    optimizer = optimizers.make_optimizer(name, optax.constant_schedule(RATE), **options)
    state, found = optimizer.init(tree), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, tree)
        found.append(update)
    return found


def layer(kernel: list[float], bias: float = 0.0) -> dict[str, Any]:
    return {"dense": {"kernel": jnp.array(kernel, jnp.float32), "bias": jnp.array([bias])}}


def test_adam_by_hand() -> None:
    """Its first step is rate * g / (|g| + 1e-7 / sqrt(0.001)) with Keras' epsilon."""
    epsilon = 1e-7 / 0.001**0.5
    gradient = [epsilon, -3 * epsilon, 2.0, 1e-6]
    for name in ("adam", "adamw"):
        first, second = updates(name, layer([0] * 4), [layer(gradient), layer([0] * 4)])
        small = 1e-6 / (1e-6 + epsilon)
        assert small == pytest.approx(0.24, abs=0.001)  # Optax: 1e-6 / 1.1e-6, 3.8 times as much
        np.testing.assert_allclose(
            first["dense"]["kernel"],
            [-RATE / 2, RATE * 3 / 4, -RATE, -RATE * small],
            rtol=1e-4,
        )
        # Then m = 0.9 * 0.1 g / (1 - 0.81), v = 0.999 * 0.001 g^2 / (1 - 0.999^2).
        m, v = 0.09 * 2 / 0.19, 0.000999 * 4 / (1 - 0.998001)
        assert float(second["dense"]["kernel"][2]) == pytest.approx(-RATE * m / v**0.5, rel=1e-4)


def test_adam_keeps_optax_state() -> None:
    """The same tree of the same arrays as Optax's own, which is what checkpoints hold."""
    tree = params()
    ours, theirs = optimizers.scale_by_keras_adam(eps=1e-20), optax.scale_by_adam(eps=1e-20)
    state, expected = ours.init(tree), theirs.init(tree)
    assert_same(state, expected)
    # Without an epsilon both forms are one.
    for _ in range(3):
        update, state = ours.update(tree, state)
        wanted, expected = theirs.update(tree, expected)
        for a, b in zip(*map(jax.tree.leaves, ((update, state), (wanted, expected))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


# Keras 3 converts its variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.0), ("adamw", 0.1)])
def test_adam_is_keras(name: Any, decay: float) -> None:
    """Twenty steps of random gradients from 1 down to 1e-8, each element within 1e-6 relative."""
    pytest.importorskip("keras_mobilenet_v2", reason="Keras 3, the reference, is not installed")
    import keras

    rng = np.random.default_rng(0)
    # With decay the weight stays in the result: away from 0, where the difference would cancel.
    weights = (rng.uniform(1, 2, 400) if decay else np.zeros(400)).astype(np.float32)
    variable = keras.Variable(weights)
    if name == "adam":
        reference = keras.optimizers.Adam(RATE)
    else:
        reference = keras.optimizers.AdamW(RATE, weight_decay=decay)
    optimizer = optimizers.make_optimizer(name, optax.constant_schedule(RATE), weight_decay=decay)
    tree = layer(weights.tolist())
    state = optimizer.init(tree)
    worst = 0.0
    for _ in range(20):
        scale = 10.0 ** rng.uniform(-8, 0, 400)
        gradient = (scale * rng.choice([-1, 1], 400)).astype(np.float32)
        # From the same weights again, so that 0 becomes the update to its last bit.
        variable.assign(weights)
        reference.apply([jnp.asarray(gradient)], [variable])
        update, state = optimizer.update(layer(gradient.tolist()), state, tree)
        found = weights + np.asarray(update["dense"]["kernel"])
        expected = np.asarray(variable)
        worst = max(worst, float((np.abs(found - expected) / np.abs(expected)).max()))
    print(f"{name} with decay {decay}: {worst:.1e}")
    assert worst < 1e-6


def test_sgd_by_hand() -> None:
    """Nesterov momentum 0.9: g + 0.9 t, with t = g + 0.9 t."""
    first, second = updates("sgd", layer([0]), [layer([1.0]), layer([2.0])])
    assert float(first["dense"]["kernel"][0]) == pytest.approx(-RATE * 1.9)
    assert float(second["dense"]["kernel"][0]) == pytest.approx(-RATE * (2 + 0.9 * (2 + 0.9)))


@pytest.mark.parametrize("name", ("adamw", "sgd"))
def test_weight_decay_acts_on_kernels_alone(name: Any) -> None:
    """Without gradients, decay is all that moves: rate * decay * weight, not scaled by Adam."""
    tree = params()
    zero = jax.tree.map(jnp.zeros_like, tree)
    (update,) = updates(name, tree, [zero], weight_decay=0.5)
    for layer_name, leaves in update.items():
        for leaf, value in leaves.items():
            decayed = -RATE * 0.5 * np.asarray(tree[layer_name][leaf])
            np.testing.assert_allclose(
                value, decayed if leaf == "kernel" else np.zeros_like(decayed), rtol=1e-6
            )


def test_kernel_mask() -> None:
    assert optimizers.kernel_mask(params()) == {
        "conv": {"kernel": True},
        "bn": {"scale": False, "bias": False},
        "dense": {"kernel": True, "bias": False},
    }


def test_clipping_by_the_norm_of_all() -> None:
    """3, 4 and 12 have norm 13: clipped to 2.6 they are a fifth; a norm below stays."""
    gradient = layer([3.0, 4.0], 12.0)
    for clip, factor in ((2.6, 0.2), (13.5, 1.0), (0.0, 1.0)):
        (update,) = updates("sgd", layer([0, 0]), [gradient], clip_norm=clip)
        expected = jax.tree.map(lambda g, f=factor: -RATE * 1.9 * f * g, gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), update, expected)


def test_schedule_reaches_the_optimizer() -> None:
    optimizer = optimizers.make_optimizer("sgd", optimizers.make_schedule("linear", 0.4, steps=4))
    tree = layer([0.0])
    state, rates = optimizer.init(tree), []
    trace = 0.0
    for _ in range(4):
        update, state = optimizer.update(layer([1.0]), state, tree)
        trace = 1 + 0.9 * trace
        rates.append(float(update["dense"]["kernel"][0]) / -(1 + 0.9 * trace))
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_wrong_optimizer() -> None:
    rate = optax.constant_schedule(0.1)
    with pytest.raises(UserError, match="'lion': expected one of adam, adamw, sgd"):
        optimizers.make_optimizer("lion", rate)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no weight decay; use 'adamw'"):
        optimizers.make_optimizer("adam", rate, weight_decay=0.1)
