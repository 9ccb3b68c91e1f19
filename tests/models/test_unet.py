"""FD-UNet and UNet against PyTorch, and against counts by hand."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from trees import assert_close

from sscjax.models import initial_variables
from sscjax.models.layers import MASK
from sscjax.models.unet import Block, FDUNet

# Widths for which no two places of the network have the same shape by chance.
DENSE = FDUNet(outputs=3, depth=2, width=6, growth=2, layers_per_block=2, mask_classes=5)
PLAIN = FDUNet(outputs=2, depth=2, width=4, growth=1, block="plain", mask_classes=3)
MODELS = (DENSE, PLAIN)
# What is compared runs once, over the same code: spare LLVM's work on it.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def images(size: int = 16, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def reference(model: FDUNet, variables: dict[str, Any]) -> Any:
    """The same network in PyTorch, with the same weights."""
    pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    import torch_fd_unet

    found = torch_fd_unet.Network(
        *(model.block == "plain", model.depth, model.width, model.growth),
        *(model.layers_per_block, model.mask_classes, model.outputs),
    )
    layers = [
        {**variables["params"][name], **variables["batch_stats"].get(name, {})}
        for name in model.layer_names
        if name in variables["params"]
    ]
    torch_fd_unet.load(found, layers)
    return found


# ---- against PyTorch ----------------------------------------------------------------------------


@pytest.mark.extra
@pytest.mark.parametrize("model", MODELS)
def test_forward_equals_torch(model: FDUNet) -> None:
    """Logits of classes and masks, with running averages; 24 x 16 pixels."""
    variables, x = random_weights.draw(model, 16), images(24)[:, :, :16]
    theirs = reference(model, variables).eval()
    import torch

    with torch.no_grad():
        classes, masks = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    run = jit_once(lambda v, x: model.apply(v, x, train=False, capture=(MASK,)))
    logits, found = run(variables, x)
    for ours, expected in (
        (logits, classes.numpy()),
        (found[MASK], masks.numpy().transpose(0, 2, 3, 1)),
    ):
        assert ours.shape == expected.shape and ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found[MASK].shape == (3, 24, 16, model.mask_classes)


@pytest.mark.extra
@pytest.mark.parametrize("model", MODELS)
def test_gradients_and_running_averages_equal_torch(model: FDUNet) -> None:
    """As from random weights it trains: BatchNorm by the batch, a loss of classes and masks."""
    variables, x = random_weights.draw(model, 16), images()
    rng = np.random.default_rng(1)
    labels = rng.integers(0, model.outputs, 3)
    tissue = rng.integers(0, model.mask_classes, (3, 16, 16))
    theirs = reference(model, variables).train()
    import torch
    from torch.nn import functional
    from torch_fd_unet import to_torch, weighted

    classes, masks = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    ends = torch.from_numpy(labels), torch.from_numpy(tissue)
    expected = functional.cross_entropy(classes, ends[0]) + functional.cross_entropy(masks, ends[1])
    expected.backward()

    @jit_once
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            own = {"params": params, "batch_stats": variables["batch_stats"]}
            (logits, found), updated = model.apply(
                own,
                x,
                train=True,
                batch_statistics_from=0,
                capture=(MASK,),
                mutable=["batch_stats"],
            )
            chosen = jax.nn.log_softmax(logits)[jnp.arange(3), labels]
            of_pixels = jax.nn.log_softmax(found[MASK]).reshape(-1, model.mask_classes)
            of_pixels = of_pixels[jnp.arange(tissue.size), tissue.ravel()]
            return -chosen.mean() - of_pixels.mean(), updated["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, stats), gradients = run(variables["params"])
    assert value == pytest.approx(expected.item(), rel=1e-5)
    names = [name for name in model.layer_names if name in variables["params"]]
    for name, module in zip(names, weighted(theirs), strict=True):
        for leaf, array in gradients[name].items():
            place, ours = to_torch(leaf, np.asarray(array), module)
            wanted = getattr(module, place).grad.numpy()
            scale = max(np.abs(wanted).max(), 1e-4)
            assert np.isfinite(ours).all() and np.abs(ours).max() > 0
            assert np.abs(ours - wanted).max() < 1e-4 * scale, f"{name}/{leaf}"
        if name in stats:
            mean, var = module.running_mean.numpy(), module.running_var.numpy()
            np.testing.assert_allclose(stats[name]["mean"], mean, rtol=1e-4, atol=1e-5)
            # torch feeds the running variance the unbiased variance of n numbers.
            old = np.asarray(variables["batch_stats"][name]["var"])
            n = 3 * 16 * 16 / 4 ** _level(name, model)
            np.testing.assert_allclose(
                stats[name]["var"], old * 0.9 + (var - 0.9 * old) * (n - 1) / n, rtol=1e-4
            )


def _level(name: str, model: FDUNet) -> int:
    """How often the image is halved where a layer stands."""
    part = name.split("_")[0]
    fixed = {"stem": 0, "bottom": model.depth}
    return fixed[part] if part in fixed else int(part[-1]) - 1


# ---- counts and names ---------------------------------------------------------------------------


def count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """Without bias, and the scale and shift of BatchNorm."""
    return kernel**2 * inputs * outputs + 2 * outputs


def dense_block(f: int, k: int) -> int:
    return sum(conv(f + i * k, f, 1) + conv(f, k, 3) for i in range(4))


def test_parameters_of_the_original() -> None:
    """f of 32, k of 8 and four levels, from the paper's table of channels."""
    model = FDUNet(outputs=2)
    total = conv(3, 32, 3)
    for f, k in ((32, 8), (64, 16), (128, 32), (256, 64), (512, 128)):
        total += dense_block(f, k)
    for below, f, k in ((1024, 256, 64), (512, 128, 32), (256, 64, 16), (128, 32, 8)):
        # 2x2 upwards to half the channels; beside the skip as many as came from below.
        total += conv(below, below // 2, 2) + conv(below, f, 1) + dense_block(f, k)
    total += 64 * 2 + 2
    assert count(random_weights.shapes(model, 32)["params"]) == total == 9_477_346
    masks = model.clone(mask_classes=4)
    assert count(random_weights.shapes(masks, 32)["params"]) == total + 64 * 4 + 4


def test_parameters_of_the_plain_unet() -> None:
    """64 to 1024 channels, as Ronneberger et al. 2015 have them."""
    model = FDUNet(outputs=2, block="plain")
    total, inputs = 0, 3
    for channels in (64, 128, 256, 512, 1024):
        total += conv(inputs, channels, 3) + conv(channels, channels, 3)
        inputs = channels
    for channels in (512, 256, 128, 64):
        total += conv(2 * channels, channels, 2)
        total += conv(2 * channels, channels, 3) + conv(channels, channels, 3)
    assert count(random_weights.shapes(model, 32)["params"]) == total + 64 * 2 + 2
    # The well-known 31.0 million, with BatchNorm for biases.
    assert total == 31_038_528


def test_depth_width_growth_are_free() -> None:
    model = FDUNet(outputs=3, depth=1, width=5, growth=3, layers_per_block=2)
    found = {
        name: leaves["kernel"].shape
        for name, leaves in random_weights.shapes(model, 8)["params"].items()
        if "kernel" in leaves
    }
    assert found == {
        "stem": (3, 3, 3, 5),
        "down1_1_narrow": (1, 1, 5, 5),
        "down1_1": (3, 3, 5, 3),
        "down1_2_narrow": (1, 1, 8, 5),
        "down1_2": (3, 3, 5, 3),
        "bottom_1_narrow": (1, 1, 11, 11),
        "bottom_1": (3, 3, 11, 6),
        "bottom_2_narrow": (1, 1, 17, 11),
        "bottom_2": (3, 3, 11, 6),
        "up1_transpose": (2, 2, 23, 11),
        "up1_narrow": (1, 1, 22, 5),
        "up1_1_narrow": (1, 1, 5, 5),
        "up1_1": (3, 3, 5, 3),
        "up1_2_narrow": (1, 1, 8, 5),
        "up1_2": (3, 3, 5, 3),
        "predictions": (11, 3),
    }


@pytest.mark.parametrize("model", MODELS)
def test_names(model: FDUNet) -> None:
    names = model.layer_names
    assert len(set(names)) == len(names)
    assert names[model.head_start :] == (
        *(MASK, "global_average_pooling2d", "dropout", "predictions"),
    )
    assert names[model.features_end - 1] == "global_average_pooling2d"
    without = model.clone(mask_classes=0)
    assert without.layer_names == tuple(name for name in names if name != MASK)
    assert without.layer_names[without.head_start] == "global_average_pooling2d"
    assert set(random_weights.shapes(model, 16)["params"]) <= set(names)


@pytest.mark.parametrize(("block", "depth"), (("dense", 1), ("dense", 3), ("plain", 4)))
def test_images_that_cannot_be_halved(block: Block, depth: int) -> None:
    model = FDUNet(outputs=2, depth=depth, width=2, growth=1, block=block)

    def shapes(height: int, width: int) -> Any:
        x = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    assert model.multiple == 2**depth
    shapes(2**depth, 3 * 2**depth)
    for size in ((2**depth + 1, 2**depth), (2**depth, 3 * 2 ** (depth - 1))):
        with pytest.raises(ValueError, match=f"divisible by {2**depth}"):
            shapes(*size)


# ---- stretches of layers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "ends"),
    (
        (DENSE, ("stem_relu", "down1_2_concat", "up1_narrow_relu", "up1_2_concat")),
        (PLAIN, ("down1_2_relu", "up1_2_relu")),
    ),
)
def test_prefix_and_suffix_equal_the_whole(model: FDUNet, ends: tuple[str, ...]) -> None:
    """At every cut, each part given the parameters of its own layers alone."""
    names = model.layer_names
    ends = (*ends, "global_average_pooling2d")
    assert tuple(names[cut - 1] for cut in model.cut_points[1:]) == ends
    variables, x = random_weights.draw(model, 16), images()

    def only(some: tuple[str, ...]) -> dict[str, Any]:
        return {
            kind: {name: leaves for name, leaves in layers.items() if name in some}
            for kind, layers in variables.items()
        }

    @jit_once
    def run(x: jax.Array) -> Any:
        whole, seen = model.apply(variables, x, train=False, capture=(*ends, MASK))
        parts = []
        for cut in model.cut_points:
            before = model.apply(only(names[:cut]), x, train=False, last=cut)
            parts.append((before, model.apply(only(names[cut:]), before, train=False, first=cut)))
        return whole, seen, parts

    whole, seen, parts = run(x)
    for cut, (before, after) in zip(model.cut_points, parts, strict=True):
        assert_close(before, seen[names[cut - 1]] if cut else x)
        assert_close(after, whole)


