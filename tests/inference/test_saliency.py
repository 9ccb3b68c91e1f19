"""Maps equal torch's autograd, keep their identities, find what is there, and need the weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from scipy import stats

from sscjax.inference import saliency
from sscjax.models.cnn import CNN
from sscjax.models.mobilenet_unet import MobileNetUNet
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.training import freezing

pytestmark = pytest.mark.usefixtures("quick_compiler")

SMALL = CNN(outputs=3, widths=(4, 5), dense=(6,))
SIZE = 20
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
CLASSES = np.array([2, 0, 1])


def scaled(stored: Any, key: jax.Array | None) -> jax.Array:
    return stored / 127.5 - 1.0


def torch_maps(variables: Any, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM and HiResCAM of `SMALL` by torch's autograd, from the papers' formulas."""
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    weights = {
        name: {key: torch.tensor(np.array(leaf)) for key, leaf in leaves.items()}
        for name, leaves in variables["params"].items()
    }
    x = torch.tensor(np.array(scaled(IMAGES, None), np.float32)).permute(0, 3, 1, 2)
    kept: Any = None
    for block in (1, 2):
        for name in (f"conv{block}_1", f"conv{block}_2"):
            kernel = weights[name]["kernel"].permute(3, 2, 0, 1)
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, weights[name]["bias"]))
            if f"{name}_relu" == layer:
                kept = x = x.detach().requires_grad_()
        x = torch.nn.functional.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = torch.relu(x @ weights["dense1"]["kernel"] + weights["dense1"]["bias"])
    logits = x @ weights["predictions"]["kernel"] + weights["predictions"]["bias"]
    (gradient,) = torch.autograd.grad(logits[range(3), CLASSES.tolist()].sum(), kept)
    alpha = gradient.mean(dim=(2, 3), keepdim=True)
    grad_cam = torch.relu((alpha * kept).sum(1))
    return grad_cam.detach().numpy(), (gradient * kept).sum(1).detach().numpy()


@pytest.mark.extra
@pytest.mark.parametrize("layer", ["conv1_1_relu", "conv2_2_relu"])
def test_equals_torch(layer: str) -> None:
    variables = random_weights.draw(SMALL, SIZE)
    expected = torch_maps(variables, layer)
    methods: tuple[saliency.Method, ...] = ("grad_cam", "hires_cam")
    for method, reference in zip(methods, expected, strict=True):
        draw = saliency.Drawing(SMALL, scaled, (layer,), method)
        found = draw(variables["params"], {}, IMAGES, CLASSES)
        assert found.shape == reference.shape and np.ptp(reference) > 0
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())


def test_by_hand() -> None:
    """Two channels of 1x2: weights are the channels' mean gradients, 2 and -1."""
    activations = jnp.array([[[[1.0, 4.0], [3.0, 0.0]]]])
    gradients = jnp.array([[[[4.0, -1.0], [0.0, -1.0]]]])
    np.testing.assert_allclose(saliency.grad_cam(activations, gradients), [[[0.0, 6.0]]])
    np.testing.assert_allclose(saliency.hires_cam(activations, gradients), [[[0.0, 0.0]]])


@pytest.mark.slow
def test_hires_cam_sums_to_the_logit() -> None:
    """Behind pooling stands a linear classifier: the map's sum is the logit without its bias."""
    model = MobileNetV2(3, alpha=0.35, dropout_rate=0.5)
    variables = random_weights.draw(model, 32)
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert model.read_layers == ("out_relu",)
    draw = saliency.Drawing(model, scaled)
    found = draw(variables["params"], variables["batch_stats"], images, CLASSES)
    logits = jax.jit(lambda x: model.apply(variables, x, train=False))(scaled(images, None))
    bias = np.asarray(variables["params"]["predictions"]["bias"])
    expected = (np.asarray(logits) - bias)[range(3), CLASSES]
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_maps_of_several_layers_are_each_layers_own() -> None:
    """Against the kernel's rows by hand: no evidence is counted twice on its way through."""
    layers = ("block_5_add", "block_12_add", "out_relu")
    model = MobileNetV2(3, alpha=0.35, feature_layers=layers)
    variables = random_weights.draw(model, 64)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    classes = np.array([2, 1])
    draw = saliency.Drawing(model, scaled)
    found = draw(variables["params"], variables["batch_stats"], images, classes)
    logits, seen = jax.jit(lambda x: model.apply(variables, x, train=False, capture=layers))(
        scaled(images, None)
    )
    kernel, start = np.asarray(variables["params"]["predictions"]["kernel"]), 0
    expected: Any = 0.0
    for name in layers:
        x = np.asarray(seen[name])
        rows = kernel[start : start + x.shape[-1], classes].T
        start += x.shape[-1]
        evidence = np.einsum("nhwc,nc->nhw", x, rows) / found[0].size
        expected += np.asarray(jax.image.resize(evidence, found.shape, "linear"))
    assert start == len(kernel) and found.shape[1] > seen["out_relu"].shape[1]
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    bias = np.asarray(variables["params"]["predictions"]["bias"])
    total = (np.asarray(logits) - bias)[range(2), classes]
    np.testing.assert_allclose(found.sum(axis=(1, 2)), total, rtol=1e-3, atol=1e-3)
    given = draw.logits(variables["params"], variables["batch_stats"], images)
    np.testing.assert_allclose(given, logits, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected one, or those that the classifier reads"):
        saliency.Drawing(model, scaled, layers[:2])


@pytest.mark.slow
def test_a_network_with_masks_is_explained_by_what_its_classifier_reads() -> None:
    """Behind the layer that is pooled lies a decoder, whose output no class depends on."""
    model = MobileNetUNet(outputs=3, alpha=0.35, mask_classes=2)
    variables = random_weights.draw(model, 64)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    draw = saliency.Drawing(model, scaled)
    found = draw(variables["params"], variables["batch_stats"], images, CLASSES[:2])
    assert np.abs(found).max() > 0
    logits = draw.logits(variables["params"], variables["batch_stats"], images)
    bias = np.asarray(variables["params"]["predictions"]["bias"])
    expected = (logits - bias)[range(2), CLASSES[:2]]
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected, rtol=1e-3, atol=1e-3)


