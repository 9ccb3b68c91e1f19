"""Features computed once equal the network itself, of every image and in every part."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from trees import assert_close

from sscjax import features, optim, steps
from sscjax.models import mobilenet_v2
from sscjax.models.cnn import CNN
from sscjax.models.mobilenet_v2 import MobileNetV2

pytestmark = pytest.mark.usefixtures("quick_compiler")

SMALL = CNN(outputs=3, widths=(4, 4), dense=(8,))
LAST = SMALL.cut_points[1]
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 17, 17, 3), np.uint8)


def scaled(stored: Any, key: jax.Array | None) -> jax.Array:
    return stored / 127.5 - 1.0


# ---- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "done"), ((4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (16, [10]))
)
def test_compute(batch_size: int, done: list[int]) -> None:
    """With a tail, without one, and with a batch larger than the set."""
    variables = random_weights.draw(SMALL, 17)
    program = steps.Program(SMALL, steps.Objective("softmax"), scaled)
    told: list[int] = []
    found = features.compute(
        program,
        LAST,
        variables["params"],
        {},
        IMAGES,
        batch_size=batch_size,
        progress=told.append,
    )
    expected: Any = SMALL.apply(variables, scaled(IMAGES, None), train=False, last=LAST)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert found.shape == expected.shape == (10, 6, 6, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert told == done


def test_batches_have_one_shape() -> None:
    """The tail is filled up with the last image, so that nothing compiles twice."""
    seen: list[Any] = []

    def function(x: Any) -> jax.Array:
        seen.append(x)
        return jnp.asarray(x[:, :1] + 1)

    stored = np.arange(14).reshape(7, 2)
    found = features.batched(function, stored, 3)
    np.testing.assert_array_equal(found, [[1], [3], [5], [7], [9], [11], [13]])
    assert [len(x) for x in seen] == [3, 3, 3]
    np.testing.assert_array_equal(seen[2], [[12, 13]] * 3)
    with pytest.raises(ValueError, match="no images"):
        features.batched(function, stored[:0], 3)


# ---- which part ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "last"),
    [
        ({"trainable": "head"}, "global_average_pooling2d"),
        # The first ten end inside block 1: the last cut before is the end of the block before it.
        ({"trainable": "all", "freeze_first": 10}, "expanded_conv_project_BN"),
        ({"trainable": "all", "freeze_first": 0}, None),
    ],
)
def test_prefix_length(stage: dict[str, Any], last: str | None) -> None:
    model = MobileNetV2(outputs=4)
    params = random_weights.shapes(model, 32)["params"]
    labels = optim.label_layers(model.layer_names, model.head_start, params, **stage)
    found = features.prefix_length(model, labels)
    assert (model.layer_names[found - 1] if found else None) == last
    if stage.get("freeze_first") == 10:
        assert found == 8


def test_prefix_length_of_the_cnn() -> None:
    """Its head begins after the last pool; the first block ends after five layers."""
    params = random_weights.shapes(SMALL, 17)["params"]
    label = functools.partial(optim.label_layers, SMALL.layer_names, SMALL.head_start, params)
    assert features.prefix_length(SMALL, label(trainable="head")) == 10
    assert features.prefix_length(SMALL, label(trainable="all", freeze_first=7)) == 5
    assert features.prefix_length(SMALL, label(trainable="all", freeze_first=4)) == 5
    assert features.prefix_length(SMALL, label(trainable="all", freeze_first=2)) == 0


def test_prefix_bytes() -> None:
    variables = random_weights.draw(SMALL, 17)
    x = scaled(IMAGES, None)
    for last in (*SMALL.cut_points[1:], len(SMALL.layer_names)):
        activation = SMALL.apply(variables, x, train=False, last=last)
        found = features.prefix_bytes(SMALL, variables, last, IMAGES.shape)
        assert found == np.asarray(activation).nbytes


def test_prefix_bytes_of_the_paper() -> None:
    """2727 images: pooled features, and the ends of the first and the last block, by hand."""
    model = MobileNetV2(outputs=4)
    variables = random_weights.shapes(model, 128)
    for last, numbers in ((154, 1280), (8, 64 * 64 * 16), (150, 4 * 4 * 320)):
        found = features.prefix_bytes(model, variables, last, (2727, 128, 128, 3))
        assert found == 2727 * numbers * 4


# ---- random weights -----------------------------------------------------------------------------


Calibrated = tuple[MobileNetV2, dict[str, Any], list[optim.Params], list[jax.Array]]


@pytest.fixture(scope="module")
def calibrated() -> Iterator[Calibrated]:
    """A network as it starts, with weak kernels; its averages by one batch, and by two."""
    with pytest.MonkeyPatch.context() as patch:
        # Three of the blocks: each kind of layer, and a third of the time.
        patch.setattr(mobilenet_v2, "_BLOCKS", ((1, 16, 1, 1), (6, 24, 2, 2)))
        yield _calibrate()


def _calibrate() -> Calibrated:
    model = MobileNetV2(outputs=3, alpha=0.35, bn_momentum=0.0, bn_epsilon=1e-5)
    start = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            0.3 * leaf if leaf.ndim > 1 else jnp.full_like(leaf, start[path[-1].key])
        ),
        random_weights.draw(model, 32),
    )
    rng = np.random.default_rng(1)
    batches = [jnp.asarray(rng.uniform(-1, 1, (8, 32, 32, 3)), jnp.float32) for _ in range(2)]
    found = [
        features.calibrate_batch_norm(model, variables["params"], variables["batch_stats"], some)
        for some in ([batches[0]], batches)
    ]
    return model, variables, found, batches


def test_calibration_gives_unit_variance(calibrated: Calibrated) -> None:
    """With the measured averages every channel of every BatchNorm has mean 0 and variance 1.

    But for epsilon: variance v becomes v / (v + epsilon).
    """
    model, variables, (averages, _), (batch, _) = calibrated
    norms = tuple(name for name in model.layer_names if name in averages)
    assert len(norms) == 10

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(statistics: Any, x: jax.Array) -> Any:
        both = {"params": variables["params"], "batch_stats": statistics}
        return model.apply(both, x, train=False, capture=norms)[1]

    found = run(averages, batch)
    raw = run(variables["batch_stats"], batch)
    ratios = []
    for name in norms:
        y = np.asarray(found[name], np.float64)
        variance = np.asarray(averages[name]["var"], np.float64)
        np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(y.var((0, 1, 2)), variance / (variance + 1e-5), atol=1e-3)
        ratios.append(np.median(y.var((0, 1, 2))))
    assert min(ratios) > 0.98
    # With 0 and 1, as they start, the signal is lost on its way.
    assert np.asarray(raw[norms[-1]]).var() < 1e-3


def test_calibration_is_the_mean_over_batches(calibrated: Calibrated) -> None:
    model, variables, (first, both), batches = calibrated
    second = features.calibrate_batch_norm(
        model, variables["params"], variables["batch_stats"], [batches[1]]
    )
    assert_close(both, jax.tree.map(lambda a, b: (a + b) / 2, first, second))
    # All layers are there, and each batch has its own averages.
    assert set(both) == set(variables["batch_stats"])
    assert not np.allclose(first["bn_Conv1"]["mean"], second["bn_Conv1"]["mean"], rtol=1e-3)


def test_calibration_without_batch_norm() -> None:
    params = random_weights.draw(SMALL, 17)["params"]
    assert features.calibrate_batch_norm(SMALL, params, {}, [scaled(IMAGES, None)]) == {}
