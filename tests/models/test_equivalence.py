"""Our MobileNetV2 against three references: Keras, PyTorch, and stored ImageNet activations.

Errors are relative to the largest value of the reference activation: 1e-5 at the end of each
block and at each layer, 1e-4 for the features.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.pretrained.load import Loaded, backbone_tree, load_backbone
from sscjax.models.pretrained.preprocessing import KERAS, TORCH, Convention, Padding, preprocess

PER_LAYER, AT_THE_END = 1e-5, 1e-4
CONVOLUTIONS = ("Conv1", "Conv_1", "_expand", "_depthwise", "_project")  # how their names end
QUICK = {"xla_backend_optimization_level": "0"}


def network(alpha: float, convention: Convention, outputs: int = 1) -> MobileNetV2:
    return MobileNetV2(
        outputs=outputs,
        alpha=alpha,
        padding=convention.padding,
        bn_epsilon=convention.bn_epsilon,
        bn_momentum=convention.bn_momentum,
    )


@functools.cache
def tree(alpha: float) -> tuple[dict[str, Any], dict[str, Any]]:
    return backbone_tree(alpha)


def run(
    model: MobileNetV2,
    loaded: Loaded,
    images: np.ndarray,
    capture: tuple[str, ...],
    optimized: bool = True,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Last feature map, and the captured activations."""
    variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
    # Where every layer is kept there is nothing to gain from LLVM, and its time is most of ours.
    options = None if optimized else QUICK

    @functools.partial(jax.jit, compiler_options=options)
    def apply(variables: dict[str, Any], x: jax.Array) -> Any:
        return model.apply(variables, x, train=False, last=model.head_start, capture=capture)

    features, found = apply(variables, images)
    return np.asarray(features), {name: np.asarray(found[name]) for name in capture}


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def block_ends(model: MobileNetV2) -> list[str]:
    """Last layer of each residual block, and of the network: written out from Keras' summary."""
    adds = {2, 4, 5, 7, 8, 9, 11, 12, 14, 15}
    ends = [f"block_{i}_{'add' if i in adds else 'project_BN'}" for i in range(1, 17)]
    return ["expanded_conv_project_BN", *ends, "out_relu"]


def assert_equal_layers(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], limit: float = PER_LAYER
) -> None:
    assert list(found) == list(reference)
    errors = {name: relative_error(found[name], reference[name]) for name in reference}
    worst = max(errors, key=lambda name: errors[name])
    print(f"worst: {worst} {errors[worst]:.1e}, last: {list(errors.values())[-1]:.1e}")
    assert errors[worst] < limit, f"{worst}: {errors[worst]:.1e}"


def assert_exercised(reference: Mapping[str, np.ndarray]) -> None:
    """Both ends of ReLU6 are reached in most layers: a missing clip would be seen."""
    clipped = [x for name, x in reference.items() if name.endswith("relu")]
    assert len(clipped) == 35
    assert sum(bool((x == 6).any()) for x in clipped) > 25
    assert all((x == 0).any() for x in clipped)


# Keras 3 converts its variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.parametrize(
    ("alpha", "size"),
    [
        pytest.param(1.0, 128, marks=pytest.mark.slow),
        pytest.param(0.35, 96, marks=pytest.mark.slow),
        (0.35, 97),
    ],
)
def test_keras(alpha: float, size: int, tmp_path: Path) -> None:
    keras_mobilenet_v2 = pytest.importorskip(
        "keras_mobilenet_v2", reason="Keras 3, the reference, is not installed"
    )
    reference_model = keras_mobilenet_v2.build(alpha, size, seed=size)
    reference_model.save_weights(tmp_path / "keras.weights.h5")
    loaded = load_backbone(tmp_path / "keras.weights.h5", *tree(alpha))
    assert loaded.convention == KERAS

    rng = np.random.default_rng(size)
    images = preprocess(rng.integers(0, 256, (1, size, size, 3), np.uint8), "minus_one_one")
    reference = keras_mobilenet_v2.activations(reference_model, images)
    model = network(alpha, KERAS)
    assert model.layer_names[: model.head_start] == tuple(reference)

    assert_exercised(reference)

    # At 128 as it runs in earnest, at 97 every layer by itself, and at 96 in between: BatchNorm
    # folded into the convolutions before it, which then do not exist by themselves.
    ends = block_ends(model)
    folded = tuple(n for n in reference if n == "bn_Conv1" or not n.endswith(CONVOLUTIONS))
    assert set(ends) < set(folded) and len(folded) == len(reference) - 52
    kept = {128: tuple(n for n in reference if n in ends), 96: folded, 97: tuple(reference)}[size]
    features, found = run(model, loaded, images, kept, optimized=size == 128)
    assert_equal_layers(found, {name: reference[name] for name in kept})
    assert relative_error(features, reference["out_relu"]) < AT_THE_END


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "size"), [(1.0, 128), (0.35, 97)])
def test_torch(alpha: float, size: int, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch, the reference of its convention, is missing")
    import torch_mobilenet_v2

    reference_model = torch_mobilenet_v2.build(alpha, seed=size)
    state = {name: tensor.numpy() for name, tensor in reference_model.state_dict().items()}
    safetensors.numpy.save_file(state, tmp_path / "torch.safetensors")
    loaded = load_backbone(tmp_path / "torch.safetensors", *tree(alpha))
    assert loaded.convention == TORCH

    rng = np.random.default_rng(size)
    images = preprocess(rng.integers(0, 256, (1, size, size, 3), np.uint8), "imagenet")
    model = network(alpha, TORCH)
    # The reference pads inside the convolution; else both have the same layers in one order.
    names = [n for n in model.layer_names[: model.head_start] if not n.endswith("_pad")]
    outputs = torch_mobilenet_v2.activations(reference_model, images)
    reference = dict(zip(names, outputs, strict=True))

    assert_exercised(reference)
    features, every = run(model, loaded, images, tuple(names), optimized=False)
    assert_equal_layers(every, reference)
    assert relative_error(features, reference["out_relu"]) < AT_THE_END


@pytest.mark.slow
def test_conventions_differ(tmp_path: Path) -> None:
    """The errors above would be seen: padding and epsilon each move the features."""
    torch_mobilenet_v2 = pytest.importorskip("torch_mobilenet_v2", reason="PyTorch is missing")
    state = torch_mobilenet_v2.build(0.35, seed=0).state_dict()
    safetensors.numpy.save_file(
        {name: tensor.numpy() for name, tensor in state.items()}, tmp_path / "torch.safetensors"
    )
    loaded = load_backbone(tmp_path / "torch.safetensors", *tree(0.35))
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)

    def start(padding: Padding, epsilon: float) -> np.ndarray:
        """The first two stride-2 convolutions: what differs there differs at the end."""
        model = MobileNetV2(outputs=1, alpha=0.35, padding=padding, bn_epsilon=epsilon)
        last = model.layer_names.index("block_1_project_BN") + 1
        variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
        apply = jax.jit(
            lambda v, x: model.apply(v, x, train=False, last=last), compiler_options=QUICK
        )
        return np.asarray(apply(variables, images))

    right = start("torch", 1e-5)
    assert relative_error(start("keras", 1e-5), right) > 0.1
    assert relative_error(start("torch", 1e-3), right) > 10 * PER_LAYER


