"""Decoding against pixels computed by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sound_files import png_bytes

from sscjax.data import image_io
from sscjax.data.image_io import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def tiff_bytes(
    width: int, height: int, data: bytes, bits: int, photometric: int, kind: int
) -> bytes:
    """A little-endian, uncompressed, one-strip, one-channel TIFF."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, kind),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags))
    for tag, field, value in tags:
        directory += struct.pack("<HHII", tag, field, 1, value)
    padding = b"\0" * (len(data) % 2)
    offset = 8 + len(data) + len(padding)
    return b"II*\0" + struct.pack("<I", offset) + data + padding + directory + b"\0" * 4


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.TIFF"])
def test_lossless_rgb_is_exact(tmp_path, name):
    image = read_image(save(tmp_path / name, PIXELS), None)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tif_is_exact(tmp_path, compression):
    path = save(tmp_path / "a.tif", PIXELS, compression=compression)
    np.testing.assert_array_equal(read_image(path, None), PIXELS)


def test_jpg_is_near_the_original(tmp_path):
    smooth = np.tile(np.linspace(20, 230, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    path = save(tmp_path / "a.jpg", smooth, quality=95)
    assert np.abs(read_image(path, None).astype(int) - smooth).max() <= 3


def test_content_and_not_suffix_decides(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "really_png.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "really_png.jpg", None), PIXELS)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_grey(tmp_path, name):
    np.testing.assert_array_equal(read_image(save(tmp_path / name, GREY), None), as_rgb(GREY))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_one_bit(tmp_path, name):
    save(tmp_path / name, GREY > 127)
    expected = as_rgb(np.where(GREY > 127, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / name, None), expected)


def test_palette(tmp_path):
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    for name in ("a.png", "a.tif", "a.bmp"):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, None), colours[GREY])


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return colour * share + 255.0 * (1 - share)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_transparent_colour_lies_on_white(tmp_path, name):
    rgba = np.dstack([PIXELS, GREY])
    image = read_image(save(tmp_path / name, rgba), None)
    np.testing.assert_allclose(image, on_white(PIXELS, GREY), atol=1)


def test_transparent_grey_lies_on_white(tmp_path):
    alpha = GREY[::-1]
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.ascontiguousarray(alpha))])
    image.save(tmp_path / "a.png")
    expected = on_white(as_rgb(GREY), alpha)
    np.testing.assert_allclose(read_image(tmp_path / "a.png", None), expected, atol=1)


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.fromarray((GREY % 4).astype(np.uint8))
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 0, 0]], np.uint8)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png", transparency=2)
    expected = colours.copy()
    expected[2] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", None), expected[GREY % 4])


def test_transparent_colour_key_becomes_white(tmp_path):
    pixels = PIXELS.copy()
    pixels[3:5] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(1, 2, 3))
    pixels[3:5] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", None), pixels)


def test_cmyk(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 1] = 255  # magenta
    inks[8:, :, 3] = 255  # black
    image = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    image.save(tmp_path / "a.tif")
    image.save(tmp_path / "a.jpg", quality=100)
    for name in ("a.tif", "a.jpg"):
        decoded = read_image(tmp_path / name, None).astype(int)
        np.testing.assert_allclose(decoded[2, 2], (255, 0, 255), atol=4)
        np.testing.assert_allclose(decoded[13, 2], (0, 0, 0), atol=4)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_by_depth_not_by_contrast(tmp_path, name):
    deep = RNG.integers(1000, 3000, (12, 20)).astype(np.uint16)  # a dark image stays dark
    image = read_image(save(tmp_path / name, deep), None)
    np.testing.assert_array_equal(image, as_rgb((deep // 256).astype(np.uint8)))


def test_big_endian_16_bit_tif(tmp_path):
    deep = RNG.integers(0, 65536, (12, 20)).astype(np.uint16)
    Image.frombytes("I;16B", (20, 12), deep.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif", None)
    np.testing.assert_array_equal(image[..., 0], deep // 256)


def test_12_bit_tif_uses_its_own_depth(tmp_path):
    values = RNG.integers(0, 4096, (8, 8))
    packed = bytearray()
    for first, second in values.reshape(-1, 2):
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    (tmp_path / "a.tif").write_bytes(tiff_bytes(8, 8, bytes(packed), 12, 1, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", None)[..., 1], values // 16)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero(tmp_path, bits):
    values = RNG.integers(0, 2**bits, (8, 8)).astype(f"<u{bits // 8}")
    (tmp_path / "a.tif").write_bytes(tiff_bytes(8, 8, values.tobytes(), bits, 0, 1))
    expected = 255 - values // 2 ** (bits - 8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", None)[..., 2], expected)


@pytest.mark.parametrize("channels,colour", [(3, 2), (4, 6)])
def test_16_bit_colour_png(tmp_path, channels, colour):
    deep = RNG.integers(0, 65536, (9, 8, channels)).astype(np.uint16)
    if channels == 4:
        deep[..., 3] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    (tmp_path / "a.png").write_bytes(png_bytes(8, 9, 16, colour, rows))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", None), deep[..., :3] // 256)


def test_16_bit_grey_png_with_a_transparent_value(tmp_path):
    deep = RNG.integers(0, 65535, (9, 8)).astype(np.uint16)
    deep[4] = 777
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 777)
    key += struct.pack(">I", zlib.crc32(key[4:]))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    (tmp_path / "a.png").write_bytes(png_bytes(8, 9, 16, 0, rows, key=key))
    expected = np.where(deep == 777, 255, deep // 256)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", None)[..., 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_exif_orientation(tmp_path, name, orientation):
    # What a viewer shows, from the TIFF 6.0 table: where row 0 and column 0 of the file lie.
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    shown = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if name == "a.jpg" else {}
    image = read_image(save(tmp_path / name, pixels, exif=exif, **options), None)
    assert image.shape == shown.shape
    np.testing.assert_allclose(image, shown, atol=12 if name == "a.jpg" else 0)


def test_first_frame_of_a_multi_frame_tif(tmp_path):
    second = Image.fromarray(255 - PIXELS)
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", None), PIXELS)


def test_same_size_is_untouched(tmp_path):
    square = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", square), 32), square)


def test_reduction_does_not_alias(tmp_path):
    # Stripes of one pixel are finer than the result can show: they must turn grey, where taking
    # single pixels or interpolating between neighbours leaves stripes.
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    image = read_image(save(tmp_path / "a.png", stripes), 36).astype(int)
    assert np.abs(image[:, 2:-2] - 127.5).max() < 6


def test_reduction_keeps_brightness_and_slopes(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = read_image(save(tmp_path / "a.png", ramp), 64)[:, :, 0].astype(float)
    expected = ramp.reshape(64, 4, 64, 4).mean((1, 3))
    np.testing.assert_allclose(image[:, 2:-2], expected[:, 2:-2], atol=1)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (41, 90)])
def test_central_square_of_a_non_square_image(tmp_path, shape):
    pixels = np.full((*shape, 3), (255, 0, 0), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    pixels[top : top + side, left : left + side] = (0, 200, 0)
    image = read_image(save(tmp_path / "a.png", pixels), 16).astype(int)
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image[2:-2, 2:-2], np.tile((0, 200, 0), (12, 12, 1)), atol=2)


def test_suffixes_are_lower_case():
    assert all(s == s.lower() and s.startswith(".") for s in image_io.IMAGE_SUFFIXES)
