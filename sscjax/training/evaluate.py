"""From a network and images to the table of predictions that all metrics come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.data.lazy import Rows
from sscjax.data.masks import IGNORE
from sscjax.evaluation import surfaces
from sscjax.evaluation.predictions import Predictions
from sscjax.training import freezing, frozen_features, programs


def probabilities(
    predict: Callable[..., jax.Array],
    params: freezing.Params,
    batch_stats: freezing.Params,
    stored: Rows,
    *,
    batch_size: int,
) -> np.ndarray:
    """Class probabilities [N,C] float32 of all `stored` [N,...], none left out."""
    return frozen_features.batched(lambda x: predict(params, batch_stats, x), stored, batch_size)


def spatial_mean(features: jax.Array) -> jax.Array:
    """Features [B,D] of images: a map [B,h,w,D] is averaged over space, [B,D] stays as it is."""
    return features.mean(axis=tuple(range(1, features.ndim - 1)))


def make_penultimate(program: programs.Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> the classifier's input [B,D]."""

    @programs.jit
    def extract(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array
    ) -> jax.Array:
        return spatial_mean(
            program.outputs(params, batch_stats, stored, program.model.features_end)
        )

    return extract


def penultimate(
    function: Callable[..., jax.Array],
    params: freezing.Params,
    batch_stats: freezing.Params,
    stored: Rows,
    *,
    batch_size: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """What the classifier is fed for all `stored` [N,...]: [N,D] float32.

    Args:
      function: what `make_penultimate` gives.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      stored: images as the function's program takes them.
      batch_size: images per call.
      progress: called with the number of images done since the last call.
    """
    return frozen_features.batched(
        lambda x: function(params, batch_stats, x), stored, batch_size, progress
    )


# The arguments behind the star change how it is computed, not what.
def mask_counts(
    function: Callable[..., jax.Array],
    params: freezing.Params,
    batch_stats: freezing.Params,
    image_set: ImageSet,
    *,
    batch_size: int,
    distances: bool = True,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in the masks of images, and how far their edges are apart.

    Args:
      function: what `programs.make_masks` gives.
      params: the network's parameters, by layer.
      batch_stats: the network's running averages, by layer.
      image_set: N images with masks of K named classes.
      batch_size: images per call.
      distances: whether those of edges are wanted, which take longest; without, they are NaN.
      progress: called with the number of images done since the last call.

    Returns:
      [N,K,3] and [N,K], see `segmentation.Table`.
    """
    masks, counts = image_set.masks, []
    assert masks is not None
    for start in range(0, len(image_set), batch_size):
        # Repeating the last image keeps one compiled shape; its results are dropped.
        index = np.minimum(np.arange(start, start + batch_size), len(image_set) - 1)
        predicted = np.asarray(function(params, batch_stats, image_set.images[index]))
        count = min(batch_size, len(image_set) - start)
        true = masks[index[:count]]
        counts.append(_count(predicted[:count], true, len(image_set.mask_classes), distances))
        progress(count)
    pixels, distances_of = zip(*counts, strict=True)
    return np.concatenate(pixels), np.concatenate(distances_of)


def _count(
    predicted: np.ndarray, true: np.ndarray, classes: int, measure: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Of each class the pixels predicted and true, predicted, and true; and distances of edges."""
    known = true != IGNORE
    pixels = np.empty((len(true), classes, 3), np.int64)
    distances = np.full((len(true), classes), np.nan)
    for index in range(classes):
        ours, theirs = known & (predicted == index), known & (true == index)
        for column, which in enumerate((ours & theirs, ours, theirs)):
            pixels[:, index, column] = which.sum(axis=(1, 2))
        if measure:
            pairs = zip(ours, theirs, strict=True)
            distances[:, index] = [surfaces.hausdorff95(mask, truth) for mask, truth in pairs]
    return pixels, distances


def class_columns(classes: tuple[str, ...], columns: int) -> tuple[str, ...]:
    """Names of the probability columns; outputs beyond the classes are called 'unused'."""
    surplus = columns - len(classes)
    if surplus < 0:
        raise ValueError(f"{columns} probabilities for {len(classes)} classes")
    extra = ("unused",) if surplus == 1 else tuple(f"unused_{i + 1}" for i in range(surplus))
    return classes + extra


def table(image_set: ImageSet, splits: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Join probabilities [N,C] with what is known of each image."""
    return Predictions(
        files=image_set.files,
        subjects=image_set.subjects,
        splits=splits,
        labels=image_set.labels,
        probabilities=probabilities,
        classes=class_columns(image_set.classes, probabilities.shape[1]),
        sites=image_set.sites,
    )
