"""Overlays leave cold places grey, colour hot ones; embedded pictures are small JPEGs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from sscjax.reports import overlays

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_overlay_colours_where_the_map_is_high() -> None:
    heat = np.zeros((2, 3))
    heat[0, 2] = 5.0
    found = overlays.overlay(PIXELS, heat)
    assert found.shape == PIXELS.shape and found.dtype == np.uint8
    # Bottom left lies far from the hot field: grey, as bright as the image.
    corner = found[30:, :15].astype(int)
    assert np.ptp(corner, axis=-1).max() == 0
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(corner[..., 0], grey[30:, :15])
    # Top right: viridis' yellow (253, 231, 37), as far as it covers.
    expected = 0.35 * grey[0, -1] + 0.65 * np.array([253, 231, 37])
    np.testing.assert_allclose(found[0, -1], expected, atol=1.5)


def test_overlay_of_nothing_is_grey() -> None:
    for heat in (np.zeros((4, 4)), np.full((4, 4), -1.0)):
        assert np.ptp(overlays.overlay(PIXELS, heat).astype(int), axis=-1).max() == 0


def test_png_keeps_every_pixel() -> None:
    with Image.open(io.BytesIO(overlays.png(PIXELS))) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_embedded_picture_is_reduced(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(PIXELS).resize((600, 400)).save(path)
    uri = overlays.data_uri(path, 192)
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "JPEG" and image.size == (192, 128)
