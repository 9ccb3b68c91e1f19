"""MobileNetV2 run in stretches, with captured layers and with batch statistics.

What it computes is held against Keras and PyTorch in `test_equivalence.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax_mobilenet_v2 import PlainMobileNetV2
from trees import assert_close

from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.ops import elementwise

MODEL = MobileNetV2(outputs=3, alpha=0.35, bn_momentum=0.9)
NAMES = MODEL.layer_names
# What is compared runs once, over the same code: spare LLVM's work on it.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return jax.tree.map(np.asarray, random_weights.draw(MODEL, 64))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)


def only(variables: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The variables of some layers alone."""
    return {
        kind: {name: layer for name, layer in layers.items() if name in names}
        for kind, layers in variables.items()
    }


# ---- the list of layers -------------------------------------------------------------------------


def test_layers_as_keras_counts_them() -> None:
    """153 layers after the input; the first ten are those that the paper's study 2 freezes."""
    assert MODEL.head_start == 153 and len(NAMES) == 156
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[:11] == (
        *("Conv1", "bn_Conv1", "Conv1_relu"),
        *("expanded_conv_depthwise", "expanded_conv_depthwise_BN", "expanded_conv_depthwise_relu"),
        *("expanded_conv_project", "expanded_conv_project_BN"),
        *("block_1_expand", "block_1_expand_BN", "block_1_expand_relu"),
    )
    assert NAMES[149:] == (
        *("block_16_project_BN", "Conv_1", "Conv_1_bn", "out_relu"),
        *("global_average_pooling2d", "dropout", "predictions"),
    )


def test_cut_points() -> None:
    """The ends of the 17 blocks, the features, and the pooled features."""
    last = [NAMES[cut - 1] for cut in MODEL.cut_points[1:]]
    adds = {2, 4, 5, 7, 8, 9, 11, 12, 14, 15}
    assert MODEL.cut_points[0] == 0
    assert last == [
        "expanded_conv_project_BN",
        *(f"block_{i}_{'add' if i in adds else 'project_BN'}" for i in range(1, 17)),
        "out_relu",
        "global_average_pooling2d",
    ]


# Channels of Conv1, of the seven groups of blocks and of Conv_1, and all parameters without the
# head, as Keras' summaries of its own models show them.
KERAS = {
    0.35: ((16, 8, 8, 16, 24, 32, 56, 112, 1280), 410_208),
    0.5: ((16, 8, 16, 16, 32, 48, 80, 160, 1280), 706_224),
    0.75: ((24, 16, 24, 24, 48, 72, 120, 240, 1280), 1_382_064),
    1.0: ((32, 16, 24, 32, 64, 96, 160, 320, 1280), 2_257_984),
    1.3: ((40, 24, 32, 40, 80, 128, 208, 416, 1664), 3_766_048),
    1.4: ((48, 24, 32, 48, 88, 136, 224, 448, 1792), 4_363_712),
}
FIRST_BLOCKS = (1, 3, 6, 10, 13, 16)


@pytest.mark.parametrize("alpha", KERAS)
def test_widths(alpha: float) -> None:
    found = random_weights.shapes(MobileNetV2(outputs=3, alpha=alpha), 64)
    params = found["params"]
    first = [f"block_{i}_project" for i in FIRST_BLOCKS]
    layers = ("Conv1", "expanded_conv_project", *first, "Conv_1")
    widths, total = KERAS[alpha]
    assert tuple(params[name]["kernel"].shape[-1] for name in layers) == widths
    assert params["predictions"]["kernel"].shape == (widths[-1], 3)
    leaves = jax.tree.leaves(found)
    head = 3 * widths[-1] + 3
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == total + head
    # Depthwise kernels have one input channel, six times the block's input wide.
    assert params["block_1_depthwise"]["kernel"].shape == (3, 3, 1, 6 * widths[1])


# ---- stretches of layers ------------------------------------------------------------------------


@pytest.mark.slow
def test_prefix_and_suffix_equal_the_whole(variables: dict[str, Any], images: np.ndarray) -> None:
    """At every cut, each part given the variables of its own layers alone."""
    ends = tuple(NAMES[cut - 1] for cut in MODEL.cut_points[1:])

    @jit_once
    def run(variables: dict[str, Any], x: jax.Array) -> Any:
        # One program: what two suffixes have in common is compiled once.
        whole, captured = MODEL.apply(variables, x, train=False, capture=ends)
        parts: dict[int, Any] = {}
        stretch: Any = x
        start = 0
        for cut in MODEL.cut_points:
            own = only(variables, NAMES[start:cut])
            stretch = MODEL.apply(own, stretch, train=False, first=start, last=cut)
            rest = only(variables, NAMES[cut:])
            parts[cut] = stretch, MODEL.apply(rest, stretch, train=False, first=cut)
            start = cut
        return whole, captured, parts

    whole, captured, parts = run(variables, images)
    assert len(parts) == 20 and len(captured) == 19
    assert whole.shape == (2, 3) and whole.dtype == np.float32
    for cut, (activation, logits) in parts.items():
        assert_close(activation, captured[NAMES[cut - 1]] if cut else images)
        assert_close(logits, whole)


