"""A slide's page from the disk: the pyramid is the slide, the heat map lies where the tiles do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sscjax.reports import overlays
from sscjax.reports.html import slide_viewer
from sscjax.reports.html.slide_viewer import TILE, Heat

LIBRARY = {"openseadragon.min.js": b"// a library"}


def heat(corners: list[tuple[float, float]], values: list[float]) -> Heat:
    return Heat(np.array(corners), 0.25, np.array(values), "probability of <late>", 0.4)


def painted() -> np.ndarray:
    """Higher than wide, more than a tile, of smooth colours."""
    rows, columns = np.mgrid[:1200, :700]
    parts = (rows * 255 // 1200, columns * 255 // 700, (rows + columns) * 255 // 1900)
    return np.stack(parts, axis=-1).astype(np.uint8)


def test_the_pyramid_is_the_slide(tmp_path: Path) -> None:
    pixels = painted()
    page = slide_viewer.write(tmp_path, "a", "a.svs", pixels, heat([(0, 0)], [1.0]), [], LIBRARY)
    levels = {int(path.name): path for path in (tmp_path / "a_files").iterdir()}
    # As Deep Zoom numbers them: level 0 has one pixel, each next is twice as large.
    assert sorted(levels) == list(range(12)) and 2**11 >= 1200 > 2**10
    with Image.open(levels[0] / "0_0.jpg") as image:
        assert image.size == (1, 1)
    assert {path.name for path in levels[11].iterdir()} == {
        f"{column}_{row}.jpg" for column in range(2) for row in range(3)
    }
    together = np.zeros_like(pixels)
    for path in levels[11].iterdir():
        column, row = map(int, path.stem.split("_"))
        with Image.open(path) as image:
            part = np.asarray(image)
        together[row * TILE :, column * TILE :][: part.shape[0], : part.shape[1]] = part
    assert np.abs(together.astype(int) - pixels).max() <= 12
    with Image.open(levels[10] / "0_1.jpg") as image:
        assert image.size == (350, 600 - TILE)
    text = (tmp_path / page).read_text("utf-8")
    assert "&lt;late&gt;" in text and "<late>" not in text
    assert (tmp_path / "openseadragon.min.js").read_bytes() == b"// a library"


def test_squares_have_their_colours_and_places() -> None:
    found = slide_viewer.heat_pixels(heat([(0, 0), (0.5, 1.0)], [0.0, 1.0]), 2.0)
    assert found.shape == (64, 32, 4)
    colours = overlays.colour_table()
    np.testing.assert_array_equal(found[:8, :8, :3], np.broadcast_to(colours[0], (8, 8, 3)))
    np.testing.assert_array_equal(found[32:40, 16:24, :3], np.broadcast_to(colours[255], (8, 8, 3)))
    assert found[..., 3].sum() == 255 * 2 * 64


@pytest.mark.slow
def test_it_pans_and_zooms_from_the_disk(browser: Any, openseadragon: Path, tmp_path: Path) -> None:
    library = slide_viewer.PACKAGE.read(openseadragon)
    places = [("90.0 %", 1), ("10.0 %", 0)]
    over = heat([(0, 0), (0.5, 1.0)], [0.1, 0.9])
    page = slide_viewer.write(tmp_path, "a", "a.svs", painted(), over, places, library)
    opened = browser.new_page(viewport={"width": 900, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((tmp_path / page).as_uri())
    opened.wait_for_selector("body[data-ready]")

    def colour(x: float, y: float) -> list[int]:
        """Of the slide alone, at a place in its own coordinates."""
        opened.wait_for_function("viewer.world.getItemAt(0).getFullyLoaded()")
        opened.wait_for_timeout(1000)
        place = opened.evaluate(
            "([x, y]) => { const at = new OpenSeadragon.Point(x, y);"
            " const p = viewer.viewport.pixelFromPoint(at, true);"
            " const r = document.getElementById('slide').getBoundingClientRect();"
            " return [p.x + r.left, p.y + r.top]; }",
            [x, y],
        )
        with Image.open(io.BytesIO(opened.screenshot())) as image:
            pixel = image.convert("RGB").getpixel((round(place[0]), round(place[1])))
        return list(pixel)  # type: ignore[arg-type]

    opened.get_by_label("Opacity").fill("0")
    # (0.6, 1.1) of a width of 700 pixels: row 770, column 420.
    expected = painted()[770, 420].astype(int)
    assert np.abs(np.array(colour(0.6, 1.1)) - expected).max() <= 12
    whole = opened.evaluate("viewer.viewport.getBounds(true).width")
    opened.get_by_role("button", name="90.0 %").click()
    assert np.abs(np.array(colour(0.6, 1.1)) - expected).max() <= 12
    assert opened.evaluate("viewer.viewport.getBounds(true).width") < whole / 2
    opened.get_by_label("Opacity").fill("100")
    top = overlays.colour_table()[round(255 * 0.9)].astype(int)
    assert np.abs(np.array(colour(0.6, 1.1)) - top).max() <= 12
    assert said == [] and all(url.startswith("file:") for url in asked)
    opened.close()
