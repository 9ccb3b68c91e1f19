"""The exported page in Chromium: it answers as the run does, sends nothing, works offline.

Needs Chromium, and onnxruntime-web in `SSCJAX_ORT_WEB` (the archive that `npm pack` fetches).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import urllib3
from browsing import Opened, Served, new_page, open_page, until
from PIL import Image, ImageCms
from requests.adapters import BaseAdapter
from small_runs import finished_run, write_folder

from sscjax.data import image_io, inputs
from sscjax.errors import UserError
from sscjax.export import ort_web, web
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, decisions
from sscjax.inference.outputs import Outputs, Rules
from sscjax.reports import overlays

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SITE = Path(__file__).resolve().parents[2] / "sscjax" / "export" / "site"
SIZE = 32


# ---- what is opened ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(browser: Any) -> Iterator[Any]:
    """A page in which the site's modules can be imported, without a network behind it."""
    served = Served(SITE)
    page = browser.new_page()
    page.goto(f"{served.url}style.css")
    yield page
    page.close()
    served.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return finished_run(folder / "run", write_folder(folder / "skin"), "mobilenet_v2")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, run: Path, runtime: Path) -> Path:
    place = tmp_path_factory.mktemp("page") / "page"
    said = export_file.export(run, "web", place, ExportOptions(ort_web=runtime))
    assert "0 decisions differ" in said and "python -m http.server" in said
    return place


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Opened]:
    found = open_page(browser, site)
    yield found
    found.close()


# ---- the same answers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiles(request: pytest.FixtureRequest, run: Path) -> list[Path]:
    """200 real tiles, or the synthetic ones of the run."""
    try:
        shared = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return sorted((run.parent / "skin").rglob("*.png"))
    found = sorted((shared / "data" / "prostate_gleason").glob("*/*.jpg"))
    return found[:: len(found) // 200][:200]


def test_predicts_as_the_run(opened: Opened, run: Path, tiles: list[Path]) -> None:
    opened.give(*tiles)
    rows = opened.table()
    network = classifier.open_run(run)
    expected = Outputs.join(
        list(network.outputs(image_io.read_image(tile, SIZE)[None] for tile in tiles))
    )
    some = [inputs.InputImage(tile, tile.name, tile.name) for tile in tiles]
    table = decisions.decide(
        some, expected, network.rules, len(network.classes), network.detector.threshold
    )
    like = list(
        csv.DictReader(
            io.StringIO(decisions.csv_text(decisions.as_rows(table, network.columns, "image")))
        )
    )
    assert [*rows[0]] == [key for key in like[0] if key != "subject"]
    for found, wanted in zip(rows, like, strict=True):
        for key, value in found.items():
            try:
                assert float(value) == pytest.approx(float(wanted[key]), abs=1e-4)
            except ValueError:
                assert value == wanted[key]
    assert opened.said == []


def test_one_patient(opened: Opened, run: Path, tiles: list[Path]) -> None:
    opened.give(*tiles[:5])
    network = classifier.open_run(run)
    pixels = np.stack([image_io.read_image(tile, SIZE) for tile in tiles[:5]])
    found = Outputs.join(list(network.outputs([pixels]))).probabilities.mean(0)
    card = opened.page.locator("#together")
    assert "5 images are of one patient" in card.inner_text()
    for name, share in zip(network.columns, found, strict=True):
        shown = card.get_by_role("row", name=name).inner_text().split()[-2]
        assert float(shown) == pytest.approx(100 * share, abs=0.06)


def test_maps_are_drawn_as_reports_draw_them(modules: Any) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    heat = rng.normal(size=(3, 5)).astype(np.float32)
    drawn = modules.evaluate(
        """async ([pixels, heat, style]) => {
          const draw = await import("./draw.js");
          const canvas = document.createElement("canvas");
          const map = { values: Float32Array.from(heat), rows: 3, columns: 5 };
          draw.overlay(canvas, Uint8Array.from(pixels), 32, map, style);
          return Array.from(canvas.getContext("2d").getImageData(0, 0, 32, 32).data);
        }""",
        [
            pixels.ravel().tolist(),
            heat.ravel().tolist(),
            {"colours": overlays.colour_table().tolist(), "cover": overlays.COVER},
        ],
    )
    found = np.array(drawn).reshape(SIZE, SIZE, 4)[..., :3]
    difference = np.abs(found - overlays.overlay(pixels, heat).astype(int))
    # Where a share lies between two colours of the table, either may be taken.
    assert difference.max() <= 3 and difference.mean() < 0.3


RULES = Rules(
    temperature=1.0,
    threshold=0.6,
    threshold_rule="",
    positive="late or early",
    negative="normal",
    confidence_threshold=0.5,
    abstention_rule="",
)
COLUMNS = ["normal", "early", "late", "none"]
ABOUT = {
    "columns": COLUMNS,
    "classes": COLUMNS[:3],
    "threshold": {"value": 0.6},
    "confidence_threshold": {"value": 0.5},
    "distance": {"limit": 1.2},
}


def test_rules_are_those_of_predict(modules: Any) -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(4, 0.7), 60)
    distances = rng.uniform(0.5, 1.6, 60)
    some = [inputs.InputImage(Path(), f"{k}", "one" if k < 20 else "two") for k in range(60)]
    table = decisions.decide(some, Outputs(shares, distances), RULES, 3, 1.2)
    found = modules.evaluate(
        """async ([about, shares, distances]) => {
          const { decide, together } = await import("./rules.js");
          const all = shares.map((row, k) => decide(about, row, distances[k]));
          return [...all, together(about, all.slice(0, 20)), together(about, all.slice(20))];
        }""",
        [ABOUT, shares.tolist(), distances.tolist()],
    )
    subjects = decisions.by_subject(table, RULES, 3)
    wanted = [*decisions.as_rows(table, COLUMNS, "image")]
    wanted += decisions.as_rows(subjects, COLUMNS, "subject")
    assert {one["decision"] for one in found[:60]} == {"abstain", "out_of_distribution", *COLUMNS}
    for one, other in zip(found, wanted, strict=True):
        assert one["decision"] == other["decision"]
        assert (one["positive"], one["abstained"]) == (other["positive"], other["abstained"])
        assert one["score"] == pytest.approx(other["disease_score"])
        assert one["distance"] == pytest.approx(other["distance"])


