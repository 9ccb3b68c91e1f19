"""Images that are no tissue, or tissue that looks wrong, made by program: uint8 [N,H,W,3]."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_sample_images


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def _text(rng: np.random.Generator, size: int) -> np.ndarray:
    image = Image.new("RGB", (size, size), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    words = ["slide", "label", "patient", "scanner", "date", "biopsy", "stain", "section"]
    for line in range(2, size, 14):
        draw.text((3, line), " ".join(rng.choice(words, 4)), fill="black", font=font)
    return np.asarray(image)


def _photographs(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Parts of a photograph of a temple and of one of a flower."""
    photographs = load_sample_images().images
    found = []
    for index in range(count):
        whole = photographs[index % 2]
        side = int(rng.integers(128, 400))
        top, left = (int(rng.integers(0, extent - side)) for extent in whole.shape[:2])
        found.append(_resized(whole[top : top + side, left : left + side], size))
    return np.stack(found)


def no_tissue(count: int, size: int) -> dict[str, np.ndarray]:
    """By kind; nobody would take one of them for a biopsy."""
    rng = np.random.default_rng(0)
    shape = (count, size, size, 3)
    colours = rng.integers(0, 256, (count, 1, 1, 3), np.uint8)
    colours[:3, 0, 0] = [[255] * 3, [0] * 3, [128] * 3]
    stripes = [np.indices((size, size))[k % 2] // (k + 1) % 2 * 255 for k in range(count)]
    return {
        "noise": rng.integers(0, 256, shape, np.uint8),
        "clouds": np.stack(
            [_resized(rng.integers(0, 256, (6, 6, 3), np.uint8), size) for _ in range(count)]
        ),
        "blank": np.ascontiguousarray(np.broadcast_to(colours, shape)),
        "text": np.stack([_text(rng, size) for _ in range(count)]),
        "stripes": np.repeat(np.stack(stripes)[..., None], 3, axis=3).astype(np.uint8),
        "photographs": _photographs(rng, count, size),
    }


def wrong_tissue(tiles: np.ndarray) -> dict[str, np.ndarray]:
    """The same tiles inverted, out of focus, and with a stain of another colour."""
    blurred = [
        np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(6))) for tile in tiles
    ]
    return {"inverted": 255 - tiles, "blurred": np.stack(blurred), "green": tiles[..., [1, 0, 1]]}
