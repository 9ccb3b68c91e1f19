"""Formats beside JPEG, PNG, TIFF and BMP, against other readers; and words for what is not read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_dicom import dicom_file

from sscjax.data import dicom, image_folder, inputs
from sscjax.data.image_formats import is_image_name
from sscjax.data.image_io import read_header, read_image, read_upright_size
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError

RNG = np.random.default_rng(0)
SMOOTH = np.kron(RNG.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path, None, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".webp", {"lossless": True}, 0),
        (".webp", {"quality": 95}, 6),
        (".jp2", {"irreversible": False}, 0),
        (".j2k", {"irreversible": False}, 0),
        (".jfif", {"quality": 95, "format": "JPEG", "subsampling": 0}, 4),
        (".heic", {"quality": 95, "chroma": 444}, 4),
    ],
)
def test_formats_are_read(
    tmp_path: Path, suffix: str, options: dict[str, Any], tolerance: int
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
        pillow_heif.from_pillow(Image.fromarray(SMOOTH)).save(path, **options)
    else:
        Image.fromarray(SMOOTH).save(path, **options)
    pixels = read_image(path, None)
    assert pixels.shape == SMOOTH.shape and is_image_name(path)
    assert np.abs(pixels.astype(int) - SMOOTH).mean() <= tolerance
    assert read_upright_size(path) == (40, 32)
    path.write_bytes(path.read_bytes()[:90])
    assert "damaged" in refused(path)


def large_profile() -> bytes:
    """A PNG with a colour profile of 2 MB before its pixels."""
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "PNG")
    data = file.getvalue()
    content = b"profile\0\0" + zlib.compress(RNG.bytes(2_000_000))
    chunk = struct.pack(">I", len(content)) + b"iCCP" + content
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]


def test_png_with_a_large_profile(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(large_profile())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", None), SMOOTH)


def tiff(**options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, options.pop("pixels"), **options)
    return file.getvalue()


FLOAT = np.zeros((16, 16), np.float64)
UNSUPPORTED = {
    "five samples": lambda: tiff(
        pixels=np.zeros((16, 16, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    ),
    "float64": lambda: tiff(pixels=FLOAT, photometric="minisblack"),
    "float16": lambda: tiff(pixels=FLOAT.astype(np.float16), photometric="minisblack"),
    "signed 8": lambda: tiff(pixels=FLOAT.astype(np.int8), photometric="minisblack"),
    "signed 16": lambda: tiff(pixels=FLOAT.astype(np.int16), photometric="minisblack"),
    "jpeg 2000 in tiff": lambda: tiff(pixels=FLOAT.astype(np.uint8), photometric="minisblack")
    .replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 33003)),
    "gif": lambda: b"GIF89a" + bytes(60),
    "avif": lambda: b"\0\0\0\x1cftypavif" + bytes(60),
    "jpeg xl": lambda: b"\xff\x0a" + bytes(60),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_not_supported_is_not_called_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(UNSUPPORTED[kind]())
    message = refused(path)
    assert "not supported" in message and "damaged" not in message
    if kind.startswith("jpeg 2000"):
        assert "JPEG 2000" in message


def test_damaged_tiff_is_called_damaged(tmp_path: Path) -> None:
    data = tiff(pixels=SMOOTH, photometric="rgb", compression="zlib")
    (tmp_path / "a.tif").write_bytes(data[:200])
    assert "damaged" in refused(tmp_path / "a.tif")


def test_nothing_of_an_image_is_to_be_seen(tmp_path: Path) -> None:
    clear = np.dstack([SMOOTH, np.zeros(SMOOTH.shape[:2], np.uint8)])
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert "transparent everywhere" in refused(tmp_path / "a.png")


# --- DICOM --------------------------------------------------------------------------------------

GREY = np.arange(16 * 20, dtype=np.uint16).reshape(16, 20) * 12


@pytest.mark.parametrize("function", ("LINEAR", "LINEAR_EXACT", "SIGMOID"))
@pytest.mark.parametrize("kind", ("MONOCHROME1", "MONOCHROME2"))
def test_windows_equal_those_of_pydicom(tmp_path: Path, function: str, kind: str) -> None:
    processing = pytest.importorskip("pydicom.pixels.processing", reason="extra dicom")
    path = dicom_file(
        tmp_path / "a.dcm", GREY, kind, WindowCenter=900, WindowWidth=1500,
        VOILUTFunction=function, RescaleSlope=0.5, RescaleIntercept=-100,
    )  # fmt: skip
    import pydicom

    header = pydicom.dcmread(path)
    rescaled = processing.apply_modality_lut(header.pixel_array, header)
    expected = processing.apply_windowing(rescaled, header)
    # Of what pydicom gives the whole range of the stored bits is the range of the window.
    low, high = (0.5 * edge - 100 for edge in (0, 4095))
    expected = (expected - low) / (high - low) * 255
    expected = 255 - expected if kind == "MONOCHROME1" else expected
    np.testing.assert_allclose(read_image(path, None)[..., 0], expected, atol=0.51)


def test_dicom_without_a_window(tmp_path: Path) -> None:
    """By the bits that the header names; of 16 by what the set uses; signed ones not at all."""
    pytest.importorskip("pydicom", reason="extra dicom")
    path = dicom_file(tmp_path / "a.dcm", GREY, "MONOCHROME2")
    np.testing.assert_array_equal(read_image(path, None)[..., 1], GREY >> 4)
    path = dicom_file(tmp_path / "b.dcm", GREY, "MONOCHROME2", BitsStored=16, HighBit=15)
    observed = Observed()
    np.testing.assert_array_equal(read_image(path, None, observed=observed)[..., 1], GREY >> 8)
    assert observed.bits == 12
    np.testing.assert_array_equal(read_image(path, None, decoding=Decoding(12))[..., 1], GREY >> 4)
    path = dicom_file(tmp_path / "c.dcm", GREY, "MONOCHROME2", PixelRepresentation=1)
    assert "signed" in refused(path)


def test_colour_and_frames(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="extra dicom")
    np.testing.assert_array_equal(
        read_image(dicom_file(tmp_path / "a.dcm", SMOOTH, "RGB"), None), SMOOTH
    )
    stack = np.stack([np.full((16, 20), 40 * k, np.uint8) for k in range(3)])
    path = dicom_file(tmp_path / "b.dcm", stack, "MONOCHROME2", NumberOfFrames=3)
    assert "--config.data.pages=first" in refused(path)
    for pages, value in (("first", 0), ("middle", 40), ("3", 80)):
        assert (read_image(path, None, decoding=Decoding(pages=pages)) == value).all()
    assert "holds 3 frames" in refused(path, decoding=Decoding(pages="4"))
    assert read_header(path) == ("DICOM", 20, 16)


def test_a_whole_slide_and_a_report_are_no_images(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="extra dicom")
    whole = "1.2.840.10008.5.1.4.1.1.77.1.6"
    path = dicom_file(tmp_path / "a.dcm", SMOOTH, "RGB", SOPClassUID=whole)
    assert "sscjax slides" in refused(path)
    assert "without an image" in refused(dicom_file(tmp_path / "b.dcm", None, "RGB"))
    path.write_bytes(path.read_bytes()[:300])
    assert "damaged" in refused(path) or "without an image" in refused(path)


@pytest.mark.parametrize("suffix", (".dcm", "", ".20261"))
def test_patients_of_dicom_files(tmp_path: Path, suffix: str) -> None:
    """A PACS names files by number; the header says whose they are, and nothing else is kept."""
    pytest.importorskip("pydicom", reason="extra dicom")
    for number, patient in enumerate(("p1", "p1", "p2", "p3")):
        folder = tmp_path / ("ill" if number < 2 else "well") / "export"
        folder.mkdir(parents=True, exist_ok=True)
        dicom_file(
            folder / f"IM{number}{suffix}", GREY, "MONOCHROME2", PatientID=patient,
            PatientName="Secret^Name",
        )  # fmt: skip
    (tmp_path / "ill" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    listing = image_folder.list_images(tmp_path)
    assert [record.subject for record in listing.records] == ["p1", "p1", "p2", "p3"]
    found = inputs.find(tmp_path / "well", ("a", "b"))
    assert [one.subject for one in found] == ["p2", "p3"]
    assert dicom.patient_ids([tmp_path / "ill" / "nothing.dcm"]) == {}
