"""The CNN against NumPy and PyTorch, written here from the paper's description."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from sscjax.models.cnn import CNN

SMALL = CNN(outputs=3, widths=(4,), dense=(8,))
DEEP = CNN(outputs=2, widths=(4, 6), dense=(8, 5))


def images(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


# ---- references ---------------------------------------------------------------------------------


def numpy_forward(params: dict[str, Any], x: np.ndarray, blocks: int, dense: int) -> np.ndarray:
    """In float64, by windows."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = x.astype(np.float64)
    for block in range(1, blocks + 1):
        for conv in (1, 2):
            layer = weights[f"conv{block}_{conv}"]
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
            x = np.einsum("bhwcij,ijcd->bhwd", windows, layer["kernel"]) + layer["bias"]
            x = np.maximum(x, 0)
        rows, columns = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2  # an odd last one is dropped
        corners = [x[:, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]
        x = np.max(corners, axis=0)
    x = x.reshape(len(x), -1)
    for index in range(1, dense + 1):
        layer = weights[f"dense{index}"]
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ weights["predictions"]["kernel"] + weights["predictions"]["bias"]


@pytest.mark.parametrize(("model", "size"), ((SMALL, 16), (DEEP, 19)))
def test_forward(model: CNN, size: int) -> None:
    tree = random_weights.draw(model, size)
    x = images(size)
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(tree, x)
    expected = numpy_forward(tree["params"], x, len(model.widths), len(model.dense))
    assert found.shape == (2, model.outputs) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.extra
def test_torch_forward_and_gradients() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    from torch.nn import functional

    tree, x = random_weights.draw(DEEP, 18), images(18)
    labels = np.array([0, 1])

    def loss(params: Any) -> Any:
        logits: Any = DEEP.apply({"params": params}, x, train=False)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(2), labels]
        return -chosen.mean(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(tree["params"])

    parameters = jax.tree.map(
        lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), tree["params"]
    )
    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for block in (1, 2):
        for conv in (1, 2):
            layer = parameters[f"conv{block}_{conv}"]
            y = functional.conv2d(y, layer["kernel"].permute(3, 2, 0, 1), layer["bias"]).relu()
        y = functional.max_pool2d(y, 2)
    y = y.permute(0, 2, 3, 1).flatten(1)
    for index in (1, 2):
        layer = parameters[f"dense{index}"]
        y = (y @ layer["kernel"] + layer["bias"]).relu()
    y = y @ parameters["predictions"]["kernel"] + parameters["predictions"]["bias"]
    functional.cross_entropy(y, torch.from_numpy(labels)).backward()

    np.testing.assert_allclose(logits, y.detach().numpy(), atol=1e-5)
    for name, layer in parameters.items():
        for leaf, tensor in layer.items():
            expected = tensor.grad.numpy()
            error = np.abs(np.asarray(gradients[name][leaf]) - expected).max()
            assert error < 1e-5 * np.abs(expected).max(), f"{name}/{leaf}"


# ---- shapes, names, counts ----------------------------------------------------------------------


def test_layer_names() -> None:
    assert CNN(outputs=2, widths=(4, 6), dense=(8,)).layer_names == (
        *("conv1_1", "conv1_1_relu", "conv1_2", "conv1_2_relu", "pool1"),
        *("conv2_1", "conv2_1_relu", "conv2_2", "conv2_2_relu", "pool2"),
        *("flatten", "dropout1", "dense1", "dense1_relu", "dropout", "predictions"),
    )
    assert DEEP.cut_points == (0, 5, 10)
    assert DEEP.head_start == 10
    assert set(random_weights.draw(DEEP, 16)["params"]) <= set(DEEP.layer_names)
    assert CNN(outputs=2, widths=(4,), dense=()).layer_names[5:] == (
        "flatten",
        "dropout",
        "predictions",
    )


def test_parameter_counts() -> None:
    params = random_weights.draw(SMALL, 16)["params"]
    found = {name: sum(leaf.size for leaf in layer.values()) for name, layer in params.items()}
    assert found == {
        "conv1_1": 3 * 3 * 3 * 4 + 4,
        "conv1_2": 3 * 3 * 4 * 4 + 4,
        "dense1": 6 * 6 * 4 * 8 + 8,  # 16 - 2 - 2 = 12, halved
        "predictions": 8 * 3 + 3,
    }


