"""Weights of every format, converted and loaded: each array in its place, or one clear error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import weight_files
from weight_files import ALPHA, Arrays, assert_holds, write_legacy

from sscjax.errors import UserError
from sscjax.models.pretrained.convert import convert_weights
from sscjax.models.pretrained.load import Loaded, backbone_tree, infer_alpha, load_backbone
from sscjax.models.pretrained.preprocessing import KERAS, TORCH, preprocess
from sscjax.system.files import sha256

REPOSITORY = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(REPOSITORY / "scripts"))
import convert_weights as script  # noqa: E402


@pytest.fixture(scope="session")
def tree() -> tuple[dict[str, Any], dict[str, Any]]:
    return weight_files.tree()


@pytest.fixture(scope="session")
def keras_arrays() -> Arrays:
    return weight_files.keras_arrays()


@pytest.fixture(scope="session")
def torch_arrays() -> Arrays:
    pytest.importorskip("torch", reason="PyTorch, the source of these weights, is not installed")
    import torch_mobilenet_v2

    state = torch_mobilenet_v2.build(ALPHA, seed=1).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


# ---- convention ---------------------------------------------------------------------------------


def test_preprocess_by_hand() -> None:
    pixels = np.array([[[[0, 0, 0], [255, 255, 255], [51, 102, 204]]]], np.uint8)
    scaled = preprocess(pixels, "minus_one_one")
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, 0, :2, 0], [-1, 1])
    np.testing.assert_allclose(scaled[0, 0, 2], [-0.6, -0.2, 0.6], atol=1e-6)
    normal = preprocess(pixels, "imagenet")
    assert normal.dtype == np.float32
    expected = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.8 - 0.406) / 0.225]
    np.testing.assert_allclose(normal[0, 0, 2], expected, atol=1e-6)


@pytest.mark.parametrize("scaling", ["minus_one_one", "imagenet"])
@pytest.mark.parametrize("shape", [(3,), (4, 4, 3), (2, 4, 5, 3)])
def test_preprocess_is_the_same_in_jax(scaling: Any, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ours = preprocess(jnp.asarray(pixels), scaling)
    assert isinstance(ours, jnp.ndarray) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, preprocess(pixels, scaling), atol=1e-6)
    np.testing.assert_allclose(preprocess(pixels.astype(np.float32), scaling), ours, atol=1e-6)


# ---- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("root", "suffix"), [("", ":0"), ("model_weights", ":0"), ("", "")])
def test_legacy_h5(tmp_path: Path, tree: Any, keras_arrays: Arrays, root: str, suffix: str) -> None:
    path = tmp_path / "weights.h5"
    head = {
        "predictions/kernel": np.ones((1280, 1000), np.float32),
        "predictions/bias": np.ones(1000, np.float32),
    }
    write_legacy(path, keras_arrays | head, root, suffix)
    loaded = load_backbone(path, *tree)
    assert_holds(loaded, keras_arrays)
    assert loaded.convention == KERAS
    assert sorted(loaded.dropped) == sorted(head)
    assert loaded.sha256 == sha256(path) and len(loaded.sha256) == 64


# Keras 3 converts its variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.parametrize("kind", ["backbone", "nested", "nested legacy", "own head"])
def test_written_by_keras(tmp_path: Path, tree: Any, kind: str) -> None:
    reference = pytest.importorskip("keras_mobilenet_v2", reason="Keras 3 is not installed")
    import keras

    model = reference.build(ALPHA, 96, seed=3)
    arrays = {"/".join(v.path.split("/")[-2:]): np.asarray(v.value) for v in model.weights}
    path = tmp_path / ("model.h5" if kind == "nested legacy" else "model.weights.h5")
    written = model
    if kind != "backbone":
        features = model.output
        inputs = model.inputs
        if kind != "own head":  # the backbone as one layer of the user's model
            inputs = keras.Input((96, 96, 3))
            features = model(inputs)
        pooled = keras.layers.GlobalAveragePooling2D()(features)
        written = keras.Model(inputs, keras.layers.Dense(3, name="dense")(pooled))
    if kind == "nested legacy":
        logging.disable(logging.WARNING)  # Keras says that the format is old
        written.save(path)
        logging.disable(logging.NOTSET)
    else:
        written.save_weights(path)
    loaded = load_backbone(path, *tree)
    assert_holds(loaded, arrays)
    assert loaded.convention == KERAS
    assert len(loaded.dropped) == (0 if kind == "backbone" else 2)


def timm_modules() -> list[str]:
    """Convolutions and BatchNorms of timm's mobilenetv2_100, in order."""
    modules = ["conv_stem", "bn1"]
    modules += [f"blocks.0.0.{m}" for m in ("conv_dw", "bn1", "conv_pw", "bn2")]
    for stage, repeats in ((1, 2), (2, 3), (3, 4), (4, 3), (5, 3), (6, 1)):
        for repeat in range(repeats):
            for module in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"):
                modules.append(f"blocks.{stage}.{repeat}.{module}")
    return [*modules, "conv_head", "bn2"]