def test_names_in_the_table_are_text(modules: Any) -> None:
    names = ["=1+1.png", "a,b.png", 'say "x".png', "+49.jpg", "two\nlines.png", "plain.png"]
    text = modules.evaluate(
        """async ([about, names]) => {
          const { csv, decide } = await import("./rules.js");
          const one = decide(about, [0.1, 0.2, 0.6, 0.1], 1);
          return csv(about, names.map((name) => ({ name, ...one })));
        }""",
        [ABOUT, names],
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["file"] for row in rows] == ["'=1+1.png", *names[1:3], "'+49.jpg", *names[4:]]
    assert rows[0]["decision"] == "late" and rows[0]["p_late"] == "0.6"


# ---- images as Pillow reads them ----------------------------------------------------------------


def letters(content: bytes) -> str:
    """As a page is told bytes the quickest."""
    return base64.b64encode(content).decode("ascii")


SQUARE = """async ([content, width, height, size]) => {
  const { square } = await import("./resample.js");
  const pixels = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const read = (top, rows, left, columns) => {
    const part = new Uint8ClampedArray(rows * columns * 4);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++)
        for (let c = 0; c < 3; c++)
          part[4 * (y * columns + x) + c] = pixels[3 * ((top + y) * width + left + x) + c];
    return part;
  };
  return Array.from(square(read, width, height, size));
}"""


