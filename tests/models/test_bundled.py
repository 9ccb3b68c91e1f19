"""The bundled backbone: its file, and how a run comes to start from it and says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from ml_collections import ConfigDict
from small_runs import images_of

from sscjax.configs import smoke
from sscjax.errors import UserError
from sscjax.experiments import run_stages, run_warnings
from sscjax.models import MobileNetV2
from sscjax.models.pretrained import bundled, download, preprocessing
from sscjax.models.pretrained.load import backbone_tree, load_backbone
from sscjax.models.pretrained.save import save_backbone
from sscjax.reports import tables
from sscjax.reports.html import method
from sscjax.system.files import sha256
from sscjax.training import losses, programs, settings, setup, starting_weights
from sscjax.training.network import Network

FOLDER = Path(bundled.__file__).parent


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens


def small(**changes: Any) -> ConfigDict:
    """MobileNetV2 1.0 on a few synthetic tiles."""
    config = smoke.get_config()
    config.pretrained, config.model.alpha = "imagenet", 1.0
    config.update_from_flattened_dict(changes)
    return config


def network_of(config: ConfigDict, *, earlier_fallback: bool = False) -> Network:
    images = images_of(config)
    return setup.build_network(settings.read(config), images, earlier_fallback=earlier_fallback)


# --- the file -------------------------------------------------------------------------------------


def test_file_is_what_the_package_says() -> None:
    path = bundled.bundled_weights(1.0)
    assert path.stat().st_size < 5_000_000 and sha256(path) == bundled.SHA256
    loaded = load_backbone(path, *backbone_tree(1.0))
    assert loaded.convention == preprocessing.KERAS and not loaded.dropped


def test_other_widths_and_other_files_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"alpha is 0.35, but the bundled backbone has 1"):
        bundled.bundled_weights(0.35)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match="install sscjax again"):
        bundled.bundled_weights(1.0)
    (tmp_path / bundled.FILE).write_bytes((FOLDER / bundled.FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"not the file that belongs to this version"):
        bundled.bundled_weights(1.0)


@pytest.mark.usefixtures("quick_compiler")
def test_float16_keeps_the_features(tmp_path: Path) -> None:
    """Features of the same weights from both files, on a narrow network."""
    model = MobileNetV2(1, alpha=0.35)
    variables = random_weights.draw(model, 32)
    params = {name: leaves for name, leaves in variables["params"].items() if name != "predictions"}
    stats = variables["batch_stats"]
    program = programs.Program(
        model, losses.Objective("softmax"), lambda stored, key: jnp.asarray(stored)
    )
    function = programs.make_features(program, model.features_end)
    x = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3), minval=-1, maxval=1)
    found = []
    for half in (False, True):
        path = tmp_path / f"half_{half}.safetensors"
        save_backbone(path, params, stats, preprocessing.KERAS, half=half)
        loaded = load_backbone(path, params, stats)
        found.append(np.asarray(function(loaded.params, loaded.batch_stats, x)))
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes[1] < 0.6 * sizes[0]
    error = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0])
    assert 0 < error < 5e-3


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    params = {"Conv1": {"kernel": np.full((1, 1, 1, 1), 1e6, np.float32)}}
    with pytest.raises(UserError, match="beyond 65504"):
        save_backbone(tmp_path / "a.npz", params, {}, preprocessing.KERAS, half=True)
    with pytest.raises(UserError, match="expected .safetensors or .npz"):
        save_backbone(tmp_path / "a.h5", params, {}, preprocessing.KERAS)


# --- a run that starts from it --------------------------------------------------------------------


@pytest.mark.usefixtures("no_network", "quick_compiler")
def test_run_without_network_starts_from_it_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    config = small()
    with caplog.at_level("INFO", logger="sscjax"):
        network = network_of(config)
        stages = run_stages.fit_to_weights(settings.read(config).ordered_stages(), network, 1e-3)
    weights = network.weights
    assert weights.kind == "file" and weights.fallback and weights.sha256 == bundled.SHA256
    assert weights.name == "bundled backbone.safetensors"
    expected = load_backbone(FOLDER / bundled.FILE, *backbone_tree(1.0))
    np.testing.assert_array_equal(
        network.params["Conv1"]["kernel"], expected.params["Conv1"]["kernel"]
    )
    # Its averages are kept and its rate is that of pre-trained weights.
    np.testing.assert_array_equal(
        network.batch_stats["bn_Conv1"]["mean"], expected.batch_stats["bn_Conv1"]["mean"]
    )
    assert stages == settings.read(config).ordered_stages()
    assert "no ImageNet weights" in caplog.text and "BUNDLED WEIGHTS" in caplog.text
    identity = weights.identity()
    assert identity["fallback"] and run_warnings.stand_in(identity) == "bundled"


def test_report_names_what_stood_in() -> None:
    for kind, stand_in in (("file", "bundled"), ("random", "random")):
        assert run_warnings.stand_in({"kind": kind, "fallback": True}) == stand_in
        assert run_warnings.stand_in({"kind": kind, "fallback": False}) == ""
    config = small()
    images = images_of(config)
    said = " ".join(run_warnings.of_images(images, fallback="bundled"))
    assert "BUNDLED starting weights, trained on drawn textures: no ImageNet weights" in said
    assert tables.STAND_INS["random"] not in said
    assert "starting weights" not in " ".join(run_warnings.of_images(images, fallback=""))


def test_run_gone_on_with_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("looked for ImageNet weights")

    monkeypatch.setattr(download, "imagenet_weights", asked)
    assert network_of(small(), earlier_fallback=True).weights.sha256 == bundled.SHA256


def test_damaged_file_stops_only_runs_that_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imagenet = tmp_path / "imagenet.h5"
    monkeypatch.setattr(download, "imagenet_weights", lambda *args: imagenet)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "__init__.py"))
    path, weights = starting_weights.find(settings.read(small()), earlier_fallback=False)
    assert path == imagenet and not weights.fallback
    for changes, earlier in (({"pretrained": "bundled"}, False), ({}, True)):
        with pytest.raises(UserError, match="install sscjax again"):
            starting_weights.find(settings.read(small(**changes)), earlier_fallback=earlier)


def test_asked_for_by_name() -> None:
    weights = network_of(small(pretrained="bundled")).weights
    assert weights.sha256 == bundled.SHA256 and not weights.fallback
    with pytest.raises(UserError, match="bundled backbone has 1"):
        network_of(small(**{"pretrained": "bundled", "model.alpha": 0.35}))


@pytest.mark.usefixtures("no_network", "quick_compiler")
def test_other_width_falls_back_to_random(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="sscjax"):
        weights = network_of(small(**{"model.alpha": 0.35})).weights
    assert weights.kind == "random" and weights.fallback
    assert "the bundled backbone exists for alpha 1 only" in caplog.text


def test_unknown_fallback_is_named() -> None:
    with pytest.raises(UserError, match="expected 'bundled', 'random' or 'error'"):
        network_of(small(pretrained_fallback="none"))


def test_page_names_what_a_run_began_with() -> None:
    named = {
        (kind, fallback, pretrained): method.start(
            SimpleNamespace(  # type: ignore[arg-type]
                record={"weights": {"kind": kind, "fallback": fallback}},
                config={"pretrained": pretrained},
                optional={"manifest": None},
                folds={},
            )
        )
        for kind in ("file", "random")
        for fallback in (False, True)
        for pretrained in ("imagenet", "bundled")
    }
    assert named["file", False, "imagenet"] == "ImageNet weights"
    assert "drawn textures" in named["file", True, "imagenet"]
    assert "drawn textures" in named["file", False, "bundled"]
    assert named["random", True, "imagenet"].startswith("random weights (no ImageNet")
