"""The check of maps on networks with a known answer, and which images it takes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sscjax.evaluation.predictions import Predictions
from sscjax.inference import checked_maps, saliency
from sscjax.models.cnn import CNN

pytestmark = pytest.mark.usefixtures("quick_compiler")

SIZE = 32
MODEL = CNN(outputs=2, widths=(4,), dense=())


def scaled(stored: Any, key: jax.Array | None) -> jax.Array:
    return jnp.asarray(stored, jnp.float32) / 255


def blobs(count: int) -> np.ndarray:
    """Grey images with a red or a blue square, each somewhere else."""
    rng = np.random.default_rng(0)
    images = np.full((count, SIZE, SIZE, 3), 100, np.uint8)
    for number, image in enumerate(images):
        row, column = rng.integers(2, SIZE - 12, 2)
        image[row : row + 10, column : column + 10, 0 if number % 2 else 2] = 250
    return images


def by_hand(sees: bool) -> Any:
    """A network that counts red for class 0 and blue for class 1, above the grey.

    Or one that does not see: its activations are the same, its classifier reads the corners of all
    maps, where none of the squares lies, with a weight that hides what the rest says.
    """
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables["params"])
    for channel, colour in enumerate((0, 2)):
        params["conv1_1"]["kernel"][1, 1, colour, channel] = 1
        params["conv1_1"]["bias"][channel] = -105 / 255
        params["conv1_2"]["kernel"][1, 1, channel, channel] = 1
    side = (SIZE - 4) // 2
    kernel = params["predictions"]["kernel"].reshape(side, side, 4, 2)
    if sees:
        kernel[:, :, 0, 0] = kernel[:, :, 1, 1] = 0.02
    return params


def test_a_network_that_looks_at_the_squares_passes() -> None:
    drawing = checked_maps.drawing(MODEL, scaled)
    found = checked_maps.check(drawing, by_hand(sees=True), {}, blobs(8))
    assert found.agree == 8 and found.passed


def test_a_network_that_looks_at_nothing_fails() -> None:
    drawing = checked_maps.drawing(MODEL, scaled)
    found = checked_maps.check(drawing, by_hand(sees=False), {}, blobs(4))
    assert found.occlusion == (None,) * 4 and not found.passed


def test_the_wrong_map_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of the same size that are those of other images: occlusion contradicts them."""
    drawing = checked_maps.drawing(MODEL, scaled)
    params, images = by_hand(sees=True), blobs(8)
    occlusion = saliency.occlusion

    def of_others(*args: Any, **settings: Any) -> np.ndarray:
        return np.roll(occlusion(*args, **settings), 2, axis=0)

    monkeypatch.setattr(saliency, "occlusion", of_others)
    assert not checked_maps.check(drawing, params, {}, images).passed


def test_a_random_classifier_keeps_how_much_each_feature_counts() -> None:
    kernel = np.zeros((6, 3), np.float32)
    kernel[1] = 0.01 * np.array([1, -1, 0])
    kernel[4] = 100 * np.array([1, -1, 0])
    drawn = [
        checked_maps.random_classifier({"predictions": {"kernel": kernel, "bias": 7}}, seed)
        for seed in range(200)
    ]
    assert all(one["predictions"]["bias"] == 7 for one in drawn)
    kernels = np.stack([one["predictions"]["kernel"] for one in drawn])
    expected = np.sqrt((kernel**2).mean(axis=1))
    np.testing.assert_allclose(np.sqrt((kernels**2).mean(axis=(0, 2))), expected, rtol=0.15)
    assert not np.array_equal(kernels[0], kernels[1])


def test_images_are_of_each_class_in_turn_and_of_other_subjects() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 0])
    table = Predictions(
        files=np.arange(8).astype(str),
        subjects=np.array(["a", "a", "b", "c", "d", "d", "e", "z"]),
        splits=np.array(["test"] * 7 + ["train"]),
        labels=labels,
        probabilities=np.full((8, 3), 1 / 3),
        classes=("x", "y", "z"),
    )
    # a, d, e; b and d's second; c; a's second.
    assert checked_maps.choose(table, 99).tolist() == [0, 4, 6, 2, 5, 3, 1]
    assert checked_maps.choose(table, 4).tolist() == [0, 4, 6, 2]
