"""Weights of classes in the losses, by how often each occurs in the training images."""

from __future__ import annotations

import numpy as np

from sscjax.data import lazy
from sscjax.data.lazy import Rows
from sscjax.errors import UserError


def mask_weights(kind: str, masks: Rows, classes: int) -> tuple[float, ...]:
    """Factor of the loss of each mask class's pixels, of mean 1 over the known ones; () for none.

    Args:
      kind: 'root', of the inverse of the class's share of the pixels; or 'none'.
      masks: [N,H,W] uint8, those trained on.
      classes: of the masks.

    Raises:
      UserError: an unknown kind, or masks in which no pixel is known.
    """
    if kind == "none":
        return ()
    if kind != "root":
        raise UserError(f"config.loss.mask_weights={kind!r}: expected 'root' or 'none'")
    counts = np.zeros(256, np.int64)
    for part in lazy.chunks(masks):
        counts += np.bincount(masks[part].ravel(), minlength=256)
    if not counts[:classes].any():
        raise UserError(
            "config.loss.segmentation is above 0, and no training image has a mask: add masks to "
            "more subjects, or set it to 0"
        )
    shares = counts[:classes] / counts[:classes].sum()
    # A class without pixels has weight 0: there is nothing to learn it from.
    weights = np.where(shares > 0, 1 / np.sqrt(np.maximum(shares, 1e-12)), 0.0)
    return tuple((weights / (weights * shares).sum()).tolist())


def class_weights(kind: str, labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """Factor of the loss of each class, () for none.

    Args:
      kind: 'balanced', all images of a class together weigh as much as those of any other; or
        'none'.
      labels: [N] of the images trained on.
      classes: number of classes.
    """
    if kind == "none":
        return ()
    if kind != "balanced":
        raise UserError(f"config.loss.class_weights={kind!r}: expected 'balanced' or 'none'")
    totals = np.bincount(labels, minlength=classes)
    # A class that is at the tested site alone has no image here: there is nothing to weigh.
    present = max(1, np.count_nonzero(totals))
    # Python floats, so that the weights are constants of the compiled step.
    return tuple(float(totals.sum() / (present * total)) if total else 0.0 for total in totals)
