"""What a run logs of its images before it trains."""

from __future__ import annotations

import logging

from sscjax.data import dataset
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import predictions
from sscjax.experiments import run_warnings

_LOG = logging.getLogger(__name__)


def log_source(image_set: ImageSet, synthetic: bool) -> None:
    """Log where the images come from, which were skipped, and whether they are synthetic."""
    _LOG.info("images: %s", image_set.source)
    if image_set.skipped:
        _LOG.warning("%s", " ".join(run_warnings.left_out_warning(image_set).split()))
    if synthetic:
        _LOG.warning(
            "SYNTHETIC IMAGES: config.data.path is empty, so the run trains on tiles drawn by a "
            "program. Its figures say nothing about patients."
        )


def log_splits(images: dataset.Images) -> None:
    """Log the images and subjects of each split."""
    originals = images.originals
    for split in predictions.SPLITS:
        chosen = images.splits == split
        if not chosen.any():
            continue
        counts = ", ".join(
            f"{(originals.labels[chosen] == index).sum()} {name}"
            for index, name in enumerate(originals.classes)
        )
        subjects = len(set(originals.subjects[chosen].tolist()))
        _LOG.info("%s: %d images of %d subjects (%s)", split, chosen.sum(), subjects, counts)
    if "val" not in images.splits:
        _LOG.info(
            "no validation images: every stage is fitted to convergence, so all images that are "
            "not for testing are trained on, and rules rest on out-of-fold predictions"
        )
    copies = len(images.training) - int((images.splits == "train").sum())
    if copies:
        _LOG.info("train: %d augmented copies besides", copies)
