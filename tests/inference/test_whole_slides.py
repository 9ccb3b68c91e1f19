"""A run asked about slides: cut as its tiles were, judged as slides, drawn; mistakes named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from slide_files import painted, write_slide
from small_runs import finished_run

from sscjax.data.slides import cut, output
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.inference import classifier, predict, slides
from sscjax.reports import figures
from sscjax.system import fetch, formatting

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

CUT_BY = Settings(field_px=64, tile_size=32)


def dyed(kind: str, seed: int) -> np.ndarray:
    """Tissue that is redder in the second class, and bluer in the third."""
    shift = {"normal": (0, 0, 0), "early": (15, -40, -40), "late": (-60, -30, 10)}[kind]
    pixels = painted(512, 128, seed).astype(int)
    pixels[:, :256] += np.array(shift)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of six slides of each class, one per patient, cut by the program."""
    root = tmp_path_factory.mktemp("slides")
    for number in range(6):
        for place, kind in enumerate(("normal", "early", "late")):
            path = root / "slides" / kind / f"{kind}{number}" / f"{kind}{number}.tif"
            write_slide(path, dyed(kind, 100 * place + number), levels=1)
    assert cut.cut(root / "slides", root / "tiles", CUT_BY) == 0
    return root / "tiles"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiles: Path) -> Path:
    return finished_run(tmp_path_factory.mktemp("run") / "run", tiles, "cnn")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing was fetched before, and nothing can be."""
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))

    def refuse(url: str, *args: Any, **settings: Any) -> Any:
        raise fetch.UnreachableError(f"{url} cannot be fetched (no network)")

    monkeypatch.setattr(fetch, "fetched", refuse)


def predicted(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / predict.ALL).read_text("utf-8"))
    return found


def test_slides_are_cut_as_the_training_tiles_were(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers equal those for tiles that were cut by hand; a broken slide costs a line."""
    new = tmp_path / "new"
    write_slide(new / "a.tif", dyed("early", 20), levels=1)
    write_slide(new / "b b.tif", dyed("late", 21), levels=1)
    (new / "broken.svs").write_bytes(b"II*\0nothing")
    out = tmp_path / "out"
    assert predict.predict(run, [new], out) == predict.FAILED
    printed = capsys.readouterr().out
    assert "Heat map and the ten most decisive tiles" in printed
    found = predicted(out)
    assert [row["subject"] for row in found["subjects"]] == ["a.tif", "b b.tif"]
    assert len(found["failed"]) == 1 and "broken.svs" in found["failed"][0]
    # A new slide that says its own resolution keeps it.
    kept = output.read_settings(out / "slides" / output.SETTINGS)
    assert kept == dataclasses.replace(CUT_BY, mpp_for_all=False)
    (new / "broken.svs").unlink()
    assert cut.cut(new, tmp_path / "by_hand", CUT_BY) == 0
    assert predict.predict(run, [tmp_path / "by_hand"], tmp_path / "of_tiles") == 0
    again = predicted(tmp_path / "of_tiles")
    assert len(again["images"]) == len(found["images"]) == 2 * 8
    for one, other in zip(found["images"], again["images"], strict=True):
        assert one["probabilities"] == other["probabilities"]
    # The mean of a slide's tiles, by hand.
    rows = [row["probabilities"]["late"] for row in found["images"] if row["subject"] == "a.tif"]
    assert found["subjects"][0]["probabilities"]["late"] == pytest.approx(np.mean(rows))
    assert {one["slide"] for one in found["slides"]} == {"a.tif", "b b.tif"}
    for one in found["slides"]:
        for kind in ("heat_map", "decisive"):
            with Image.open(out / one[kind]) as image:
                assert min(image.size) > 150
    # Again into the same place, by other slides of the same names; not beside those of the user.
    mark = out / "slides" / slides._MARK
    mark.unlink()
    with pytest.raises(UserError, match="holds a folder slides of something else"):
        predict.predict(run, [new / "a.tif"], out, overwrite=True)
    assert (out / "slides" / "tiles").is_dir()
    mark.touch()
    write_slide(new / "a.tif", dyed("late", 20), levels=1)
    assert predict.predict(run, [new / "a.tif"], out, overwrite=True) == 0
    assert len(predicted(out)["images"]) == 8


