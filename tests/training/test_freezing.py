"""Labels by layer, the paper's counts, and frozen layers that do not change by a bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights

from sscjax.errors import UserError
from sscjax.models import factory
from sscjax.models.cnn import CNN
from sscjax.training import freezing, losses, optimizers, programs, train_step

pytestmark = pytest.mark.usefixtures("quick_compiler")


def params() -> freezing.Params:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "bn": {"scale": draw(4), "bias": draw(4)},
        "dense": {"kernel": draw(4, 3), "bias": draw(3)},
    }


NAMES = ("conv", "relu", "bn", "head_drop", "dense")


def test_labels() -> None:
    head = freezing.label_layers(NAMES, 3, params(), trainable="head")
    assert list(head.items()) == [("conv", "freeze"), ("bn", "freeze"), ("dense", "train")]
    # `freeze_first` counts activations: 2 freezes the convolution and its ReLU.
    for freeze_first, expected in ((0, {}), (1, {"conv"}), (2, {"conv"}), (3, {"conv", "bn"})):
        labels = freezing.label_layers(
            NAMES, 3, params(), trainable="all", freeze_first=freeze_first
        )
        assert {name for name, label in labels.items() if label == "freeze"} == set(expected)


def test_labels_ignore_freeze_first_for_the_head() -> None:
    assert freezing.label_layers(
        NAMES, 3, params(), trainable="head", freeze_first=1
    ) == freezing.label_layers(NAMES, 3, params(), trainable="head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainable": "tail"}, "expected 'head' or 'all'"),
        ({"freeze_first": -1}, "freeze_first=-1: expected 0 to 5"),
        ({"freeze_first": 6}, "freeze_first=6: expected 0 to 5"),
        ({"freeze_first": 5}, "freeze_first=5 freezes every layer"),
    ],
)
def test_wrong_stage(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        freezing.label_layers(NAMES, 3, params(), **{"trainable": "all", **change})
    assert "\n" not in str(caught.value)


def test_parameter_of_no_layer() -> None:
    tree = params() | {"stray": {"kernel": jnp.zeros(3)}}
    with pytest.raises(ValueError, match="no known layer: stray"):
        freezing.label_layers(NAMES, 3, tree, trainable="all")


def shapes(name: str, outputs: int) -> Any:
    model: Any = factory.build_model(factory.ModelSettings(name), factory.Task(outputs, 128))
    found = random_weights.shapes(model, 128)
    return model, found["params"], found.get("batch_stats", {})


@pytest.mark.parametrize(
    ("outputs", "stage", "total", "frozen", "trained"),
    [
        # Study 1, two classes by one output: the head alone, then everything.
        (1, {"trainable": "head"}, 2_259_265, 2_257_984, 1_281),
        (1, {"trainable": "all"}, 2_259_265, 34_112, 2_225_153),
        # Study 2, four outputs: the head alone, then all but the first ten layers.
        (4, {"trainable": "head"}, 2_263_108, 2_257_984, 5_124),
        (4, {"trainable": "all", "freeze_first": 10}, 2_263_108, 37_664, 2_225_444),
    ],
)
def test_counts_of_the_paper(
    outputs: int, stage: dict[str, Any], total: int, frozen: int, trained: int
) -> None:
    model, tree, statistics = shapes("mobilenet_v2", outputs)
    labels = freezing.label_layers(model.layer_names, model.head_start, tree, **stage)
    counts = freezing.count_parameters(tree, statistics, labels)
    assert (counts.total, counts.frozen, counts.trained) == (total, frozen, trained)


def test_counts_of_the_cnn() -> None:
    """Without BatchNorm nothing is frozen: four blocks, then 4 x 4 x 256 pixels to 128 to 2."""
    model, tree, statistics = shapes("cnn", 2)
    assert statistics == {}
    labels = freezing.label_layers(model.layer_names, model.head_start, tree, trainable="all")
    widths = (3, 32, 64, 128, 256)
    pairs = zip(widths, widths[1:], strict=False)
    convolutions = sum(9 * c * d + d + 9 * d * d + d for c, d in pairs)
    counts = freezing.count_parameters(tree, statistics, labels)
    assert counts.trained == counts.total == convolutions + 4096 * 128 + 128 + 128 * 2 + 2
    assert counts.frozen == 0


def moments(state: Any) -> int:
    """Bytes of an optimizer's arrays, without step counters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim)


MODEL = CNN(outputs=2, widths=(4, 8), dense=(8,))


PROGRAM = programs.Program(MODEL, losses.Objective("softmax"), lambda stored, key: stored)


IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)


CLASSES = np.array([0, 1] * 4, np.int32)


def network(freeze_first: int = 5) -> tuple[freezing.Params, dict[str, str]]:
    """Parameters and labels: the first of two blocks is frozen, five layers with activations."""
    tree = jax.tree.map(jnp.array, random_weights.draw(MODEL, 16)["params"])
    labels = freezing.label_layers(
        MODEL.layer_names, MODEL.head_start, tree, trainable="all", freeze_first=freeze_first
    )
    return tree, labels


