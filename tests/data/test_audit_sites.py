"""The site as a confounder: named where it goes with the label or is visible, else silence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from sscjax.data import synthetic
from sscjax.data.audit import checks, sites
from sscjax.data.dataset import ImageSet

NAMES = ("normal", "early", "late")


def simulated(
    seed: int, subjects: int = 60, follows: float = 0.0, shift: float = 0.0
) -> tuple[ImageSet, np.ndarray]:
    """Subjects of two images at three sites, and their features.

    Args:
      seed: of the generator.
      subjects: how many.
      follows: share of the subjects whose site follows from their label.
      shift: how far sites move a feature, in standard deviations between subjects.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, subjects)
    site = np.where(rng.random(subjects) < follows, label, rng.integers(0, 3, subjects))
    features = rng.standard_normal((subjects, 24)) @ rng.standard_normal((24, 24))
    # A label may well be visible: that is what is to be learnt.
    features += np.outer(label, 3 * rng.standard_normal(24))
    features[:, 3] += shift * features[:, 3].std() * site
    images = np.repeat(np.arange(subjects), 2)
    found = ImageSet(
        images=np.zeros((len(images), 1, 1, 3), np.uint8),
        labels=label[images].astype(np.int32),
        subjects=np.array([f"p{k}" for k in images]),
        files=np.array([f"{k}.png" for k in range(len(images))]),
        classes=NAMES,
        sites=np.array(["A", "B", "C"])[site][images],
    )
    return found, features[images] + rng.standard_normal((len(images), 24))


def of(table: ImageSet) -> np.ndarray:
    """Its sites, which it has."""
    assert table.sites is not None
    return table.sites


def kinds(found: ImageSet, features: np.ndarray) -> dict[str, str]:
    return {one["kind"]: one["severity"] for one in sites.findings(found, features)}


def test_a_site_that_equals_the_class_is_named_in_an_audit() -> None:
    image_set = synthetic.skin_biopsies(
        image_size=32, tiles=dict.fromkeys(NAMES, 12), subjects=dict.fromkeys(NAMES, 6)
    )
    equal = dataclasses.replace(image_set, sites=np.array(["A", "B", "C"])[image_set.labels])
    found = {one["kind"]: one for one in checks.audit(equal, None, None)["findings"]}
    assert "A: 6 normal" in found["sites_of_one_class"]["detail"]
    both = found["sites_and_labels"]
    assert both["severity"] == "warning" and "Cramér's V 1.00" in both["title"]
    assert "B: 0 normal, 6 early, 0 late" in both["detail"]
    unchecked = {one["kind"]: one["reason"] for one in checks.audit(equal, None, None)["unchecked"]}
    assert unchecked["sites_in_images"] == "no class is at two sites"


def test_a_site_that_is_visible_is_named_and_others_are_not() -> None:
    assert kinds(*simulated(0)) == {}
    assert kinds(*simulated(0, shift=3.0)) == {"sites_in_images": "note"}
    both = {"sites_and_labels": "warning", "sites_in_images": "warning"}
    assert kinds(*simulated(0, subjects=90, follows=0.6, shift=3.0)) == both
    found, features = simulated(0)
    assert kinds(dataclasses.replace(found, sites=None), features) == {}
    mixed = np.where(np.arange(len(found)) % 2, "A", of(found))
    assert kinds(dataclasses.replace(found, sites=mixed), features)["subjects_across_sites"]


def test_association_against_scipy() -> None:
    found, _ = simulated(1, subjects=90, follows=0.25)
    _, site, label = sites.per_subject(found.subjects, of(found), found.labels, 3)
    ours = sites.with_labels(site, label)
    table = np.histogram2d(site, label, bins=3)[0].astype(int)
    n, v = table.sum(), association(table, "cramer")
    # Bergsma's correction of V, by its formula.
    phi, side = max(0, 2 * v**2 - 4 / (n - 1)), 3 - 4 / (n - 1)
    assert ours.size == pytest.approx(np.sqrt(phi / (side - 1)))
    p = chi2_contingency(table, correction=False).pvalue
    assert ours.p == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 1000) + 1e-3)


def test_predictions_by_the_others_are_those_of_scikit_learn() -> None:
    """With one class: ridge regression without each subject in turn, ranked by its area."""
    found, features = simulated(2, subjects=30, shift=2.0)
    _, site, _ = sites.per_subject(found.subjects, of(found), found.labels, 3)
    features = features[::2]
    _, first = np.unique(found.subjects[::2], return_index=True)
    features = features[first]
    scaled = (features - features.mean(0)) / features.std(0)
    right = pairs = 0.0
    for which in range(3):
        truth = (site == which).astype(float)
        scores = np.zeros(len(truth))
        for k in range(len(truth)):
            others = np.arange(len(truth)) != k
            model = Ridge(alpha=5.0).fit(scaled[others], truth[others])
            scores[k] = model.predict(scaled[k : k + 1])[0] - truth[others].mean()
        weight = truth.sum() * (1 - truth).sum()
        right += weight * roc_auc_score(truth, scores)
        pairs += weight
    ours = sites.in_images(features, site, np.zeros(len(site), int))
    assert ours.size == pytest.approx(right / pairs, abs=1e-9)


@pytest.mark.slow
def test_false_alarms_of_sites() -> None:
    """Of 200 sets whose sites mean nothing at most 5 % are warned of; of 20 that mislead, all."""
    alarms = [kinds(*simulated(seed, subjects=30 + seed % 60)) for seed in range(200)]
    assert np.mean([bool(one) for one in alarms]) <= 0.05
    for seed in range(20):
        assert "sites_and_labels" in kinds(*simulated(seed, follows=1.0))
        assert "sites_in_images" in kinds(*simulated(seed, shift=3.0))
