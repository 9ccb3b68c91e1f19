"""MobileNetV2 with an expanding path: parts against MobileNetV2 and PyTorch, weights, a run."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import random_weights
import weight_files
from small_runs import images_of, one_stage_config
from trees import assert_close

from sscjax.errors import UserError
from sscjax.experiments import data_from_config, single_run, summarize
from sscjax.export import graph, graph_jax
from sscjax.inference import classifier, explanations
from sscjax.inference.outputs import Outputs
from sscjax.models import MASK, MobileNetV2, mobilenet_unet, mobilenet_v2
from sscjax.models.mobilenet_unet import MobileNetUNet
from sscjax.models.pretrained.load import Loaded
from sscjax.models.pretrained.preprocessing import KERAS
from sscjax.reports import html
from sscjax.training import settings, setup

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

MODEL = MobileNetUNet(
    outputs=3, alpha=0.35, width=4, growth=1, layers_per_block=1, mask_classes=5, padding="torch"
)
NAMES = MODEL.layer_names
SKIPS = {
    2: "expanded_conv_project_BN",
    3: "block_2_add",
    4: "block_5_add",
    5: "block_12_add",
}
# What is compared runs once, over the same code: spare LLVM's work on it.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return jax.tree.map(np.asarray, random_weights.draw(MODEL, 64))


@pytest.fixture(scope="module")
def seen(variables: dict[str, Any]) -> dict[str, Any]:
    """Of two images: logits, masks, the backbone's last map and skips, and the same folded."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)
    wanted = (*SKIPS.values(), "out_relu", MASK)

    @jit_once
    def run(variables: Any, x: jax.Array) -> Any:
        plain = MODEL.apply(variables, x, train=False, capture=wanted)
        folded = MODEL.fold(variables["params"], variables["batch_stats"], len(NAMES))
        own = {**variables, "params": folded}
        again = MODEL.apply(own, x, train=False, capture=(MASK,), folded=len(NAMES))
        return plain, again

    (logits, found), again = run(variables, x)
    return {"x": x, "logits": logits, "again": again, **found}


def test_names_and_cuts() -> None:
    like = MobileNetV2(outputs=3, alpha=0.35)
    assert NAMES[: MODEL.head_start] == like.layer_names[: like.head_start]
    assert len(set(NAMES)) == len(NAMES) and MODEL.skips == SKIPS and MODEL.multiple == 32
    assert NAMES[-4:] == (MASK, "global_average_pooling2d", "dropout", "predictions")
    # Behind the first skip connection one activation is never all.
    cuts = [NAMES[cut - 1] for cut in MODEL.cut_points[1:]]
    assert cuts == ["expanded_conv_project_BN", "global_average_pooling2d"]
    assert "up1_skip" not in NAMES and "up2_skip" in NAMES


def test_the_backbone_is_mobilenet_v2(variables: dict[str, Any], seen: dict[str, Any]) -> None:
    """With its own parameters alone; the classifier reads the average of its last map."""
    like = MobileNetV2(outputs=3, alpha=0.35, padding="torch")
    assert_close(seen["again"], (seen["logits"], {MASK: seen[MASK]}))
    logits, found = jit_once(
        lambda v, x: like.apply(v, x, train=False, capture=(*SKIPS.values(), "out_relu"))
    )(variables, seen["x"])
    assert_close(logits, seen["logits"])
    for name in (*SKIPS.values(), "out_relu"):
        assert_close(seen[name], found[name])


def test_the_expanding_path_equals_torch(variables: dict[str, Any], seen: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    import torch_fd_unet
    from torch import nn

    starts = [4, 5, 7, 11, 19, 35]  # each level adds 1, 2, 4, 8, 16
    skips = {1: 0, 2: 8, 3: 8, 4: 16, 5: 32}
    inputs, ups = 1280, []
    for level in (5, 4, 3, 2, 1):
        f, end = starts[level - 1], starts[level]
        dense = torch_fd_unet.DenseBlock(f, 2 ** (level - 1), 1)
        narrow = torch_fd_unet.conv_bn_relu(end + skips[level], f, 1)
        ups.append(torch_fd_unet.Up(inputs, end, nn.Sequential(narrow, dense)))
        inputs = end
    theirs = nn.ModuleList([*ups, nn.Conv2d(starts[1], 5, 1)]).eval()
    layers = [
        {**variables["params"][name], **variables["batch_stats"].get(name, {})}
        for name in NAMES[MODEL.head_start : NAMES.index(MASK) + 1]
        if name in variables["params"]
    ]
    torch_fd_unet.load(theirs, layers)

    def to_torch(x: Any) -> Any:
        return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())

    with torch.no_grad():
        y = to_torch(seen["out_relu"])
        for level, up in zip((5, 4, 3, 2, 1), ups, strict=True):
            none = torch.zeros(len(y), 0, 2 * y.shape[2], 2 * y.shape[3])
            y = up(y, to_torch(seen[SKIPS[level]]) if level in SKIPS else none)
        expected = theirs[-1](y).numpy().transpose(0, 2, 3, 1)
    assert seen[MASK].shape == (2, 64, 96, 5)
    assert_close(seen[MASK], expected)