def test_a_cut_between_block_and_skip_is_refused() -> None:
    variables, x = random_weights.draw(DENSE, 16), images()
    start = DENSE.layer_names.index("bottom_1_narrow")

    def shape(x: Any, **options: Any) -> Any:
        return jax.eval_shape(lambda x: DENSE.apply(variables, x, train=False, **options), x)

    middle = shape(x, last=start)
    with pytest.raises(ValueError, match="reads down1_2_concat"):
        shape(middle, first=start)
    # A stretch that ends before the skip needs nothing of it.
    assert shape(middle, first=start, last=start + 3).shape == (3, 4, 4, 18)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("share", (0.4, 1.0))
def test_fold(model: FDUNet, share: float) -> None:
    """BatchNorm in the kernels, of the transposed convolutions too: the same values."""
    variables, x = random_weights.draw(model, 16), images()
    folded = round(share * len(model.layer_names))

    @jit_once
    def run(variables: Any) -> Any:
        params = model.fold(variables["params"], variables["batch_stats"], folded)
        own = {**variables, "params": params}
        plain = model.apply(variables, x, train=False, capture=(MASK,))
        return plain, model.apply(own, x, train=False, folded=folded, capture=(MASK,)), params

    plain, found, params = run(variables)
    assert_close(found, plain)
    kept = {len(params[name]) for name in model.layer_names[:folded] if name.endswith("_bn")}
    assert kept == {1}


