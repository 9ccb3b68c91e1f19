"""What trains and how: partition, the paper's counts, schedules and optimizers by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from trees import assert_same

from sscjax.errors import UserError
from sscjax.models import factory
from sscjax.models.cnn import CNN
from sscjax.training import freezing, losses, optimizers, programs, train_step

pytestmark = pytest.mark.usefixtures("quick_compiler")

NAMES = ("conv", "relu", "bn", "head_drop", "dense")


def params() -> freezing.Params:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "bn": {"scale": draw(4), "bias": draw(4)},
        "dense": {"kernel": draw(4, 3), "bias": draw(3)},
    }


# ---- labels and partition -----------------------------------------------------------------------


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


# ---- counts -------------------------------------------------------------------------------------


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


# ---- frozen layers ------------------------------------------------------------------------------


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