# ---- the released ImageNet weights --------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(shared_data: Path) -> tuple[Loaded, dict[str, np.ndarray]]:
    folder = shared_data / "weights"
    files = folder / "mobilenet_v2_1.0_224_no_top.h5", folder / "keras_reference_activations.npz"
    for file in files:
        if not file.is_file():
            # Optional: third-party weights are not part of the project.
            pytest.skip(f"no ImageNet reference: {file} does not exist")
    loaded = load_backbone(files[0], *tree(1.0))
    with np.load(files[1]) as stored:
        return loaded, dict(stored)


@pytest.mark.slow
@pytest.mark.parametrize("size", (128, 224, 97))
def test_imagenet(imagenet: tuple[Loaded, dict[str, np.ndarray]], size: int) -> None:
    loaded, stored = imagenet
    suffix = f"_{size}_mean_hw"
    names = tuple(key.removesuffix(suffix) for key in stored if key.endswith(suffix))
    assert "out_relu" in names and len(names) == 13
    images = preprocess(stored[f"images_{size}"], "minus_one_one")
    model = network(1.0, loaded.convention)
    features, found = run(model, loaded, images, names, optimized=size == 128)

    means = {name: found[name].mean(axis=(1, 2)) for name in names}
    assert_equal_layers(means, {name: stored[name + suffix] for name in names})
    full = {name: found[name] for name in names if f"{name}_{size}" in stored}
    assert len(full) == (11 if size == 128 else 0)
    if full:
        # The last layer is the features, with a limit of their own.
        full.pop("out_relu")
        assert_equal_layers(full, {name: stored[f"{name}_{size}"] for name in full})
        np.testing.assert_allclose(features, stored[f"out_relu_{size}"], rtol=0, atol=AT_THE_END)
    np.testing.assert_allclose(
        features.mean(axis=(1, 2)), stored["out_relu" + suffix], rtol=0, atol=AT_THE_END
    )


# ---- the paper's parameter counts ---------------------------------------------------------------


def size_of(tree: Mapping[str, Any], layers: tuple[str, ...]) -> int:
    return sum(int(np.prod(a.shape)) for name in layers for a in tree.get(name, {}).values())


def counts(outputs: int) -> tuple[dict[str, Any], dict[str, Any], MobileNetV2]:
    model = MobileNetV2(outputs=outputs)
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return variables["params"], variables["batch_stats"], model


def test_paper_counts_of_study_1() -> None:
    """Two classes by one sigmoid output; nothing but BatchNorm's statistics kept."""
    params, statistics, model = counts(outputs=1)
    names, base = model.layer_names, model.layer_names[: model.head_start]
    assert size_of(params, base) + size_of(statistics, base) == 2_257_984
    assert size_of(params, base) == 2_223_872
    assert size_of(params, names) + size_of(statistics, names) == 2_259_265
    assert size_of(statistics, names) == 34_112
    assert size_of(params, names) == 2_225_153
    assert size_of(params, names[model.head_start :]) == 1_281


def test_paper_counts_of_study_2() -> None:
    """Three classes by four outputs; the first ten Keras layers kept."""
    params, statistics, model = counts(outputs=4)
    names = model.layer_names
    frozen, trained = names[:10], names[10:]
    assert frozen[0] == "Conv1" and frozen[-1] == "block_1_expand_BN"
    assert size_of(params, names) + size_of(statistics, names) == 2_263_108
    assert size_of(params, frozen) == 3_552
    assert size_of(params, frozen) + size_of(statistics, names) == 37_664
    assert size_of(params, trained) == 2_225_444
    assert size_of(params, tuple(set(trained) - {"predictions"})) == 2_220_320
    assert size_of(params, ("predictions",)) == 5_124


def test_counts_cover_the_tree() -> None:
    params, statistics, model = counts(outputs=4)
    assert set(params) | set(statistics) <= set(model.layer_names)
