"""A classifier that reads several layers of MobileNetV2 instead of the last."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
import random_weights
from trees import assert_close

from sscjax.models.mobilenet_v2 import MobileNetV2

MODEL = MobileNetV2(outputs=3, alpha=0.35, bn_momentum=0.9)
NAMES = MODEL.layer_names
# What is compared runs once, over the same code: spare LLVM's work on it.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)


READ = ("block_5_add", "expanded_conv_project_BN", "out_relu")
READER = MODEL.clone(feature_layers=READ)


@pytest.mark.slow
def test_reads_layers_in_the_order_of_the_network(images: np.ndarray) -> None:
    """Features by NumPy from the activations; folded and in training alike; logits from them."""
    variables = jax.tree.map(np.asarray, random_weights.draw(READER, 64))
    end = READER.features_end
    assert NAMES[end - 1] == "global_average_pooling2d"

    @jit_once
    def run(variables: dict[str, Any], x: jax.Array) -> Any:
        features, seen = READER.apply(variables, x, train=False, last=end, capture=READ)
        folded = READER.fold(variables["params"], variables["batch_stats"], len(NAMES))
        ready = {**variables, "params": folded}
        again = READER.apply(ready, x, train=True, last=end, folded=len(NAMES))
        return features, seen, again, READER.apply(variables, x, train=False)

    features, seen, again, logits = run(variables, images)
    wanted = []
    for name in ("expanded_conv_project_BN", "block_5_add", "out_relu"):
        pixels = np.asarray(seen[name], np.float64).reshape(2, -1, seen[name].shape[-1])
        wanted.append(pixels.mean(1))
    assert features.shape == (2, 8 + 16 + 1280)
    assert_close(features, np.concatenate(wanted, axis=1).astype(np.float32))
    assert_close(again, features)
    head = variables["params"]["predictions"]
    assert head["kernel"].shape == (features.shape[1], 3)
    assert_close(logits, np.asarray(features) @ head["kernel"] + head["bias"])


@pytest.mark.slow
def test_cuts_before_what_is_read(images: np.ndarray) -> None:
    """A prefix may end at the first layer read, and after the pooling, not between."""
    assert [NAMES[cut - 1] for cut in READER.cut_points[1:]] == [
        "expanded_conv_project_BN",
        "global_average_pooling2d",
    ]
    variables = jax.tree.map(np.asarray, random_weights.draw(READER, 64))

    @jit_once
    def run(variables: dict[str, Any], x: jax.Array) -> Any:
        whole = READER.apply(variables, x, train=False)
        parts = []
        for cut in READER.cut_points:
            before = READER.apply(variables, x, train=False, last=cut)
            parts.append(READER.apply(variables, before, train=False, first=cut))
        return whole, parts

    whole, parts = run(variables, images)
    assert len(parts) == 3
    for part in parts:
        assert_close(part, whole)
    middle = READER.block_ends[3]
    before = functools.partial(READER.apply, train=False, last=middle)
    after = functools.partial(READER.apply, train=False, first=middle)
    with pytest.raises(ValueError, match="the classifier reads expanded_conv_project_BN"):
        jax.eval_shape(after, variables, jax.eval_shape(before, variables, images))