def rule(name: Any = "adamw") -> optax.GradientTransformation:
    decay = 0.0 if name == "adam" else 0.1
    return optimizers.make_optimizer(
        name, optax.constant_schedule(0.01), weight_decay=decay, clip_norm=0.5
    )


@pytest.mark.parametrize("order", [np.arange(8).reshape(2, 4), np.arange(8)[None]])
def test_training_step_leaves_frozen_layers_alone(order: np.ndarray) -> None:
    """To the bit, the sign of a zero too, in one step or a loop of them; nor have they a state."""
    tree, labels = network()
    tree["conv1_1"]["bias"] = jnp.array([-0.0, 0.0, 1e-45, np.pi], jnp.float32)
    trained, frozen = freezing.partition(tree, labels)
    assert set(frozen) == {"conv1_1", "conv1_2"}
    before, names = jax.tree.map(np.array, tree), set(trained)
    optimizer = freezing.freeze_mask(rule(), labels)
    state = train_step.TrainState(jnp.int32(0), tree, {}, optimizer.init(tree))
    assert moments(state.opt_state) == 2 * 4 * freezing.count(trained)
    run = train_step.make_epoch(PROGRAM, optimizer, labels)
    state, _ = run(state, IMAGES, CLASSES, order, np.ones(order.shape), jax.random.key(1))
    assert state.step == len(order)
    assert moments(state.opt_state) == 2 * 4 * sum(
        before[n][k].size for n in names for k in before[n]
    )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.opt_state)]
    assert not [path for path in paths if "conv1_" in path]
    assert len([path for path in paths if "conv2_1" in path]) == 4
    for name, layer in before.items():
        for kind, old in layer.items():
            new = np.asarray(state.params[name][kind])
            if name in names:
                assert (new != old).any()
            else:
                assert new.tobytes() == old.tobytes()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_training_equals_plain_optax(name: Any) -> None:
    """Three steps as `optax.multi_transform` takes them over the gradient of all parameters."""
    tree, labels = network()
    plain = optax.multi_transform({"train": rule(name), "freeze": optax.set_to_zero()}, labels)

    def loss(params: Any) -> jax.Array:
        logits: Any = MODEL.apply({"params": params}, jnp.asarray(IMAGES), train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, CLASSES).mean()

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = plain.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    expected, plain_state = tree, plain.init(tree)
    for _ in range(3):
        expected, plain_state = step(expected, plain_state)
    expected = jax.tree.map(np.array, expected)
    optimizer = freezing.freeze_mask(rule(name), labels)
    state = train_step.TrainState(jnp.int32(0), tree, {}, optimizer.init(tree))
    order = np.tile(np.arange(8), (3, 1))
    run = train_step.make_epoch(PROGRAM, optimizer, labels)
    state, _ = run(state, IMAGES, CLASSES, order, np.ones((3, 8)), jax.random.key(1))
    for a, b in zip(*map(jax.tree.leaves, (state.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_frozen_layers_cost_nothing() -> None:
    """The masked step has the FLOPs of one that knows of the trained layers alone."""
    tree, labels = network()
    trained, frozen = freezing.partition(tree, labels)
    inner, key = rule(), jax.random.key(1)
    batch = jnp.asarray(IMAGES), jnp.asarray(CLASSES), jnp.ones(8)

    def alone(params: Any, frozen: Any, state: Any) -> Any:
        gradients, _, sums = train_step._gradients(PROGRAM, params, frozen, {}, batch, key)
        updates, state = inner.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, sums

    def flops(function: Any, *arguments: Any) -> float:
        return float(function.lower(*arguments).compile().cost_analysis()["flops"])

    optimizer = freezing.freeze_mask(inner, labels)
    state = train_step.TrainState(jnp.int32(0), tree, {}, optimizer.init(tree))
    order, ones = np.arange(8)[None], np.ones((1, 8), np.float32)
    run = train_step.make_epoch(PROGRAM, optimizer, labels)
    masked = flops(run, state, IMAGES, CLASSES, order, ones, key)
    wanted = flops(programs.jit(alone), trained, frozen, inner.init(trained))
    assert masked == pytest.approx(wanted, rel=0.01)
    # By everything it would be far more.
    assert flops(programs.jit(alone), tree, {}, inner.init(tree)) > 1.2 * wanted


def test_step_refuses_labels_that_match_no_layer() -> None:
    tree, labels = network()
    optimizer = freezing.freeze_mask(rule(), labels)
    state = train_step.TrainState(jnp.int32(0), tree, {}, optimizer.init(tree))
    arguments = IMAGES, CLASSES, np.arange(8)[None], np.ones((1, 8)), jax.random.key(1)
    fewer = {name: label for name, label in labels.items() if name != "predictions"}
    for wrong, name in ((fewer, "predictions"), ({**labels, "conv9": "freeze"}, "conv9")):
        masked = freezing.freeze_mask(rule(), wrong)
        with pytest.raises(ValueError, match=f"differ in the layers {name}"):
            masked.init(tree)
        with pytest.raises(ValueError, match=f"differ in the layers {name}"):
            masked.update(tree, state.opt_state, tree)
        with pytest.raises(ValueError, match=f"differ in the layers {name}"):
            train_step.make_epoch(PROGRAM, optimizer, wrong)(state, *arguments)
