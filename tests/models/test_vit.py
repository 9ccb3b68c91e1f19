"""Vision transformers: equal to timm's and transformers' own, from their own state dicts."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import sscjax
from sscjax.errors import UserError
from sscjax.inference import saliency
from sscjax.models import factory, initial_variables
from sscjax.models.factory import ModelSettings, Task
from sscjax.models.pretrained import encoder_config, load, vit_names
from sscjax.models.vit import ARCHITECTURES, VisionTransformer, parts, positions

pytestmark = pytest.mark.usefixtures("quick_compiler")

# Of the published networks the first two blocks: a third would show nothing more.
DEPTH = 2


def shallow(name: str) -> Any:
    return dataclasses.replace(ARCHITECTURES[name], depth=DEPTH)


def tiny(**changes: Any) -> Any:
    """A transformer that is quick to run."""
    few = {"width": 24, "depth": 3, "heads": 2, "hidden": 48, "patch": 4, "size": 16}
    return dataclasses.replace(ARCHITECTURES["vit_tiny_patch16_224"], **{**few, **changes})


def images(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((count, size, size, 3)).astype(np.float32)


def randomised(network: Any, torch: Any) -> Any:
    """Weights that are all far from 0 and 1, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, leaf in network.named_parameters():
            noise = torch.randn(leaf.shape, generator=generator)
            one = leaf.ndim == 1 and not name.endswith("bias")
            leaf.copy_(1 + 0.2 * noise if one else (0.03 if leaf.ndim > 1 else 0.1) * noise)
    return network.eval()


def assert_equal_networks(model: Any, network: Any, features: Any, torch: Any) -> int:
    """Every block to 1e-5, the tokens to 1e-4, relative to their largest; parameters of ours."""
    weights = {name: leaf.numpy() for name, leaf in network.state_dict().items()}
    converted = vit_names.convert(weights, model)
    assert converted.unknown == ()
    expected = initial_variables(model, model.image_size, 0)["params"]
    del expected["predictions"]
    assert jax.tree.map(np.shape, converted.params) == jax.tree.map(np.shape, expected)
    x = images(model.image_size)
    with torch.no_grad():
        tokens, blocks = features(network, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    names = tuple(f"block_{index}_add2" for index in range(DEPTH))
    found, seen = model.apply(
        {"params": converted.params},
        jnp.asarray(x),
        train=False,
        last=model.head_start,
        capture=names,
    )
    for name, block in zip(names, blocks, strict=True):
        error = np.abs(np.asarray(seen[name]) - block.numpy()).max()
        assert error < 1e-5 * np.abs(block.numpy()).max()
    assert np.abs(np.asarray(found) - tokens.numpy()).max() < 1e-4 * np.abs(tokens.numpy()).max()
    return sum(leaf.size for leaf in jax.tree.leaves(converted.params))


def count(network: Any) -> int:
    return sum(leaf.numel() for leaf in network.parameters())


# ---- other libraries ----------------------------------------------------------------------------


@pytest.mark.extra
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 224),
        ("vit_small_patch16_224", 144),
        ("vit_small_patch14_dinov2", 518),
        ("vit_small_patch14_reg4_dinov2", 98),
        ("vit_giant_patch14_reg4_dinov2", 70),
        ("vit_small_patch16_dinov3", 80),
        ("vit_small_plus_patch16_dinov3", 160),
    ],
)
def test_timm(name: str, size: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        timm: Any = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        # It needs torchvision of the same build as torch.
        pytest.skip(f"timm cannot be imported: {error}")
    shape = shallow(name)
    sized = {} if shape.positions == "rotary" else {"dynamic_img_size": True}
    network = timm.create_model(name, pretrained=False, num_classes=0, depth=DEPTH, **sized)

    def features(network: Any, x: Any) -> Any:
        blocks: list[Any] = []
        for block in network.blocks:
            block.register_forward_hook(lambda *values: blocks.append(values[2]))
        return network.forward_features(x), blocks

    model = VisionTransformer(3, shape, size)
    ours = assert_equal_networks(model, randomised(network, torch), features, torch)
    if size == shape.size:
        assert ours == count(network)


_GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
# What the authors of encoders of tissue give timm's `create_model`.
TISSUE: dict[str, tuple[str, dict[str, Any]]] = {
    "uni": ("vit_large_patch16_224", {"init_values": 1e-5}),
    "uni2_h": (
        "vit_giant_patch14_224",
        {
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_GATED,
        },
    ),
    "virchow": ("vit_huge_patch14_224", {"init_values": 1e-5, "mlp_ratio": 5.3375, **_GATED}),
    "virchow2": (
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **_GATED},
    ),
    "gigapath": (
        "vit_giant_patch14_dinov2",
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334},
    ),
    "h_optimus_0": ("vit_giant_patch14_reg4_dinov2", {"img_size": 224, "init_values": 1e-5}),
    "h0_mini": (
        "vit_base_patch14_reg4_dinov2",
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **_GATED},
    ),
}