def test_default_widths() -> None:
    """128 pixels: 62, 29, 12, 4 after the blocks."""
    shapes = random_weights.shapes(CNN(outputs=2), 128)["params"]
    channels = [shapes[f"conv{i}_{j}"]["kernel"].shape[3] for i in (1, 2, 3, 4) for j in (1, 2)]
    assert channels == [32, 32, 64, 64, 128, 128, 256, 256]
    assert shapes["dense1"]["kernel"].shape == (4 * 4 * 256, 128)


@pytest.mark.parametrize(("widths", "least"), (((4,), 6), ((4, 4), 16), ((4, 4, 4, 4), 76)))
def test_smallest_input(widths: tuple[int, ...], least: int) -> None:
    """By hand, upwards from one pixel: doubled by the pool, and 2 + 2 for the convolutions."""
    model = CNN(outputs=2, widths=widths, dense=())
    assert model.smallest_input() == least

    def shapes(height: int, width: int) -> Any:
        x = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    assert shapes(least, least)["params"]["predictions"]["kernel"].shape == (4, 2)
    for size in ((least - 1, least), (least, least - 1)):
        with pytest.raises(ValueError, match=f"at least {least} pixels"):
            shapes(*size)


# ---- stretches of layers ------------------------------------------------------------------------


def test_prefix_and_suffix_equal_the_whole() -> None:
    tree, x = random_weights.draw(DEEP, 17), images(17)
    names = DEEP.layer_names
    pools = ("pool1", "pool2")
    whole, captured = DEEP.apply(tree, x, train=False, capture=pools)
    expected = {0: x, 5: captured["pool1"], 10: captured["pool2"]}
    for cut in DEEP.cut_points:
        # Each part needs its own layers' parameters alone.
        before = {name: leaf for name, leaf in tree["params"].items() if name in names[:cut]}
        after = {name: leaf for name, leaf in tree["params"].items() if name not in before}
        prefix: Any = DEEP.apply({"params": before}, x, train=False, last=cut)
        np.testing.assert_array_equal(prefix, expected[cut])
        suffix: Any = DEEP.apply({"params": after}, prefix, train=False, first=cut)
        np.testing.assert_allclose(suffix, whole, atol=1e-6)


def test_capture() -> None:
    tree, x = random_weights.draw(SMALL, 16), images(16)
    names = ("conv1_1", "conv1_1_relu", "pool1", "predictions")
    logits, found = SMALL.apply(tree, x, train=False, capture=names)
    assert tuple(found) == names
    assert [a.shape[1:] for a in found.values()] == [(14, 14, 4), (14, 14, 4), (6, 6, 4), (3,)]
    assert (np.asarray(found["conv1_1"]) < 0).any()
    np.testing.assert_array_equal(found["conv1_1_relu"], np.maximum(found["conv1_1"], 0))
    np.testing.assert_array_equal(found["predictions"], logits)


def test_dropout_acts_in_training_alone() -> None:
    tree, x = random_weights.draw(SMALL, 16), images(16, count=8)
    model = SMALL.clone(dropout_rate=0.5)
    plain = SMALL.apply(tree, x, train=False)
    np.testing.assert_array_equal(model.apply(tree, x, train=False), plain)

    def draw(seed: int, **kwargs: Any) -> Any:
        return model.apply(tree, x, train=True, rngs={"dropout": jax.random.key(seed)}, **kwargs)

    # Before each fully connected layer, by masks of their own.
    stages = ("flatten", "dropout1", "dense1_relu", "dropout")
    logits, found = draw(0, capture=stages)
    for before, after in (stages[:2], stages[2:]):
        alive = np.asarray(found[before]) != 0
        kept = np.asarray(found[after])[alive] / np.asarray(found[before])[alive]
        assert set(np.unique(kept.round(5))) == {0.0, 2.0}
    np.testing.assert_array_equal(logits, draw(0))
    assert np.abs(np.asarray(logits) - np.asarray(draw(1))).max() > 0
    assert np.abs(np.asarray(logits) - np.asarray(plain)).max() > 0
