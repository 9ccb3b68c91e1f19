"""The training step: gradients, padding and sums; equal results however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from training_steps import (
    EIGHT,
    IMAGES,
    LABELS,
    MODEL,
    begin,
    gradient_of_one_step,
    gradients_kept,
    log_softmax,
    logistic,
    logits_of,
    noisy,
    program,
    scaled,
)
from trees import assert_close, assert_same

from sscjax.models import layers
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.training import optimizers, programs, train_step
from sscjax.training.losses import Objective

pytestmark = pytest.mark.usefixtures("quick_compiler")


# ---- gradients and sums -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_batch() -> tuple[Any, train_step.Sums]:
    return gradient_of_one_step(program(), EIGHT, np.ones(8))


def test_gradient_is_the_mean_cross_entropys(full_batch: tuple[Any, train_step.Sums]) -> None:
    def loss(params: Any) -> jax.Array:
        logits: Any = MODEL.apply({"params": params}, scaled(IMAGES[EIGHT], None), train=False)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(8), LABELS[EIGHT]]
        return -chosen.mean()

    assert_close(full_batch[0], jax.jit(jax.grad(loss))(random_weights.draw(MODEL, 16)["params"]))


def test_sums(full_batch: tuple[Any, train_step.Sums]) -> None:
    logits, labels = logits_of(EIGHT), LABELS[EIGHT]
    losses = -log_softmax(logits)[np.arange(8), labels]
    sums = full_batch[1]
    assert float(sums.loss) == pytest.approx(losses.sum(), rel=1e-5)
    right = int((logits.argmax(1) == labels).sum())
    assert 0 < right < 8
    assert (float(sums.correct), float(sums.count)) == (right, 8)


@pytest.mark.parametrize("size", (4, 3))
def test_micro_batches_add_up(full_batch: tuple[Any, train_step.Sums], size: int) -> None:
    """3 does not divide 8: the step takes 2."""
    found = gradient_of_one_step(program(micro_batch=size), EIGHT, np.ones(8))
    assert_close(found, full_batch)


@pytest.mark.slow
@pytest.mark.parametrize("begun", (4, 0))
def test_smaller_micro_batches_drop_the_same(begun: int) -> None:
    """What is drawn for parts of a size stays where they are cut again; else it is drawn again."""
    model = MODEL.clone(dropout_rate=0.5)

    def gradient(**sizes: int) -> Any:
        return gradient_of_one_step(program(model=model, **sizes), EIGHT, np.ones(8))[0]

    expected = gradient(micro_batch=begun)
    assert_close(gradient(micro_batch=2, drawn_by=begun or 8), expected)
    other = gradient(micro_batch=2)
    bias = [found["predictions"]["bias"] for found in (expected, other)]
    assert np.abs(bias[0] - bias[1]).max() > 1e-3


def test_dropout_of_a_part_is_that_of_the_whole() -> None:
    x, key = jnp.ones((8, 5)), jax.random.key(0)
    full_batch = layers.dropout(x, 0.5, key)
    for first in (0, 2, 6):
        part = layers.dropout(x[:2], 0.5, key, (8, jnp.int32(first)))
        np.testing.assert_array_equal(part, full_batch[first : first + 2])


@pytest.mark.slow
def test_micro_batches_with_frozen_layers(full_batch: tuple[Any, train_step.Sums]) -> None:
    frozen = ("conv1_1", "dense1")
    found, _ = gradient_of_one_step(program(micro_batch=4), EIGHT, np.ones(8), frozen)
    assert_close(found, {name: full_batch[0][name] for name in ("conv1_2", "predictions")})


@pytest.mark.parametrize("micro", (0, 3))
def test_padding_changes_nothing(micro: int) -> None:
    """Places of weight 0, whole micro-batches of them too, whatever image they hold."""
    five = EIGHT[:5]
    real = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    what = program(micro_batch=micro)
    found = [gradient_of_one_step(what, [*five, *rest], real) for rest in ((3, 3, 3), (7, 8, 0))]
    assert_same(found[0], found[1])
    alone = gradient_of_one_step(program(), five, np.ones(5))
    assert_close(found[0], alone)
    assert float(found[0][1].count) == 5


# ---- an epoch -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def epoch() -> Callable[..., Any]:
    """f(cuts, seed): four steps of six images with everything random, in calls that end at cuts."""
    model = MODEL.clone(dropout_rate=0.5)
    optimizer = optimizers.make_optimizer("adam", optimizers.make_schedule("linear", 0.01, steps=4))
    what, variables = (
        program(model=model, inputs=noisy, micro_batch=3),
        random_weights.draw(MODEL, 16),
    )
    run, _ = begin(what, variables, optimizer)
    order = jnp.asarray(np.random.default_rng(3).permutation(24).reshape(4, 6))
    real = jnp.ones((4, 6)).at[3, 5].set(0.0)

    def take(cuts: tuple[int, ...] = (4,), seed: int = 0) -> tuple[Any, list[float]]:
        _, now = begin(what, variables, optimizer)
        total, start = [0.0, 0.0, 0.0], 0
        for cut in cuts:
            part = slice(start, cut)
            now, sums = run(now, IMAGES, LABELS, order[part], real[part], jax.random.key(seed))
            total = [a + float(b) for a, b in zip(total, jax.tree.leaves(sums), strict=True)]
            start = cut
        return now, total

    return take


@pytest.mark.slow
def test_epoch_in_several_calls(epoch: Callable[..., Any]) -> None:
    """Parameters, optimizer state and step are equal to the bit; sums but for their order."""
    full_batch, sums = epoch()
    assert int(full_batch.step) == 4 and sums[-1] == 23
    for cuts in ((3, 4), (1, 4), (1, 2, 3, 4)):
        parts, sums_of_parts = epoch(cuts)
        assert_same(parts, full_batch)
        assert sums_of_parts == pytest.approx(sums, rel=1e-6)


@pytest.mark.slow
def test_epoch_is_determined_by_its_key(epoch: Callable[..., Any]) -> None:
    first, sums = epoch(seed=1)
    again, same_sums = epoch(seed=1)
    assert_same(again, first)
    assert same_sums == sums
    other, other_sums = epoch(seed=2)
    assert other_sums != sums
    leaves = zip(*map(jax.tree.leaves, (first.params, other.params)), strict=True)
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in leaves)


def test_steps_of_an_epoch_differ_in_their_noise() -> None:
    """The same images at two steps: without learning only the step's own key tells them apart."""
    still = optax.set_to_zero()
    run, start = begin(program(inputs=noisy), random_weights.draw(MODEL, 16), still)
    params = jax.tree.map(np.asarray, start.params)
    losses = []
    for _ in range(2):
        args = (IMAGES, LABELS, jnp.arange(4)[None], jnp.ones((1, 4)), jax.random.key(0))
        start, sums = run(start, *args)
        losses.append(float(sums.loss))
    assert_same(start.params, params)
    assert losses[0] != losses[1]


