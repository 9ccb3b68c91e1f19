"""What is decided and said of a set after all its images were read."""

from __future__ import annotations

import logging

import numpy as np

from sscjax.data import masks as pixel_masks
from sscjax.data import pixel_range
from sscjax.data.masks import IGNORE
from sscjax.data.sources import Source

_LOG = logging.getLogger(__name__)


def settle_masks(source: Source, masks: np.ndarray | None) -> None:
    """Where all masks hold 0 and 255 alone, 255 is class 1."""
    if masks is None:
        return
    values = source.observed.mask_values
    if pixel_masks.white_is_one(values):
        _LOG.info("all masks hold 0 and 255 alone: 255 is read as class 1")
        records = source.listing.records
        for index in (k for k, record in enumerate(records) if record.masks):
            masks[index][masks[index] == IGNORE] = 1
    elif doubtful := pixel_masks.doubtful(values):
        _LOG.warning(
            "%d mask(s) hold 0 and 255 alone, while others hold numbers of classes: 255 is read as "
            "unknown in all of them (the first: %s)",
            len(doubtful), doubtful[0].name,
        )  # fmt: skip


def say(source: Source) -> None:
    """Log what was noticed while the images were read."""
    rule = pixel_range.describe(source.pixel_bits)
    if rule:
        _LOG.warning("%s", rule)
    for line in source.observed.notes():
        _LOG.warning("%s", line)
