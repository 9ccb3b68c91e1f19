"""ResNets: equal to torchvision's and transformers', from their own state dicts."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

import sscjax
from sscjax.errors import UserError
from sscjax.models import factory, initial_variables
from sscjax.models.factory import ModelSettings, Task
from sscjax.models.pretrained import load, resnet_names
from sscjax.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("quick_compiler")

# With torch's classifier of 1,000 classes, as torchvision documents them, less that classifier.
PARAMETERS = {"resnet18": 11_689_512 - 513_000, "resnet50": 25_557_032 - 2_049_000}


def images(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)


def randomised(network: Any, torch: Any) -> Any:
    """Weights and running averages that are all far from 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for name, leaf in network.state_dict().items():
        noise = torch.randn(leaf.shape, generator=generator) if leaf.is_floating_point() else None
        if noise is None:
            continue
        if leaf.ndim == 4:
            leaf.copy_(noise * (1.5 / leaf[0].numel()) ** 0.5)
        elif name.endswith("running_var") or name.endswith("weight"):
            leaf.copy_(1 + 0.2 * noise.clamp(-2, 2))
        else:
            leaf.copy_(0.2 * noise)
    return network.eval()


def compare(name: str, network: Any, stages: Any, size: int, torch: Any) -> None:
    """The end of each stage, relative to its largest, as it comes and with BatchNorm folded."""
    converted = resnet_names.convert({k: v.numpy() for k, v in network.state_dict().items()})
    assert converted.unknown == ()
    model: Any = ResNet(3, name)
    variables = initial_variables(model, size, 0)
    del variables["params"]["predictions"]
    found = {"params": converted.params, "batch_stats": converted.batch_stats}
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, variables)
    x = images(size)
    with torch.no_grad():
        expected = stages(network, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    ends = tuple(
        n
        for n, m in zip(model.layer_names, model.layer_names[1:], strict=False)
        if n.endswith("_relu") and m[:6] != n[:6]
    )
    assert len(ends) == len(expected) == 4
    layers = len(model.layer_names)
    folded = {**found, "params": model.fold(found["params"], found["batch_stats"], layers)}
    for how, tree in ((0, found), (layers, folded)):
        _, seen = model.apply(
            tree, jnp.asarray(x), train=False, last=model.head_start, capture=ends, folded=how
        )
        for end, theirs in zip(ends, expected, strict=True):
            theirs = theirs.numpy().transpose(0, 2, 3, 1)
            error = np.abs(np.asarray(seen[end]) - theirs).max()
            assert error < 2e-5 * np.abs(theirs).max()


@pytest.mark.extra
@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet18", 75), ("resnet50", 97)])
def test_torchvision(name: str, size: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        torchvision: Any = importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        # It needs a build that fits torch's.
        pytest.skip(f"torchvision cannot be imported: {error}")
    network = randomised(getattr(torchvision.models, name)(), torch)

    def stages(network: Any, x: Any) -> list[Any]:
        found: list[Any] = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            stage.register_forward_hook(lambda *values: found.append(values[2]))
        network(x)
        return found

    compare(name, network, stages, size, torch)


@pytest.mark.extra
@pytest.mark.parametrize(("name", "size"), [("resnet18", 65), ("resnet50", 64)])
def test_transformers(name: str, size: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = name == "resnet18"
    config = transformers.ResNetConfig(
        depths=[2, 2, 2, 2] if small else [3, 4, 6, 3],
        hidden_sizes=[64, 128, 256, 512] if small else [256, 512, 1024, 2048],
        layer_type="basic" if small else "bottleneck",
    )
    network = randomised(transformers.ResNetModel(config), torch)

    def stages(network: Any, x: Any) -> list[Any]:
        return list(network(x, output_hidden_states=True).hidden_states[1:])

    compare(name, network, stages, size, torch)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_are_those_that_are_published(name: str) -> None:
    shapes = random_weights.shapes(ResNet(1, name), 64)["params"]
    del shapes["predictions"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_prefix_and_suffix_equal_the_whole() -> None:
    model: Any = ResNet(3, "resnet18")
    variables = random_weights.draw(model, 40)
    x = jnp.asarray(images(40))
    whole = model.apply(variables, x, train=False)
    for cut in model.cut_points:
        part = model.apply(variables, x, train=False, last=cut)
        rest = model.apply(variables, part, train=False, first=cut)
        np.testing.assert_allclose(rest, whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="first=2"):
        model.apply(variables, x, train=False, first=2)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    def tree(name: str) -> Any:
        return random_weights.shapes(ResNet(1, name), 64)

    state: dict[str, np.ndarray] = {}
    for layer, leaves in tree("resnet18")["params"].items():
        if layer != "predictions":
            parts = layer.split("_", 2)
            module = ".".join(parts).replace("downsample_conv", "downsample.0")
            module = module.replace("downsample_bn", "downsample.1")
            for leaf in leaves.values():
                shape = (
                    leaf.shape
                    if len(leaf.shape) == 1
                    else tuple(leaf.shape[i] for i in (3, 2, 0, 1))
                )
                key = f"{module}.{'weight' if len(leaf.shape) == 4 else 'bias'}"
                state[key] = np.zeros(shape, np.float32)
    path = tmp_path / "resnet18.safetensors"
    safetensors.numpy.save_file(state, path)
    params = {k: v for k, v in tree("resnet50")["params"].items() if k != "predictions"}
    with pytest.raises(
        UserError, match=r"does not fit the model \(\d+ differences\).*and \d+ more"
    ):
        load.load_backbone(path, params, tree("resnet50")["batch_stats"], load.RESNET)


def test_a_config_names_it() -> None:
    model: Any = factory.build_model(ModelSettings("resnet50"), Task(3, 64))
    assert model.name_of == "resnet50"
    other = dataclasses.replace(ModelSettings("resnet50"), feature_layers=("relu",))
    with pytest.raises(UserError, match="a ResNet reads its last layer"):
        factory.build_model(other, Task(3, 64))
    created = sscjax.create_model("resnet18", 2, pretrained="none", image_size=40)
    features = sscjax.extract_features(created, np.zeros((2, 40, 40, 3), np.uint8))
    assert features.shape == (2, 512)