@pytest.mark.extra
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(TISSUE))
def test_encoders_of_tissue(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        timm: Any = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        # It needs torchvision of the same build as torch.
        pytest.skip(f"timm cannot be imported: {error}")
    of, fields = TISSUE[name]
    fields = dict(fields)
    if "mlp_layer" in fields:
        fields.update(mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU)
    network = timm.create_model(
        of, pretrained=False, num_classes=0, depth=DEPTH, dynamic_img_size=True, **fields
    )

    def features(network: Any, x: Any) -> Any:
        blocks: list[Any] = []
        for block in network.blocks:
            block.register_forward_hook(lambda *values: blocks.append(values[2]))
        return network.forward_features(x), blocks

    model = VisionTransformer(3, shallow(name), ARCHITECTURES[name].size)
    ours = assert_equal_networks(model, randomised(network, torch), features, torch)
    assert ours == count(network)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        ("ViT", "vit_small_patch16_224", 224),
        ("ViT", "vit_small_patch16_224", 240),
        ("Dinov2", "vit_small_patch14_dinov2", 70),
        ("Dinov2", "vit_giant_patch14_dinov2", 56),
        ("Dinov2WithRegisters", "vit_small_patch14_reg4_dinov2", 70),
        ("DINOv3ViT", "vit_small_patch16_dinov3", 80),
        ("DINOv3ViT", "vit_small_plus_patch16_dinov3", 48),
    ],
)
def test_transformers(kind: str, name: str, size: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    shape = shallow(name)
    fields: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch,
        "image_size": 224 if kind == "ViT" else shape.size,
    }
    if kind == "ViT":
        fields.update(intermediate_size=shape.hidden, layer_norm_eps=shape.epsilon)
    elif kind == "DINOv3ViT":
        gated = shape.mlp == "swiglu"
        fields.update(intermediate_size=shape.hidden, num_register_tokens=4, use_gated_mlp=gated)
        # As the published ones have it.
        fields.update(hidden_act="silu" if gated else "gelu")
    else:
        fields.update(use_swiglu_ffn=shape.mlp == "swiglu")
    built = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**fields))
    network = randomised(built, torch)

    def features(network: Any, x: Any) -> Any:
        more = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
        found = network(x, output_hidden_states=True, **more)
        return found.last_hidden_state, found.hidden_states[1:]

    model = VisionTransformer(3, shape, size)
    ours = assert_equal_networks(model, network, features, torch)
    if size == fields["image_size"]:
        # Theirs has BERT's pooler, too.
        assert ours == count(network) - shape.width * (shape.width + 1)
    # The file that it writes has other names than the network in memory.
    network.save_pretrained(tmp_path)
    loaded = load_file(tmp_path / "model.safetensors", model)
    weights = {key: leaf.numpy() for key, leaf in network.state_dict().items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(vit_names.convert(weights, model).params):
        np.testing.assert_array_equal(loaded.params[path[0].key][path[1].key], leaf)


@pytest.mark.extra
@pytest.mark.parametrize("side", [5, 8, 13])
def test_positions_are_resized_as_torch_does(side: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    grid = np.random.default_rng(0).standard_normal((9 * 9, 6)).astype(np.float32)
    given = torch.from_numpy(grid.reshape(1, 9, 9, 6).transpose(0, 3, 1, 2).copy())
    for how in ("antialias", "cubic"):
        expected = torch.nn.functional.interpolate(
            given, (side, side), mode="bicubic", antialias=how == "antialias"
        )
        found = positions.resize(grid, side, how)
        theirs = expected[0].numpy().transpose(1, 2, 0).reshape(side * side, 6)
        np.testing.assert_allclose(found, theirs, atol=1e-5)


# ---- files --------------------------------------------------------------------------------------


def load_file(path: Path, model: Any) -> load.Loaded:
    params = dict(initial_variables(model, model.image_size, 0)["params"])
    del params["predictions"]
    return load.load_backbone(path, params, {}, load.vit_family(model))


def timm_names(shape: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A state dict of timm's names and layouts for a plain transformer."""
    width, hidden, patch = shape.width, shape.hidden, shape.patch
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, shape.learned_positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (1000, width),
        "head.bias": (1000,),
    }
    for index in range(shape.depth):
        inner = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden),
            "mlp.fc2.bias": (width,),
        }
        sizes.update({f"blocks.{index}.{name}": size for name, size in inner.items()})
    return {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    return timm_names(tiny(), np.random.default_rng(0))


def written(path: Path, state: dict[str, np.ndarray]) -> Path:
    safetensors.numpy.save_file(state, path)
    return path


def test_a_file_fills_all_but_the_classifier(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    loaded = load_file(
        written(tmp_path / "vit.safetensors", state), VisionTransformer(3, tiny(), 16)
    )
    assert loaded.dropped == ("head.bias", "head.weight")
    kernel = loaded.params["block_2_qkv"]["kernel"]
    np.testing.assert_array_equal(kernel, state["blocks.2.attn.qkv.weight"].T)
    # Of the patches' kernel rows are rows of the image.
    patches = loaded.params["patches"]["kernel"]
    np.testing.assert_array_equal(patches[1, 3, 2], state["patch_embed.proj.weight"][:, 2, 1, 3])


@pytest.mark.parametrize("wrapper", ["module.", "model.", "backbone.", "teacher.backbone.", "vit."])
def test_wrapped_names(wrapper: str, state: dict[str, np.ndarray], tmp_path: Path) -> None:
    wrapped = {wrapper + name: leaf for name, leaf in state.items()}
    loaded = load_file(
        written(tmp_path / "w.safetensors", wrapped), VisionTransformer(2, tiny(), 16)
    )
    np.testing.assert_array_equal(loaded.params["norm"]["scale"], state["norm.weight"])


def test_each_fault_of_a_file_is_named(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    del state["blocks.1.norm2.bias"]
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"][:-1]
    state["blocks.7.norm1.weight"] = np.ones(24, np.float32)
    state["blocks.0.attn.gate"] = np.ones(3, np.float32)
    state["norm.bias"][3] = np.nan
    with pytest.raises(UserError) as error:
        load_file(written(tmp_path / "vit.safetensors", state), VisionTransformer(3, tiny(), 16))
    text = str(error.value)
    assert "\n" not in text and "5 differences" in text
    for part in (
        *("surplus blocks.0.attn.gate", "missing block_1_norm2/bias"),
        *(
            "surplus block_7_norm1/scale",
            "block_0_fc1/kernel has shape (24, 47), expected (24, 48)",
        ),
        "norm/bias has 1 values that are not finite",
    ):
        assert part in text


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = written(tmp_path / "resnet.safetensors", {"layer1.0.conv1.weight": np.ones((4, 4))})
    with pytest.raises(UserError, match=r"not this vision transformer, its names are layer1\.0"):
        load_file(path, VisionTransformer(3, tiny(), 16))


def test_bfloat16(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    halved = {name: jnp.asarray(leaf, jnp.bfloat16) for name, leaf in state.items()}
    safetensors.numpy.save_file(
        {k: np.asarray(v) for k, v in halved.items()}, tmp_path / "b.safetensors"
    )
    loaded = load_file(tmp_path / "b.safetensors", VisionTransformer(3, tiny(), 16))
    expected = np.asarray(halved["norm.bias"].astype(jnp.float32))
    np.testing.assert_array_equal(loaded.params["norm"]["bias"], expected)


# ---- what lies beside a file --------------------------------------------------------------------


TIMM = {
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "num_features": 24,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "mean": [0.707223, 0.578729, 0.703617],
        "std": [0.211883, 0.230117, 0.177517],
        "license": "apache-2.0",
    },
}


def test_the_config_of_a_folder_says_how_pixels_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM), "utf-8")
    facts = encoder_config.beside(tmp_path / "model.safetensors", 24)
    assert facts.convention is not None
    assert (facts.size, facts.licence, facts.source) == (224, "apache-2.0", "config.json")
    scaled = sscjax.models.pretrained.preprocessing.preprocess(
        np.full((1, 1, 1, 3), 255, np.uint8), facts.convention.scaling
    )
    np.testing.assert_allclose(scaled[0, 0, 0, 0], (1 - 0.707223) / 0.211883, rtol=1e-5)
    # Recorded by its name, it is found again.
    name = facts.convention.name
    assert sscjax.models.pretrained.preprocessing.convention(name) == facts.convention


def test_transformers_has_two_files_and_a_licence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 24, "image_size": 224}', "utf-8")
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}', "utf-8"
    )
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n# X\n", "utf-8")
    facts = encoder_config.beside(tmp_path / "model.safetensors", 24)
    assert facts.convention is not None
    low = sscjax.models.pretrained.preprocessing.preprocess(
        np.zeros((1, 3), np.uint8), facts.convention.scaling
    )
    np.testing.assert_allclose(low, -1)
    assert "no commercial use" in facts.restriction


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"num_features": 768, "mean": [0, 0, 0], "std": [1, 1, 1]}']
)
def test_a_config_that_says_nothing_of_this_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    assert encoder_config.beside(tmp_path / "w.safetensors", 24) == (None, 0, "", "")