def test_training_learns() -> None:
    """Three patterns in noise: the loss of 24 steps on them falls below a tenth."""
    optimizer = optimizers.make_optimizer("adam", optax.constant_schedule(0.01))
    run, now = begin(program(micro_batch=8), random_weights.draw(MODEL, 16), optimizer)
    pattern = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3))
    images = (0.7 * pattern[LABELS] + 0.3 * IMAGES).astype(np.uint8)
    order = jnp.tile(jnp.arange(24).reshape(1, 24), (24, 1))
    means = []
    for _ in range(2):
        now, sums = run(now, images, LABELS, order, jnp.ones((24, 24)), jax.random.key(0))
        means.append(float(sums.loss / sums.count))
    assert means[1] < 0.1 * np.log(3)
    assert float(sums.correct) == float(sums.count) == 24 * 24


def test_a_loss_that_is_not_finite_gives_no_gradient() -> None:
    what = program(inputs=lambda stored, key: scaled(stored, None) * jnp.inf)
    gradient, sums = gradient_of_one_step(what, EIGHT, np.ones(8))
    assert not np.isfinite(float(sums.loss))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


# ---- BatchNorm in training ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kernel_trains", (True, False))
def test_gradients_through_folded_kernels(kernel_trains: bool) -> None:
    """As the plain network's; also of a BatchNorm that trains after a frozen kernel."""
    model = MobileNetV2(outputs=3, alpha=0.35)
    names, first = model.layer_names, model.cut_points[-4]  # block_16 and the rest
    variables = random_weights.draw(model, 32)
    own = {name: layer for name, layer in variables["params"].items() if name in names[first:]}
    away = {} if kernel_trains else {"block_16_expand": own.pop("block_16_expand")}
    x = np.random.default_rng(5).normal(size=(4, 2, 2, 56)).astype(np.float32)
    what = program(model=model, inputs=lambda stored, key: stored, first=first, micro_batch=2)
    statistics = variables["batch_stats"]

    def loss(params: Any) -> jax.Array:
        both = {"params": {**params, **away}, "batch_stats": statistics}
        logits: Any = model.apply(both, x, train=False, first=first)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), LABELS[:4]].mean()

    expected = jax.jit(jax.grad(loss))(own)
    both = {"params": {**own, **away}, "batch_stats": statistics}
    run, start = begin(what, both, frozen=away)
    order, real = jnp.arange(4)[None], jnp.ones((1, 4))
    end, _ = run(start, x, LABELS[:4], order, real, jax.random.key(0))
    assert set(gradients_kept(end)) == set(own) and "block_16_expand_BN" in own
    assert_close(gradients_kept(end), expected)


