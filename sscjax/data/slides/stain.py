"""Stain normalisation of a slide's tiles: Macenko et al. 2009 (IEEE ISBI, 1107-1110).

The two stains of a slide, and how strong they are, are found once in its thumbnail; the tiles are
then drawn with the stains of a reference in their place. So all tiles of a slide are changed alike,
and none has to hold enough of both stains by itself. The stains are found by torchstain, whose part
for NumPy needs neither torch nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sscjax.errors import UserError

# Fewer pixels of tissue are too few to separate two stains.
_LEAST_PIXELS = 500

# As many are enough for a percentile.
_MOST_PIXELS = 250_000

# Of torchstain: the brightest light, and the density below which a pixel is glass.
_LIGHT, _GLASS = 240, 0.15


@dataclasses.dataclass(frozen=True, eq=False)
class Stains:
    """What a slide is stained with.

    Attributes:
      densities: [3,2] optical densities in red, green and blue of haematoxylin and eosin, each of
        length 1.
      strengths: [2] amount of each that 99 % of the pixels stay below.
    """

    densities: np.ndarray
    strengths: np.ndarray


def find(pixels: np.ndarray) -> Stains:
    """The stains of tissue, uint8 [N,3].

    Raises:
      UserError: there are no two stains in it. The message names no file.
    """
    density = -np.log((pixels.astype(float) + 1) / _LIGHT)
    if np.count_nonzero((density >= _GLASS).all(axis=1)) < _LEAST_PIXELS:
        raise UserError(
            "too little stained tissue to find its two stains; leave the slide out, or give "
            "--stain=none"
        )
    normalizer = _normalizer()
    normalizer.fit(pixels[:: -(-len(pixels) // _MOST_PIXELS)].reshape(-1, 1, 3))
    stains = Stains(np.asarray(normalizer.HERef), np.asarray(normalizer.maxCRef))
    alike = abs(float(np.prod(stains.densities, axis=1).sum()))
    if not np.isfinite(alike) or alike > 0.999 or (stains.strengths <= 0).any():
        raise UserError(
            "the tissue shows one stain, expected haematoxylin and eosin; leave the slide out, or "
            "give --stain=none"
        )
    return stains


def reference() -> Stains:
    """The stains that tiles are given: torchstain's, of Macenko's own implementation."""
    normalizer = _normalizer()
    return Stains(np.asarray(normalizer.HERef), np.asarray(normalizer.maxCRef))


def normalised(pixels: np.ndarray, stains: Stains, target: Stains) -> np.ndarray:
    """A tile, uint8 [H,W,3], with its slide's `stains` replaced by `target`."""
    density = -np.log((pixels.reshape(-1, 3).astype(float) + 1) / _LIGHT)
    amounts = density @ np.linalg.pinv(stains.densities).T
    amounts *= target.strengths / stains.strengths
    light = _LIGHT * np.exp(-amounts @ target.densities.T)
    return np.clip(light, 0, 255).astype(np.uint8).reshape(pixels.shape)


def _normalizer() -> Any:
    try:
        from torchstain.numpy.normalizers import NumpyMacenkoNormalizer
    except ImportError as error:
        raise UserError(
            "stains are normalised by torchstain, which is not installed: "
            "pip install 'sscjax[slides]', or give --stain=none"
        ) from error
    return NumpyMacenkoNormalizer()
