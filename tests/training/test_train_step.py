"""The training step: gradients, padding, sums and losses by hand; equal results however it is cut.

The network is a CNN of 1400 parameters on 16 x 16 pixels. The trick that shows gradients: an
optimizer without decay keeps the last gradient as its state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from trees import assert_close, assert_same

from sscjax.models import layers
from sscjax.models.cnn import CNN
from sscjax.models.layers import MASK
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.unet import FDUNet
from sscjax.training import freezing, optimizers, programs, train_step
from sscjax.training.losses import Objective

pytestmark = pytest.mark.usefixtures("quick_compiler")

MODEL = CNN(outputs=3, widths=(4,), dense=(8,))
SOFTMAX = Objective("softmax")
KEEP_GRADIENT = optax.trace(decay=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 24).astype(np.int32)


def scaled(stored: Any, key: jax.Array | None) -> jax.Array:
    return stored / 127.5 - 1.0


def noisy(stored: jax.Array, key: jax.Array | None) -> jax.Array:
    x = scaled(stored, None)
    return x if key is None else x + 0.1 * jax.random.uniform(key, (len(x), 1, 1, 1))


def program(**changes: Any) -> programs.Program:
    settings = {"model": MODEL, "objective": SOFTMAX, "inputs": scaled, **changes}
    return programs.Program(**settings)


def begin(
    what: programs.Program,
    variables: Any,
    optimizer: optax.GradientTransformation = KEEP_GRADIENT,
    frozen: Collection[str] = (),
) -> tuple[Callable[..., Any], train_step.TrainState]:
    """The epoch of a program and the state at its start; all but the `frozen` layers train."""
    params = jax.tree.map(jnp.array, dict(variables["params"]))
    labels = {name: freezing.FREEZE if name in frozen else freezing.TRAIN for name in params}
    masked = freezing.freeze_mask(optimizer, labels)
    statistics = dict(variables.get("batch_stats", {}))
    start = train_step.TrainState(jnp.int32(0), params, statistics, masked.init(params))
    return train_step.make_epoch(what, masked, labels), start


@functools.cache
def gradient_keeper(
    what: programs.Program, frozen: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[[], train_step.TrainState]]:
    """Compiled once for all tests of one program; with what makes its state at the start."""
    run, _ = begin(what, random_weights.draw(MODEL, 16), frozen=frozen)
    return run, lambda: begin(what, random_weights.draw(MODEL, 16), frozen=frozen)[1]


def gradients_kept(end: train_step.TrainState) -> Any:
    """By layer, of those that train."""
    trace = end.opt_state.inner_states[freezing.TRAIN].inner_state.trace
    return {name: layer for name, layer in trace.items() if jax.tree.leaves(layer)}


def gradient_of_one_step(
    what: programs.Program, order: Any, real: Any, frozen: tuple[str, ...] = ()
) -> tuple[Any, train_step.Sums]:
    run, start = gradient_keeper(what, frozen)
    order, real = jnp.asarray([order]), jnp.asarray([real], jnp.float32)
    end, sums = run(start(), IMAGES, LABELS, order, real, jax.random.key(0))
    return gradients_kept(end), sums


def log_softmax(logits: Any) -> np.ndarray:
    """In float64."""
    z = np.asarray(logits, np.float64)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def logistic(z: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def logits_of(indices: Any) -> np.ndarray:
    variables = random_weights.draw(MODEL, 16)
    x = IMAGES[indices].astype(np.float32) / 127.5 - 1
    return np.asarray(MODEL.apply(variables, x, train=False), np.float64)


# ---- gradients and sums -------------------------------------------------------------------------

EIGHT = np.array([3, 1, 4, 15, 9, 2, 6, 5])


@pytest.fixture(scope="module")
def whole() -> tuple[Any, train_step.Sums]:
    return gradient_of_one_step(program(), EIGHT, np.ones(8))


def test_gradient_is_the_mean_cross_entropys(whole: tuple[Any, train_step.Sums]) -> None:
    def loss(params: Any) -> jax.Array:
        logits: Any = MODEL.apply({"params": params}, scaled(IMAGES[EIGHT], None), train=False)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(8), LABELS[EIGHT]]
        return -chosen.mean()

    assert_close(whole[0], jax.jit(jax.grad(loss))(random_weights.draw(MODEL, 16)["params"]))


def test_sums(whole: tuple[Any, train_step.Sums]) -> None:
    logits, labels = logits_of(EIGHT), LABELS[EIGHT]
    losses = -log_softmax(logits)[np.arange(8), labels]
    sums = whole[1]
    assert float(sums.loss) == pytest.approx(losses.sum(), rel=1e-5)
    right = int((logits.argmax(1) == labels).sum())
    assert 0 < right < 8
    assert (float(sums.correct), float(sums.count)) == (right, 8)


@pytest.mark.parametrize("size", (4, 3))
def test_micro_batches_add_up(whole: tuple[Any, train_step.Sums], size: int) -> None:
    """3 does not divide 8: the step takes 2."""
    found = gradient_of_one_step(program(micro_batch=size), EIGHT, np.ones(8))
    assert_close(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize("begun", (4, 0))
def test_smaller_micro_batches_drop_the_same(begun: int) -> None:
    """What is drawn for parts of a size stays where they are cut again; else it is drawn anew."""
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
    whole = layers.dropout(x, 0.5, key)
    for first in (0, 2, 6):
        part = layers.dropout(x[:2], 0.5, key, (8, jnp.int32(first)))
        np.testing.assert_array_equal(part, whole[first : first + 2])


@pytest.mark.slow
def test_micro_batches_with_frozen_layers(whole: tuple[Any, train_step.Sums]) -> None:
    frozen = ("conv1_1", "dense1")
    found, _ = gradient_of_one_step(program(micro_batch=4), EIGHT, np.ones(8), frozen)
    assert_close(found, {name: whole[0][name] for name in ("conv1_2", "predictions")})


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


# ---- masks beside the classes -------------------------------------------------------------------

UNET = FDUNet(outputs=3, depth=1, width=3, growth=1, layers_per_block=1, mask_classes=4)
JOINT = Objective("softmax", class_weights=(1.0, 2.0, 0.5), segmentation=0.7)
MAPS = np.random.default_rng(2).integers(0, 4, (24, 16, 16)).astype(np.uint8)
# Of some images little is known, of one nothing.
MAPS[np.random.default_rng(3).random(MAPS.shape) < np.linspace(0, 1, 24)[:, None, None]] = 255
MAPS[EIGHT[2]] = 255


def with_masks(stored: Any, key: jax.Array | None) -> jax.Array:
    return jnp.concatenate([scaled(stored[..., :3], None), stored[..., 3:] * 1.0], axis=-1)


def joint_gradient(micro: int, order: Any, real: Any, objective: Objective = JOINT) -> Any:
    """The gradient of one step, and the running averages after it."""
    what = programs.Program(UNET, objective, with_masks, micro_batch=micro)
    run, start = begin(what, random_weights.draw(UNET, 16))
    stored = np.concatenate([IMAGES, MAPS[..., None]], axis=-1)
    order, real = jnp.asarray([order]), jnp.asarray([real], jnp.float32)
    end, sums = run(start, stored, LABELS, order, real, jax.random.key(0))
    return gradients_kept(end), sums


@pytest.fixture(scope="module")
def joint() -> Any:
    return joint_gradient(0, EIGHT, np.ones(8))


def test_gradient_of_the_joint_loss(joint: Any) -> None:
    """Cross-entropy of the classes, and 0.7 of the mean over the pixels that are known."""
    tree = random_weights.draw(UNET, 16)
    x, maps, labels = scaled(IMAGES[EIGHT], None), MAPS[EIGHT], LABELS[EIGHT]
    places = np.nonzero(maps != 255)
    assert len(set(places[0])) == 7

    def loss(params: Any) -> jax.Array:
        variables = {**tree, "params": params}
        logits, seen = UNET.apply(variables, x, train=False, capture=(MASK,))
        chosen = jax.nn.log_softmax(logits)[jnp.arange(8), labels]
        weights = jnp.asarray(JOINT.class_weights)[labels]
        of_pixels = jax.nn.log_softmax(seen[MASK])[(*places, maps[places])]
        return -(chosen * weights).mean() - 0.7 * of_pixels.mean()

    assert_close(joint[0], jax.jit(jax.grad(loss))(tree["params"]))
    assert np.abs(joint[0][MASK]["kernel"]).max() > 0


@pytest.mark.slow
def test_gradient_of_the_dice_loss(joint: Any) -> None:
    """Image by image and class by class, over the seven images of which anything is known."""
    x, maps = scaled(IMAGES[EIGHT], None), MAPS[EIGHT]
    tree = random_weights.draw(UNET, 16)

    def loss(params: Any) -> jax.Array:
        _, seen = UNET.apply({**tree, "params": params}, x, train=False, capture=(MASK,))
        total = jnp.zeros(())
        for image, truth in enumerate(maps):
            rows, columns = np.nonzero(truth != 255)
            odds = jax.nn.softmax(seen[MASK][image, rows, columns], axis=-1)
            for label in range(4 if len(rows) else 0):
                true = truth[rows, columns] == label
                fraction = (2 * odds[true, label].sum() + 1) / (
                    odds[:, label].sum() + true.sum() + 1
                )
                total += (1 - fraction) / 4 / 7
        return 0.7 * 1.5 * total

    expected = jax.tree.map(
        jnp.add, joint[0], jax.jit(jax.grad(loss))(random_weights.draw(UNET, 16)["params"])
    )
    objective = dataclasses.replace(JOINT, dice=1.5)
    for micro in (0, 2):
        assert_close(joint_gradient(micro, EIGHT, np.ones(8), objective)[0], expected)


@pytest.mark.slow
def test_pixels_weigh_by_their_class() -> None:
    """Of the last bias of the masks: the sum of w (p - target) over the pixels that are known."""
    weights = (0.5, 3.0, 1.0, 2.0)
    objective = dataclasses.replace(JOINT, mask_weights=weights)
    found, _ = joint_gradient(4, EIGHT, np.ones(8), objective)
    x, maps = scaled(IMAGES[EIGHT], None), MAPS[EIGHT]
    _, seen = UNET.apply(random_weights.draw(UNET, 16), x, train=False, capture=(MASK,))
    places = np.nonzero(maps != 255)
    odds = np.exp(log_softmax(np.asarray(seen[MASK])[places]))
    labels = maps[places]
    share = np.asarray(weights)[labels][:, None] * (odds - np.eye(4)[labels])
    expected = 0.7 * share.sum(0) / len(labels)
    np.testing.assert_allclose(found[MASK]["bias"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_masks_alone() -> None:
    """Without the classes' loss their layer learns nothing; the rest is what the masks add."""
    alone, _ = joint_gradient(0, EIGHT, np.ones(8), dataclasses.replace(JOINT, classification=0.0))
    classes, _ = joint_gradient(0, EIGHT, np.ones(8), dataclasses.replace(JOINT, segmentation=1e-9))
    both, _ = joint_gradient(0, EIGHT, np.ones(8))
    assert not np.asarray(alone["predictions"]["kernel"]).any()
    assert_close(jax.tree.map(jnp.add, alone, classes), both)


