"""Pixels that Pillow or pydicom decode to something else than what the file means."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import refused
from PIL import Image, ImageCms
from small_dicom import dicom_file

from sscjax.data.image_io import read_image
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.data.slides import flat, reader
from sscjax.errors import UserError

SIDE = 16
GREY = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
RGB = np.dstack([GREY, GREY.T, 255 - GREY])
DEEP = GREY.astype(np.uint16) * 257


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


# --- TIFF -----------------------------------------------------------------------------------------


def tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (
            np.stack([DEEP, DEEP.T, DEEP]),
            {"photometric": "rgb", "planarconfig": "separate"},
            ("16-bit samples in separate planes", "interleaved"),
        ),
        (np.dstack([GREY, GREY.T]), {"planarconfig": "contig"}, ("two channels", "as pages")),
        (np.dstack([GREY] * 3), {"planarconfig": "contig"}, ("3 channels in one page", "as RGB")),
        (np.stack([GREY] * 4), {"planarconfig": "separate"}, ("4 channels in one page",)),
        (np.dstack([GREY] * 5), {"planarconfig": "contig"}, ("5 channels in one page",)),
    ],
)
def test_channels_that_would_be_mixed_up_or_dropped(
    tmp_path: Path, pixels: np.ndarray, options: Mapping[str, Any], words: tuple[str, ...]
) -> None:
    path = tiff(tmp_path / "a.tif", pixels, **{"photometric": "minisblack", **options})
    message = refused(lambda: read_image(path, None), *words)
    assert "damaged" not in message


@pytest.mark.parametrize("tag", [258, 262])
def test_numbers_that_are_written_as_text(tmp_path: Path, tag: int) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path)
    number, text = struct.pack("<HH", tag, 3), struct.pack("<HH", tag, 2)
    assert number in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(number, text))
    refused(lambda: read_image(path, None), "a.tif: ")


def test_ome_tiff_of_many_channels_is_read_by_choice(tmp_path: Path) -> None:
    pages = np.stack([GREY, GREY.T, 255 - GREY, GREY, GREY])
    path = tiff(
        tmp_path / "a.ome.tif", pages, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"
    )
    refused(lambda: read_image(path, None), "5 channels", "--config.data.pages=first")
    chosen = read_image(path, None, decoding=Decoding(pages="3"))
    np.testing.assert_array_equal(chosen, three(255 - GREY))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [RGB, RGB.astype(np.uint16) * 257])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "bigtiff": True}])
def test_byte_orders_and_tiles(
    tmp_path: Path, order: str, planes: np.ndarray, options: Mapping[str, Any]
) -> None:
    path = tiff(tmp_path / "a.tif", planes, photometric="rgb", byteorder=order, **options)
    if options and order == ">":
        refused(lambda: read_image(path, None), "BigTIFF of big-endian bytes is not supported")
        return
    np.testing.assert_array_equal(read_image(path, None), RGB)


def test_a_fourth_channel_is_said(tmp_path: Path) -> None:
    pixels = np.dstack([RGB, GREY])
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    observed = Observed()
    np.testing.assert_array_equal(read_image(path, None, observed=observed), RGB)
    [note] = observed.notes()
    assert "only red, green and blue were read: a.tif" in note


# --- colour profiles ------------------------------------------------------------------------------


def profile(space: bytes, name: bytes) -> bytes:
    return struct.pack(">I", 200) + bytes(12) + space + bytes(100) + name + bytes(76)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (profile(b"RGB ", b"Adobe RGB (1998)"), True),
        (profile(b"RGB ", b"Display P3"), True),
        (profile(b"GRAY", b"Dot Gain 20%"), False),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), False),
        (None, False),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_profiles_of_other_colours_are_said(
    tmp_path: Path, data: bytes | None, said: bool, suffix: str
) -> None:
    observed = Observed()
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", icc_profile=data)
    read_image(tmp_path / f"a.{suffix}", None, observed=observed)
    assert any("colour profile" in note for note in observed.notes()) is said


# --- DICOM ----------------------------------------------------------------------------------------

TWELVE = GREY.astype(np.uint16) * 16


def dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **elements: Any) -> Path:
    pytest.importorskip("pydicom", reason="extra dicom")
    return dicom_file(path, pixels, kind, **elements)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"HighBit": 15}, ("end at bit 15", "HighBit")),
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, ("rescaled", "WindowCenter")),
        ({"RescaleSlope": -1, "RescaleIntercept": 4095}, ("rescaled", "WindowCenter")),
        ({"PixelAspectRatio": [2, 1]}, ("not square", "2:1")),
    ],
)
def test_dicom_that_would_be_shown_wrongly(
    tmp_path: Path, elements: Mapping[str, Any], words: tuple[str, ...]
) -> None:
    path = dicom(tmp_path / "a.dcm", TWELVE, **elements)
    refused(lambda: read_image(path, None), *words)


def test_a_modality_table_without_a_window(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="extra dicom")
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (65535 - np.arange(4096) * 16).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    path = dicom(tmp_path / "a.dcm", TWELVE, ModalityLUTSequence=[table])
    refused(lambda: read_image(path, None), "rescaled", "WindowCenter")


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("MONOCHROME2", "INVERSE", 255 - GREY),
        ("MONOCHROME1", "INVERSE", 255 - GREY),
        ("MONOCHROME2", "IDENTITY", GREY),
    ],
)
def test_inverse_presentation(tmp_path: Path, kind: str, shape: str, expected: np.ndarray) -> None:
    path = dicom(tmp_path / "a.dcm", GREY, kind, PresentationLUTShape=shape)
    np.testing.assert_array_equal(read_image(path, None), three(expected))


@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_of_16_bits_that_hold_8(tmp_path: Path, scale: int) -> None:
    data = ((255 - np.arange(256)) * scale).astype("<u2").tobytes()
    elements: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{colour}PaletteColorLookupTableData"] = data
    path = dicom(tmp_path / "a.dcm", GREY, "PALETTE COLOR", **elements)
    np.testing.assert_array_equal(read_image(path, None), three(255 - GREY))


# --- flat slides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (DEEP, {}),
        (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}),
        (GREY.astype(np.int8), {}),
        (GREY.astype(np.float32), {}),
        (GREY.astype(np.uint32), {}),
        (RGB, {"photometric": "cielab"}),
        (np.dstack([GREY, GREY.T]), {"photometric": "minisblack", "planarconfig": "contig"}),
        (np.stack([GREY] * 5), {"photometric": "minisblack"}),
        (RGB, {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}),
    ],
)
@pytest.mark.parametrize("rows", [4, SIDE])
def test_flat_slides_that_would_be_read_wrongly(
    tmp_path: Path, pixels: np.ndarray, options: Mapping[str, Any], rows: int
) -> None:
    path = tiff(tmp_path / "a.tif", pixels, rowsperstrip=rows, **options)
    refused(lambda: flat.Flat(path), "not supported")


@pytest.mark.parametrize("kind", ["I;16", "1", "orientation"])
def test_flat_png_of_other_kinds(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    if kind == "orientation":
        exif[274] = 6
    image = {"I;16": Image.fromarray(DEEP), "1": Image.fromarray(GREY).convert("1")}.get(kind)
    (image or Image.fromarray(RGB)).save(tmp_path / "a.png", exif=exif)
    refused(lambda: flat.Flat(tmp_path / "a.png"), "not supported", "vips tiffsave")


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "jp2"])
def test_flat_slides_of_other_formats_name_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(flat, "MAX_PIXELS", SIDE * SIDE - 1)
    with (
        pytest.raises(UserError, match="vips tiffsave"),
        reader.open_slide(tmp_path / f"a.{suffix}"),
    ):
        pass
