"""Slides cut into tiles: against NumPy, Pillow and brute force; what is kept and what refused."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from slide_files import GLASS, painted, write_slide
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from sscjax.cli.slides import main
from sscjax.data import image_folder, image_io
from sscjax.data.slides import cut as program
from sscjax.data.slides import output, reader, stain, tiling, tissue
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.system import formatting, terminal

SIDE = 64


def settings(**changes: Any) -> Settings:
    return Settings(**{"field_px": 128, "tile_size": 64, **changes})


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["slides", *map(str, arguments)])
    return terminal.call(main)


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / image_folder.MANIFEST).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- reading ------------------------------------------------------------------------------------


class Claimed:
    """What OpenSlide gives for a header that claims a size which no file here could have."""

    level_downsamples = (1.0,)
    properties: dict[str, str] = {}

    def __init__(self, width: int, height: int) -> None:
        self.dimensions, self.level_dimensions = (width, height), ((width, height),)

    def get_best_level_for_downsample(self, factor: float) -> int:
        return 0

    def read_region(self, *where: Any) -> None:
        raise AssertionError("nothing may be read")


def test_sizes_that_a_header_may_claim() -> None:
    """A line for each, and nothing read."""
    path = Path("claimed.svs")
    with pytest.raises(UserError, match="claimed.svs: the slide claims 2000000x1000000 pixels"):
        reader._Whole(path, Claimed(2_000_000, 1_000_000))
    whole = reader._Whole(path, Claimed(1_000_000, 1_000_000))
    with pytest.raises(UserError, match="claimed.svs: the smallest level .* smaller levels"):
        whole.thumbnail(2048)
    with pytest.raises(UserError, match=r"61,027,344 fields .*: give a larger field"):
        tiling.plan(whole, settings(field_px=128))


def test_pixels_are_those_that_were_written(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    path = write_slide(tmp_path / "a.tif", pixels)
    with reader.open_slide(path) as slide:
        assert (slide.width, slide.height) == (420, 300)
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert slide.downsamples == pytest.approx((1, 2, 4), rel=0.01)
        np.testing.assert_array_equal(slide.read(100, 40, 0, 60, 50), pixels[40:90, 100:160])
        # Beyond the edge nothing was scanned: white.
        beyond = slide.read(400, 280, 0, 40, 40)
        np.testing.assert_array_equal(beyond[:20, :20], pixels[280:, 400:])
        assert (beyond[25:] == 255).all()
        half = np.asarray(Image.fromarray(pixels).resize((210, 150), Image.Resampling.BOX))
        np.testing.assert_array_equal(slide.read(100, 40, 1, 30, 20), half[20:40, 50:80])


def test_plain_images_are_slides_of_one_level(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("a.png", "b.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        with reader.open_slide(tmp_path / name) as slide:
            assert (slide.width, slide.height, slide.mpp) == (120, 90, None)
            np.testing.assert_array_equal(slide.read(20, 30, 0, 50, 40), pixels[30:70, 20:70])
            assert slide.thumbnail(60).shape == (45, 60, 3)


# ---- tissue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_otsu_is_the_best_of_all_thresholds(seed: int) -> None:
    """By brute force: the least sum of the variances within both parts, weighed by their size."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(20, 6, 500), rng.normal(120, 30, 200)]).clip(0, 255)
    values = values.astype(int)
    within = {
        t: (values <= t).sum() * values[values <= t].var()
        + (values > t).sum() * values[values > t].var()
        for t in range(values.min(), values.max())
    }
    found = tissue.otsu(np.bincount(values, minlength=256))
    assert within[found] == pytest.approx(min(within.values()), rel=1e-9)
    assert tissue.otsu(np.bincount([7, 7], minlength=256)) == 0


def test_all_tissue_and_all_glass_are_not_cut_in_two() -> None:
    all_tissue = painted(512, 256)[:, :256]
    level = tissue.threshold(all_tissue)
    assert level == tissue.HIGHEST and tissue.mask(all_tissue, level, 9).mean() > 0.9
    glass = np.clip(np.random.default_rng(0).normal(GLASS, 2, (200, 200, 3)), 0, 255)
    glass = glass.astype(np.uint8)
    assert tissue.mask(glass, tissue.threshold(glass)).mean() < 0.01


def test_narrow_gaps_belong_to_the_tissue() -> None:
    pixels = painted(256, 128)
    pixels[:, 40:44] = GLASS
    level = tissue.threshold(pixels)
    assert not tissue.mask(pixels, level)[:, 41:43].any()
    closed = tissue.mask(pixels, level, 9)
    assert closed[:, 41:43].mean() > 0.95 and not closed[:, 150:].any()


