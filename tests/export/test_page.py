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
from browsing import Opened, Served, open_page, serious
from exported import Runs

import sscjax
from sscjax.data import image_io, inputs
from sscjax.evaluation.predictions import Predictions
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, decisions
from sscjax.inference.outputs import Outputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def test_predicts_as_the_run(opened: Opened, runs: Runs, tiles: list[Path]) -> None:
    opened.give(*tiles)
    # As files that are named one by one, each of which is a patient of its own.
    opened.page.locator("#way").select_option("none")
    network = classifier.open_run(runs("mobilenet_v2"))
    batches = (image_io.read_image(tile, network.image_size)[None] for tile in tiles)
    outputs = Outputs.join(list(network.outputs(batches)))
    images = [inputs.InputImage(tile, tile.name, tile.name) for tile in tiles]
    limit = network.distance_limit
    table = decisions.decide(images, outputs, network.rules, len(network.classes), limit)
    text = decisions.csv_text(decisions.as_rows(table, network.columns, "image"))
    expected = list(csv.DictReader(io.StringIO(text)))
    rows = opened.table()
    assert [*rows[0]] == [*expected[0]]
    for row, of_run in zip(rows, expected, strict=True):
        for key, value in row.items():
            try:
                assert float(value) == pytest.approx(float(of_run[key]), abs=1e-4)
            except ValueError:
                assert value == of_run[key]
    assert opened.said == []


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory, tiles: list[Path]) -> Path:
    """Three folders of images, two of which have the same names."""
    folder = tmp_path_factory.mktemp("given") / "new"
    for number, tile in enumerate(tiles[:12]):
        path = folder / f"patient_{number % 3}" / f"{number // 6}_{number % 2}{tile.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tile, path)
    (folder / "patient_0" / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "patient_0" / "Thumbs.db").write_bytes(b"0")
    return folder


def test_patients_are_answered_as_the_run_answers(
    opened: Opened, runs: Runs, patients: Path
) -> None:
    """Each patient's row, by `predict_subjects` of the run on the same folder."""
    opened.give_folder(patients)
    expected = sscjax.load(runs("mobilenet_v2")).predict_subjects(patients)
    rows = opened.table("patients")
    assert [row["subject"] for row in rows] == expected.subjects.tolist()
    assert [int(row["images"]) for row in rows] == [4, 4, 4]
    assert [row["decision"] for row in rows] == expected.decisions.tolist()
    assert [row["prediction_set"].split(" | ") for row in rows] == [
        list(one) for one in expected.prediction_sets
    ]
    for k, name in enumerate(expected.columns):
        shown = [float(row[f"p_{name}"]) for row in rows]
        np.testing.assert_allclose(shown, expected.probabilities[:, k], atol=1e-5)
    np.testing.assert_allclose(
        [float(row["disease_score"]) for row in rows], expected.scores, atol=1e-5
    )
    np.testing.assert_allclose(
        [float(row["distance"]) for row in rows], expected.distances, rtol=1e-4
    )
    # Files of the same name are distinguished by their folders.
    files = [row["file"] for row in opened.table()]
    assert len(set(files)) == 12
    assert {name.split("/")[1] for name in files} == {"patient_0", "patient_1", "patient_2"}
    assert {row["subject"] for row in opened.table()} == {f"patient_{k}" for k in range(3)}
    page = opened.page
    assert "By folder" in page.locator("#said").inner_text()
    assert "1 file no jpg, png or bmp by their name, left out: new/patient_0/notes.txt" in (
        page.locator("#faults").inner_text()
    )


def test_a_row_for_each_patient_opens_to_its_images(opened: Opened, patients: Path) -> None:
    opened.give_folder(patients)
    page = opened.page
    assert page.locator(".patient").count() == 3 and page.locator(".card").count() == 0
    page.locator("summary").filter(has_text="patient_1").focus()
    page.keyboard.press("Enter")
    page.locator(".patient[open] .card").nth(3).wait_for()
    assert page.locator(".patient[open] .card").count() == 4
    names = page.locator(".patient[open] .card h4").all_inner_texts()
    assert all(name.startswith("new/patient_1/") for name in names)
    page.locator("#way").select_option("all")
    assert page.locator(".patient").count() == 1
    assert int(opened.table("patients")[0]["images"]) == 12
    page.locator("#way").select_option("none")
    assert page.locator(".card").count() == 12 and page.locator(".patient").count() == 0