def test_shift_has_the_gradient_of_a_layer() -> None:
    """Of the map that the classifier reads: its kernel over the pixels."""
    variables, x = random_weights.draw(DENSE, 16), images()
    name = "up1_2_concat"

    def score(shift: jax.Array) -> Any:
        logits: Any = DENSE.apply(variables, x, train=False, shift={name: shift})
        return logits[:, 1].sum()

    gradient = jit_once(jax.grad(score))(jnp.zeros((3, 16, 16, 10)))
    expected = np.asarray(variables["params"]["predictions"]["kernel"])[:, 1] / 256
    assert_close(gradient, np.broadcast_to(expected, gradient.shape))


def test_initial_kernels() -> None:
    """Each output of a transposed convolution sums over its inputs once, not four times."""
    model = FDUNet(outputs=2, depth=2, width=16, growth=4)
    params = initial_variables(model, 16, seed=0)["params"]
    for name, fan_in in (("up1_transpose", 64), ("up2_transpose", 128), ("down2_2", 9 * 32)):
        assert params[name]["kernel"].std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.1)


def test_dropout_acts_in_training_alone() -> None:
    model = DENSE.clone(dropout_rate=0.5)
    variables = random_weights.draw(DENSE, 16)
    start = model.features_end
    features = np.random.default_rng(2).uniform(1, 2, (4, 10)).astype(np.float32)
    plain = model.apply(variables, features, train=False, first=start)
    layer = variables["params"]["predictions"]
    assert_close(plain, features @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
    rngs = {"dropout": jax.random.key(0)}
    options: dict[str, Any] = {"train": True, "first": start, "capture": ("dropout",)}
    _, found = model.apply(variables, features, rngs=rngs, **options)
    kept = np.asarray(found["dropout"]) / features
    assert set(np.unique(kept.round(5))) == {0.0, 2.0}
