"""Encoders compared on the same patients."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import refused, write_folder
from sklearn.linear_model import LogisticRegression

from sscjax.cli import compare_features
from sscjax.configs import best
from sscjax.experiments import frozen_head
from sscjax.experiments.encoders import comparison, spec
from sscjax.experiments.encoders.comparison import Options
from sscjax.reports import encoders
from sscjax.system import terminal
from sscjax.training import linear_probe
from sscjax.training.losses import Objective

pytestmark = pytest.mark.usefixtures("quick_compiler")

CLASSES, PATIENTS, TILES = ("a", "b"), 6, 3
FILES = [
    f"{name}/{name}{patient}/{tile}.png"
    for name in CLASSES
    for patient in range(PATIENTS)
    for tile in range(TILES)
]
LABELS = np.array([CLASSES.index(file[0]) for file in FILES])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients, and files of features: of much worth, of none, and the first again."""
    path = tmp_path_factory.mktemp("encoders")
    write_folder(path / "set", *FILES)
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 1, (len(FILES), 6))
    signal[:, 0] += 2.5 * LABELS
    noise = rng.normal(0, 1, (len(FILES), 20))
    order = rng.permutation(len(FILES))
    for name, features in (("signal", signal), ("noise", noise), ("again", signal)):
        np.savez(path / f"{name}.npz", features=features[order], files=np.array(FILES)[order])
    return path


def config_of(folder: Path) -> Any:
    config = best.get_config()
    config.data.path = str(folder / "set")
    return config


@pytest.fixture(scope="module")
def found(folder: Path, quick_compiler: None) -> dict[str, Any]:
    names = [str(folder / f"{name}.npz") for name in ("noise", "signal", "again")]
    names.append(f"{names[0]}+{names[1]}")
    return comparison.compare(names, config_of(folder), Options(folds=3, repeats=2))


def test_each_row_and_pair_is_there(found: dict[str, Any]) -> None:
    names = [row["name"] for row in found["encoders"]]
    assert names == ["noise.npz", "signal.npz", "again.npz", "noise.npz+signal.npz"]
    assert (found["images"], found["subjects"], len(found["pairs"])) == (36, 12, 6)
    assert [row["features"] for row in found["encoders"]] == [20, 6, 6, 26]


def test_worth_is_found_and_equal_features_are_equal(found: dict[str, Any]) -> None:
    noise, signal, again, both = found["encoders"]
    assert signal["subject"]["macro_auroc"]["value"] > 0.9
    assert noise["subject"]["macro_auroc"]["value"] < 0.8
    assert {unit: again[unit] for unit in comparison.UNITS} == {
        unit: signal[unit] for unit in comparison.UNITS
    }
    # A penalty of its own keeps the block of noise from drowning the other.
    assert both["subject"]["log_loss"]["value"] < noise["subject"]["log_loss"]["value"]
    same = found["pairs"][3]
    assert (same["first"], same["second"]) == ("signal.npz", "again.npz")
    assert same["subject"]["log_loss"]["difference"] == 0
    assert same["subject"]["log_loss"]["p_holm"] == 1


def test_text_and_page(found: dict[str, Any], tmp_path: Path) -> None:
    import html5lib

    text = encoders.text("set", found)
    assert max(map(len, text.splitlines())) <= 80
    assert "not distinguished by 12 subjects" in text
    page = encoders.write(tmp_path / "out", "set", found)
    html5lib.HTMLParser(strict=True).parse(page.read_text("utf-8"))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8")) == found