def test_patients_by_name_and_files_of_one_name(
    opened: Opened, tiles: list[Path], tmp_path: Path
) -> None:
    paths = []
    for number, name in enumerate(("p1_a", "p1_b", "p2-a")):
        paths.append(tmp_path / f"{name}{tiles[0].suffix}")
        shutil.copy(tiles[number], paths[-1])
    opened.give(*paths)
    assert "By name" in opened.page.locator("#said").inner_text()
    assert [(row["subject"], row["images"]) for row in opened.table("patients")] == [
        *(("p1", "2"), ("p2", "1")),
    ]
    # The same file once more is no second image; another of the same name is.
    other = tmp_path / "other" / paths[0].name
    other.parent.mkdir()
    shutil.copy(tiles[5], other)
    opened.give(paths[0], other)
    rows = opened.table()
    assert [row["file"] for row in rows][3:] == [f"{paths[0].name} (2)"]
    assert "given before, counted once" in opened.page.locator("#faults").inner_text()


def test_a_folder_is_dropped(opened: Opened, patients: Path) -> None:
    """As a file manager drops it, with all that is below."""
    page = opened.page
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(patients)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
    page.locator("#status").filter(has_text="12 images predicted").wait_for()
    assert [row["subject"] for row in opened.table("patients")] == [
        f"patient_{k}" for k in range(3)
    ]


def test_it_says_how_it_was_tested_and_whom_it_is_for(
    opened: Opened, runs: Runs, runtime: Path, browser: Any, tmp_path: Path
) -> None:
    run, page = runs("mobilenet_v2"), opened.page
    figures = json.loads((run / "metrics.json").read_text("utf-8"))
    rows = Predictions.read_csv(run / "predictions_by_subject.csv").where("test")
    right = int((rows.predicted == rows.labels).sum())
    low, high = figures["test_intervals"]["subject"]["accuracy"]
    assert page.locator("#tested").inner_text() == (
        f"{len(rows)} patients never seen in training: {right} right, "
        f"{100 * right / len(rows):.0f} % ({100 * low:.0f} to {100 * high:.0f} %)"
    )
    weak = page.locator("#warnings").inner_text()
    assert "Few test subjects of a class" in weak and "Wide intervals" in weak
    assert "Nothing is stated" in page.locator("#use").inner_text()
    limits = page.locator("#limits").text_content()
    trained = np.isin(np.loadtxt(run / "splits.csv", str, delimiter=",", skiprows=1), "train")
    assert f"Trained on {trained.sum()} images of " in limits
    options = ExportOptions(ort_web=runtime, intended_use="Forearm biopsies of <b>adults</b>.")
    export_file.export(run, "web", tmp_path / "page", options)
    other = open_page(browser, tmp_path / "page")
    assert other.page.locator("#use").inner_text() == "Forearm biopsies of <b>adults</b>."
    other.close()


def test_a_broken_file_does_not_stop_the_rest(
    opened: Opened, tiles: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"words, and no image at all")
    opened.give(tiles[0], broken, tiles[1])
    page = opened.page
    assert "2 images predicted" in page.locator("#status").inner_text()
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
    for control in ("weak_title", "limits_title", "files", "folder"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == control
    found.give(*tiles[:2])
    page.locator("#way").select_option("none")
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(beyond) == 0
    page.mouse.wheel(0, 2000)
    assert page.locator(".notice").bounding_box()["y"] == 0
    # Hidden by themselves where they failed their check, as those of so small a network may.
    about = json.loads(next(site.glob("*/model.json")).read_text("utf-8"))
    assert page.get_by_label("Show evidence").is_checked() is about["maps"]["shown"]
    assert about["maps"]["verdict"] in page.locator("#verdict").inner_text()
    page.get_by_label("Show evidence").check()
    page.locator("#clear").focus()
    for control in ("save", "shown", "maps", "way"):
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.id") == control
    maps = page.locator(".card canvas[aria-label^=evidence]")
    assert maps.count() == 2 and maps.first.is_visible()
    page.get_by_label("Show evidence").uncheck()
    assert not maps.first.is_visible()
    found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everyone_can_use_it(
    browser: Any, site: Path, patients: Path, width: int, scheme: str
) -> None:
    """By axe-core, with a patient's row open; and nothing is wider than the screen."""
    settings = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    found = open_page(browser, site, **settings)
    found.give_folder(patients)
    for summary in ("patient_1", "Whom it is not for", "About this network"):
        found.page.locator("summary").filter(has_text=summary).click()
    assert serious(found.page) == []
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert found.page.evaluate(beyond) == 0
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