def test_parameter_count(variables: dict[str, Any]) -> None:
    """MobileNetV2 of that width, and the path by hand."""
    like = random_weights.shapes(MobileNetV2(outputs=3, alpha=0.35), 64)["params"]
    path = 0
    for below, skip, f, k in (
        *((1280, 32, 19, 16), (35, 16, 11, 8), (19, 8, 7, 4), (11, 8, 5, 2), (7, 0, 4, 1)),
    ):
        end = f + k
        for inputs, outputs, kernel in (
            *((below, end, 2), (end + skip, f, 1), (f, f, 1), (f, k, 3)),
        ):
            path += kernel**2 * inputs * outputs + 2 * outputs
    path += 5 * 5 + 5
    count = [sum(int(np.prod(a.shape)) for a in jax.tree.leaves(tree)) for tree in (like,)]
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found == count[0] + path


# ---- weights and runs ---------------------------------------------------------------------------


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Five blocks, because compiling all of them takes most of the time."""
    blocks = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2), (6, 64, 1, 2), (6, 96, 1, 2))
    monkeypatch.setattr(mobilenet_v2, "_BLOCKS", blocks)
    mobilenet_unet._encoder.cache_clear()
    yield
    mobilenet_unet._encoder.cache_clear()


def unet_config() -> Any:
    config = one_stage_config()
    config.augment.copies = 0
    config.model.name = "mobilenet_unet"
    config.model.alpha = 0.35
    config.model.unet_width = 4
    config.model.unet_growth = 1
    config.model.unet_layers = 1
    config.loss.segmentation = 1.0
    config.stages.head.epochs = 1
    config.stages.head.batch_norm = "batch"
    config.stages.head.online_augment = True
    return config


def test_weights_from_a_file(tmp_path: Path) -> None:
    """The backbone is the file's, its averages too; what is new is measured on the images."""
    path = tmp_path / "weights.h5"
    weight_files.write_legacy(path, weight_files.keras_arrays())
    config = unet_config()
    config.pretrained = str(path)
    images = images_of(config)
    network = setup.build_network(settings.read(config), images, earlier_fallback=False)
    params, batch_stats = (
        {name: tree[name] for name in like}
        for tree, like in zip(
            (network.params, network.batch_stats), weight_files.tree(), strict=True
        )
    )
    loaded = Loaded(params, batch_stats, KERAS, "", (), ())
    weight_files.assert_holds(loaded, weight_files.keras_arrays())
    new = [name for name in network.batch_stats if name not in batch_stats]
    assert len(new) == 20 and all(name.startswith("up") for name in new)
    assert all(np.abs(network.batch_stats[name]["mean"]).max() > 0 for name in new)
    assert network.weights.kind == "file"


@pytest.mark.usefixtures("shallow")
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is new, by the batch; masks and classes told; opened again from its folder."""
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    monkeypatch.setattr(html, "write", lambda folder: ())
    config = unet_config()
    text = single_run.run(config, tmp_path / "run")
    assert "masks, test" in text and "dermis collagen" in text
    kept = json.loads((tmp_path / "run/metrics.json").read_text("utf-8"))
    assert set(kept["segmentation"]["splits"]) == {"train", "val", "test"}
    opened = classifier.open_run(tmp_path / "run")
    images_of_run = images_of(config)
    before = setup.build_network(settings.read(config), images_of_run, earlier_fallback=False)
    for tree, ours in ((opened.batch_stats, before.batch_stats), (opened.params, before.params)):
        moved = {
            name
            for name in ours
            for leaf, array in ours[name].items()
            if not np.array_equal(array, np.asarray(tree[name][leaf]))
        }
        # The backbone keeps its weights and its averages.
        new = set(opened.model.layer_names[opened.model.head_start :])
        assert moved == new & set(ours)
    assert isinstance(opened.model, MobileNetUNet)
    images = data_from_config.load_images(settings.read(config))[0].images
    answers = Outputs.join(opened.outputs([images[:32], images[32:]]))
    assert np.isfinite(answers.probabilities).all() and len(answers.distances) == 48
    # Frozen for export it answers alike.
    whole, some = graph.from_classifier(opened), np.asarray(images[:8])
    plain = jax.jit(lambda pixels: graph_jax.outputs(whole, pixels))(some)
    np.testing.assert_allclose(plain["probabilities"], answers.probabilities[:8], atol=2e-5)
    np.testing.assert_allclose(plain["distance"], answers.distances[:8], rtol=2e-4)
    assert answers.masks is not None
    assert (np.asarray(plain["masks"]) != answers.masks[:8]).mean() < 1e-3
    # So it does with the other padding, which weights of another source bring.
    model = opened.model.clone(padding="torch")
    other = dataclasses.replace(opened, program=dataclasses.replace(opened.program, model=model))
    whole = graph.from_classifier(other)
    plain = jax.jit(lambda pixels: graph_jax.outputs(whole, pixels))(some)
    [expected] = other.outputs([some])
    np.testing.assert_allclose(plain["probabilities"], expected.probabilities, atol=2e-5)
    assert expected.masks is not None
    assert (np.asarray(plain["masks"]) != expected.masks).mean() < 1e-3
    assert np.abs(expected.probabilities - answers.probabilities[:8]).max() > 1e-3
    # The maps are those of the backbone's last layer, which the classifier reads.
    assert [one.name for one in whole.maps] == ["out_relu"]


def test_mistakes() -> None:
    config = unet_config()
    config.data.image_size = 80
    with pytest.raises(UserError, match=r"divisible by 32, such as 64 or 96$"):
        settings.read(config)
    config.loss.segmentation = 0.0
    with pytest.raises(UserError, match="=0: set it above 0, or model.name=mobilenet_v2"):
        settings.read(config)