def test_batch_statistics_in_training() -> None:
    """The whole batch normalises, averages of that part alone move, the step hands them on."""
    model = MobileNetV2(outputs=3, alpha=0.35, bn_momentum=0.75)
    names, first = model.layer_names, model.cut_points[-3]  # the features' convolution is left
    variables = random_weights.draw(model, 32)
    own = {name: layer for name, layer in variables["params"].items() if name in names[first:]}
    assert set(own) == {"Conv_1", "Conv_1_bn", "predictions"}
    before = jax.tree.map(np.array, variables["batch_stats"])
    x = np.random.default_rng(5).normal(size=(8, 2, 2, 112)).astype(np.float32)
    what = program(
        model=model,
        inputs=lambda stored, key: stored,
        first=first,
        batch_statistics_from=first,
        micro_batch=2,  # would normalise by two images: not taken
    )
    run, start = begin(what, {**variables, "params": own})
    kernel = np.asarray(own["Conv_1"]["kernel"], np.float64)[0, 0]
    order, real = jnp.arange(8)[None], jnp.ones((1, 8))
    end, _ = run(start, x, LABELS[:8], order, real, jax.random.key(0))

    y = (x.astype(np.float64) @ kernel).reshape(-1, 1280)
    for leaf, value in (("mean", y.mean(0)), ("var", y.var(0))):
        expected = 0.75 * before["Conv_1_bn"][leaf] + 0.25 * value
        np.testing.assert_allclose(end.batch_stats["Conv_1_bn"][leaf], expected, atol=1e-5)
    rest = {name: layer for name, layer in end.batch_stats.items() if name != "Conv_1_bn"}
    before.pop("Conv_1_bn")
    assert len(rest) == 51
    assert_same(rest, before)


# ---- prediction ---------------------------------------------------------------------------------


def test_predict_in_parts() -> None:
    """Micro-batches, and a batch that they do not divide, give what the whole gives."""
    params = random_weights.draw(MODEL, 16)["params"]
    expected = np.exp(log_softmax(logits_of(np.arange(12))))
    for micro, count in ((4, 12), (5, 12)):
        # Neither dropout nor the inputs' noise acts.
        what = program(model=MODEL.clone(dropout_rate=0.5), inputs=noisy, micro_batch=micro)
        found = programs.make_predict(what)(params, {}, IMAGES[:count])
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predict_two_classes_by_one_output() -> None:
    model = MODEL.clone(outputs=1)
    variables = random_weights.draw(model, 16)
    what = program(model=model, objective=Objective("sigmoid"), micro_batch=4)
    found = programs.make_predict(what)(variables["params"], {}, IMAGES[:8])
    z = np.asarray(model.apply(variables, scaled(IMAGES[:8], None), train=False))
    expected = logistic(z)
    np.testing.assert_allclose(found, np.concatenate([1 - expected, expected], 1), atol=1e-6)


def test_features_in_parts() -> None:
    variables = random_weights.draw(MODEL, 16)
    expected: Any = MODEL.apply(variables, scaled(IMAGES[:8], None), train=False, last=5)
    for micro in (0, 4):
        features = programs.make_features(program(micro_batch=micro), 5)
        found = features(variables["params"], {}, IMAGES[:8])
        assert found.shape == (8, 6, 6, 4)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # Features stored earlier go on from where they stopped.
    later = program(inputs=lambda stored, key: stored, first=5)
    logits = programs.make_features(later, len(MODEL.layer_names))(variables["params"], {}, found)
    np.testing.assert_allclose(logits, logits_of(np.arange(8)), atol=1e-5)


def test_compiler_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known to this version of XLA, and left out where a version does not know them."""
    programs._compiler_options.cache_clear()
    assert programs._compiler_options() == programs._COMPILER_OPTIONS
    monkeypatch.setattr(programs, "_COMPILER_OPTIONS", {"xla_no_such_option": "1"})
    programs._compiler_options.cache_clear()
    assert programs._compiler_options() == {}
    programs._compiler_options.cache_clear()


def test_convolutions_are_xlas_own() -> None:
    """The option acts: otherwise this convolution goes to a library (as of jax 0.10)."""
    x, kernel = jnp.ones((4, 126, 126, 32)), jnp.ones((3, 3, 32, 32))
    dimensions = ("NHWC", "HWIO", "NHWC")

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=dimensions
        )

    text = programs.jit(convolve).lower(x, kernel).compile().as_text()  # type: ignore[attr-defined]
    assert "ynn" not in text
