"""Reading slides and cutting them into tiles, against NumPy, Pillow and brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from slide_files import painted, write_slide

from sscjax.data.slides import reader, tiling
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError

SIDE = 64


def settings(**changes: Any) -> Settings:
    return Settings(**{"field_px": 128, "tile_size": 64, **changes})


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


def test_settings_come_back() -> None:
    wish = settings(field_um=100.0, overlap=0.25, stain="macenko")
    earlier = {key: value for key, value in settings().as_json().items() if key != "stain"}
    assert Settings.from_json(earlier) == settings()
    assert Settings.from_json(json.loads(json.dumps(wish.as_json()))) == wish
