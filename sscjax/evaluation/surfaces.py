"""The distance between the boundaries of two masks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Of the distances, so that a stray pixel does not decide (Taha and Hanbury 2015, BMC Med Imaging
# 15:29).
_PERCENTILE = 95


def hausdorff95(predicted: np.ndarray, true: np.ndarray) -> float:
    """95th percentile of the Hausdorff distance of two masks, in pixels.

    The distance of each pixel at the edge of one mask to the nearest pixel at the other's edge, in
    both directions; the larger of the two percentiles. Edge pixels have one of their four
    neighbours outside the mask; beyond the image is outside.

    Args:
      predicted: bool [H,W].
      true: bool [H,W].

    Returns:
      NaN where both are empty; where one is, the image's diagonal, the largest distance possible.
    """
    if not predicted.any() and not true.any():
        return float("nan")
    if not predicted.any() or not true.any():
        return float(np.hypot(*predicted.shape))
    ours, theirs = _edge(predicted), _edge(true)
    return max(_reached(ours, theirs), _reached(theirs, ours))


def _edge(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _reached(start: np.ndarray, end: np.ndarray) -> float:
    away = ndimage.distance_transform_edt(~end)
    return float(np.percentile(away[start], _PERCENTILE))
