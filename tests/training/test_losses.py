"""Losses of classes and of masks, and their gradients in a training step, by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from training_steps import (
    EIGHT,
    IMAGES,
    LABELS,
    begin,
    gradient_of_one_step,
    gradients_kept,
    log_softmax,
    logistic,
    logits_of,
    program,
    scaled,
)
from trees import assert_close

from sscjax.models.layers import MASK
from sscjax.models.unet import FDUNet
from sscjax.training import programs
from sscjax.training.losses import Objective

pytestmark = pytest.mark.usefixtures("quick_compiler")


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
    seen = jax.jit(
        lambda x: UNET.apply(random_weights.draw(UNET, 16), x, train=False, capture=(MASK,))
    )(x)[1]
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