def to_timm(torch_arrays: Arrays) -> Arrays:
    modules = list(dict.fromkeys(n.rpartition(".")[0] for n in torch_arrays if "features" in n))
    renamed = dict(zip(modules, timm_modules(), strict=True)) | {"classifier.1": "classifier"}
    return {
        f"{renamed[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array
        for name, array in torch_arrays.items()
    }


def assert_holds_torch(loaded: Loaded, torch_arrays: Arrays) -> None:
    """By hand for one layer of each kind; `test_equivalence.py` computes with all of them."""
    for layer, conv in (
        ("Conv1", "features.0.0"),
        ("expanded_conv_project", "features.1.conv.1"),
        ("block_7_expand", "features.8.conv.0.0"),
        ("block_7_depthwise", "features.8.conv.1.0"),
        ("block_16_project", "features.17.conv.2"),
        ("Conv_1", "features.18.0"),
    ):
        expected = np.einsum("oihw->hwio", torch_arrays[f"{conv}.weight"])
        np.testing.assert_array_equal(loaded.params[layer]["kernel"], expected)
    for layer, norm in (
        ("bn_Conv1", "features.0.1"),
        ("expanded_conv_depthwise_BN", "features.1.conv.0.1"),
        ("block_16_project_BN", "features.17.conv.3"),
        ("Conv_1_bn", "features.18.1"),
    ):
        for tree, ours, theirs in (
            (loaded.params, "scale", "weight"),
            (loaded.params, "bias", "bias"),
            (loaded.batch_stats, "mean", "running_mean"),
            (loaded.batch_stats, "var", "running_var"),
        ):
            np.testing.assert_array_equal(tree[layer][ours], torch_arrays[f"{norm}.{theirs}"])


@pytest.mark.extra
def test_torchvision_safetensors(tmp_path: Path, tree: Any, torch_arrays: Arrays) -> None:
    path = tmp_path / "torchvision.safetensors"
    safetensors.numpy.save_file(torch_arrays, path)
    loaded = load_backbone(path, *tree)
    assert loaded.convention == TORCH
    assert_holds_torch(loaded, torch_arrays)
    counters = [name for name in loaded.dropped if name.endswith("num_batches_tracked")]
    assert len(counters) == 52
    assert set(loaded.dropped) - set(counters) == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.extra
def test_timm_safetensors(tmp_path: Path, tree: Any, torch_arrays: Arrays) -> None:
    path = tmp_path / "timm.safetensors"
    safetensors.numpy.save_file(to_timm(torch_arrays), path)
    loaded = load_backbone(path, *tree)
    assert loaded.convention == TORCH
    assert_holds_torch(loaded, torch_arrays)
    assert len(loaded.dropped) == 54


@pytest.mark.extra
@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_pth(tmp_path: Path, tree: Any, torch_arrays: Arrays, wrapped: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state: Any = {name: torch.from_numpy(array) for name, array in torch_arrays.items()}
    if wrapped:  # as a training script with DataParallel saves it
        state = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}
    torch.save(state, tmp_path / "model.pth")
    loaded = load_backbone(tmp_path / "model.pth", *tree)
    assert loaded.convention == TORCH
    assert_holds_torch(loaded, torch_arrays)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(
    tmp_path: Path, tree: Any, keras_arrays: Arrays, dtype: Any
) -> None:
    stored = {name: array.astype(dtype) for name, array in keras_arrays.items()}
    write_legacy(tmp_path / "weights.h5", stored)
    loaded = load_backbone(tmp_path / "weights.h5", *tree)
    assert_holds(loaded, {name: array.astype(np.float32) for name, array in stored.items()})


# ---- scripts/convert_weights.py -----------------------------------------------------------------


