"""`sscjax slides`: what it writes, refuses and resumes."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import painted, write_slide

from sscjax.cli.slides import main
from sscjax.data import image_folder, image_io
from sscjax.data.slides import cut as program
from sscjax.data.slides import output, reader, tiling
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.system import formatting, terminal


def settings(**changes: Any) -> Settings:
    return Settings(**{"field_px": 128, "tile_size": 64, **changes})


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["slides", *map(str, arguments)])
    return terminal.call(main)


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / image_folder.MANIFEST).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Two classes, three subjects, four slides, names that ask for trouble."""
    root = tmp_path / "slides"
    for k, name in enumerate(
        ["normal/p1/a b.tif", "normal/p2/a b.tif", "late/p3/it's é.tif", "late/p3/2.tif"]
    ):
        write_slide(root / name, painted(512, 256, seed=k))
    return root


def test_whole_program(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A folder that training takes as it is, with a picture and a record for each slide."""
    (slides / "late" / "p3" / "broken.svs").write_bytes(b"not a slide")
    out = tmp_path / "tiles"
    flags = ("--field-px=128", "--tile-size=64")
    assert _program(monkeypatch, slides, f"--out={out}", *flags) == program.FAILED
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines()[:6])) <= formatting.WIDTH
    assert printed.out.count("broken.svs: not a slide that OpenSlide can read") == 1
    found = image_folder.list_images(out)
    assert set(found.classes) == {"normal", "late"}
    assert {record.subject for record in found.records} == {"p1", "p2", "p3"}
    rows = manifest(out)
    assert len(rows) == len(found.records) == 16 and tuple(rows[0]) == output.COLUMNS
    assert {row["slide"] for row in rows} == {
        *("normal/p1/a b.tif", "normal/p2/a b.tif", "late/p3/it's é.tif", "late/p3/2.tif")
    }
    for row in rows:
        assert image_io.read_image(out / row["file"], None).shape == (64, 64, 3)
        assert float(row["mpp"]) == pytest.approx(1.0, rel=1e-3) and float(row["tissue"]) >= 0.5
    assert len(list((out / "thumbnails").glob("*.png"))) == 4
    assert not list(out.rglob("*.tmp"))
    # Again: nothing is cut, and what was broken is tried.
    before = {path: path.stat().st_mtime_ns for path in (out / "tiles").rglob("*.png")}
    (slides / "late" / "p3" / "broken.svs").unlink()
    write_slide(slides / "late" / "p4" / "new.tif", painted(512, 256, seed=9))
    assert _program(monkeypatch, slides, f"--out={out}", *flags) == 0
    assert capsys.readouterr().out.count(" before\n") == 4
    after = {path: path.stat().st_mtime_ns for path in (out / "tiles").rglob("*.png")}
    assert before.items() < after.items() and len(manifest(out)) == 20
    # Other settings would mix two kinds of tiles.
    assert _program(monkeypatch, slides, f"--out={out}", "--field-px=64") == terminal.USER_ERROR
    error = capsys.readouterr().err
    assert "field_px 128 then, 64 now" in error and "Traceback" not in error


def test_a_changed_slide_is_cut_again(slides: Path, tmp_path: Path) -> None:
    out, wish = tmp_path / "tiles", settings()
    program.cut(slides, out, wish)
    first = manifest(out)
    write_slide(slides / "late" / "p3" / "2.tif", painted(1024, 256, seed=7))
    lost = out / first[0]["file"]
    lost.unlink()
    program.cut(slides, out, wish)
    assert lost.is_file() and len(manifest(out)) == len(first) + 4


def test_a_slide_is_there_whole_or_not_at_all(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two tiles; the next start gives the same as an undisturbed one."""
    out, wish = tmp_path / "tiles", settings()
    add = output.Writer.add
    calls = []

    def stop(self: output.Writer, *args: Any) -> None:
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        add(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(output.Writer, "add", stop)
        program.cut(slides, out, wish, jobs=1)
    assert not list(out.rglob("*.tmp"))
    cut = {path.name for path in (out / "tiles").iterdir()}
    assert cut == {path.stem for path in (out / "slides").iterdir()} and 0 < len(cut) < 4
    program.cut(slides, out, wish)
    program.cut(slides, tmp_path / "other", wish)
    assert manifest(out) == manifest(tmp_path / "other")


def test_labels_from_a_table(slides: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(
        "file,label,subject\nnormal/p1/a b.tif,early,x\nlate/p3/2.tif,normal,y\n", encoding="utf-8"
    )
    assert program.cut(slides, tmp_path / "tiles", settings(), table=table) == 0
    pairs = {(row["label"], row["subject"]) for row in manifest(tmp_path / "tiles")}
    assert pairs == {("early", "x"), ("normal", "y")}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("missing.tif,a,b", "row 2: missing.tif does not exist"),
        ("../outside.tif,a,b", "leaves the folder"),
        ("late/p3/2.tif,a,", "empty subject"),
        ("late/p3/2.tif,a,b\nlate/p3/2.tif,a,b", "already given by"),
        ("", "has no rows"),
    ],
)
def test_tables_that_do_not_fit(slides: Path, tmp_path: Path, rows: str, expected: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"file,label,subject\n{rows}\n", encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        program.find(slides, table)


def test_slides_without_classes_have_no_label(tmp_path: Path) -> None:
    write_slide(tmp_path / "s" / "a.tif", painted(512, 256))
    write_slide(tmp_path / "s" / "A.tiff", painted(512, 256))
    found = program.find(tmp_path / "s", None)
    assert [(one.label, one.subject) for one in found] == [("", "A.tiff"), ("", "a.tif")]
    assert len({one.key.lower() for one in found}) == 2
    (tmp_path / "s" / "normal").mkdir()
    write_slide(tmp_path / "s" / "normal" / "b.tif", painted(512, 256))
    with pytest.raises(UserError, match="1 of 3 slides lie in a folder"):
        program.find(tmp_path / "s", None)


def test_mistakes(tmp_path: Path, slides: Path) -> None:
    with pytest.raises(UserError, match="no such slide or folder"):
        program.cut(tmp_path / "nowhere", tmp_path / "o", settings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no slide"):
        program.cut(tmp_path / "empty", tmp_path / "o", settings())
    with pytest.raises(UserError, match="holds something else"):
        program.cut(slides, slides, settings())
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        program.cut(slides, tmp_path / "file", settings())
    with pytest.raises(UserError, match="--jobs=-1"):
        program.cut(slides, tmp_path / "o", settings(), jobs=-1)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / output.SETTINGS).write_text("{}")
    with pytest.raises(UserError, match="damaged or of another version"):
        program.cut(slides, tmp_path / "o", settings())


def test_bad_slides_are_named_and_the_rest_goes_on(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = (slides / "late/p3/2.tif").read_bytes()
    (slides / "late/p3/cut.tif").write_bytes(whole[: len(whole) // 3])
    (slides / "late/p3/none.svs").write_bytes(b"")
    Image.fromarray(painted(96, 96)).save(slides / "late/p3/small.png")
    assert program.cut(slides, tmp_path / "tiles", settings()) == program.FAILED
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("could not be cut")]
    assert [next(n for n in ("cut", "none", "small") if f"{n}." in line) for line in lines] == [
        *("cut", "none", "small")
    ]
    assert "a field 128x128: give a smaller field" in lines[2]
    assert len(manifest(tmp_path / "tiles")) == 16


def test_without_the_package_plain_images_still_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    Image.fromarray(painted(512, 256)).save(tmp_path / "a.png")
    with reader.open_slide(tmp_path / "a.png") as slide:
        assert slide.width == 512
    with pytest.raises(UserError, match=r"pip install 'sscjax\[slides\]'"):
        with reader.open_slide(write_slide(tmp_path / "a.svs", painted(512, 256))):
            pass


@pytest.mark.slow
def test_a_slide_is_never_held_whole(tmp_path: Path) -> None:
    """Of 38 megapixels, 150 MB as OpenSlide gives them, a part is in memory at a time.

    Its second level is smaller than the thumbnail, so that this has to come from the first.
    """
    path, side = tmp_path / "large.tif", 6144
    tile = painted(256, 128)[:, :128]
    with tifffile.TiffWriter(path) as writer:
        pieces = (tile for _ in range((side // 128) ** 2))
        options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb"}
        writer.write(pieces, shape=(side, side, 3), dtype=np.uint8, **options)
        small = np.tile(tile[::8, ::8], (side // 128, side // 128, 1))
        writer.write(small, subfiletype=1, **options)
    wish = Settings(field_px=512, tile_size=64, max_tiles=20)
    tracemalloc.start()
    try:
        with reader.open_slide(path) as slide:
            planned = tiling.plan(slide, wish)
            count = sum(1 for _ in tiling.tiles(slide, planned, wish, "large"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20 and peak < 80e6, peak
    # The same picture as Pillow makes of the whole.
    whole = Image.fromarray(np.tile(tile, (side // 128, side // 128, 1)))
    wanted = np.asarray(whole.resize((tiling.THUMBNAIL,) * 2, Image.Resampling.BOX), int)
    assert np.abs(planned.thumbnail - wanted).max() <= 1


@pytest.mark.slow
def test_the_real_slide(shared_data: Path, tmp_path: Path) -> None:
    """Skin, 20x: cut, while the broken slide beside it gets its line."""
    source = shared_data / "data" / "slides"
    if not source.is_dir():
        # Optional: real slides are not part of the project.
        pytest.skip(f"no real slides: {source} does not exist")
    out = tmp_path / "tiles"
    assert program.cut(source, out, Settings(field_um=128.0)) == program.FAILED
    rows = manifest(out)
    assert len(rows) > 20 and {row["slide"] for row in rows} == {"cmu-1-small-region.svs"}
    assert float(rows[0]["mpp"]) == pytest.approx(1.0, rel=0.01)
