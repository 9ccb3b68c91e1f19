"""From a network and images to the table of predictions that all figures come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sscjax import features, optim, steps
from sscjax.data.dataset import ImageSet
from sscjax.metrics import Predictions
from sscjax.rows import Rows


def probabilities(
    predict: Callable[..., jax.Array],
    params: optim.Params,
    batch_stats: optim.Params,
    stored: Rows,
    *,
    batch_size: int,
) -> np.ndarray:
    """Class probabilities [N,C] float32 of all `stored` [N,...], none left out."""
    return features.batched(lambda x: predict(params, batch_stats, x), stored, batch_size)


def penultimate(
    program: steps.Program,
    params: optim.Params,
    batch_stats: optim.Params,
    stored: Rows,
    *,
    batch_size: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """What the classifier is fed for all `stored` [N,...], its mean over space: [N,D] float32."""
    function = steps.make_features(program, program.model.head_start)

    def pooled(x: jax.Array) -> jax.Array:
        found = function(params, batch_stats, x)
        return found.mean(axis=tuple(range(1, found.ndim - 1)))

    return features.batched(pooled, stored, batch_size, progress)


def class_columns(classes: tuple[str, ...], columns: int) -> tuple[str, ...]:
    """Names of the probability columns; outputs beyond the classes are called 'unused'."""
    surplus = columns - len(classes)
    if surplus < 0:
        raise ValueError(f"{columns} probabilities for {len(classes)} classes")
    extra = ("unused",) if surplus == 1 else tuple(f"unused_{i + 1}" for i in range(surplus))
    return classes + extra


def table(image_set: ImageSet, splits: np.ndarray, found: np.ndarray) -> Predictions:
    """Join probabilities [N,C] with what is known of each image."""
    return Predictions(
        files=image_set.files,
        subjects=image_set.subjects,
        splits=splits,
        labels=image_set.labels,
        probabilities=found,
        classes=class_columns(image_set.classes, found.shape[1]),
    )
