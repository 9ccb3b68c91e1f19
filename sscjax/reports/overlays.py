"""Small pictures for reports: images as PNG, maps laid over them, JPEG for embedding."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

# Colours of a map from nothing to its highest: perceptually uniform, legible with any kind of
# colour vision, and its yellow end stands out from tissue stained pink and violet.
COLOURS = "viridis"

# How much the colour covers of the image where the map is highest.
COVER = 0.65


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H,W,3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def colour_table() -> np.ndarray:
    """[256,3] uint8: the colours of a map, from nothing to its highest."""
    return np.round(matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint8)


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map over an image: the higher, the more colour; where it is 0, the image in grey.

    Args:
      pixels: [H,W,3] uint8.
      heat: [h,w] float, 0 or more, of any height; negative values count as 0.

    Returns:
      [H,W,3] uint8. An image without any heat is grey.
    """
    height, width = pixels.shape[:2]
    positive = np.maximum(np.asarray(heat, np.float32), 0)
    share = positive / max(float(positive.max()), np.finfo(np.float32).tiny)
    # Linear between the map's own points, for it has no finer detail.
    large = Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(large), 0, 1)
    colours = matplotlib.colormaps[COLOURS](share)[..., :3] * 255
    grey = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=-1)
    cover = COVER * share[..., None]
    return np.round((1 - cover) * grey + cover * colours).astype(np.uint8)


def data_uri(path: Path, side: int, quality: int = 85) -> str:
    """An image file as a JPEG to stand inside a page, reduced to at most `side` pixels."""
    with Image.open(path) as image:
        return _uri(image.convert("RGB"), side, quality)


def jpeg_uri(pixels: np.ndarray, side: int, quality: int = 80) -> str:
    """uint8 [H,W,3] as `data_uri` gives it of a file."""
    return _uri(Image.fromarray(pixels), side, quality)


def _uri(small: Image.Image, side: int, quality: int) -> str:
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
