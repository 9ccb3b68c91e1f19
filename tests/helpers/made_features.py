"""Features and labels that are made up, and what scikit-learn predicts from some of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.linear_model import LogisticRegression


@dataclasses.dataclass(frozen=True)
class Made:
    """Features of unlike scales, one of them constant, that tell three classes in part."""

    features: np.ndarray
    labels: np.ndarray


def made(images: int, seed: int, classes: int = 3) -> Made:
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = rng.normal(size=(images, 12))
    features[:, :classes] += 1.5 * np.eye(classes)[labels]
    features = features * 10.0 ** rng.uniform(-2, 2, 12) + rng.uniform(-5, 5, 12)
    return Made(np.column_stack([features, np.full(images, 7.0)]).astype(np.float32), labels)


def fitted_without(
    data: Made, inside: np.ndarray, l2: float, *, balanced: bool = False
) -> np.ndarray:
    """Probabilities of all images by scikit-learn, fitted to some; all is learnt from these."""
    x = data.features[:, :-1].astype(np.float64)
    x = (x - x[inside].mean(0)) / x[inside].std(0) / np.sqrt(data.features.shape[1])
    labels = data.labels[inside]
    weights = 1 / np.bincount(labels)[labels] if balanced else np.ones(len(labels))
    model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-8, max_iter=5000)
    return model.fit(x[inside], labels, sample_weight=weights).predict_proba(x)
