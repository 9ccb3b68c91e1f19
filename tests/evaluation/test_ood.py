"""The out-of-distribution flag: distance by hand, rate by simulation, recall beside real tiles."""

from __future__ import annotations

import csv
from pathlib import Path

import foreign_images
import jax
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import mahalanobis

from sscjax.errors import UserError
from sscjax.evaluation import ood
from sscjax.models import MobileNetV2, initial_variables
from sscjax.models.pretrained import load, preprocessing
from sscjax.training import evaluate, losses, programs


def features_of(seed: int, count: int, width: int = 40) -> np.ndarray:
    """Non-negative, of a few patterns and some noise, as pooled activations are."""
    patterns = np.random.default_rng(1).gamma(1.0, 1.0, (6, width))
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 1.0, (count, 6)) @ patterns + 0.3 * rng.random((count, width))


def detector_of(training: np.ndarray, held_out: np.ndarray, rate: float) -> ood.Detector:
    """Fitted on the first, its threshold set by the second."""
    detector = ood.fit(training)
    return detector.with_rate(detector.distances(held_out), rate)


# ---- the distance -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 300])
def test_distance_is_mahalanobis_of_the_whole_covariance(count: int) -> None:
    """Built as a D by D matrix and inverted, with few images and with many."""
    training = features_of(0, count)
    detector = detector_of(training, features_of(1, 50), 0.1)
    width, number = 40, len(detector.components)
    assert number == min(64, count // 5, 39)
    outside = np.eye(width) - detector.components.T @ detector.components
    covariance = (detector.components.T * detector.variances) @ detector.components
    covariance = covariance + detector.noise * outside
    # Equal in sum to the plain covariance: nothing of the scatter is lost.
    directions = training / np.linalg.norm(training, axis=1, keepdims=True)
    assert np.trace(covariance) == pytest.approx(np.cov(directions.T).trace(), rel=1e-4)
    inverse = np.linalg.inv(covariance)
    new = features_of(2, 5)
    expected = [
        mahalanobis(one / np.linalg.norm(one), detector.mean, inverse) / np.sqrt(width)
        for one in new
    ]
    np.testing.assert_allclose(detector.distances(new), expected, rtol=1e-3)


def test_strength_of_the_features_does_not_matter() -> None:
    detector = detector_of(features_of(0, 100), features_of(1, 50), 0.1)
    new = features_of(2, 5)
    np.testing.assert_allclose(detector.distances(7 * new), detector.distances(new))
    assert detector.flag(np.zeros((1, 40))).all()


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_rate_holds_for_images_of_the_same_kind(rate: float) -> None:
    """On average over held-out sets, as conformal prediction promises."""
    training, new = features_of(0, 200), features_of(1, 2000)
    shares = [
        detector_of(training, features_of(seed, 60), rate).flag(new).mean()
        for seed in range(100, 140)
    ]
    # (1 - rate) 61 is rounded up; the standard error over 40 sets is below 0.01.
    assert rate - 0.03 < np.mean(shares) < rate + 0.015


def test_few_held_out_images_set_the_largest_distance() -> None:
    held_out = features_of(1, 5)
    detector = detector_of(features_of(0, 100), held_out, 0.01)
    assert detector.threshold == detector.distances(held_out).max()
    assert not detector.flag(held_out).any()


def test_out_of_fold_distances_are_those_of_detectors_that_saw_the_other_folds() -> None:
    """And a threshold set by them holds its rate, where that of the fitted images does not."""
    training, folds = features_of(0, 60), np.arange(60) % 5
    distances = ood.out_of_fold_distances(training, folds)
    expected = ood.fit(training[folds != 3]).distances(training[folds == 3])
    np.testing.assert_array_equal(distances[folds == 3], expected)
    detector = ood.fit(training)
    new = features_of(1, 2000)
    fair = detector.with_rate(distances, 0.1).flag(new).mean()
    own = detector.with_rate(detector.distances(training), 0.1).flag(new).mean()
    assert abs(fair - 0.1) < 0.06 < own - 0.1


@pytest.mark.parametrize("count", [1, 4, 7])
def test_tiny_and_constant_sets(count: int) -> None:
    for training in (features_of(0, count), np.ones((count, 40)), np.zeros((count, 40))):
        detector = detector_of(training, features_of(1, 3), 0.05)
        assert np.isfinite(detector.distances(features_of(2, 9))).all()
        assert np.isfinite(detector.threshold)


# ---- the file -----------------------------------------------------------------------------------


def test_file_gives_the_same_flags(tmp_path: Path) -> None:
    detector = detector_of(features_of(0, 400, 1280), features_of(1, 50, 1280), 0.1)
    detector.save(tmp_path / "outliers.npz")
    again = ood.Detector.load(tmp_path / "outliers.npz")
    new = features_of(2, 50, 1280)
    np.testing.assert_array_equal(again.distances(new), detector.distances(new))
    np.testing.assert_array_equal(again.flag(new), detector.flag(new))
    assert (tmp_path / "outliers.npz").stat().st_size < 400_000
    first = (tmp_path / "outliers.npz").read_bytes()
    again.save(tmp_path / "outliers.npz")
    assert (tmp_path / "outliers.npz").read_bytes() == first


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "other arrays"])
def test_damaged_file_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "outliers.npz"
    detector_of(features_of(0, 50), features_of(1, 9), 0.1).save(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other arrays":
        with path.open("wb") as file:
            np.savez(file, mean=np.zeros(3))
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no"}[damage])
    with pytest.raises(UserError, match=r"outliers\.npz cannot be read"):
        ood.Detector.load(path)


# ---- real tiles ---------------------------------------------------------------------------------


def _tiles(folder: Path, each: int) -> tuple[np.ndarray, np.ndarray]:
    """The first tiles of each biopsy at 128 pixels, and the biopsies' numbers."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pixels, owner = [], []
    for number, subject in enumerate(sorted({row["subject"] for row in rows})):
        for row in [row for row in rows if row["subject"] == subject][:each]:
            with Image.open(folder / row["file"]) as image:
                pixels.append(np.asarray(image.convert("RGB").resize((128, 128))))
            owner.append(number)
    return np.stack(pixels), np.array(owner)


@pytest.mark.slow
def test_foreign_images_are_flagged_and_new_biopsies_are_not(shared_data: Path) -> None:
    """MobileNetV2 with ImageNet's weights; 36 biopsies train, 10 set the threshold, 10 are new."""
    model = MobileNetV2(outputs=3)
    variables = initial_variables(model, 128, 0)
    weights = shared_data / "weights" / "mobilenet_v2_1.0_224_no_top.h5"
    loaded = load.load_backbone(weights, variables["params"], variables["batch_stats"])

    def scaled(stored: jax.Array, key: jax.Array | None) -> jax.Array:
        return preprocessing.preprocess(stored.astype("float32"), loaded.convention.scaling)

    program = programs.Program(model, losses.Objective("softmax"), scaled, micro_batch=4)
    function = evaluate.make_penultimate(program)

    def features(stored: np.ndarray) -> np.ndarray:
        return evaluate.penultimate(
            function, loaded.params, loaded.batch_stats, stored, batch_size=16
        )

    tiles, owner = _tiles(shared_data / "data" / "prostate_gleason", 5)
    found = features(tiles)
    assert found.shape == (len(tiles), 1280)
    part = owner % 5  # biopsies in no order of class or centre
    held_out, new = part == 0, part == 1
    detector = detector_of(found[part > 1], found[held_out], 0.05)
    assert detector.flag(found[new]).mean() < 0.2
    for kind, images in foreign_images.no_tissue(8, 128).items():
        assert detector.flag(features(images)).all(), kind
    for kind, images in foreign_images.wrong_tissue(tiles[new][::7]).items():
        assert detector.flag(features(images)).mean() > 0.7, kind