def test_a_config_with_other_than_three_channels(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"mean": [0.5], "std": [0.5]}', "utf-8")
    with pytest.raises(UserError, match="expected three numbers each"):
        encoder_config.beside(tmp_path / "w.safetensors", 24)


# ---- the module ---------------------------------------------------------------------------------


def built(**changes: Any) -> tuple[Any, Any]:
    model = VisionTransformer(3, tiny(layer_scale=True, registers=2), 20, **changes)
    variables = initial_variables(model, 20, 0)
    return model, variables


@pytest.mark.parametrize("blocks", [(), (0,), (0, 2), (1,)])
@pytest.mark.parametrize("pooling", ["token", "mean", "token_and_mean"])
def test_prefix_and_suffix_equal_the_whole(blocks: tuple[int, ...], pooling: str) -> None:
    model, variables = built(feature_blocks=blocks, pooling=pooling)
    x = jnp.asarray(images(20))
    whole = model.apply(variables, x, train=False)
    width = 24 * max(len(blocks), 1) * (2 if pooling == "token_and_mean" else 1)
    assert variables["params"]["predictions"]["kernel"].shape == (width, 3)
    assert model.cut_points[-1] == model.features_end
    for cut in model.cut_points:
        part = model.apply(variables, x, train=False, last=cut)
        rest = model.apply(variables, part, train=False, first=cut)
        np.testing.assert_allclose(rest, whole, atol=1e-5)


