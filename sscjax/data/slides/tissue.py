"""Where a slide holds tissue, and whether a tile of it can be used.

Tissue is what is coloured: Otsu's threshold on the saturation of the thumbnail (Otsu 1979, IEEE
Trans SMC 9:62), held within limits, because on a slide that is all tissue, or all glass, it would
split that one kind in two. Pens are blue, green or black, which haematoxylin and eosin are not. A
blurred tile has little of its variance in what the Laplacian sees (Pech-Pacheco et al. 2000, ICPR);
as a share of its variance, so that pale tissue is not taken for blur.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

# Saturation, of 255, that the threshold is held to: glass has up to 10, pale collagen from 20 on.
LOWEST, HIGHEST = 13, 51

# Hue of green to blue of 255 (PIL's circle); tissue stained with haematoxylin and eosin begins at
# 176. Saturation from which a hue means something; below it, up to this value, ink is black.
PEN_HUES = (70, 170)
PEN_SATURATION, PEN_VALUE = 60, 50
# Share of such pixels that spoils a tile.
PEN_SHARE = 0.05

# Of the variance, below which a tile is blurred. Real tiles of 0.5 micrometres per pixel reduced by
# four have 0.33 and more; blurred by one of their own pixels 0.07 and less.
SHARPNESS = 0.1
# Added to the variance: with a deviation below five grey levels, what the Laplacian sees is their
# rounding to whole ones.
_FLAT = 25.0


def threshold(thumbnail: np.ndarray) -> int:
    """Saturation, 0 to 255, above which a pixel of this slide is tissue.

    Args:
      thumbnail: uint8 [h,w,3].
    """
    counts = np.bincount(_hsv(thumbnail)[..., 1].ravel(), minlength=256)
    return int(np.clip(otsu(counts), LOWEST, HIGHEST))


def otsu(counts: np.ndarray) -> int:
    """The value that parts a histogram [256] into two with the largest variance between them.

    Values up to it are the lower part. 0 where all values are equal.
    """
    shares = counts / counts.sum()
    below = np.cumsum(shares)
    mean_below = np.cumsum(shares * np.arange(len(shares)))
    inside = (below > 0) & (below < 1)
    if not inside.any():
        return 0
    gap = mean_below[-1] * below[inside] - mean_below[inside]
    between = gap**2 / (below[inside] * (1 - below[inside]))
    return int(np.flatnonzero(inside)[between.argmax()])


def mask(thumbnail: np.ndarray, level: int, gap: int = 1) -> np.ndarray:
    """[h,w] bool, where a thumbnail uint8 [h,w,3] shows tissue: more saturated than `level`.

    Args:
      thumbnail: of the slide.
      level: saturation, 0 to 255.
      gap: pixels; narrower gaps, as between bundles of collagen, belong to the tissue.
    """
    pixels = _hsv(thumbnail)
    stained = (pixels[..., 1] > level) & ~_ink(pixels)
    # Of numbers, because only then a square is two passes along the axes.
    return ndimage.grey_closing(stained.view(np.uint8), size=(gap, gap)).astype(bool)


def pen_share(tile: np.ndarray) -> float:
    """Share of the pixels of a tile uint8 [S,S,3] that are ink of a pen, 0 to 1."""
    return float(_ink(_hsv(tile)).mean())


def sharpness(tile: np.ndarray) -> float:
    """Variance of the Laplacian of the grey tile uint8 [S,S,3] over the variance of its pixels."""
    grey = np.asarray(Image.fromarray(tile).convert("L"), np.float32)
    return float(ndimage.laplace(grey).var() / (grey.var() + _FLAT))


def _hsv(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("HSV"))


def _ink(pixels: np.ndarray) -> np.ndarray:
    hue, saturation, value = (pixels[..., k] for k in range(3))
    coloured = (hue >= PEN_HUES[0]) & (hue <= PEN_HUES[1]) & (saturation > PEN_SATURATION)
    # Dark keratin and crowded nuclei keep their colour.
    return coloured | ((value < PEN_VALUE) & (saturation < PEN_SATURATION))
