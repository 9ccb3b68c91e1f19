"""Slides made for tests: painted tissue on glass, written as a tiled pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

GLASS = (244, 243, 246)


def painted(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A slide of glass with tissue on its left half, pink with violet: uint8 [height,width,3]."""
    rng = np.random.default_rng(seed)
    shares = ndimage.gaussian_filter(rng.normal(size=(height, width // 2)), 1.0)[..., None]
    tissue_part = np.where(shares > 0.2, (110, 60, 140), (215, 130, 175)) + rng.normal(
        0, 6, (height, width // 2, 3)
    )
    found = np.empty((height, width, 3), np.uint8)
    found[:] = GLASS
    found[:, : width // 2] = np.clip(tissue_part, 0, 255)
    return found


def write_slide(path: Path, pixels: np.ndarray, levels: int = 3, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF with levels, each half as large, as OpenSlide reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            image = Image.fromarray(pixels)
            size = (pixels.shape[1] >> level, pixels.shape[0] >> level)
            small = np.asarray(image.resize(size, Image.Resampling.BOX))
            writer.write(small, subfiletype=1 if level else 0, **options)
    return path