@pytest.mark.slow
def test_micro_batches_of_masks_add_up(joint: Any) -> None:
    """Though one part knows more pixels than another."""
    assert_close(joint_gradient(2, EIGHT, np.ones(8)), joint)


@pytest.mark.slow
def test_masks_of_padding_weigh_nothing() -> None:
    real = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    alone = joint_gradient(0, EIGHT[:4], np.ones(4))
    assert_close(joint_gradient(2, EIGHT, real), alone)


@pytest.mark.slow
def test_a_batch_of_which_no_mask_is_known() -> None:
    """Trains its classes alone, and the head for masks not at all."""
    gradient, sums = joint_gradient(0, [EIGHT[2]], [1.0])
    assert np.isfinite(float(sums.loss)) and not np.asarray(gradient[MASK]["kernel"]).any()
    assert np.abs(gradient["predictions"]["kernel"]).max() > 0


# ---- losses by hand -----------------------------------------------------------------------------

LOGITS = jnp.asarray(np.random.default_rng(2).normal(0, 2, (6, 3)), jnp.float32)
CLASSES = jnp.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("smoothing", (0.0, 0.1))
def test_softmax_losses(smoothing: float) -> None:
    """The target keeps 1 - s, and s is spread over all three outputs."""
    objective = Objective("softmax", label_smoothing=smoothing)
    target = np.eye(3)[np.asarray(CLASSES)] * (1 - smoothing) + smoothing / 3
    expected = -(target * log_softmax(LOGITS)).sum(1)
    np.testing.assert_allclose(objective.losses(LOGITS, CLASSES), expected, rtol=1e-5)
    np.testing.assert_allclose(
        objective.probabilities(LOGITS), np.exp(log_softmax(LOGITS)), rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
def test_sigmoid_losses(smoothing: float) -> None:
    objective = Objective("sigmoid", label_smoothing=smoothing)
    z, labels = LOGITS[:, :1], CLASSES.clip(0, 1)
    p = logistic(z[:, 0])
    target = np.asarray(labels) * (1 - smoothing) + smoothing / 2
    expected = -target * np.log(p) - (1 - target) * np.log(1 - p)
    np.testing.assert_allclose(objective.losses(z, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(objective.probabilities(z), np.stack([1 - p, p], 1), rtol=1e-5)


def test_weighted_smoothed_gradient_by_hand() -> None:
    """Of the last bias: the sum of w (p - target) over the images, by their number."""
    weights, smoothing = (0.5, 2.0, 1.0), 0.3
    objective = Objective("softmax", smoothing, weights)
    real = np.array([1, 1, 1, 0, 1, 1, 1, 1])
    what = program(objective=objective, micro_batch=4)
    found, sums = gradient_of_one_step(what, EIGHT, real)
    logits, labels = logits_of(EIGHT), LABELS[EIGHT]
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    share = (np.asarray(weights)[labels] * real)[:, None]
    expected = (share * (np.exp(log_softmax(logits)) - target)).sum(0) / 7
    np.testing.assert_allclose(found["predictions"]["bias"], expected, rtol=1e-4, atol=1e-6)
    losses = -(target * log_softmax(logits)).sum(1)
    assert float(sums.loss) == pytest.approx((losses * real).sum(), rel=1e-5)


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
    whole, sums = epoch()
    assert int(whole.step) == 4 and sums[-1] == 23
    for cuts in ((3, 4), (1, 4), (1, 2, 3, 4)):
        parts, sums_of_parts = epoch(cuts)
        assert_same(parts, whole)
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