@pytest.mark.parametrize(
    "width, height, size",
    [
        (64, 64, 32),
        (97, 41, 32),
        (40, 301, 24),
        (300, 700, 32),
        (20, 23, 32),
        (20, 33, 32),
        (32, 32, 32),
        (33, 32, 32),
    ],
)
def test_reduces_as_pillow_to_the_bit(modules: Any, width: int, height: int, size: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    # Edges from black to white, where Lanczos overshoots and has to be clipped.
    pixels[height // 2 :, : width // 2] = 0
    pixels[height // 2 :, width // 2 :] = 255
    found = modules.evaluate(SQUARE, [letters(pixels.tobytes()), width, height, size])
    expected = image_io.resize_pixels(pixels, size)
    np.testing.assert_array_equal(np.array(found, np.uint8).reshape(size, size, 3), expected)


def photos(folder: Path) -> dict[str, Path]:
    """Files of every kind that browsers read."""
    rng = np.random.default_rng(5)
    rough = Image.fromarray(rng.integers(0, 256, (9, 13, 3)).astype(np.uint8))
    smooth = rough.resize((390, 270), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = smooth.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (270, 195))))
    half = smooth.convert("RGBA")
    half.putalpha(100)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "photo.jpg": (smooth, {"quality": 90}),
        "turned.jpg": (smooth, {"exif": turned}),
        "grey.jpg": (smooth.convert("L"), {}),
        "plain.png": (smooth, {}),
        "palette.png": (smooth.convert("P"), {}),
        "clear.png": (clear, {}),
        "deep.png": (Image.fromarray(np.asarray(smooth)[..., 0].astype(np.uint16) << 8), {}),
        "plain.bmp": (smooth, {}),
        "profile.jpg": (smooth, {"quality": 90, "icc_profile": far_profile()}),
        "half.png": (half, {}),
        "ink.jpg": (smooth.convert("CMYK"), {"quality": 95}),
        "large.jpg": (smooth.resize((2600, 1800), Image.Resampling.BICUBIC), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    # As phones write them: previews and depth maps before the image itself.
    content = (folder / "photo.jpg").read_bytes()
    segment = b"\xff\xe1" + (65_535).to_bytes(2, "big") + bytes(65_533)
    (folder / "previews.jpg").write_bytes(content[:2] + 24 * segment + content[2:])
    return {name: folder / name for name in [*kinds, "previews.jpg"]}


def far_profile() -> bytes:
    """A colour profile that changes every colour, where it is used: red and blue exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Each tag: signature, offset, size (ICC.1, 7.3).
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    one, other = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[one : one + 4], profile[other : other + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


READ = """async ([content, size]) => {
  const { read } = await import("./photo.js");
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  return Array.from(await read(new Blob([bytes]), size));
}"""


def test_photos_are_prepared_as_for_training(modules: Any, tmp_path: Path) -> None:
    for name, path in photos(tmp_path).items():
        found = modules.evaluate(READ, [letters(path.read_bytes()), SIZE])
        expected = image_io.read_image(path, SIZE).astype(int)
        difference = np.abs(np.array(found).reshape(SIZE, SIZE, 3) - expected)
        assert difference.max() <= 1, name


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "the file is empty"),
        (b"words, and no image at all", "not a jpg, png or bmp by its content"),
        (b"\xff\xd8\xff" + bytes(40), "header is truncated or damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\0\5\0\0\0\5" + bytes(9), "5x5 pixels, expected"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\1\0\0\0\1\0\0" + bytes(9), "cut it into tiles"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\0\x20\0\0\0\x20" + bytes(9), "damaged"),
    ],
)
def test_unreadable_files_are_named(modules: Any, content: bytes, expected: str) -> None:
    with pytest.raises(sync_api.Error, match=expected):
        modules.evaluate(READ, [letters(content), SIZE])


# ---- the page -----------------------------------------------------------------------------------


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


def test_nothing_leaves_the_page(opened: Opened, tiles: list[Path], tmp_path: Path) -> None:
    opened.give(*tiles[:2])
    assert opened.requests and all(one.startswith(opened.served.url) for one in opened.requests)
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


IMAGE = """url => new Promise((done) => {
  const image = new Image();
  image.onload = image.onerror = (event) => done(event.type);
  image.src = `${url}x.png`;
})"""


KEPT = "kept on the device and works without a network"


def test_works_without_a_network(opened: Opened, tiles: list[Path]) -> None:
    page = opened.page
    page.locator("#kept").filter(has_text=KEPT).wait_for()
    opened.served.close()
    for name in ("", "index.html"):
        page.goto(f"{opened.served.url}{name}")
        page.wait_for_selector("body[data-ready]")
    opened.give(tiles[0])
    assert len(opened.table()) == 1
    assert page.locator("#other").is_hidden()


def changed(site: Path, place: Path, threshold: float) -> Path:
    """Another export: the same network with another threshold."""
    shutil.copytree(site, place)
    about = json.loads(next(site.glob("*/model.json")).read_text("utf-8"))
    about["threshold"]["value"] = threshold
    content = {path.name: path.read_bytes() for path in site.glob("*/*")}
    content["model.json"] = json.dumps(about).encode()
    shutil.rmtree(next(path for path in place.iterdir() if path.is_dir()))
    index, worker = (web._site()[name] for name in (web.INDEX, web.OFFLINE))
    web._place(place, content, index, worker)
    return place


def replaced(served: Path, by: Path) -> None:
    shutil.rmtree(served)
    shutil.copytree(by, served)


def threshold_said(page: Any) -> str:
    page.wait_for_selector("body[data-ready]")
    return str(page.locator("#facts dt:text-is('Disease') + dd").text_content())


UPDATE = "navigator.serviceWorker.ready.then((worker) => worker.update()).catch(() => 0)"


def reloaded(page: Any) -> str:
    # Asked for: by itself the browser looks a second after a page was last loaded, so that one
    # loaded again and again is never updated.
    page.evaluate(UPDATE)
    page.wait_for_timeout(500)
    page.reload()
    return threshold_said(page)


def caches_of(page: Any) -> list[str]:
    return list(page.evaluate("caches.keys()"))


def test_another_export_takes_over_and_says_so(browser: Any, site: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(site, served)
    found = open_page(browser, served)
    page = found.page
    page.locator("#kept").filter(has_text=KEPT).wait_for()
    [first] = caches_of(page)
    replaced(served, changed(site, tmp_path / "next", 0.125))
    page.reload()  # what is kept answers once more, and says what it is
    assert "12.5 %" not in threshold_said(page)
    page.get_by_role("alert").filter(has_text="Another network is on the server").wait_for()
    assert until(page, lambda: "12.5 %" in reloaded(page))
    page.locator("#kept").filter(has_text=KEPT).wait_for()
    assert page.locator("#other").is_hidden()
    assert len(caches_of(page)) == 1 and first not in caches_of(page)
    found.close()


def test_a_damaged_update_leaves_the_earlier_export_in_use(
    browser: Any, site: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    shutil.copytree(site, served)
    found = open_page(browser, served)
    page = found.page
    page.locator("#kept").filter(has_text=KEPT).wait_for()
    before = caches_of(page)
    replaced(served, changed(site, tmp_path / "next", 0.125))
    model = next(served.glob("*/model.onnx"))
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    page.reload()
    page.evaluate(UPDATE)
    page.wait_for_timeout(1000)
    page.reload()
    assert "12.5 %" not in threshold_said(page)
    # What was begun to be kept goes again, each time that it is tried.
    assert until(page, lambda: caches_of(page) == before)
    # The rest arrives, and is taken.
    model.write_bytes(whole)
    assert until(page, lambda: "12.5 %" in reloaded(page))
    found.close()


def test_two_exports_of_a_server_keep_their_own(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "all" / "one")
    changed(site, tmp_path / "all" / "two", 0.125)
    served = Served(tmp_path / "all")
    page = new_page(browser)
    for name in ("one", "two"):
        page.goto(f"{served.url}{name}/")
        page.locator("#kept").filter(has_text=KEPT).wait_for()
    assert len(caches_of(page)) == 2
    served.close()
    for name, said in (("one", False), ("two", True)):
        page.goto(f"{served.url}{name}/")
        assert ("12.5 %" in threshold_said(page)) == said
    page.context.close()


def test_a_page_that_cannot_be_kept_works_and_says_so(
    browser: Any, site: Path, tmp_path: Path
) -> None:
    """No service worker; and plain http from another machine, where hashes are missing, too."""
    shutil.copytree(site, tmp_path / "page")
    (tmp_path / "page" / "offline.js").unlink()
    found = open_page(browser, tmp_path / "page")
    found.page.locator("#kept").filter(has_text="works with its server alone").wait_for()
    assert found.page.locator("#title").inner_text().startswith("Which of")
    found.close()
    page = new_page(browser)
    page.route("http://clinic.test/**", lambda route: handed(route, site))
    page.goto("http://clinic.test/")
    page.locator("#kept").filter(has_text="works with its server alone").wait_for()
    assert not page.evaluate("isSecureContext")
    page.context.close()


def handed(route: Any, site: Path) -> None:
    path = site / (route.request.url.split("/", 3)[3] or "index.html")
    route.fulfill(path=str(path)) if path.is_file() else route.fulfill(status=404)


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
    places = ["maps", "shown", "save", "clear"]
    for place in places:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == place
    maps = page.locator(".card canvas[aria-label^=where]")
    assert maps.count() == 2 and maps.first.is_visible()
    page.get_by_label("Show what spoke for").uncheck()
    assert not maps.first.is_visible()
    found.close()


def test_a_network_without_maps(
    browser: Any, runtime: Path, tmp_path: Path, tiles: list[Path]
) -> None:
    run = finished_run(tmp_path / "run", write_folder(tmp_path / "skin"), "cnn")
    export_file.export(run, "web", tmp_path / "page", ExportOptions(ort_web=runtime))
    found = open_page(browser, tmp_path / "page")
    found.give(tiles[0])
    assert len(found.table()) == 1
    for place in ("#switch", "#shown", "#legend"):
        assert not found.page.locator(place).is_visible()
    assert found.said == []
    found.close()


def test_a_damaged_network_is_told(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "page")
    [model] = (tmp_path / "page").glob("*/model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    for change, expected in ((bytes(content), "damaged"), (bytes(content[:-9]), "broke off")):
        model.write_bytes(change)
        served = Served(tmp_path / "page")
        page = browser.new_page()
        page.goto(served.url)
        page.get_by_role("heading", name="could not be loaded").wait_for()
        assert f"model.onnx {expected}" in page.locator("#lead").inner_text().replace(" is ", " ")
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


def test_documents_name_the_runtime() -> None:
    root = SITE.parents[2]
    for name in ("docs/export.md", "docs/performance.md", "CONTRIBUTING.md"):
        text = (root / name).read_text("utf-8")
        named = set(re.findall(r"onnxruntime-web[@-](\d+\.\d+\.\d+)", text))
        assert named == {ort_web.VERSION}, name


# ---- where the runtime comes from ---------------------------------------------------------------


def packed(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"else"))
    return path


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no ort.wasm.bundle.min.mjs of .*npm pack onnxrunt"):
        ort_web.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read .*No such file"):
        ort_web.read(tmp_path / "none.tgz")
    with pytest.raises(UserError, match="no package/dist/ort.* in it"):
        ort_web.read(packed(tmp_path / "a.tgz", ["package/readme"]))
    other = packed(tmp_path / "b.tgz", [f"package/dist/{name}" for name, *_ in FILES])
    with pytest.raises(UserError, match=f"not that of onnxruntime-web {ort_web.VERSION}; name it"):
        ort_web.read(other)
    (tmp_path / "word.tgz").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read"):
        ort_web.read(tmp_path / "word.tgz")


FILES = list(ort_web.FILES.values())


class Cdn(BaseAdapter):
    """Answers requests with bytes by their addresses, and counts them."""

    def __init__(self, by_url: dict[str, bytes]) -> None:
        super().__init__()
        self.by_url, self.urls = by_url, list[str]()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        assert request.url is not None
        self.urls.append(request.url)
        if request.url not in self.by_url:
            raise requests.ConnectionError("nobody there")
        response = requests.Response()
        response.status_code, response.url = 200, request.url
        body = io.BytesIO(self.by_url[request.url])
        response.raw = urllib3.HTTPResponse(body, preload_content=False)
        return response

    def close(self) -> None:
        pass

    def session(self) -> requests.Session:
        session = requests.Session()
        session.mount("https://", self)
        return session


def test_the_runtime_is_fetched_once(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    content = ort_web.read(runtime)
    by_url = {
        ort_web.BASE_URL + original: content[name] for name, (original, *_) in ort_web.FILES.items()
    }
    cdn = Cdn(by_url)
    assert ort_web.read(None, session=cdn.session()) == content
    assert ort_web.read(None, session=cdn.session()) == content
    assert cdn.urls == list(by_url) and all(url.startswith("https://") for url in cdn.urls)


def test_a_wrong_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    url = ort_web.BASE_URL + FILES[0][0]
    with pytest.raises(UserError, match="gave another file than the one expected; name it by"):
        ort_web.read(None, session=Cdn({url: b"other"}).session())
    with pytest.raises(UserError, match="sends more than"):
        ort_web.read(None, session=Cdn({url: bytes(80_000)}).session())
    with pytest.raises(UserError, match="cannot be fetched .*nobody there.*--ort-web=PATH"):
        ort_web.read(None, session=Cdn({}).session())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_runtime_goes_with_the_page_alone(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--ort-web goes with --format=web, not with onnx"):
        export_file.export(run, "onnx", tmp_path / "a.onnx", ExportOptions(ort_web=tmp_path))
    with pytest.raises(UserError, match="holds no ort.wasm"):
        export_file.export(run, "web", tmp_path / "page", ExportOptions(ort_web=tmp_path))
    assert not (tmp_path / "page").exists()
