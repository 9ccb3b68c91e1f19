"""Gated attention over a subject's images: beside a loop in NumPy, and where means tell nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import cohen_kappa_score

from sscjax.configs import best_three_class
from sscjax.data.dataset import ImageSet
from sscjax.evaluation.predictions import Predictions

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import attention as script  # noqa: E402
import recipe  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compiler")

GROUP = np.array([1, 0, 2, 1, 1, 0, 2, 1, 1])


def network(seed: int) -> script.Weights:
    """Of 5 features and 3 classes, with no zeros in it."""
    rng = np.random.default_rng(seed)
    start = script.initial(jax.random.key(seed), 5, 3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), start)


def asked(weights: script.Weights, features: np.ndarray, members: np.ndarray) -> np.ndarray:
    return np.asarray(script.logits(weights, jnp.asarray(features), jnp.asarray(members)))


def test_is_the_loop_over_subjects() -> None:
    """Equation 9 of the paper, a subject and an image at a time, in double precision."""
    features = np.random.default_rng(0).normal(size=(len(GROUP), 5)).astype(np.float32)
    weights = network(1)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    expected = []
    for subject in range(3):
        scores, own = [], features[GROUP == subject].astype(np.float64)
        for image in own:
            tanh = np.tanh(wide.tanh.T @ image + wide.tanh_bias)
            gate = 1 / (1 + np.exp(-(wide.gate.T @ image + wide.gate_bias)))
            scores.append(float(wide.score[:, 0] @ (tanh * gate)))
        shares = np.exp(scores) / np.exp(scores).sum()
        pooled = sum(share * image for share, image in zip(shares, own, strict=True))
        expected.append(wide.kernel.T @ pooled + wide.bias)
    found = asked(weights, features, script.memberships(GROUP, 3, len(GROUP)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_neither_padding_nor_order_makes_a_difference() -> None:
    rng = np.random.default_rng(2)
    features, weights = rng.normal(size=(len(GROUP), 5)).astype(np.float32), network(3)
    found = asked(weights, features, script.memberships(GROUP, 3, len(GROUP)))
    other = rng.permutation(len(GROUP))
    # What nobody has is not looked at, even where it would get all the attention.
    more = np.concatenate([features[other], np.full((7, 5), 1e3, np.float32)])
    padded = asked(weights, more, script.memberships(GROUP[other], 5, len(more)))
    np.testing.assert_allclose(padded[:3], found, rtol=1e-5, atol=1e-5)
    assert np.isfinite(padded).all()


def image_set(subjects: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> ImageSet:
    return ImageSet(
        images=np.zeros((len(labels), 4, 4, 3), np.uint8),
        labels=labels.astype(np.int32),
        subjects=subjects.astype(str),
        files=np.array([f"{number}.png" for number in range(len(labels))]),
        classes=classes,
    )


def test_subjects_are_those_of_predictions() -> None:
    """Labels by majority, of two as frequent the more severe; in the order they come in."""
    images = image_set(
        np.array(["b", "a", "b", "c", "a", "c", "c"]),
        np.array([0, 1, 2, 1, 1, 0, 0]),
        ("x", "y", "z"),
    )
    group, labels, first = script.subjects_of(images)
    assert group.tolist() == [0, 1, 0, 2, 1, 2, 2]
    assert labels.tolist() == [2, 1, 0] and first.tolist() == [0, 1, 3]
    features = np.arange(14, dtype=np.float32).reshape(7, 2)
    expected = [features[[0, 2]].mean(0), features[[1, 4]].mean(0), features[[3, 5, 6]].mean(0)]
    np.testing.assert_allclose(script.means(features, group), expected)


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(12, 30)) @ rng.normal(size=(30, 30)) + rng.normal(size=30)
    features[:, 3] = 2.0
    varying = np.delete(features, 3, axis=1)
    standard = (varying - varying.mean(0)) / varying.std(0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    expected = left[:, :4] * values[:4] / np.sqrt((values[:4] ** 2).sum() / 12 / 4)
    found = script.Components.of(features.astype(np.float32), 4)(features.astype(np.float32))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)
    assert np.square(found).mean() == pytest.approx(1, abs=1e-3)


def one_that_tells(seed: int, subjects: int) -> tuple[np.ndarray, ImageSet]:
    """Ten images a subject, one of them marked; its sign there is the class.

    What the other nine have of that feature adds up to the opposite, so that the mean over a
    subject's images is the same for both classes.
    """
    rng = np.random.default_rng(seed)
    features, labels = [], np.arange(subjects) % 2
    for label in labels:
        own = rng.normal(0, 0.3, (10, 4))
        marked, sign = rng.integers(10), 2 * label - 1
        own[:, 0] += np.where(np.arange(10) == marked, sign, -sign / 9)
        own[marked, 1] += 3
        features.append(own)
    names = np.repeat([f"subject {number}" for number in range(subjects)], 10)
    return np.concatenate(features).astype(np.float32), image_set(
        names, np.repeat(labels, 10), ("no", "yes")
    )


def config() -> ConfigDict:
    found = best_three_class.get_config()
    found.stages.head.l2 = (1e-3, 1e-1)
    return found


def test_attention_finds_the_image_that_tells_and_means_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "COMPONENTS", (4,))
    monkeypatch.setattr(script, "DECAYS", (0.01,))
    features, training = one_that_tells(5, 40)
    unseen, test = one_that_tells(6, 60)
    group, labels, _ = script.subjects_of(test)
    right = {}
    for fit in (script.by_attention, script.by_means):
        said = fit(config(), features, training)(unseen, group)
        assert said.shape == (60, 2)
        right[fit.__name__] = (said.argmax(1) == labels).mean()
    assert right["by_attention"] > 0.9 and right["by_means"] < 0.7, right


def test_who_only_tells_subjects_has_no_line_of_images() -> None:
    rng = np.random.default_rng(7)
    labels = np.arange(24) % 2
    names = np.array([f"s{number:02}" for number in range(24)])
    odds = rng.uniform(0.1, 0.9, 24)
    table = Predictions(
        names, names, np.full(24, "test"), labels, np.stack([odds, 1 - odds], axis=1), ("x", "y")
    )
    images = Predictions(
        np.array([f"{number}.png" for number in range(48)]),
        *(np.repeat(names, 2), np.full(48, "test"), np.repeat(labels, 2)),
        np.repeat([[0.4, 0.6]], 48, axis=0),
        ("x", "y"),
    )
    name = next(iter(recipe.OF_SUBJECTS))
    assert recipe.line(name, table, images, "image") == []
    cells = recipe.line(name, table, images, "subject")
    accuracy = np.mean([(table.predicted == labels)[labels == label].mean() for label in (0, 1)])
    assert cells[:2] == [name, f"{100 * accuracy:.1f} %"]
    assert cells[2].startswith(f"{100 * (accuracy - 0.5):+.1f} (")
    kappa = cohen_kappa_score(labels, table.predicted, weights="quadratic")
    assert cells[3] == f"{kappa:.3f}" and cells[4].startswith(f"{kappa:+.3f} (")
    assert recipe.line("linear probe", images, images, "image")[2::2] == ["-"] * 4


def test_tables_per_image_and_per_subject() -> None:
    """A recipe for each line, as many cells as titles; those of subjects in the second alone."""
    rng = np.random.default_rng(3)
    labels, names = np.arange(24) % 2, np.array([f"s{number:02}" for number in range(24)])
    odds = rng.uniform(0.1, 0.9, 24)
    table = Predictions(
        names, names, np.full(24, "test"), labels, np.stack([odds, 1 - odds], axis=1), ("x", "y")
    )
    of_subjects = next(iter(recipe.OF_SUBJECTS))
    text = recipe.tables_of({"linear probe": table, of_subjects: table})
    images, subjects = (part.splitlines() for part in text.split("\n\n"))
    assert [line.split("|")[1].strip() for line in images[2:]] == ["linear probe"]
    assert [line.split("|")[1].strip() for line in subjects[2:]] == ["linear probe", of_subjects]
    assert len({line.count("|") for line in images + subjects}) == 1
