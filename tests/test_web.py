"""The exported page in Chromium: it answers as the run does, sends nothing, works offline.

Needs Chromium, and onnxruntime-web in `SSCJAX_ORT_WEB` (the archive that `npm pack` fetches).
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Opened, Served, chromium, open_page
from PIL import Image
from small_runs import finished_run, write_folder

from sscjax import answers, pictures, trained
from sscjax.data import asked, decode
from sscjax.errors import UserError
from sscjax.export import ort_web, program
from sscjax.export.check import Wish
from sscjax.trained import Answers, Rules

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SITE = Path(__file__).resolve().parent.parent / "sscjax" / "export" / "site"
SIZE = 32


# ---- what is opened ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = chromium()
    if found is None:
        # Not among what pip installs.
        pytest.skip("no Chromium: apt-get install chromium, or its like")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found, args=["--disable-background-networking"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def runtime() -> Path:
    named = os.environ.get("SSCJAX_ORT_WEB", "")
    if not named:
        # From npm, not from pip.
        pytest.skip(f"no onnxruntime-web: set SSCJAX_ORT_WEB, {ort_web.MEND}")
    return Path(named)


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
    said = program.export(run, "web", place, Wish(ort_web=runtime))
    assert "0 answers are others" in said and "python -m http.server" in said
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
        return sorted((run.parent / "skin").glob("*/*.png"))
    found = sorted((shared / "data" / "prostate_gleason").glob("*/*.jpg"))
    return found[:: len(found) // 200][:200]


def test_answers_as_the_run(opened: Opened, run: Path, tiles: list[Path]) -> None:
    opened.give(*tiles)
    rows = opened.table()
    network = trained.open_run(run)
    expected = Answers.join(
        list(network.answer(decode.read_image(tile, SIZE)[None] for tile in tiles))
    )
    some = [asked.Asked(tile, tile.name, tile.name) for tile in tiles]
    judged = answers.judge(
        some, expected, network.rules, len(network.classes), network.detector.threshold
    )
    like = list(
        csv.DictReader(
            io.StringIO(answers.csv_text(answers.as_rows(judged, network.columns, "image")))
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
    network = trained.open_run(run)
    pixels = np.stack([decode.read_image(tile, SIZE) for tile in tiles[:5]])
    found = Answers.join(list(network.answer([pixels]))).probabilities.mean(0)
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
            {"colours": pictures.colour_table().tolist(), "cover": pictures.COVER},
        ],
    )
    found = np.array(drawn).reshape(SIZE, SIZE, 4)[..., :3]
    difference = np.abs(found - pictures.overlay(pixels, heat).astype(int))
    # Where a share lies between two colours of the table, either may be taken.
    assert difference.max() <= 3 and difference.mean() < 0.3


RULES = Rules(
    temperature=1.0,
    threshold=0.6,
    threshold_rule="",
    positive="late or early",
    negative="normal",
    least_confidence=0.5,
    abstention_rule="",
)
COLUMNS = ["normal", "early", "late", "none"]
ABOUT = {
    "columns": COLUMNS,
    "classes": COLUMNS[:3],
    "threshold": {"value": 0.6},
    "least_confidence": {"value": 0.5},
    "distance": {"limit": 1.2},
}


def test_rules_are_those_of_predict(modules: Any) -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(4, 0.7), 60)
    distances = rng.uniform(0.5, 1.6, 60)
    some = [asked.Asked(Path(), f"{k}", "one" if k < 20 else "two") for k in range(60)]
    judged = answers.judge(some, Answers(shares, distances), RULES, 3, 1.2)
    found = modules.evaluate(
        """async ([about, shares, distances]) => {
          const { judge, together } = await import("./rules.js");
          const all = shares.map((row, k) => judge(about, row, distances[k]));
          return [...all, together(about, all.slice(0, 20)), together(about, all.slice(20))];
        }""",
        [ABOUT, shares.tolist(), distances.tolist()],
    )
    subjects = answers.by_subject(judged, RULES, 3)
    wanted = [*answers.as_rows(judged, COLUMNS, "image")]
    wanted += answers.as_rows(subjects, COLUMNS, "subject")
    assert {one["answer"] for one in found[:60]} == {"unsure", "foreign", *COLUMNS}
    for one, other in zip(found, wanted, strict=True):
        assert one["answer"] == other["answer"]
        assert (one["positive"], one["unsure"]) == (other["positive"], other["unsure"])
        assert one["score"] == pytest.approx(other["disease_score"])
        assert one["distance"] == pytest.approx(other["distance"])


def test_names_in_the_table_are_text(modules: Any) -> None:
    names = ["=1+1.png", "a,b.png", 'say "x".png', "+49.jpg", "two\nlines.png", "plain.png"]
    text = modules.evaluate(
        """async ([about, names]) => {
          const { csv, judge } = await import("./rules.js");
          const one = judge(about, [0.1, 0.2, 0.6, 0.1], 1);
          return csv(about, names.map((name) => ({ name, ...one })));
        }""",
        [ABOUT, names],
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["file"] for row in rows] == ["'=1+1.png", *names[1:3], "'+49.jpg", *names[4:]]
    assert rows[0]["answer"] == "late" and rows[0]["p_late"] == "0.6"


# ---- images as Pillow reads them ----------------------------------------------------------------

SQUARE = """async ([pixels, width, height, size]) => {
  const { square } = await import("./resample.js");
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
    found = modules.evaluate(SQUARE, [pixels.ravel().tolist(), width, height, size])
    expected = decode.resize_pixels(pixels, size)
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
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "photo.jpg": (smooth, {"quality": 90}),
        "turned.jpg": (smooth, {"exif": turned}),
        "grey.jpg": (smooth.convert("L"), {}),
        "plain.png": (smooth, {}),
        "palette.png": (smooth.convert("P"), {}),
        "clear.png": (clear, {}),
        "deep.png": (Image.fromarray(np.asarray(smooth)[..., 0].astype(np.uint16) << 8), {}),
        "plain.bmp": (smooth, {}),
        "large.jpg": (smooth.resize((2600, 1800), Image.Resampling.BICUBIC), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in kinds}


READ = """async ([bytes, size]) => {
  const { read } = await import("./photo.js");
  return Array.from(await read(new Blob([Uint8Array.from(bytes)]), size));
}"""


def test_photos_are_prepared_as_for_training(modules: Any, tmp_path: Path) -> None:
    for name, path in photos(tmp_path).items():
        found = modules.evaluate(READ, [list(path.read_bytes()), SIZE])
        expected = decode.read_image(path, SIZE).astype(int)
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
        modules.evaluate(READ, [list(content), SIZE])


# ---- the page -----------------------------------------------------------------------------------


def test_a_broken_file_does_not_stop_the_rest(
    opened: Opened, tiles: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"words, and no image at all")
    opened.give(tiles[0], broken, tiles[1])
    page = opened.page
    assert "2 images answered" in page.get_by_role("status").inner_text()
    faults = page.get_by_role("list", name="Files that could not be read").inner_text()
    assert faults == "<b>broken.png: not a jpg, png or bmp by its content: convert it"
    # The same files once more: answers are added, the list of faults is a new one.
    opened.give(tiles[2])
    assert len(opened.table()) == 3
    assert not page.locator("#faults").is_visible()
    opened.clear()
    assert not page.locator("#results").is_visible()


def test_nothing_leaves_the_page(opened: Opened, tiles: list[Path]) -> None:
    opened.give(*tiles[:2])
    assert opened.requests and all(one.startswith(opened.served.url) for one in opened.requests)
    methods = {line.split()[0].strip('"') for line in opened.served.asked_for if " " in line}
    assert methods <= {"GET"}
    for url in ("https://example.com/", f"{opened.served.url[:-1].replace('127.0.0.1', '[::1]')}/"):
        with pytest.raises(sync_api.Error, match="Failed to fetch"):
            opened.page.evaluate("url => fetch(url, { method: 'POST', body: 'x' })", url)
    assert any("Content Security Policy" in line for line in opened.said)


def test_works_without_a_network(opened: Opened, tiles: list[Path]) -> None:
    page = opened.page
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    opened.served.close()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    opened.give(tiles[0])
    assert len(opened.table()) == 1


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
    program.export(run, "web", tmp_path / "page", Wish(ort_web=runtime))
    found = open_page(browser, tmp_path / "page")
    found.give(tiles[0])
    assert len(found.table()) == 1
    for place in ("#switch", "#shown", "#legend"):
        assert not found.page.locator(place).is_visible()
    assert found.said == []
    found.close()


def test_a_damaged_network_is_told(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "page")
    model = tmp_path / "page" / "model.onnx"
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
    names = {path.name for path in site.iterdir()}
    first = (site / "offline.js").read_text("utf-8").partition("\n")[0]
    listed = json.loads(first.removeprefix("const SITE = ").removesuffix(";"))
    assert set(listed["files"]) == names - {"offline.js"} | {"./"}
    about = json.loads((site / "model.json").read_text("utf-8"))
    for name, known in about["site"]["files"].items():
        assert (site / name).stat().st_size == known["bytes"]
    # Below 10 MB without the runtime.
    own = sum(path.stat().st_size for path in site.iterdir() if path.name != "ort.wasm")
    assert own < 10e6


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


class Response(io.BytesIO):
    headers = {"Content-Length": ""}


def test_the_runtime_is_fetched_once(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    content = ort_web.read(runtime)
    by_url = {
        ort_web.BASE_URL + original: content[name] for name, (original, *_) in ort_web.FILES.items()
    }
    urls: list[str] = []

    def opener(url: str, timeout: float) -> Any:
        urls.append(url)
        return Response(by_url[url])

    assert ort_web.read(None, opener=opener) == content
    assert ort_web.read(None, opener=opener) == content
    assert urls == list(by_url) and all(url.startswith("https://") for url in urls)


def test_a_wrong_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="gave another file than the one expected; name it by"):
        ort_web.read(None, opener=lambda url, timeout: Response(b"other"))
    with pytest.raises(UserError, match="sends more than"):
        ort_web.read(None, opener=lambda url, timeout: Response(bytes(80_000)))

    def refused(url: str, timeout: float) -> Any:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(UserError, match="cannot be fetched .*nobody there.*--ort-web=PATH"):
        ort_web.read(None, opener=refused)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_runtime_goes_with_the_page_alone(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--ort-web goes with --format=web, not with onnx"):
        program.export(run, "onnx", tmp_path / "a.onnx", Wish(ort_web=tmp_path))
    with pytest.raises(UserError, match="holds no ort.wasm"):
        program.export(run, "web", tmp_path / "page", Wish(ort_web=tmp_path))
    assert not (tmp_path / "page").exists()
