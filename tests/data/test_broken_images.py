"""Every kind of broken image file, and errors of the system while it is read."""

from __future__ import annotations

import errno
import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from sound_files import png_bytes

from sscjax.data.image_io import read_header, read_image
from sscjax.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


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


def refused(path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        read_image(path, 128, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message


def test_zero_byte_missing_and_folder(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    refused(tmp_path / "empty.jpg", "zero bytes")
    refused(tmp_path / "none.jpg", "no such file")
    (tmp_path / "folder.jpg").mkdir()
    refused(tmp_path / "folder.jpg", "is a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes in folders")
@pytest.mark.parametrize("read", (lambda path: read_image(path, 32), read_header))
def test_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "pipe.png", tmp_path / "link.png")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(UserError, match=f"{name}: is a pipe, socket or device"):
            read(tmp_path / name)


class _Failing(io.BytesIO):
    """A file on a disk that fails after some bytes."""

    def __init__(self, data: bytes, good: int, number: int):
        super().__init__(data)
        self.good, self.number = good, number

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        if self.tell() > self.good:
            raise OSError(self.number, os.strerror(self.number))
        return found


@pytest.mark.parametrize("good", (-1, 10, 3000))
def test_errors_of_the_system_while_reading(tmp_path, monkeypatch, good):
    """Of the file: a line that names it. Of the machine: not a word about the file."""
    path = save(
        tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    )
    data, number = path.read_bytes(), 0

    def opened(self: Path, mode: str) -> io.BytesIO:
        if good < 0:
            raise OSError(number, os.strerror(number), str(self))
        return _Failing(data, good, number)

    monkeypatch.setattr(Path, "open", opened)
    for number in (errno.EIO, errno.ESTALE, errno.ELOOP):
        refused(path, os.strerror(number))
    for number in (errno.EMFILE, errno.ENOMEM):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            read_image(path, 32)
        assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("content", [b"hello, this is text", b"B", b"GIF89a" + b"\0" * 50])
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "not an image")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "lzw.tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated(tmp_path, name, share):
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    path = save(tmp_path / name, pixels, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_random_damage_never_ends_in_another_exception(tmp_path):
    sources = []
    for kind in ("png", "jpeg", "bmp", "tiff"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, kind)
        sources.append(buffer.getvalue())
    path = tmp_path / "a.img"
    refusals = 0
    for trial in range(200):
        content = bytearray(sources[trial % 4])
        for position in RNG.integers(2, len(content), 4):
            content[position] = RNG.integers(256)
        path.write_bytes(content)
        try:
            image = read_image(path, 16, max_pixels=1_000_000)
            assert image.shape == (16, 16, 3)
        except UserError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert 20 < refusals < 200


@pytest.mark.parametrize("shape", [(7, 100), (100, 7), (1, 1)])
def test_under_8x8(tmp_path, shape):
    path = save(tmp_path / "a.png", np.zeros((*shape, 3), np.uint8))
    refused(path, f"{shape[1]}x{shape[0]}", "8x8")


def test_8x8_is_accepted(tmp_path):
    assert read_image(save(tmp_path / "a.png", PIXELS[:8, :8]), 128).shape == (128, 128, 3)


def test_bomb_is_refused_from_the_header(tmp_path, monkeypatch):
    rows = b"\0" * 1000
    (tmp_path / "a.png").write_bytes(png_bytes(60_000, 60_000, 8, 2, rows))

    def decoded(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    refused(tmp_path / "a.png", "60000x60000", "bomb")


def test_limit_is_inclusive_and_settable(tmp_path):
    path = save(tmp_path / "a.png", PIXELS)
    assert read_image(path, 8, max_pixels=240).shape == (8, 8, 3)
    refused(path, "limit of 239", max_pixels=239)


def test_the_limit_of_pillow_neither_counts_nor_changes(tmp_path, monkeypatch):
    # Under `-W error` Pillow's own warning would fail this; other code's limit stays as it was.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", PIXELS), None), PIXELS)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.bmp", PIXELS), None), PIXELS)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    "dtype,bits,kind", [("<f4", 32, 3), ("<u4", 32, 1), ("<i4", 32, 2), ("<i2", 16, 2)]
)
def test_pixels_without_an_agreed_white_are_refused(tmp_path, dtype, bits, kind):
    data = np.zeros((8, 8), dtype).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff_bytes(8, 8, data, bits, 1, kind))
    refused(tmp_path / "a.tif", "no agreed white", "8-bit")