@pytest.mark.extra
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("source", ["keras", "torch"])
def test_converted_file_loads_alike(
    tmp_path: Path,
    tree: Any,
    keras_arrays: Arrays,
    torch_arrays: Arrays,
    suffix: str,
    source: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = tmp_path / ("a.h5" if source == "keras" else "a.safetensors")
    if source == "keras":
        write_legacy(original, keras_arrays)
    else:
        safetensors.numpy.save_file(torch_arrays, original)
    output = tmp_path / "new" / f"converted{suffix}"
    assert script.main([str(original), str(output)]) == 0
    printed = capsys.readouterr().out
    assert "alpha 0.35" in printed and f"convention {source}" in printed
    assert "104 layers" in printed and sha256(output) in printed and sha256(original) in printed

    first, second = load_backbone(original, *tree), load_backbone(output, *tree)
    assert first.convention == second.convention
    assert second.dropped == ()
    for a, b in ((first.params, second.params), (first.batch_stats, second.batch_stats)):
        assert a.keys() == b.keys()
        for layer in a:
            for name in a[layer]:
                np.testing.assert_array_equal(a[layer][name], b[layer][name])


def test_script_refuses(
    tmp_path: Path, keras_arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.h5"
    write_legacy(source, keras_arrays)
    cases = [(source, tmp_path / "out.h5", "expected .safetensors or .npz")]
    odd = keras_arrays | {"Conv_1/kernel": np.zeros((1, 1, 100, 1280), np.float32)}
    write_legacy(tmp_path / "odd.h5", odd)
    cases.append((tmp_path / "odd.h5", tmp_path / "out.npz", "none of MobileNetV2 with alpha"))
    del odd["Conv_1/kernel"]
    write_legacy(tmp_path / "none.h5", odd)
    cases.append((tmp_path / "none.h5", tmp_path / "out.npz", "has shape None"))
    (tmp_path / "file").write_bytes(b"")
    cases.append((source, tmp_path / "file" / "out.npz", "cannot be written"))
    for given, output, message in cases:
        assert script.main([str(given), str(output)]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1
        assert not output.exists()


def test_infer_alpha() -> None:
    # Last convolution by Keras' rule: 320 and 1280 channels times alpha, in steps of 8.
    for alpha, inputs, outputs in (
        (0.35, 112, 1280),
        (0.5, 160, 1280),
        (0.75, 240, 1280),
        (1.0, 320, 1280),
        (1.3, 416, 1664),
        (1.4, 448, 1792),
    ):
        kernel = np.empty((1, 1, inputs, outputs), np.float32)
        assert infer_alpha({"Conv_1": {"kernel": kernel}}) == alpha


# ---- strict loading -----------------------------------------------------------------------------


def test_head_stays_as_given(tmp_path: Path, tree: Any, keras_arrays: Arrays) -> None:
    write_legacy(tmp_path / "weights.h5", keras_arrays)
    head = {"kernel": np.full((1280, 3), 7, np.float32), "bias": np.zeros(3, np.float32)}
    params = tree[0] | {"predictions": head}
    loaded = load_backbone(tmp_path / "weights.h5", params, tree[1])
    assert loaded.params["predictions"]["kernel"] is head["kernel"]
    assert loaded.kept == ("predictions/kernel", "predictions/bias")
    assert list(loaded.params) == list(params) and list(loaded.batch_stats) == list(tree[1])


def test_one_error_lists_every_difference(tmp_path: Path, tree: Any, keras_arrays: Arrays) -> None:
    arrays = dict(keras_arrays)
    del arrays["block_5_expand/kernel"]
    arrays["block_99_expand/kernel"] = np.zeros((1, 1, 8, 8), np.float32)
    arrays["Conv1/kernel"] = np.zeros((3, 3, 3, 32), np.float32)
    arrays["bn_Conv1/gamma"] = np.array([np.nan, np.inf, *[1] * 14], np.float32)
    arrays["bn_Conv1/moving_variance"] = np.full(16, -1, np.float32)
    arrays["Conv_1_bn/odd"] = np.zeros(3, np.float32)
    path = tmp_path / "weights.h5"
    write_legacy(path, arrays)
    with pytest.raises(UserError) as caught:
        load_backbone(path, *tree)
    message = str(caught.value)
    assert message.startswith(f"{path}: does not fit the model (6 differences): ")
    assert "\n" not in message
    for difference in (
        "surplus Conv_1_bn/odd",
        "missing block_5_expand/kernel",
        "surplus block_99_expand/kernel",
        "Conv1/kernel has shape (3, 3, 3, 32), expected (3, 3, 3, 16)",
        "bn_Conv1/scale has 2 values that are not finite",
        "bn_Conv1/var has negative variances",
    ):
        assert difference in message


def test_values_beyond_float32(tmp_path: Path, tree: Any, keras_arrays: Arrays) -> None:
    arrays = dict(keras_arrays)
    arrays["bn_Conv1/beta"] = np.full(16, 1e300)
    write_legacy(tmp_path / "weights.h5", arrays)
    with pytest.raises(UserError, match="bn_Conv1/bias has 16 values that are not finite"):
        load_backbone(tmp_path / "weights.h5", *tree)


def test_another_width(tmp_path: Path, keras_arrays: Arrays) -> None:
    write_legacy(tmp_path / "weights.h5", keras_arrays)
    with pytest.raises(UserError, match="differences.*expected.*this width"):
        load_backbone(tmp_path / "weights.h5", *backbone_tree(1.0))


def test_another_network(tmp_path: Path, tree: Any) -> None:
    resnet = {"layer1.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}
    safetensors.numpy.save_file(resnet, tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match=r"not MobileNetV2, its names are layer1.0.conv1.weight"):
        load_backbone(tmp_path / "resnet.safetensors", *tree)


def test_convolution_bias_is_surplus() -> None:
    found = convert_weights({"features.0.0.bias": np.zeros(8, np.float32)})
    assert found.unknown == ("features.0.0.bias",) and not found.params