@pytest.mark.parametrize("ink", [(20, 60, 200), (10, 140, 60), (25, 25, 28)])
def test_pens_are_told_from_tissue(ink: tuple[int, int, int]) -> None:
    tile = painted(256, 128)[:, :128].copy()
    assert tissue.pen_share(tile) < 0.01
    tile[30:60, :] = ink
    assert tissue.pen_share(tile) == pytest.approx(30 / 128, abs=0.02)
    assert tissue.pen_share(tile) > tissue.PEN_SHARE


def test_blur_is_told_from_pale_tissue() -> None:
    tile = painted(256, 128)[:, :128]
    pale = (255 - (255 - tile.astype(float)) * 0.2).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(2.5)))
    assert tissue.sharpness(tile) > tissue.SHARPNESS < tissue.sharpness(pale)
    assert tissue.sharpness(blurred) < tissue.SHARPNESS
    # The kernel of the Laplacian, by hand.
    grey = np.asarray(Image.fromarray(tile).convert("L"), float)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    by_hand = ndimage.convolve(grey, kernel, mode="reflect").var() / (grey.var() + 25)
    assert tissue.sharpness(tile) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.slow
def test_real_tiles_are_sharp_and_without_ink(shared_data: Path) -> None:
    paths = sorted((shared_data / "data" / "prostate_gleason").glob("*/*.jpg"))[::75]
    tiles = [np.asarray(Image.open(p).convert("RGB").resize((128, 128))) for p in paths]
    assert len(tiles) >= 20
    assert all(tissue.sharpness(tile) > tissue.SHARPNESS for tile in tiles)
    assert all(tissue.pen_share(tile) < tissue.PEN_SHARE for tile in tiles)


# ---- tiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [64, 128, 200, 256])
def test_tiles_are_cut_from_the_right_level(tmp_path: Path, field: int) -> None:
    """By NumPy from the array that was written, at the coarsest level that is fine enough."""
    pixels = painted(1024, 512)
    path = write_slide(tmp_path / "a.tif", pixels)
    wish = settings(field_px=field, min_tissue=0.9, reject=False)
    with reader.open_slide(path) as slide:
        planned = tiling.plan(slide, wish)
        found = list(tiling.tiles(slide, planned, wish, "a"))
    assert found
    factor = max(f for f in (1, 2, 4) if field / f >= SIDE)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    level = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    for tile in found:
        left, top, side = tile.x // factor, tile.y // factor, field // factor
        part = Image.fromarray(level[top : top + side, left : left + side])
        wanted = part.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(tile.pixels, np.asarray(wanted))
        assert tile.x + field <= 512 + 0.1 * field, "tissue ends there"
    assert planned.mpp == pytest.approx(0.5 * field / SIDE, rel=1e-3)


def test_micrometres_are_pixels_by_the_resolution(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", painted(512, 256), mpp=0.25)
    with reader.open_slide(path) as slide:
        assert tiling.plan(slide, settings(field_um=32.0)).field == 128
    unknown = write_slide(tmp_path / "b.tif", painted(512, 256), mpp=None)
    with reader.open_slide(unknown) as slide:
        slide.mpp = None
        with pytest.raises(UserError, match="does not say its micrometres .* --mpp"):
            tiling.plan(slide, settings(field_um=32.0))
        assert tiling.plan(slide, settings(field_um=32.0, mpp=0.5)).field == 64


def test_overlap_and_cap(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", painted(1024, 1024))
    with reader.open_slide(path) as slide:

        def cut(**changes: Any) -> list[tuple[int, int]]:
            wish = settings(min_tissue=0.9, **changes)
            planned = tiling.plan(slide, wish)
            return [(tile.x, tile.y) for tile in tiling.tiles(slide, planned, wish, "a")]

        every = cut()
        assert len(every) == 4 * 8 and {x % 128 for x, _ in every} == {0}
        assert len(cut(overlap=0.5)) == 7 * 15
        some = cut(max_tiles=10)
        assert len(some) == 10 and set(some) < set(every) and some == cut(max_tiles=10)
        # From all over the tissue, not the first ten.
        assert len({y for _, y in some}) > 4
        assert set(cut(max_tiles=10, seed=1)) != set(some)


def test_pen_and_blur_are_rejected_by_name(tmp_path: Path) -> None:
    pixels = painted(1024, 512)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).line((0, 64, 480, 64), fill=(20, 60, 200), width=40)
    soft = image.crop((0, 256, 512, 384)).filter(ImageFilter.GaussianBlur(8))
    image.paste(soft, (0, 256))
    path = write_slide(tmp_path / "a.tif", np.asarray(image))
    wish = settings(min_tissue=0.5)
    skipped: dict[tuple[int, int], str] = {}
    with reader.open_slide(path) as slide:
        planned = tiling.plan(slide, wish)
        found = {(t.x, t.y) for t in tiling.tiles(slide, planned, wish, "a", skipped)}
        wish_all = settings(min_tissue=0.5, reject=False)
        every = {(t.x, t.y) for t in tiling.tiles(slide, planned, wish_all, "a")}
    assert {skipped[x, 0] for x in (0, 128, 256)} == {tiling.PEN}
    assert {skipped[x, 256] for x in (0, 128, 256)} == {tiling.BLUR}
    assert {y for _, y in found} == {128, 384} and found < every
    assert skipped[896, 0] == tiling.NO_TISSUE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("field_um", -1.0), ("field_px", 4), ("tile_size", 0), ("min_tissue", 1.5)),
        *(("overlap", 0.95), ("max_tiles", -1), ("mpp", -0.1)),
    ],
)
def test_absurd_settings(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}=.*: expected"):
        settings(**{name: value})