def test_a_factor_is_a_penalty_of_its_own() -> None:
    """As scikit-learn fits the features multiplied by it."""
    rng = np.random.default_rng(1)
    x, labels = rng.normal(3, 2, (60, 5)), rng.integers(0, 3, 60)
    factors, l2 = np.array([1.0, 1.0, 4.0, 4.0, 0.25]), 0.3
    problem = linear_probe.Problem(
        x.astype(np.float32), labels, Objective("softmax"), 3, factors=factors
    )
    ours = problem.fit(l2)
    scaled = (x - x.mean(0)) / x.std(0) / np.sqrt(5) * factors
    theirs = LogisticRegression(C=1 / (l2 * 60), tol=1e-9, max_iter=5000).fit(scaled, labels)
    odds = np.exp(x @ ours.kernel + ours.bias)
    odds /= odds.sum(1, keepdims=True)
    np.testing.assert_allclose(odds, theirs.predict_proba(scaled), atol=1e-3)
    # And so where only a part is fitted to.
    part = np.arange(60) < 40
    flat, _ = problem.minimise(l2, part)
    found = problem.classifier(flat)
    own = (x - x[part].mean(0)) / x[part].std(0) / np.sqrt(5) * factors
    theirs = LogisticRegression(C=1 / (l2 * 40), tol=1e-9, max_iter=5000).fit(
        own[part], labels[part]
    )
    odds = np.exp(x @ found.kernel + found.bias)
    odds /= odds.sum(1, keepdims=True)
    np.testing.assert_allclose(odds, theirs.predict_proba(own), atol=1e-3)


def test_what_may_be_named(tmp_path: Path) -> None:
    weights = tmp_path / "a+b@2.safetensors"
    weights.write_bytes(b"")
    (part,) = spec.parse("vit_small_patch16_224:random@128")
    assert (part.network, part.weights, part.image_size) == (
        "vit_small_patch16_224",
        "random",
        128,
    )
    assert spec.parse("vit_small_patch14_dinov2:random")[0].image_size == 224
    assert spec.parse("mobilenet_v2_six_layers")[0].six_layers
    refused(lambda: spec.parse("mobilenet_v3"), "did you mean 'mobilenet_v2'")
    refused(lambda: spec.parse("vit_tiny_patch16_224"), "expected vit_tiny_patch16_224:FILE")
    refused(lambda: spec.parse("mobilenet_v2:none.h5"), "there is no file none.h5")
    refused(lambda: spec.parse("cnn"), "a network with pretrained weights")


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["signal.npz"], Options(), "expected two or more different"),
        (["signal.npz", "signal.npz"], Options(), "expected two or more different"),
        (["signal.npz", "noise.npz"], Options(folds=1), "--folds=1: expected 2 or more"),
        (["signal.npz", "noise.npz"], Options(folds=7), "too few subjects for so many folds"),
        (["signal.npz", "gone.npz"], Options(), "does not exist"),
    ],
)
def test_what_cannot_be_compared(
    names: list[str], options: Options, words: str, folder: Path
) -> None:
    paths = [str(folder / name) for name in names]
    refused(lambda: comparison.compare(paths, config_of(folder), options), words)


def test_features_of_other_images_are_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((2, 3)), files=np.array(["z1.png", "z2.png"]))
    names = [str(folder / "signal.npz"), str(tmp_path / "x.npz")]
    refused(
        lambda: comparison.compare(names, config_of(folder), Options()),
        "no features of 36 of 36 images",
    )


@pytest.mark.slow
def test_the_command_with_networks(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A random transformer beside a file and both together, at few pixels."""
    network = "vit_tiny_patch16_224:random@32"
    noise = str(folder / "noise.npz")
    argv = ["compare-features", str(folder / "set"), "--features", noise, network]
    argv += [f"{noise}+{network}", "--folds=2", "--repeats=1", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", argv)
    assert terminal.call(compare_features.main) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    row = found["encoders"][1]
    assert row["features"] == 192 and row["images_per_second"] > 0
    # The published network has 5,524,416 parameters without its classifier, positions for 14 x 14
    # patches among them; these images have 2 x 2.
    assert row["parameters"] == 5_524_416 - 192 * (14 * 14 - 2 * 2)
    assert found["encoders"][2]["features"] == 212
    assert "The page:" in capsys.readouterr().out


def test_frozen_features_refuse_random_weights(folder: Path) -> None:
    config = config_of(folder)
    config.pretrained = "none"
    refused(lambda: frozen_head.load(config), "frozen features need trained weights")