# ---- stretches, in earnest ----------------------------------------------------------------------


@pytest.mark.slow
def test_one_prefix_in_earnest(variables: dict[str, Any], images: np.ndarray) -> None:
    """As features are computed and used: two compiled programs, cut inside the network."""
    cut = MODEL.cut_points[4]
    prefix = jax.jit(lambda v, x: MODEL.apply(v, x, train=False, last=cut))(variables, images)
    assert prefix.shape == (2, 8, 8, 16)
    last = MODEL.cut_points[6]
    suffix = jit_once(lambda v, x: MODEL.apply(v, x, train=False, first=cut, last=last))
    direct = jit_once(lambda v, x: MODEL.apply(v, x, train=False, last=last))
    assert_close(suffix(variables, prefix), direct(variables, images))


@pytest.mark.slow
def test_capture_of_convolutions(variables: dict[str, Any], images: np.ndarray) -> None:
    """Every layer can be seen; what Keras' `bn_Conv1` would be is computed by hand."""
    last = MODEL.cut_points[2]
    convolutions = tuple(n for n in NAMES[:last] if n.endswith(("Conv1", "depthwise", "project")))

    @jit_once
    def run(v: dict[str, Any], x: jax.Array) -> Any:
        plain = MODEL.apply(v, x, train=False, last=last)
        return plain, MODEL.apply(v, x, train=False, last=last, capture=NAMES[:last])

    plain, (captured, found) = run(variables, images)
    assert_close(captured, plain)
    # Neither bn_Conv1 nor the paddings are convolutions.
    assert len(convolutions) == 6 and set(found) == set(NAMES[:last])
    np.testing.assert_array_equal(found[NAMES[last - 1]], captured)
    params, statistics = variables["params"], variables["batch_stats"]
    x = np.asarray(found["Conv1"])
    norm, running = params["bn_Conv1"], statistics["bn_Conv1"]
    normal = (x - running["mean"]) / np.sqrt(running["var"] + 1e-3)
    assert_close(found["bn_Conv1"], normal * norm["scale"] + norm["bias"])
    np.testing.assert_array_equal(found["Conv1_relu"], np.clip(np.asarray(found["bn_Conv1"]), 0, 6))
    # Keras pads 32 pixels at stride 2 below and right only.
    assert found["block_1_pad"].shape == (2, 33, 33, 48)
    np.testing.assert_array_equal(found["block_1_pad"][:, :32, :32], found["block_1_expand_relu"])


# ---- batch statistics ---------------------------------------------------------------------------


@pytest.mark.slow
def test_batch_statistics_from(variables: dict[str, Any], images: np.ndarray) -> None:
    """Below: running averages used and kept. From there on: as Flax' own BatchNorm."""
    start, last = MODEL.cut_points[1], MODEL.cut_points[3]
    stretch = NAMES[start:last]
    norms = [name for name in stretch if name.endswith("_BN")]
    first_by_batch = norms[2]
    x = np.random.default_rng(2).normal(size=(4, 16, 16, 8)).astype(np.float32)
    own = only(variables, stretch)

    @jit_once
    def run(v: dict[str, Any], x: jax.Array) -> Any:
        return MODEL.apply(
            v,
            x,
            train=True,
            batch_statistics_from=NAMES.index(first_by_batch),
            first=start,
            last=last,
            capture=stretch,
            mutable=["batch_stats"],
        )

    (_, found), updated = run(own, x)
    assert set(updated["batch_stats"]) == set(norms) and len(norms) == 6
    for index, name in enumerate(norms):
        before = {kind: own[kind][name] for kind in own}
        after = updated["batch_stats"][name]
        plain = nn.BatchNorm(
            use_running_average=index < 2, momentum=0.9, epsilon=1e-3, use_fast_variance=False
        )
        inputs = found[name.removesuffix("_BN")]
        with jax.numpy_rank_promotion("allow"):
            expected, state = plain.apply(before, inputs, mutable=["batch_stats"])
        assert_close(found[name], expected)
        for leaf in ("mean", "var"):
            if index < 2:
                np.testing.assert_array_equal(after[leaf], before["batch_stats"][leaf])
            else:
                assert_close(after[leaf], state["batch_stats"][leaf])
                assert np.abs(after[leaf] - before["batch_stats"][leaf]).max() > 1e-3


@pytest.mark.parametrize("folded", (10, len(NAMES)))
def test_fold(variables: dict[str, Any], folded: int) -> None:
    """BatchNorm in the kernels of the first layers: the same values, the rest as it was."""
    last = MODEL.cut_points[4]
    x = np.random.default_rng(3).normal(size=(2, 32, 32, 3)).astype(np.float32)

    @jit_once
    def run(v: dict[str, Any], x: jax.Array) -> Any:
        params = MODEL.fold(v["params"], v["batch_stats"], folded)
        own = {"params": params, "batch_stats": v["batch_stats"]}
        plain = MODEL.apply(v, x, train=False, last=last)
        return plain, MODEL.apply(own, x, train=False, last=last, folded=folded), params

    plain, found, params = run(variables, x)
    assert_close(found, plain)
    assert set(params) == set(variables["params"])
    norms = [name for name in NAMES if name in variables["batch_stats"]]
    for name in norms:
        kept = {"bias"} if NAMES.index(name) < folded else {"scale", "bias"}
        assert set(params[name]) == kept
    assert len(norms) == 52 and set(MODEL.norm_after.values()) == set(norms)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", (0.25, 0.35))