def test_what_the_classifier_reads() -> None:
    """By hand from the tokens: the class token, and the mean of the patches without registers."""
    model, variables = built(feature_blocks=(0, 2), pooling="token_and_mean")
    x = jnp.asarray(images(20))
    found = model.apply(variables, x, train=False, last=model.features_end)
    _, seen = model.apply(variables, x, train=False, capture=("block_0_add2", "block_2_add2"))
    norm = variables["params"]["norm"]
    expected = []
    for name in ("block_0_add2", "block_2_add2"):
        tokens = np.asarray(seen[name], np.float64)
        centred = tokens - tokens.mean(-1, keepdims=True)
        normal = centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
        normal = normal * norm["scale"] + norm["bias"]
        expected += [normal[:, 0], normal[:, 3:].mean(1)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-4)


def test_attention_is_a_weighted_mean_of_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 5, 3 * 8)).astype(np.float32)
    found = np.asarray(parts.attend(jnp.asarray(x), 2, None, 1))
    for head in range(2):
        queries, keys, values = (x[0, :, 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3))
        odds = np.exp(queries @ keys.T / 2)
        expected = odds / odds.sum(1, keepdims=True) @ values
        np.testing.assert_allclose(found[0, :, 4 * head : 4 * head + 4], expected, atol=1e-5)


