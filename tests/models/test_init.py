"""Initial variables drawn by NumPy: the tree that `init` gives, and of one seed the same."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import random_weights

from sscjax.models import CNN, MobileNetV2, initial_variables

MODELS = (MobileNetV2(outputs=3, alpha=0.35), CNN(outputs=3, widths=(4, 8), dense=(8,)))


@pytest.mark.parametrize("model", MODELS)
def test_tree_of_init(model: nn.Module) -> None:
    found, expected = initial_variables(model, 32, seed=0), random_weights.shapes(model, 32)
    structure: Any = jax.tree.structure(expected)
    assert jax.tree.structure(found) == structure
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


def test_values() -> None:
    """Kernels have the variance that their layer asks for, the rest starts at 0 or 1."""
    found = initial_variables(MODELS[0], 32, seed=0)
    for layer, leaves in found["params"].items():
        if "kernel" in leaves:
            shape = leaves["kernel"].shape
            fans = np.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
            assert leaves["kernel"].std() * np.sqrt(fans) == pytest.approx(1, rel=0.12), layer
        assert not leaves.get("bias", np.zeros(1)).any()
        assert (leaves.get("scale", np.ones(1)) == 1).all()
    for leaves in found["batch_stats"].values():
        assert not leaves["mean"].any() and (leaves["var"] == 1).all()
    cnn = initial_variables(MODELS[1], 32, seed=0)["params"]
    # He for the convolutions, Glorot for the last layer.
    assert cnn["conv2_2"]["kernel"].std() == pytest.approx(np.sqrt(2 / 72), rel=0.1)
    assert np.abs(cnn["predictions"]["kernel"]).max() < np.sqrt(6 / 11)


def test_seed_and_layer_decide() -> None:
    first, again, other = (initial_variables(MODELS[0], 32, seed) for seed in (3, 3, 4))
    kernels = [tree["params"]["block_7_project"]["kernel"] for tree in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    same_shape = first["params"]["block_8_project"]["kernel"]
    assert same_shape.shape == kernels[0].shape and not np.array_equal(same_shape, kernels[0])
