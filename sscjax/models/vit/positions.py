"""Where patches are: learned positions brought to another size, and rotary ones.

Learned positions belong to the grid of patches that was trained. For images of another size they
are interpolated, and every library does it its own way: the way travels with the weights.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Resize = Literal["antialias", "cubic"]
"""How learned positions are interpolated: 'antialias' as timm, 'cubic' as transformers' ViT."""

_THETA = 100.0  # base of the rotary periods, as DINOv3 chose it
# The coefficient of the cubic kernel: Keys' own where PyTorch smooths, another where it does not.
_COEFFICIENT = {"antialias": -0.5, "cubic": -0.75}


def resize(positions: np.ndarray, side: int, how: Resize) -> np.ndarray:
    """Learned positions [g*g,D] for a grid of `side` by `side` patches: [side*side,D] float32.

    Args:
      positions: of the grid that was trained, row by row.
      side: patches along a side of the images at hand.
      how: 'antialias' as `timm.layers.resample_abs_pos_embed`, 'cubic' as transformers' ViT and
        DINOv2: `torch.nn.functional.interpolate(mode='bicubic')` with and without `antialias`.

    Raises:
      ValueError: the positions are not those of a square.

    Example:
      >>> resize(np.ones((4, 8), np.float32), 3, "cubic").shape
      (9, 8)
    """
    before = math.isqrt(len(positions))
    if before * before != len(positions):
        raise ValueError(f"{len(positions)} positions are not those of a square grid")
    if before == side:
        return np.asarray(positions, np.float32)
    grid = np.asarray(positions, np.float64).reshape(before, before, -1)
    weights = _weights(before, side, how)
    moved = np.einsum("ai,ijd,bj->abd", weights, grid, weights)
    return moved.reshape(side * side, -1).astype(np.float32)


def _weights(before: int, after: int, how: Resize) -> np.ndarray:
    """Share of each of `before` samples in each of `after`: [after,before], rows sum to 1."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    if how == "antialias":
        stretch = max(before / after, 1.0)
        weights = _cubic((centres[:, None] - np.arange(before)[None]) / stretch, how)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((after, before))
    for row, centre in enumerate(centres):
        start = math.floor(centre) - 1
        for sample in range(start, start + 4):
            # What lies beyond the edge counts as the edge.
            weights[row, min(max(sample, 0), before - 1)] += _cubic(centre - sample, how)
    return weights


def _cubic(distance: np.ndarray | float, how: Resize) -> np.ndarray:
    """Cubic convolution (Keys 1981) at distances in samples."""
    a, x = _COEFFICIENT[how], np.abs(np.asarray(distance, np.float64))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def rotary(side: int, head_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [side*side,head_width] float32 that turn queries and keys (DINOv3).

    Places are the centres of patches in [-1, 1]; of each head's channels one quarter turns by the
    row and one by the column, with periods that grow geometrically, and the other half likewise.

    Args:
      side: patches along a side.
      head_width: channels of a head, divisible by 4.
    """
    frequencies = _THETA ** -np.arange(0, 1, 4 / head_width)
    places = (np.arange(side) + 0.5) / side * 2 - 1
    rows, columns = np.meshgrid(places, places, indexing="ij")
    both = np.stack([rows.ravel(), columns.ravel()], axis=1)
    angles = (2 * np.pi * both[:, :, None] * frequencies[None, None]).reshape(side * side, -1)
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
