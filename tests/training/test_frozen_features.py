"""Features computed once equal the network itself, of every image and in every part."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from trees import assert_close

from sscjax.errors import UserError
from sscjax.models import mobilenet_v2
from sscjax.models.cnn import CNN
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.training import freezing, frozen_features, losses, programs

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
    program = programs.Program(SMALL, losses.Objective("softmax"), scaled)
    advances: list[int] = []
    found = frozen_features.compute(
        program,
        LAST,
        variables["params"],
        {},
        IMAGES,
        batch_size=batch_size,
        progress=advances.append,
    )
    expected: Any = SMALL.apply(variables, scaled(IMAGES, None), train=False, last=LAST)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert found.shape == expected.shape == (10, 6, 6, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert advances == done


def test_features_that_were_kept_count_as_done(tmp_path: Path) -> None:
    variables = random_weights.draw(SMALL, 17)
    program = programs.Program(SMALL, losses.Objective("softmax"), scaled)
    store = frozen_features.Store(tmp_path, 1e6)
    for expected in ([4, 4, 2], [10]):
        advances: list[int] = []
        frozen_features.compute(
            program,
            LAST,
            variables["params"],
            {},
            IMAGES,
            batch_size=4,
            progress=advances.append,
            entry=store.entry("a", held=True),
        )
        assert advances == expected


def test_batches_have_one_shape() -> None:
    """The tail is filled up with the last image, so that nothing compiles twice."""
    seen: list[Any] = []

    def function(x: Any) -> jax.Array:
        seen.append(x)
        return jnp.asarray(x[:, :1] + 1)

    stored = np.arange(14).reshape(7, 2)
    found = frozen_features.batched(function, stored, 3)
    np.testing.assert_array_equal(found, [[1], [3], [5], [7], [9], [11], [13]])
    assert [len(x) for x in seen] == [3, 3, 3]
    np.testing.assert_array_equal(seen[2], [[12, 13]] * 3)
    with pytest.raises(ValueError, match="no images"):
        frozen_features.batched(function, stored[:0], 3)


# ---- kept on disk -------------------------------------------------------------------------------


def key_of(variables: Any, **changes: Any) -> str:
    options: dict[str, Any] = {"images": "a", "scaling": "minus_one_one", "batch_size": 4}
    program = programs.Program(
        changes.pop("model", SMALL), losses.Objective("softmax"), scaled, micro_batch=2
    )
    program = dataclasses.replace(program, micro_batch=changes.pop("micro_batch", 2))
    last = changes.pop("last", LAST)
    return frozen_features.key(
        program, last, variables["params"], variables.get("batch_stats", {}), **(options | changes)
    )


def test_keys_change_with_all_that_features_depend_on() -> None:
    model = MobileNetV2(outputs=3, alpha=0.35)
    variables = random_weights.draw(model, 32)
    first = functools.partial(key_of, model=model, last=20)
    layer, later = "block_1_expand", "block_9_expand"
    assert layer in model.layer_names[:20] and later not in model.layer_names[:20]

    def changed(kind: str, name: str, entry: str) -> Any:
        tree = dict(variables[kind])
        tree[name] = {**tree[name], entry: tree[name][entry] + 1e-6}
        return {**variables, kind: tree}

    same = (first(variables), first(changed("params", later, "kernel")))
    assert same[0] == same[1]
    others = (
        first(changed("params", layer, "kernel")),
        first(changed("batch_stats", f"{layer}_BN", "mean")),
        first(variables, last=28),
        first(variables, model=model.clone(padding="torch")),
        first(variables, model=model.clone(bn_epsilon=1e-5)),
        first(variables, images="b"),
        first(variables, scaling="imagenet"),
        first(variables, batch_size=8),
        first(variables, micro_batch=4),
    )
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        compiled_well = first(variables)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    with jax.default_matmul_precision("bfloat16"):
        rounded = first(variables)
    assert len({same[0], *others, compiled_well, rounded}) == 3 + len(others)


def stored(
    store: frozen_features.Store, key: str, features: np.ndarray, *, held: bool = True
) -> tuple[Any, bool]:
    """Features under a key, in two batches if they are computed; whether they were read."""
    entry = store.entry(key, held=held)
    read = entry.read(features.shape)
    if read is not None:
        return read, True
    parts = (slice(0, 3), slice(3, len(features)))
    return entry.write(features.shape, ((part, features[part]) for part in parts)), False


@pytest.mark.parametrize("held", (True, False))
def test_features_are_computed_once_by_key(tmp_path: Path, held: bool) -> None:
    expected = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    store = frozen_features.Store(tmp_path / "features", 10_000)
    for key, read in (("a", False), ("a", True), ("b", False), ("a", True)):
        features, was_read = stored(store, key, expected, held=held)
        assert isinstance(features, np.ndarray) == held and was_read == read
        np.testing.assert_array_equal(features[:], expected)


def test_the_longest_unused_features_go_first(tmp_path: Path) -> None:
    features = np.zeros((5, 100), np.float32)
    store = frozen_features.Store(tmp_path, 3 * 2200)  # of some 2,150 bytes each
    for age, key in enumerate("abc"):
        stored(store, key, features)
        os.utime(tmp_path / f"{key}.npy", (1000 + age, 1000 + age))
    assert stored(store, "a", features)[1]  # used again
    assert not stored(store, "d", features)[1]
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_more_than_the_folder_may_hold_stays_in_memory(tmp_path: Path) -> None:
    store = frozen_features.Store(tmp_path, 1999)
    assert not store.takes(2000)
    features, _ = stored(store, "a", np.zeros((5, 100), np.float32))
    assert isinstance(features, np.ndarray)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "features").write_text("a file in its place")
    expected = np.ones((5, 100), np.float32)
    store = frozen_features.Store(tmp_path / "features", 10_000)
    features, _ = stored(store, "a", expected)
    np.testing.assert_array_equal(features, expected)
    assert "cannot be stored there" in caplog.text
    with pytest.raises(UserError, match="cannot be stored there .*SSCJAX_CACHE"):
        stored(store, "a", expected, held=False)


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
    labels = freezing.label_layers(model.layer_names, model.head_start, params, **stage)
    found = frozen_features.prefix_length(model, labels)
    assert (model.layer_names[found - 1] if found else None) == last
    if stage.get("freeze_first") == 10:
        assert found == 8


def test_prefix_length_of_the_cnn() -> None:
    """Its head begins after the last pool; the first block ends after five layers."""
    params = random_weights.shapes(SMALL, 17)["params"]
    label = functools.partial(freezing.label_layers, SMALL.layer_names, SMALL.head_start, params)
    assert frozen_features.prefix_length(SMALL, label(trainable="head")) == 10
    assert frozen_features.prefix_length(SMALL, label(trainable="all", freeze_first=7)) == 5
    assert frozen_features.prefix_length(SMALL, label(trainable="all", freeze_first=4)) == 5
    assert frozen_features.prefix_length(SMALL, label(trainable="all", freeze_first=2)) == 0


def test_prefix_shape() -> None:
    variables = random_weights.draw(SMALL, 17)
    names = SMALL.layer_names

    @jax.jit
    def run(variables: dict[str, Any], x: jax.Array) -> Any:
        return SMALL.apply(variables, x, train=False, capture=names)[1]

    seen = run(variables, scaled(IMAGES, None))
    for last in (*SMALL.cut_points[1:], len(names)):
        shape = frozen_features.prefix_shape(SMALL, variables, last, IMAGES.shape)
        assert shape == np.shape(seen[names[last - 1]])


def test_prefix_shape_of_the_paper() -> None:
    """2727 images: pooled features, and the ends of the first and the last block, by hand."""
    model = MobileNetV2(outputs=4)
    variables = random_weights.shapes(model, 128)
    for last, numbers in ((154, (1280,)), (8, (64, 64, 16)), (150, (4, 4, 320))):
        found = frozen_features.prefix_shape(model, variables, last, (2727, 128, 128, 3))
        assert found == (2727, *numbers)


# ---- random weights -----------------------------------------------------------------------------


Calibrated = tuple[MobileNetV2, dict[str, Any], list[freezing.Params], list[jax.Array]]


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
        frozen_features.calibrate_batch_norm(
            model, variables["params"], variables["batch_stats"], some
        )
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


@pytest.mark.slow
def test_calibration_is_the_mean_over_batches(calibrated: Calibrated) -> None:
    model, variables, (first, both), batches = calibrated
    second = frozen_features.calibrate_batch_norm(
        model, variables["params"], variables["batch_stats"], [batches[1]]
    )
    assert_close(both, jax.tree.map(lambda a, b: (a + b) / 2, first, second))
    # All layers are there, and each batch has its own averages.
    assert set(both) == set(variables["batch_stats"])
    assert not np.allclose(first["bn_Conv1"]["mean"], second["bn_Conv1"]["mean"], rtol=1e-3)


def test_calibration_without_batch_norm() -> None:
    params = random_weights.draw(SMALL, 17)["params"]
    assert frozen_features.calibrate_batch_norm(SMALL, params, {}, [scaled(IMAGES, None)]) == {}