def test_turning_by_place_keeps_what_only_the_distance_decides() -> None:
    """Products of queries and keys depend on how patches lie to each other alone."""
    cosines, sines = positions.rotary(4, 8)
    query, key = (np.random.default_rng(s).standard_normal(8) for s in (0, 1))

    def turned(vector: np.ndarray, place: int) -> np.ndarray:
        across = np.concatenate([-vector[4:], vector[:4]])
        return vector * cosines[place] + across * sines[place]

    # Patches 0 and 5 lie to each other as 5 and 10, as 10 and 15 do.
    products = [turned(query, at) @ turned(key, at + 5) for at in (0, 5, 10)]
    np.testing.assert_allclose(products, products[0], rtol=1e-5)
    assert abs(turned(query, 0) @ turned(key, 1) - products[0]) > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_maps_lie_where_the_patches_are(pooling: str) -> None:
    """Behind the last LayerNorm the evidence of the patches adds up to the logit; before the last
    attention a patch that no token attends to has none."""
    model, variables = built(pooling=pooling)
    variables["params"]["predictions"]["bias"] = np.array([0.1, -0.2, 0.3], np.float32)
    drawing = saliency.Drawing(model, lambda stored, key: stored)
    x = images(20)
    maps = drawing(variables["params"], {}, x, np.array([0, 2]))
    assert maps.shape == (2, 5, 5)
    if pooling == "mean":
        logits = np.asarray(model.apply(variables, jnp.asarray(x), train=False))
        np.testing.assert_allclose(maps[0].sum(), logits[0, 0] - 0.1, rtol=1e-3)
        np.testing.assert_allclose(maps[1].sum(), logits[1, 2] - 0.3, rtol=1e-3)
        return
    # Rows of patches are rows of the image: a change below changes the map below the most.
    other = x.copy()
    other[:, 16:] += 1.0
    change = np.abs(drawing(variables["params"], {}, other, np.array([0, 2])) - maps)
    assert (change.mean((0, 2)).argmax() == 4) and maps.std() > 0


def test_a_config_names_it() -> None:
    settings = ModelSettings("vit_small_patch14_dinov2", feature_layers=("block_11_add2",))
    model: Any = factory.build_model(settings, Task(3, 126))
    assert (model.shape.patch, model.read_blocks) == (14, (11,))
    with pytest.raises(UserError, match="patches of 14 pixels need a multiple of it, such as 126"):
        factory.build_model(settings, Task(3, 128))
    wrong = dataclasses.replace(settings, feature_layers=("block_12_add2",))
    with pytest.raises(UserError, match="'block_0_add2' to 'block_11_add2'"):
        factory.build_model(wrong, Task(3, 126))
    with pytest.raises(UserError, match="did you mean 'vit_small_patch14_dinov2'"):
        ModelSettings("vit_small_patch14_dinov")
    with pytest.raises(UserError, match="expected a file of weights of 'vit_tiny_patch16_224'"):
        sscjax.create_model("vit_tiny_patch16_224", 3, image_size=64)


def test_features_of_a_file_by_the_api(tmp_path: Path) -> None:
    """From a published folder to features, as the layers give them alone."""
    name = "vit_tiny_patch16_224"
    shape = ARCHITECTURES[name]
    state = timm_names(shape, np.random.default_rng(0))
    path = written(tmp_path / "model.safetensors", {k: v * 0.05 for k, v in state.items()})
    (tmp_path / "config.json").write_text(json.dumps({**TIMM, "num_features": 192}), "utf-8")
    model = sscjax.create_model(name, 2, pretrained=str(path), image_size=32)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = sscjax.extract_features(model, pixels)
    assert found.shape == (3, 192)
    mean, std = (np.array(TIMM["pretrained_cfg"][key]) for key in ("mean", "std"))  # type: ignore[index]
    network = VisionTransformer(2, shape, 32)
    loaded = load_file(path, network)
    scaled = jnp.asarray((pixels / 255 - mean) / std, jnp.float32)
    tokens = network.apply({"params": loaded.params}, scaled, train=False, last=network.head_start)
    np.testing.assert_allclose(found, np.asarray(tokens)[:, 0], atol=1e-4)