def test_layers_computed_together(alpha: float) -> None:
    """Equal to one by one: also where the first block adds its input, as in very narrow networks.

    What is asked for within a group is what it is without groups.
    """
    model = MODEL.clone(alpha=alpha)
    assert ("expanded_conv_add" in model.layer_names) == (alpha == 0.25)
    variables = random_weights.draw(model, 32)
    last = model.cut_points[4]
    folded = model.fold(variables["params"], variables["batch_stats"], len(model.layer_names))
    x = np.random.default_rng(8).normal(size=(2, 32, 32, 3)).astype(np.float32)
    inside = ("Conv1_relu", "block_1_pad", "block_2_depthwise_BN", "block_2_depthwise_relu")

    @jit_once
    def run(v: dict[str, Any], folded: dict[str, Any], x: jax.Array) -> Any:
        own = {"params": folded, "batch_stats": v["batch_stats"]}
        plain, seen = model.apply(v, x, train=False, last=last, capture=inside)
        count = len(model.layer_names)
        together = model.apply(own, x, train=False, last=last, folded=count)
        also, found = model.apply(own, x, train=False, last=last, folded=count, capture=inside)
        return plain, seen, together, also, found

    plain, seen, together, also, found = run(variables, folded, x)
    assert_close(together, plain)
    assert_close(also, plain)
    assert_close(found, seen)


# ---- the head -----------------------------------------------------------------------------------


def test_head(variables: dict[str, Any]) -> None:
    """Pooling and one dense layer, in NumPy."""
    x = np.random.default_rng(4).uniform(0, 6, (3, 2, 2, 1280)).astype(np.float32)
    logits = MODEL.apply(variables, x, train=False, first=MODEL.head_start)
    layer = variables["params"]["predictions"]
    assert_close(logits, x.mean((1, 2)) @ layer["kernel"] + layer["bias"])


def test_dropout_acts_in_training_alone(variables: dict[str, Any]) -> None:
    x = np.random.default_rng(5).uniform(1, 2, (4, 1280)).astype(np.float32)
    model = MODEL.clone(dropout_rate=0.25)
    start = MODEL.head_start + 1

    def apply(model: MobileNetV2, train: bool, **kwargs: Any) -> Any:
        return model.apply(variables, x, train=train, first=start, capture=("dropout",), **kwargs)

    plain, _ = apply(MODEL, False)
    logits, found = apply(model, False)
    np.testing.assert_array_equal(logits, plain)
    np.testing.assert_array_equal(found["dropout"], x)
    np.testing.assert_array_equal(apply(MODEL, True)[0], plain)  # a rate of 0 needs no key

    key = jax.random.key(0)
    logits, found = apply(model, True, rngs={"dropout": key})
    dropped = np.asarray(found["dropout"]) == 0
    # 5120 draws: the standard deviation of the share is 0.006.
    assert abs(dropped.mean() - 0.25) < 0.03
    np.testing.assert_allclose(np.asarray(found["dropout"])[~dropped], x[~dropped] / 0.75, 1e-6)
    assert jnp.abs(logits - plain).max() > 1e-3
    with pytest.raises(flax.errors.InvalidRngError):
        apply(model, True)


# ---- against the plain formulation --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("padding", "size"), [("keras", 33), ("torch", 32)])
def test_equals_the_plain_formulation(
    variables: dict[str, Any], padding: elementwise.Padding, size: int
) -> None:
    """Logits and every gradient of grouped convolutions and BatchNorm as Flax has them."""
    model = MODEL.clone(padding=padding)
    x = np.random.default_rng(6).normal(size=(2, size, size, 3)).astype(np.float32)
    g = np.random.default_rng(7).normal(size=(2, 3)).astype(np.float32)
    statistics = variables["batch_stats"]

    def fast(params: dict[str, Any]) -> Any:
        layers = len(NAMES)
        own = {"params": model.fold(params, statistics, layers), "batch_stats": statistics}
        return model.apply(own, x, train=False, folded=layers)

    def plain(params: dict[str, Any]) -> Any:
        return PlainMobileNetV2(model).apply({"params": params, "batch_stats": statistics}, x)

    def both(function: Any) -> Any:
        value, pull = jax.vjp(function, variables["params"])
        return value, pull(g)

    found, gradients = jit_once(lambda: both(fast))()
    expected, plain_gradients = jit_once(lambda: both(plain))()
    assert_close(found, expected)
    assert_close(gradients, plain_gradients)