def test_inside_a_block() -> None:
    """A layer within a block is no place to cut the network, and has its gradient all the same.

    An addition hands its gradient on unchanged: to the last layer of its block, not to others.
    """
    model = MobileNetV2(3, alpha=0.35)
    variables = random_weights.draw(model, 32)
    names = ("block_15_project_BN", "block_15_add", "block_16_project_BN")
    first = model.layer_names.index("block_14_add") + 1
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 1, 1, 56)), jnp.float32)

    @jax.jit
    def score(shift: dict[str, jax.Array]) -> jax.Array:
        found: Any = model.apply(variables, x, train=False, first=first, shift=shift)
        return found[:, 1].sum()

    channels = {layer.name: layer.channels for layer in model.layers}
    shift = {name: jnp.zeros((2, 1, 1, channels[name])) for name in names}
    assert float(score(shift)) == pytest.approx(float(score({})), rel=1e-5)
    gradients = jax.jit(jax.grad(score))(shift)
    assert float(jnp.abs(gradients[names[0]]).max()) > 0
    np.testing.assert_allclose(gradients[names[0]], gradients[names[1]], rtol=1e-5, atol=1e-7)
    assert gradients[names[2]].shape[-1] == channels["block_16_project_BN"] != 56


def test_single_output_speaks_for_both_classes() -> None:
    model = CNN(outputs=1, widths=(4,), dense=())
    variables = random_weights.draw(model, SIZE)
    draw = saliency.Drawing(model, scaled)
    found = draw(variables["params"], {}, IMAGES[:1].repeat(2, axis=0), np.array([0, 1]))
    np.testing.assert_allclose(found[0], -found[1], rtol=1e-5)
    assert np.abs(found).max() > 0


def test_batches_drop_nothing() -> None:
    variables = random_weights.draw(SMALL, SIZE)
    draw = saliency.Drawing(SMALL, scaled)
    many = np.concatenate([IMAGES] * 4)[: saliency.BATCH + 3]
    classes = np.tile(CLASSES, 4)[: saliency.BATCH + 3]
    found = draw(variables["params"], {}, many, classes)
    alone = draw(variables["params"], {}, IMAGES, CLASSES)
    np.testing.assert_allclose(found, np.concatenate([alone] * 4)[: len(many)], rtol=1e-5)
    with pytest.raises(ValueError, match="no images"):
        draw(variables["params"], {}, IMAGES[:0], CLASSES[:0])


def test_wrong_layers() -> None:
    variables = random_weights.draw(SMALL, SIZE)
    with pytest.raises(ValueError, match="'conv9' is none of the network's: conv1_1"):
        saliency.Drawing(SMALL, scaled, ("conv9",))
    with pytest.raises(ValueError, match="expected .B,h,w,c., before pooling"):
        saliency.Drawing(SMALL, scaled, ("dense1",))(variables["params"], {}, IMAGES, CLASSES)


# ---- whether a map means anything ---------------------------------------------------------------


