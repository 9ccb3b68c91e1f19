"""Flat slides, which have neither tiles nor levels, read in bands into a temporary file.

A PNG or an untiled TIFF must be decoded from its beginning. That is done once, some rows at a time,
into a file of plain pixels, from which any rectangle is read without decoding; the file is removed
when the slide is closed.
"""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from sscjax.data import image_formats, image_io, image_pages, tiff_kinds
from sscjax.data.image_io import MAX_PIXELS
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError
from sscjax.system import cache_dir

MAX_FLAT_PIXELS = 4_000_000_000
"""Of a flat slide: 12 GB in the temporary file."""

_BAND = 4_000_000  # pixels that are decoded at a time, in several copies
_PIECE = 2**20  # compressed bytes that are read at a time
_ORIENTATION = 274
_RAW, _DEFLATE = (1,), (8, 32946)
_GREY_OR_RGB = {(0, 1): "L", (1, 1): "L", (2, 3): "RGB"}
_SAVE = "save it as a tiled TIFF with levels, for example by `vips tiffsave --tile --pyramid`"


class _Pixels:
    """Pixels uint8 [H,W,3] in a file, of which slices are read as arrays in memory.

    The file is mapped again for each slice: pages of one mapping would count as memory of this
    process until the system wants them back, a gigabyte for a slide of 20,000x20,000.
    """

    ndim = 3

    def __init__(self, file: Any, shape: tuple[int, int, int]) -> None:
        self._file, self.shape = file, shape
        self.size = shape[0] * shape[1] * shape[2]

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(np.memmap(self._file, np.uint8, "r", shape=self.shape)[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Flat:
    """The pixels of a flat slide in a temporary file: uint8 [H,W,3]."""

    def __init__(self, path: Path) -> None:
        """Decode a PNG or TIFF.

        Raises:
          UserError: the file is of another kind, too large, or damaged, or there is no room.
        """
        try:
            with path.open("rb") as file, contextlib.ExitStack() as stack:
                width, height, bands = _opened(path, file)
                folder = cache_dir.cache_dir() / "flat"
                folder.mkdir(parents=True, exist_ok=True)
                self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                self._fill(path, width, height, bands)
                stack.pop_all()
        except UserError:
            raise
        except Exception as error:  # a parser of damaged bytes may fail in any way
            image_formats.raise_if_busy(error)
            if not isinstance(error, OSError) or error.errno is None:  # without one it is Pillow's
                raise image_formats.unreadable(path, error, "the slide is") from error
            reason = error.strerror or image_formats.one_line(error)
            raise UserError(
                f"{path}: its pixels cannot be written to the cache folder ({reason}); free the "
                "space, or set SSCJAX_CACHE to a folder elsewhere"
            ) from error
        self.pixels: Any = _Pixels(self._file, (height, width, 3))

    def _fill(self, path: Path, width: int, height: int, bands: Iterator[np.ndarray]) -> None:
        rows = 0
        for band in bands:
            rows += len(band)
            self._file.write(np.ascontiguousarray(band).data)
        if rows != height:
            raise UserError(
                f"{path}: the slide is truncated or damaged ({rows} of {height} rows could be "
                "read); replace or remove it"
            )
        self._file.flush()

    def close(self) -> None:
        """Remove the temporary file."""
        self.pixels = np.empty((0, 0, 3), np.uint8)
        self._file.close()


def is_needed(path: Path) -> bool:
    """Whether a plain image is too large to be decoded at once."""
    try:
        with path.open("rb") as file:
            image = image_formats.parse_header(path, file)
            return image.width * image.height > MAX_PIXELS
    except (OSError, UserError):
        return False  # said where it is read


def _opened(path: Path, file: BinaryIO) -> tuple[int, int, Iterator[np.ndarray]]:
    image = image_formats.parse_header(path, file)
    width, height = image.size
    if width * height > MAX_FLAT_PIXELS:
        raise UserError(
            f"{path}: the flat image has {width}x{height} pixels, over the limit of "
            f"{MAX_FLAT_PIXELS:,}; {_SAVE}"
        )
    _check_orientation(path, image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(path, image)
        return width, height, _tiff(path, file, image)
    if isinstance(image, PngImagePlugin.PngImageFile):
        return width, height, _png(path, file, image)
    raise UserError(
        f"{path}: the flat {image.format} slide has {width}x{height} pixels, over the limit of "
        f"{MAX_PIXELS:,} for this format; {_SAVE}"
    )


def _check_orientation(path: Path, image: Any) -> None:
    # Asked for what it has not read yet, Pillow would decode all of a PNG.
    if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info:
        return
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation not in (0, 1):
        raise UserError(
            f"{path}: says that it is to be turned (orientation {orientation}), which is not "
            f"supported for a flat slide; {_SAVE}"
        )


def _check_tiff(path: Path, image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse pixels that plain decoding of a band would get wrong, as `image_io` does of images."""
    tiff_kinds.check(path, image, None)
    image_io.check_mode(path, image)
    bits = max(image.tag_v2.get(258) or (1,))
    if bits > 8:
        raise UserError(
            f"{path}: a flat TIFF slide with {bits} bits per sample is not supported; {_SAVE}, "
            "with 8 bits"
        )
    try:
        image_pages.choose(path, image, Decoding(), None)
    except UserError as error:
        raise UserError(
            f"{path}: a flat TIFF slide with several grey pages is not supported; save the page "
            "that is meant as a file of its own"
        ) from error


# --- PNG ----------------------------------------------------------------------------------------


def _png(path: Path, file: BinaryIO, image: Any) -> Iterator[np.ndarray]:
    """Bands of a PNG: each is made a PNG of its own, after the row that its filters refer to."""
    file.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    if depth != 8 or interlaced or not samples:
        raise UserError(
            f"{path}: a flat PNG slide of this kind ({depth} bits, "
            f"{'' if interlaced else 'not '}interlaced) is not supported; {_SAVE}"
        )
    row_bytes = width * samples
    before = b"\0" * row_bytes
    extra, data = _png_chunks(file)
    step = max(1, _BAND // width)
    unpacked = _inflated(data, (row_bytes + 1) * step)
    for packed in unpacked:
        rows = len(packed) // (row_bytes + 1)
        if not rows:
            return
        packed = packed[: rows * (row_bytes + 1)]
        header = struct.pack(">IIBBBBB", width, rows + 1, 8, colour, 0, 0, 0)
        body = zlib.compress(b"\0" + before + packed, 0)
        parts = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", body), _chunk(b"IEND", b"")]
        band = PngImagePlugin.PngImageFile(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))
        band.load()
        plain = np.asarray(band)
        before = plain[-1].tobytes()
        yield _rgb(band)[1:]


def _png_chunks(file: BinaryIO) -> tuple[list[bytes], Iterator[bytes]]:
    """The palette and the transparent colour as chunks, and the compressed data piece by piece."""
    file.seek(8)
    extra: list[bytes] = []
    while True:
        start = file.read(8)
        if len(start) < 8:
            return extra, iter(())
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IDAT":
            return extra, _png_data(file, length)
        if kind in (b"PLTE", b"tRNS") and length < 2000:
            extra.append(start + file.read(length + 4))
        else:
            file.seek(length + 4, 1)


def _png_data(file: BinaryIO, length: int) -> Iterator[bytes]:
    while True:
        while length:
            piece = file.read(min(length, _PIECE))
            if not piece:
                return
            length -= len(piece)
            yield piece
        file.seek(4, 1)
        start = file.read(8)
        if len(start) < 8:
            return
        length, kind = struct.unpack(">I4s", start)
        if kind != b"IDAT":
            return


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- TIFF ---------------------------------------------------------------------------------------


def _tiff(path: Path, file: BinaryIO, image: Any) -> Iterator[np.ndarray]:
    """Bands of a TIFF: strips by Pillow, or the rows of one large strip as they are unpacked."""
    tags = image.tag_v2
    width, height = image.size
    offsets, counts = tags.get(273), tags.get(279)
    if not offsets or not counts or len(offsets) != len(counts) or tags.get(284, 1) != 1:
        raise UserError(f"{path}: a flat TIFF slide without strips is not supported; {_SAVE}")
    per_strip = min(int(tags.get(278, height)), height)
    compression = tags.get(259, 1)
    if per_strip * width <= MAX_PIXELS:
        yield from _strips(file, tags, (width, height), per_strip)
        return
    mode = _GREY_OR_RGB.get((tags.get(262), tags.get(277, 1)))
    plain = set(tags.get(258, (1,))) == {8} and mode and len(offsets) == 1
    if compression not in (*_RAW, *_DEFLATE) or not plain:
        raise UserError(
            f"{path}: a flat TIFF slide of one strip with this compression ({compression}) is not "
            f"supported; {_SAVE}"
        )
    yield from _rows(file, tags, width)


def _rows(file: BinaryIO, tags: Any, width: int) -> Iterator[np.ndarray]:
    """Bands of a TIFF of 8-bit samples in a single strip, uncompressed or deflated."""
    samples = tags.get(277, 1)
    file.seek(tags[273][0])
    data = _pieces(file, tags[279][0])
    step = width * samples * max(1, _BAND // width)
    packed = tags.get(259, 1) in _DEFLATE
    for block in _inflated(data, step) if packed else _regular(data, step):
        rows = len(block) // (width * samples)
        values = np.frombuffer(block, np.uint8, rows * width * samples)
        values = values.reshape(rows, width, samples)
        if packed and tags.get(317, 1) == 2:  # each pixel is stored as the step from its neighbour
            values = np.add.accumulate(values, axis=1, dtype=np.uint8)
        if tags.get(262) == 0:
            values = 255 - values
        yield np.broadcast_to(values, (rows, width, 3))


def _strips(
    file: BinaryIO, tags: Any, size: tuple[int, int], per_strip: int
) -> Iterator[np.ndarray]:
    """Bands of a TIFF of many strips: some strips at a time are made a TIFF of their own."""
    width, height = size
    group = max(1, _BAND // (width * per_strip))
    offsets, counts = tags[273], tags[279]
    for first in range(0, len(offsets), group):
        chosen = range(first, min(first + group, len(offsets)))
        rows = min(len(chosen) * per_strip, height - first * per_strip)
        if rows <= 0:
            return
        strips = []
        for index in chosen:
            file.seek(offsets[index])
            strips.append(file.read(counts[index]))
        content = _small_tiff(tags, (width, rows), per_strip, strips)
        band = TiffImagePlugin.TiffImageFile(io.BytesIO(content))
        band.load()
        yield _rgb(band)


# What a TIFF of some strips takes over: kind of pixels, compression, palette, JPEG tables.
_KEPT = (258, 259, 262, 266, 277, 284, 317, 320, 338, 339, 347, 530)
_KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}


def _small_tiff(tags: Any, size: tuple[int, int], per_strip: int, strips: list[bytes]) -> bytes:
    """A TIFF of some strips, written entry by entry: Pillow's own writer re-encodes pixels."""
    order = "<" if tags._prefix == b"II" else ">"
    places = np.cumsum([8, *map(len, strips)]).tolist()
    entries: dict[int, tuple[int, tuple[int, ...]]] = {
        256: (4, (size[0],)),
        257: (4, (size[1],)),
        273: (4, tuple(places[:-1])),
        278: (4, (per_strip,)),
        279: (4, tuple(map(len, strips))),
    }
    for tag in _KEPT:
        if tag in tags:
            value = tags[tag]
            kind = tags.tagtype.get(tag, 3)
            if kind in _KINDS:
                entries[tag] = kind, (value,) if isinstance(value, int) else tuple(value)
    start = places[-1] + places[-1] % 2
    extra_at = start + 2 + 12 * len(entries) + 4
    directory, extra = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{_KINDS[kind]}", *values)
        if len(data) > 4:
            place = extra_at + len(extra)
            extra += data + b"\0" * (len(data) % 2)
            data = struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    header = tags._prefix + struct.pack(f"{order}HI", 42, start)
    body = b"".join(strips) + b"\0" * (places[-1] % 2)
    return header + body + directory + bytes(4) + extra


# --- bytes and pixels ---------------------------------------------------------------------------


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = file.read(min(length, _PIECE))
        if not piece:
            return
        length -= len(piece)
        yield piece


def _regular(data: Iterator[bytes], step: int) -> Iterator[bytes]:
    """The bytes in blocks of one size; the last may be shorter."""
    waiting = bytearray()
    for piece in data:
        waiting += piece
        while len(waiting) >= step:
            yield bytes(waiting[:step])
            del waiting[:step]
    if waiting:
        yield bytes(waiting)


def _inflated(data: Iterator[bytes], step: int) -> Iterator[bytes]:
    """Unpacked bytes in blocks of one size; never more than a block of them is held."""

    def unpacked() -> Iterator[bytes]:
        unpacker = zlib.decompressobj()
        for piece in data:
            while piece:
                yield unpacker.decompress(piece, _PIECE)
                piece = unpacker.unconsumed_tail
        yield unpacker.flush()

    yield from _regular(unpacked(), step)


def _rgb(image: Image.Image) -> np.ndarray:
    """[H,W,3] uint8; transparency is laid on white."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return np.asarray(image.convert("RGB"))
