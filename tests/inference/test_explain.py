"""The program that explains answers: what it writes is what `saliency` gives, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import finished_run, put, write_folder

from sscjax.cli import explain
from sscjax.data import inputs
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Check, Maps
from sscjax.inference import classifier, predict, saliency
from sscjax.inference import explain as inference_explain
from sscjax.reports import overlays
from sscjax.system import files, run_dir, terminal

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "skin")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    return finished_run(tmp_path_factory.mktemp("run") / "run", images, "cnn")


def test_overlays_and_numbers_are_those_of_the_maps(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert inference_explain.explain(run, [images], out, most=10, show="anyway") == 0
    index = json.loads((out / inference_explain.INDEX).read_text("utf-8"))
    assert len(index["images"]) == 10
    opened = classifier.open_run(run)
    [batch] = inputs.decode(inputs.find(images, opened.classes)[:10], opened.image_size, 10)
    draw = saliency.Drawing(opened.model, opened.program.inputs)
    for row, entry in enumerate(index["images"]):
        assert entry["explained"] == entry["most_probable"]
        wanted = np.array([opened.classes.index(entry["explained"])])
        [heat] = draw(opened.params, opened.batch_stats, batch.images[row : row + 1], wanted)
        expected = overlays.overlay(batch.images[row], heat).astype(int)
        with Image.open(out / entry["maps"]["hires_cam"]["overlay"]) as file:
            # Rounding of a map differs between batches in its last bit.
            assert np.abs(np.asarray(file).astype(int) - expected).max() <= 2
        for key in ("with_occlusion", "with_random_classifier"):
            value = entry["maps"]["hires_cam"][key]
            assert value is None or -1 <= value <= 1
        with Image.open(out / entry["sheet"]) as sheet:
            assert sheet.width > 2 * sheet.height
    said = capsys.readouterr().out
    # One choice and one verdict: those that the run's own folder has.
    kept = json.loads((run / run_dir.MAPS).read_text("utf-8"))
    assert index["maps"] == {**kept, "drawn": True}
    assert kept["layers"] == ["conv1_2_relu"] and f"HiResCAM of {kept['layers'][0]}" in said
    assert " ".join(said.split()).count(kept["verdict"]) == 1 and predict.RESEARCH_ONLY in said


@pytest.mark.parametrize(("agree", "drawn"), [(5, False), (6, True), (None, False)])
def test_maps_are_drawn_where_the_model_passed_its_check(
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    agree: int | None,
    drawn: bool,
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    if agree is None:
        (copy / run_dir.MAPS).unlink()
    else:
        check = Check((0.9,) * agree + (0.1,) * (8 - agree), (0.2,) * 8)
        maps = Maps("hires_cam", ("conv1_2_relu",), check)
        (copy / run_dir.MAPS).write_text(json.dumps(maps.to_json()), "utf-8")
    out = tmp_path / "out"
    assert inference_explain.explain(copy, [images], out, most=1) == 0
    [entry] = json.loads((out / inference_explain.INDEX).read_text("utf-8"))["images"]
    assert ("hires_cam" in entry["maps"]) == drawn and "occlusion" in entry["maps"]
    assert ("--maps=anyway shows them" in " ".join(capsys.readouterr().out.split())) == (not drawn)


def test_another_class_and_layer(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        inference_explain.explain(run, [images], out, of="late", layer="conv1_1_relu", most=2) == 0
    )
    index = json.loads((out / inference_explain.INDEX).read_text("utf-8"))
    assert index["maps"]["layers"] == ["conv1_1_relu"] and index["maps"]["check"] is None
    assert [entry["explained"] for entry in index["images"]] == ["late", "late"]
    assert index["images"][0]["maps"]["hires_cam"]["size"] == [30, 30]


def test_only_what_the_index_names_is_replaced(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, keep = tmp_path / "out", tmp_path / "007.png"
    keep.write_bytes(b"of the user")
    monkeypatch.setattr(inference_explain, "_explained", sheets)
    monkeypatch.setattr(inference_explain, "_text", lambda *args: "")

    def again(some: Path, most: int) -> None:
        inference_explain.explain(run, [some], out, most=most, overwrite=True)

    again(images, 3)
    others = [out / "2026_biopsy.png", out / "005.png", out / "001_note.png", out / "notes.txt"]
    for path in others:
        path.write_bytes(b"of the user")
    again(images, 2)
    ours = ["000.png", "000_grad_cam.png", "001.png", "001_grad_cam.png", inference_explain.INDEX]
    assert {path.name for path in out.iterdir()} == {*ours, *(path.name for path in others)}
    assert all(path.read_bytes() == b"of the user" for path in others)

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=r"holds 005.png, which is none of its results"):
        again(images, 6)
    broken = put(tmp_path / "broken" / "a.png")
    broken.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="nothing is explained"):
        again(broken, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    # An index that was changed by hand removes nothing outside.
    index = json.loads(before[inference_explain.INDEX])
    index["images"][0]["sheet"] = "../007.png"
    (out / inference_explain.INDEX).write_text(json.dumps(index), encoding="utf-8")
    (out / "000.png").unlink()
    again(images, 2)
    assert keep.is_file()
    (out / inference_explain.INDEX).write_text('{"images": [{}]}', encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        again(images, 2)


def sheets(opened: Any, draw: Any, some: Any, images: Any, of: str, out: Path, number: int) -> Any:
    """Entries of sheets that are drawn in no time."""
    entries = []
    for k in range(number, number + len(some)):
        names = (f"{k:03d}.png", f"{k:03d}_grad_cam.png")
        for name in names:
            files.write_bytes(out / name, b"a sheet")
        entries.append({"sheet": names[0], "maps": {"grad_cam": {"overlay": names[1]}}})
    return entries


def test_mistakes(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for wrong, message in (
        ({"layer": "conv1_1_rely"}, "did you mean 'conv1_1_relu'.*none of the network's"),
        ({"layer": "dense1"}, "--layer='dense1': .* before pooling"),
        ({"of": "lat"}, "--of='lat': the network's classes are .*; did you mean 'late'"),
        ({"most": 0}, "--most=0"),
    ):
        with pytest.raises(UserError, match=message):
            inference_explain.explain(run, [images], out, **wrong)
    assert not out.exists()
    with pytest.raises(UserError, match="holds no run"):
        inference_explain.explain(tmp_path, [images], out)


def test_broken_images_and_the_program(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some"
    put(folder / "a.png")
    put(folder / "b.png").write_bytes(b"no image at all")
    monkeypatch.setattr(terminal, "set_up_jax", lambda: None)
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["explain", str(run), str(folder), f"--out={out}"])
    assert terminal.call(explain.main) == predict.FAILED
    index = json.loads((out / inference_explain.INDEX).read_text("utf-8"))
    assert len(index["images"]) == len(index["failed"]) == 1
    (folder / "a.png").write_bytes(b"no image at all")
    monkeypatch.setattr("sys.argv", ["explain", str(run), str(folder), f"--out={tmp_path / 'no'}"])
    assert terminal.call(explain.main) == terminal.USER_ERROR
    assert "nothing is explained" in capsys.readouterr().err