def spots(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a red or a blue square somewhere: images, classes, the squares' corners."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 150, (count, SIZE, SIZE, 3), np.uint8)
    classes = rng.integers(0, 2, count)
    corners = rng.integers(2, SIZE - 8, (count, 2))
    for image, label, (row, column) in zip(images, classes, corners, strict=True):
        image[row : row + 6, column : column + 6, 0 if label == 0 else 2] = 255
    return images, classes, corners


def share_in_squares(maps: np.ndarray, corners: np.ndarray) -> float:
    """Share of the maps whose highest point lies in the square, with a margin of its field."""
    scale = SIZE / maps.shape[1]
    hits = []
    for found, (row, column) in zip(maps, corners, strict=True):
        y, x = (scale * (np.array(np.unravel_index(found.argmax(), found.shape)) + 0.5)).tolist()
        hits.append(row - 2 <= y <= row + 8 and column - 2 <= x <= column + 8)
    return float(np.mean(hits))


@pytest.mark.slow
def test_maps_depend_on_what_was_learnt() -> None:
    """Adebayo et al. 2018, arXiv:1810.03292: with the weights at random, the map must change."""
    model = CNN(outputs=2, widths=(6, 6), dense=())
    params = random_weights.draw(model, SIZE)["params"]
    images, classes, _ = spots(0, 96)
    optimizer = optax.adam(5e-3)

    def loss(params: freezing.Params) -> jax.Array:
        logits: Any = model.apply({"params": params}, scaled(images, None), train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    @jax.jit
    def step(params: freezing.Params, state: Any) -> tuple[freezing.Params, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    learnt, state = params, optimizer.init(params)
    for _ in range(80):
        learnt, state = step(learnt, state)
    new, truth, corners = spots(1, 48)
    logits: Any = jax.jit(lambda x: model.apply({"params": learnt}, x, train=False))(
        scaled(new, None)
    )
    assert (np.asarray(logits).argmax(1) == truth).mean() > 0.95
    draw = saliency.Drawing(model, scaled, method="grad_cam")
    found = draw(learnt, {}, new, truth)
    at_random = draw(params, {}, new, truth)
    assert share_in_squares(found, corners) > 0.75
    assert share_in_squares(at_random, corners) < 0.6
    # The classifier alone at random, the first step of their cascade, changes the maps already.
    kernel = np.asarray(learnt["predictions"]["kernel"])
    drawn = np.random.default_rng(2).normal(0, kernel.std(), kernel.shape).astype(np.float32)
    head = {**learnt["predictions"], "kernel": jnp.asarray(drawn)}
    cascade = draw({**learnt, "predictions": head}, {}, new, truth)
    likeness = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(found, cascade, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    assert np.mean(likeness) < 0.6


# ---- occlusion, and how maps agree --------------------------------------------------------------


def test_occlusion_finds_what_the_answer_hangs_on() -> None:
    """A 'network' that looks at one place alone: only patches over it cost anything."""
    image = np.full((1, 32, 32, 3), 100, np.uint8)
    image[0, 8:12, 20:24] = 250

    def probabilities(images: np.ndarray) -> np.ndarray:
        share = images[:, 8:12, 20:24].mean(axis=(1, 2, 3)) / 250
        return np.stack([1 - share, share], axis=1)

    found = saliency.occlusion(probabilities, image, np.array([1]), patch=8, stride=4)
    assert found.shape == (1, 7, 7)
    # The patch has the mean colour: (100 * 1008 + 250 * 16) / 1024 = 102.3.
    assert found[0, 2, 5] == pytest.approx(1 - 102 / 250)
    # Patches start at 0, 4, ...: rows 4 and 8 cover 8 to 12, columns 16 and 20 cover 20 to 24.
    covering = {(1, 4), (1, 5), (2, 4), (2, 5)}
    assert {(int(y), int(x)) for y, x in np.argwhere(found[0] > 1e-6)} == covering
    other = saliency.occlusion(probabilities, image, np.array([0]), patch=8, stride=4)
    np.testing.assert_allclose(other, -found)


def test_patches_reach_every_edge() -> None:
    seen = np.zeros((10, 10), bool)

    def probabilities(images: np.ndarray) -> np.ndarray:
        seen[(images != images[0]).any(axis=(0, 3))] = True
        return np.ones((len(images), 2))

    image = np.random.default_rng(0).integers(0, 256, (1, 10, 10, 3), np.uint8)
    image[0, 0, 0] = 0
    found = saliency.occlusion(probabilities, image, np.array([0]), patch=4, stride=4)
    assert found.shape == (1, 3, 3) and seen.all()
    for patch, stride in ((0, 1), (11, 1), (4, 0)):
        with pytest.raises(ValueError, match="do not fit 10 pixels"):
            saliency.occlusion(probabilities, image, np.array([0]), patch=patch, stride=stride)


def test_agreement_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    expected = stats.spearmanr(one.ravel(), other.ravel()).statistic
    assert saliency.agreement(one, other) == pytest.approx(expected)
    # A finer map is averaged by area: 8 cells to 4 in pairs, 6 to 4 by parts of cells.
    fine = np.repeat(np.repeat(other, 2, axis=0), 2, axis=1)
    assert saliency.agreement(one, fine) == pytest.approx(expected)
    np.testing.assert_allclose(
        saliency._reduced(np.arange(6.0)[:, None], (4, 1))[:, 0], [1 / 3, 5 / 3, 10 / 3, 14 / 3]
    )
    assert saliency.agreement(one, np.zeros((2, 2))) is None
