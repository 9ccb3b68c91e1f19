"""The figures by which backbones are compared without labels, against scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import backbone as script  # noqa: E402


def test_figures_of_a_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles on a grid whose features change slowly over it, with noise; the rest is as it is."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1).reshape(-1, 2) * 1.0
    own = np.concatenate([np.cos(places), np.sin(places), rng.normal(0, 0.6, (49, 6))], axis=1)
    other = own + rng.normal(0, 0.7, own.shape)
    monkeypatch.setattr(script, "features_of", lambda name, images: np.concatenate([own, other]))
    tiles = np.zeros((49, 16, 16, 3), np.uint8)
    area, again = script.slide_figures("any", places, tiles)

    areas = []
    for row in range(49):
        apart = np.sqrt(((places - places[row]) ** 2).sum(1))
        counted = ((apart > 0) & (apart < 1.5)) | (apart >= 4)
        scores = cosine_similarity(own[[row]], own)[0][counted]
        areas.append(roc_auc_score(apart[counted] < 1.5, scores))
    assert area == pytest.approx(np.mean(areas), abs=1e-6) and 0.55 < np.mean(areas) < 0.95
    nearest = cosine_similarity(other, own).argmax(1)
    assert again == (nearest == np.arange(49)).mean() < 1