def test_the_viewer_is_linked_where_its_library_is_there(
    run: Path, openseadragon: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slide = write_slide(tmp_path / "a.tif", dyed("early", 30), levels=1)
    out = tmp_path / "out"
    assert predict.predict(run, [slide], out, openseadragon=openseadragon) == 0
    [one] = predicted(out)["slides"]
    page = (out / predict.PAGE).read_text("utf-8")
    assert f'href="{one["viewer"]}"' in page and "data:image/jpeg" in page
    folder = (out / one["viewer"]).parent
    text = (out / one["viewer"]).read_text("utf-8")
    assert f'src="{next(folder.glob("*.js")).name}"' in text
    assert text.count("data-place=") == len(predicted(out)["images"]) == 8
    with Image.open(folder / "a_heat.png") as heat:
        # 512x128 pixels in fields of 64: those with tissue lie in the left half, 8 pixels each.
        assert heat.size == (64, 16)
        covered = np.asarray(heat)[..., 3] > 0
    assert covered.sum() == 64 * len(predicted(out)["images"])
    # Without a network: the picture alone, one line that says why, nothing of the earlier viewer.
    caplog.clear()
    assert predict.predict(run, [slide], out, overwrite=True) == 0
    assert "viewer" not in predicted(out)["slides"][0] and not folder.exists()
    assert "could not be fetched" in (out / predict.PAGE).read_text("utf-8")
    [line] = [line for line in caplog.messages if "openseadragon" in line]
    assert "\n" not in line and "--openseadragon=PATH" in line


def test_decisive_tiles_are_the_surest(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    draw = figures.image_sheet

    def see(title: str, panels: Any, columns: int | None = None) -> Figure:
        drawn.append([name for name, _ in panels])
        return draw(title, panels, columns)

    monkeypatch.setattr(figures, "image_sheet", see)
    slide = write_slide(tmp_path / "a.tif", np.tile(dyed("early", 30), (3, 1, 1)), levels=1)
    predict.predict(run, [slide], tmp_path / "out")
    found = predicted(tmp_path / "out")
    best = max(found["classes"], key=found["subjects"][0]["probabilities"].__getitem__)
    rows = sorted(found["images"], key=lambda row: -row["probabilities"][best])
    shares = [formatting.percent(row["probabilities"][best]) for row in rows[:10]]
    [names] = drawn
    assert len(found["images"]) == 24 and [name.split(" at ")[0] for name in names] == shares


def test_heat_map_is_where_the_tiles_are(tmp_path: Path) -> None:
    """A dark square and a bright one over white: seen in the picture at their places."""
    picture = np.full((200, 200, 3), 255, np.uint8)
    corners = np.array([(0, 0), (100, 100)])
    drawn = figures.heat_map(
        picture, corners, 100, np.array([0.0, 1.0]), title="t", label="l", threshold=0.5
    )
    figures.write_png(tmp_path / "a.png", drawn)
    with Image.open(tmp_path / "a.png") as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    yellow = (found[..., 2] < 150) & (found[..., 0] > 200)
    violet = (found[..., 1] < 120) & (found[..., 0] > 100) & (found[..., 2] > 100)
    middle = [np.argwhere(part).mean(0) for part in (violet, yellow)]
    assert (middle[0] < middle[1]).all(), "violet above and left of yellow"


def test_slides_and_images_are_told_apart(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "slides" / "a.tif", painted(256, 128))
    image = tmp_path / "images" / "b.tif"
    image.parent.mkdir()
    Image.fromarray(painted(256, 128)).save(image)
    found = slides.part([slide.parent, image.parent, image])
    assert found == ([slide], [image.parent, image])
    shutil.copy(image, slide.parent / "c.png")
    with pytest.raises(UserError, match="holds slides, such as a.tif, and images"):
        slides.part([slide.parent])


def test_mistakes(run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tif", painted(256, 128), levels=1)
    with pytest.raises(UserError, match="is given twice"):
        predict.predict(run, [slide, tmp_path / "." / "a.tif"], tmp_path / "out")
    glass = write_slide(tmp_path / "glass.tif", np.full((128, 256, 3), 245, np.uint8), levels=1)
    with pytest.raises(UserError, match="nothing is predicted"):
        predict.predict(run, [glass], tmp_path / "glass_out")
    (tmp_path / "x.svs").write_bytes(b"")
    with pytest.raises(UserError, match="no slide could be cut: .*x.svs"):
        predict.predict(run, [tmp_path / "x.svs"], tmp_path / "svs_out")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / output.SETTINGS).unlink()
    with pytest.raises(UserError, match="how a slide is to be cut for it is not known"):
        slides.settings_of(classifier.open_run(other))
