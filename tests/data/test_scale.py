"""Micrometres per pixel that are believed, and flat slides of any size."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from sscjax.data import image_io, loading, resolution
from sscjax.data.audit import checks
from sscjax.data.pixel_range import Decoding
from sscjax.data.slides import cut, flat, reader, tiling
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError

RNG = np.random.default_rng(0)


def tissue(height: int, width: int) -> np.ndarray:
    grains = RNG.normal(0, 30, (height, width, 3))
    return np.clip(np.array([200, 110, 170]) + grains, 0, 255).astype(np.uint8)


def slide(path: Path, per_unit: float = 0.0, unit: str = "INCH", side: int = 256) -> Path:
    """A tiled TIFF, which OpenSlide opens, with resolution tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags: dict[str, Any] = {"resolution": (per_unit, per_unit), "resolutionunit": unit}
    tifffile.imwrite(
        path, tissue(side, side), tile=(128, 128), photometric="rgb", metadata=None,
        **(tags if per_unit else {}),
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("per_unit", "unit", "said"),
    [(72, "INCH", 352.8), (10, "CENTIMETER", 1000), (1, "INCH", 25400)],
)
def test_a_resolution_that_no_microscope_has(
    tmp_path: Path, per_unit: float, unit: str, said: float, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openslide", reason="extra slides")
    path = slide(tmp_path / "slides" / "a.tif", per_unit, unit)
    with reader.open_slide(path) as opened:
        assert opened.mpp is None and opened.said_mpp == pytest.approx(said, rel=0.01)
        with pytest.raises(UserError, match="which no microscope has; give --mpp"):
            tiling.plan(opened, Settings(field_um=64))
        assert tiling.plan(opened, Settings(field_um=64, mpp=0.5)).field == 128
    assert cut.cut(path, tmp_path / "tiles", Settings(field_px=128)) == 0
    assert "which no microscope has (0.05 to 20): taken as unknown" in caplog.text


def test_the_option_counts_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On new slides, of which the option says nothing, their own resolution counts."""
    pytest.importorskip("openslide", reason="extra slides")
    path = slide(tmp_path / "a.tif", 40_000, "CENTIMETER")  # 0.25
    settings = Settings(field_px=128, mpp=0.5)
    with reader.open_slide(path) as opened:
        assert tiling.level_mpp(opened, settings) == 0.5
        new = Settings(field_px=128, mpp=0.5, mpp_for_all=False)
        assert tiling.level_mpp(opened, new) == pytest.approx(0.25)
    assert cut.cut(path, tmp_path / "tiles", settings) == 0
    assert "taken as 0.5 micrometres per pixel (--mpp), the file says 0.25" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"field_um": 10, "mpp": 1.0}, "10 pixel.* expected 32 or more: give a larger --field-um"),
        ({"field_px": 8}, "--field-px=8: expected 32 pixels or more"),
        ({"mpp": 353}, "--mpp=353: expected 0.05 to 20"),
    ],
)
def test_fields_too_small_to_show_anything(settings: dict[str, Any], words: str) -> None:
    plain = reader._Plain(tissue(64, 64))
    with pytest.raises(UserError, match=words):
        tiling.plan(plain, Settings(**settings))


def test_a_limit_on_the_tiles_of_one_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MOST_TILES", 3)
    plain = reader._Plain(tissue(64, 64))
    for most, count in ((0, None), (2, 2), (4, 4)):
        settings = Settings(field_px=32, tile_size=16, max_tiles=most, reject=False)
        drawn = tiling.tiles(plain, tiling.plan(plain, settings), settings, "a")
        if count is None:
            with pytest.raises(UserError, match="4 fields .*over the limit of 3: .*--max-tiles"):
                list(drawn)
        else:
            assert len(list(drawn)) == count


def test_slides_of_several_resolutions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openslide", reason="extra slides")
    slide(tmp_path / "s" / "fine.tif", 40_000, "CENTIMETER")
    slide(tmp_path / "s" / "coarse.tif", 20_000, "CENTIMETER")
    with pytest.raises(UserError, match="several resolutions .*give --field-um=32, the same area"):
        cut.cut(tmp_path / "s", tmp_path / "out", Settings(field_px=128))
    assert cut.cut(tmp_path / "s", tmp_path / "out", Settings(field_um=32)) == 0
    (tmp_path / "s" / "coarse.tif").unlink()
    slide(tmp_path / "s" / "silent.tif")
    with caplog.at_level(logging.WARNING):
        assert cut.cut(tmp_path / "s", tmp_path / "other", Settings(field_px=128)) == 0
    assert "1 of 2 slides do not say their micrometres per pixel" in caplog.text


# --- tiles of several resolutions ----------------------------------------------------------------


def tiles(folder: Path, resolutions: list[str], side: int = 64) -> Path:
    """Tiles whose left half is bright; four of a class, of a resolution each."""
    rows = ["file,label,subject,mpp"]
    folder.mkdir()
    for number, mpp in enumerate(resolutions):
        pixels = RNG.integers(0, 60, (side, side, 3)).astype(np.uint8)
        centre = side // 2
        pixels[centre - 8 : centre + 8, centre - 8 : centre + 8] = 200
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ill' if number % 2 else 'well'},p{number},{mpp}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_tiles_of_several_resolutions_are_refused_or_brought_to_one(tmp_path: Path) -> None:
    folder = tiles(tmp_path / "t", ["1", "2", "1", "2"])
    with pytest.raises(UserError, match="1 to 2 micro.*--config.data.mpp=2 brings") as caught:
        loading.load(folder, 32)
    assert "--config.data.mpp=-1 leaves" in str(caught.value)
    found = loading.load(folder, 32, decoding=Decoding(mpp=1.0))
    # 16 pixels of 1 and of 2 micrometres are squares of 16 and 32 micrometres.
    bright = [(np.asarray(found.images[k])[..., 0] > 130).sum() for k in range(4)]
    assert bright == pytest.approx([256, 1024, 256, 1024], rel=0.15)
    left = loading.load(folder, 32, decoding=Decoding(mpp=-1))
    assert [(np.asarray(left.images[k])[..., 0] > 130).sum() for k in (0, 1)] == [64, 64]
    with pytest.raises(UserError, match="asks for 128x128 of them; set a smaller"):
        loading.load(folder, 32, decoding=Decoding(mpp=4.0))


@pytest.mark.parametrize("text", ("353", "x", "-1", "0.001"))
def test_a_resolution_in_a_manifest_that_cannot_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="row 3: mpp .*expected 0.05 to 20"):
        loading.load(tiles(tmp_path / "t", ["1", text, "", "1"]), 32)


def test_resolution_is_a_confounder(tmp_path: Path) -> None:
    """As `sscjax slides` writes it: 0.5 in one class, 0.52 in the other: nothing is resampled."""
    folder = tiles(tmp_path / "t", ["0.5", "0.52"] * 8)
    result = checks.audit(loading.load(folder, 32), None, folder)
    [finding] = [one for one in result["findings"] if one["kind"] == "files"]
    assert "micrometres per pixel is higher in ill (AUROC 1.00" in finding["detail"]
    assert not resolution.differ([0.5, 0.52])


def test_a_check_of_files_that_are_not_there(tmp_path: Path) -> None:
    folder = tiles(tmp_path / "t", [""] * 16)
    images = loading.load(folder, 32)
    for root in (None, tmp_path / "elsewhere"):
        result = checks.audit(images, None, root)
        assert "files" not in [check["kind"] for check in result["checks"]]
    assert "files" in [check["kind"] for check in checks.audit(images, None, folder)["checks"]]


# --- flat slides ---------------------------------------------------------------------------------

FLAT: dict[str, dict[str, Any]] = {
    "png": {},
    "png palette": {},
    "png alpha": {},
    "png grey": {},
    "tif one strip": {"rowsperstrip": 130},
    "tif one deflated strip": {"rowsperstrip": 130, "compression": "zlib"},
    "tif one strip of differences": {
        "rowsperstrip": 130, "compression": "zlib", "predictor": True,
    },
    "tif strips": {"rowsperstrip": 7, "compression": "zlib"},
    "tif lzw strips by Pillow": {"compression": "tiff_lzw"},
    "tif jpeg strips by Pillow": {"compression": "jpeg"},
    "tif big-endian": {"rowsperstrip": 16, "byteorder": ">"},
}  # fmt: skip


@pytest.mark.parametrize("kind", FLAT)
def test_flat_slides_are_read_in_bands(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pixel as Pillow gives it, though no more than 20 rows are decoded at a time."""
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    pixels = np.asarray(Image.fromarray(tissue(33, 25)).resize((100, 130)))
    path = tmp_path / f"a.{kind[:3]}"
    if kind.startswith("png"):
        image = Image.fromarray(pixels)
        mode = {"png palette": "P", "png alpha": "RGBA", "png grey": "L"}.get(kind, "RGB")
        image = image.convert(mode)
        if kind == "png alpha":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    elif kind.endswith("by Pillow"):
        monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 16 * 3 * 100)  # bytes: 16 rows
        Image.fromarray(pixels).save(path, **FLAT[kind])
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **FLAT[kind])
    with reader.open_slide(path) as plain:
        expected = plain.read(0, 0, 0, 100, 130)
        small = plain.thumbnail(40)
    monkeypatch.setattr(flat, "MAX_PIXELS", 130 * 100 - 1 if "one" in kind else 5000)
    monkeypatch.setattr(image_io, "MAX_PIXELS", 5000)
    monkeypatch.setattr(flat, "_BAND", 2000)
    with reader.open_slide(path) as opened:
        assert isinstance(opened._pixels, flat._Pixels)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(opened.read(0, 0, 0, 100, 130), expected)
        assert np.abs(opened.thumbnail(40).astype(int) - small).mean() < 6
    assert not list((tmp_path / "cache" / "flat").iterdir())


@pytest.mark.parametrize("kind", ("png", "tif one deflated strip", "tif strips"))
def test_flat_slides_that_end_early(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "png":
        Image.fromarray(tissue(130, 100)).save(path)
        path.write_bytes(path.read_bytes()[:20_000])
    else:
        tifffile.imwrite(path, tissue(130, 100), photometric="rgb", metadata=None, **FLAT[kind])
        path.write_bytes(path.read_bytes()[:20_000])
    for module in (flat, image_io):
        monkeypatch.setattr(module, "MAX_PIXELS", 130 * 100 - 1)
    with pytest.raises(UserError, match="truncated or damaged"), reader.open_slide(path):
        pass
    assert not list((tmp_path / "cache" / "flat").iterdir())
