"""The exported page in Chromium: it predicts as the run does, and sends nothing.

Needs Chromium, and onnxruntime-web in `SSCJAX_ORT_WEB` (the archive that `npm pack` fetches).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Opened, Served, open_page
from exported import Runs

from sscjax.data import image_io, inputs
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, decisions
from sscjax.inference.outputs import Outputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def test_predicts_as_the_run(opened: Opened, runs: Runs, tiles: list[Path]) -> None:
    opened.give(*tiles)
    network = classifier.open_run(runs("mobilenet_v2"))
    batches = (image_io.read_image(tile, network.image_size)[None] for tile in tiles)
    outputs = Outputs.join(list(network.outputs(batches)))
    images = [inputs.InputImage(tile, tile.name, tile.name) for tile in tiles]
    limit = network.distance_limit
    table = decisions.decide(images, outputs, network.rules, len(network.classes), limit)
    text = decisions.csv_text(decisions.as_rows(table, network.columns, "image"))
    expected = list(csv.DictReader(io.StringIO(text)))
    rows = opened.table()
    assert [*rows[0]] == [key for key in expected[0] if key != "subject"]
    for row, of_run in zip(rows, expected, strict=True):
        for key, value in row.items():
            try:
                assert float(value) == pytest.approx(float(of_run[key]), abs=1e-4)
            except ValueError:
                assert value == of_run[key]
    assert opened.said == []


def test_one_patient(opened: Opened, runs: Runs, tiles: list[Path]) -> None:
    opened.give(*tiles[:5])
    network = classifier.open_run(runs("mobilenet_v2"))
    pixels = np.stack([image_io.read_image(tile, network.image_size) for tile in tiles[:5]])
    expected = Outputs.join(list(network.outputs([pixels]))).probabilities.mean(0)
    card = opened.page.locator("#together")
    assert "5 images are of one patient" in card.inner_text()
    for name, probability in zip(network.columns, expected, strict=True):
        shown = card.get_by_role("row", name=name).inner_text().split()[-2]
        assert float(shown) == pytest.approx(100 * probability, abs=0.06)


def test_a_broken_file_does_not_stop_the_rest(
    opened: Opened, tiles: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"words, and no image at all")
    opened.give(tiles[0], broken, tiles[1])
    page = opened.page
    assert "2 images predicted" in page.get_by_role("status").inner_text()
    faults = page.get_by_role("list", name="Files that could not be read").inner_text()
    assert faults == "<b>broken.png: not a jpg, png or bmp by its content: convert it"
    # The same files once more: answers are added, the list of faults is a new one.
    opened.give(tiles[2])
    assert len(opened.table()) == 3
    assert not page.locator("#faults").is_visible()
    opened.clear()
    assert not page.locator("#results").is_visible()


IMAGE = """url => new Promise((done) => {
  const image = new Image();
  image.onload = image.onerror = (event) => done(event.type);
  image.src = `${url}x.png`;
})"""


def test_nothing_leaves_the_page(opened: Opened, tiles: list[Path], tmp_path: Path) -> None:
    opened.give(*tiles[:2])
    assert opened.requests and all(url.startswith(opened.served.url) for url in opened.requests)
    methods = {line.split()[0] for line in opened.served.asked_for}
    assert methods == {"GET"}
    other = Served(tmp_path)
    with pytest.raises(sync_api.Error, match="Failed to fetch"):
        opened.page.evaluate("url => fetch(url)", other.url)
    assert opened.page.evaluate(IMAGE, other.url) == "error"
    assert other.asked_for == []
    assert any("Content Security Policy" in line for line in opened.said)
    # Without the page's rules the same requests arrive.
    plain = opened.page.context.browser.new_page()
    plain.goto(f"{opened.served.url}offline.js")
    plain.evaluate("url => fetch(url).then(() => true)", other.url)
    plain.evaluate(IMAGE, other.url)
    assert set(other.asked_for) >= {"GET /", "GET /x.png"}
    plain.close()
    other.close()


def test_by_keyboard_and_on_a_phone(browser: Any, site: Path, tiles: list[Path]) -> None:
    found = open_page(browser, site, viewport={"width": 390, "height": 800}, has_touch=True)
    page = found.page
    assert page.get_by_role("complementary", name="Notice").inner_text() == (
        "Research use, not a diagnosis."
    )
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    found.give(*tiles[:2])
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(beyond) == 0
    page.mouse.wheel(0, 2000)
    assert page.locator(".notice").bounding_box()["y"] == 0
    for control in ("maps", "shown", "save", "clear"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == control
    maps = page.locator(".card canvas[aria-label^=evidence]")
    assert maps.count() == 2 and maps.first.is_visible()
    page.get_by_label("Show evidence").uncheck()
    assert not maps.first.is_visible()
    found.close()


def test_a_network_without_maps(
    browser: Any, runs: Runs, runtime: Path, tmp_path: Path, tiles: list[Path]
) -> None:
    export_file.export(runs("cnn"), "web", tmp_path / "page", ExportOptions(ort_web=runtime))
    found = open_page(browser, tmp_path / "page")
    found.give(tiles[0])
    assert len(found.table()) == 1
    for place in ("#switch", "#shown", "#legend"):
        assert not found.page.locator(place).is_visible()
    assert found.said == []
    found.close()


def test_a_damaged_network_is_reported(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "page")
    [model] = (tmp_path / "page").glob("*/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    for change, expected in ((bytes(content), "damaged"), (bytes(content[:-9]), "incomplete")):
        model.write_bytes(change)
        served = Served(tmp_path / "page")
        page = browser.new_page()
        page.goto(served.url)
        page.get_by_role("heading", name="could not be loaded").wait_for()
        assert f"model.onnx is {expected}" in page.locator("#lead").inner_text()
        page.close()
        served.close()


def test_every_file_is_kept_offline(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    first = (site / "offline.js").read_text("utf-8").partition("\n")[0]
    listed = json.loads(first.removeprefix("const SITE = ").removesuffix(";"))
    assert set(listed["files"]) == names - {"offline.js", "index.html"} | {"./"}
    for name, expected in listed["files"].items():
        content = (site / (name if name != "./" else "index.html")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected
    folder = site / listed["version"]
    about = json.loads((folder / "model.json").read_text("utf-8"))
    for name, known in about["site"]["files"].items():
        assert (folder / name).stat().st_size == known["bytes"]
    # Below 10 MB without the runtime.
    own = sum(path.stat().st_size for path in folder.iterdir() if path.name != "ort.wasm")
    assert own < 10e6