def test_an_unknown_normalisation() -> None:
    with pytest.raises(UserError, match="--stain=pink: expected one of none, macenko"):
        settings(stain="pink")


# Haematoxylin and eosin of another laboratory, by columns, each of length 1.
OTHER = np.array([[0.60, 0.75, 0.28], [0.15, 0.95, 0.27]]).T
OTHER = OTHER / np.linalg.norm(OTHER, axis=0)


def dyed(densities: np.ndarray, strengths: tuple[float, float], side: int = 256) -> np.ndarray:
    """Tissue with both stains, some pixels with nearly one alone: uint8 [side,side,3]."""
    rng = np.random.default_rng(4)
    amounts = rng.beta(0.6, 0.6, (side * side, 1)) * [1.0, -1.0] + [0.02, 1.02]
    amounts *= rng.uniform(0.5, 1.0, (side * side, 1)) * strengths
    found = 240 * np.exp(-amounts @ densities.T) - 1
    return np.clip(np.round(found), 0, 255).astype(np.uint8).reshape(side, side, 3)


def test_stains_are_found_and_replaced() -> None:
    """Of a slide whose stains are known; and as torchstain does it where a tile is all there is."""
    wanted = stain.reference()
    tile = dyed(OTHER, (1.2, 0.7))
    found = stain.find(tile.reshape(-1, 3))
    angles = np.degrees(np.arccos(np.clip((found.densities * OTHER).sum(0), -1, 1)))
    assert angles.max() < 6
    changed = stain.normalised(tile, found, wanted)
    expected = dyed(wanted.densities, tuple(wanted.strengths / (found.strengths / (1.2, 0.7))))
    assert np.abs(changed.astype(int) - expected).mean() < 6
    assert np.abs(tile.astype(int) - expected).mean() > 20
    theirs, _, _ = NumpyMacenkoNormalizer().normalize(tile)
    assert np.abs(changed.astype(int) - theirs.astype(int)).max() <= 1


def test_slides_of_two_laboratories_become_alike(tmp_path: Path) -> None:
    means: dict[str, list[np.ndarray]] = {"none": [], "macenko": []}
    for name, densities, strengths in (
        ("a", stain.reference().densities, (1.9, 1.0)),
        ("b", OTHER, (1.1, 0.6)),
    ):
        whole = painted(512, 256)
        whole[:, :256] = dyed(densities, strengths)
        path = write_slide(tmp_path / f"{name}.tif", whole, levels=1)
        for kind, found in means.items():
            wish = settings(stain=kind, reject=False, min_tissue=0.9)
            with reader.open_slide(path) as slide:
                planned = tiling.plan(slide, wish)
                tiles = [one.pixels for one in tiling.tiles(slide, planned, wish, name)]
            found.append(np.mean(tiles, axis=(0, 1, 2)))
    apart = {kind: np.abs(found[0] - found[1]).max() for kind, found in means.items()}
    assert apart["macenko"] < 0.2 * apart["none"]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((400, 3), 240, np.uint8), "too little stained tissue"),
        (np.linspace([60, 20, 90], [200, 180, 210], 4000).astype(np.uint8)[:400], "too little"),
    ],
)
def test_tissue_without_two_stains(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*--stain=none"):
        stain.find(pixels)


def test_one_stain_alone_is_told() -> None:
    one = (OTHER[:, :1] @ np.linspace(0.3, 1.5, 5000)[None]).T
    with pytest.raises(UserError, match="one stain, expected haematoxylin and eosin"):
        stain.find(np.round(240 * np.exp(-one) - 1).astype(np.uint8))


def test_settings_come_back() -> None:
    wish = settings(field_um=100.0, overlap=0.25, stain="macenko")
    earlier = {key: value for key, value in settings().as_json().items() if key != "stain"}
    assert Settings.from_json(earlier) == settings()
    assert Settings.from_json(json.loads(json.dumps(wish.as_json()))) == wish


# ---- the program --------------------------------------------------------------------------------


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
