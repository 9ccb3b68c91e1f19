"""From the bytes of an image file to an object of Pillow, or one line that says why not.

Formats are recognised by content and not by suffix. 'Not supported' is said of a sound file of a
kind that cannot be read here, 'damaged' of a file that is broken. The format's Pillow class is used
directly rather than `PIL.Image.open`: that one applies process-wide pixel limits and warnings,
which a library must not change and worker threads cannot change safely.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import (
    BmpImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sscjax.errors import BUSY, UserError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"),
    *(".jp2", ".j2k", ".heic", ".heif", ".dcm"),
)
"""Suffixes (lower case) by which an image file is found in a folder."""

FORMATS = "jpg, png, tif, bmp, webp, jp2, heic or DICOM"

_PNG = b"\x89PNG\r\n\x1a\n"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")

# Tag 259 of TIFF: what is met in microscopy and Pillow has no decoder for.
_TIFF_COMPRESSIONS = {
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG (DNG)",
    22610: "JPEG XR",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}

# What Pillow says of sound files that it has no reader for.
_UNSUPPORTED = re.compile(
    r"unsupported|not support|cannot handle|can't handle|unknown (pixel|raw|data)|"
    r"not available|not configured|unrecognized|not understood",
    re.IGNORECASE,
)


def is_image_name(path: Path) -> bool:
    """Whether a file is taken for an image; DICOM files often have no suffix, and are looked at."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    # DICOM files are often named by identifiers, 1.2.840.113: a number follows the last dot.
    if suffix and not suffix[1:].isdecimal() or path.name.upper() == "DICOMDIR":
        return False
    try:
        if not path.is_file():  # opening a pipe would wait for who writes into it
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so (132 bytes) is DICOM."""
    return start[128:132] == b"DICM"


def parse_header(path: Path, file: BinaryIO) -> ImageFile.ImageFile:
    """The image in an open file; its header is read, no pixel is decoded.

    Raises:
      UserError: no image, or one that cannot be read.
      OSError: the system cannot read any file now.
    """
    start = file.read(132)
    if not start:
        raise UserError(f"{path}: the file is empty (zero bytes); replace or remove it")
    file.seek(0)
    parser = _parser(path, start)
    try:
        return parser(file, str(path))
    except UserError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        raise_if_busy(error)
        reason = _unsupported_tiff(file) if parser is TiffImagePlugin.TiffImageFile else ""
        raise unreadable(path, error, "the image's header is", reason) from error


def unreadable(path: Path, error: Exception, what: str, reason: str = "") -> UserError:
    """The error of a file that Pillow failed to read: not supported, or damaged.

    Args:
      path: the file.
      error: what Pillow raised.
      what: what is damaged, such as 'the image is'.
      reason: what is not supported, where that is known.
    """
    text = one_line(error)[:200]
    if reason or _UNSUPPORTED.search(text):
        return UserError(
            f"{path}: {reason or f'this kind of image is not supported ({text})'}; save it as PNG, "
            "or as TIFF with LZW or deflate compression"
        )
    return UserError(f"{path}: {what} truncated or damaged ({text}); replace or remove it")


def load_error(path: Path, file: BinaryIO, error: Exception) -> UserError:
    """The error of an image whose header was read and whose pixels were not."""
    reason = _unsupported_tiff(file) if isinstance(error, OSError | SyntaxError | KeyError) else ""
    return unreadable(path, error, "the image is", reason)


def reopened(image: ImageFile.ImageFile) -> Any:
    """The same page of the same file, not decoded yet."""
    file: Any = image.fp
    position = file.tell()
    file.seek(0)
    content = io.BytesIO(file.read())
    file.seek(position)
    again: Any = type(image)(content, str(image.filename))
    if image.tell():
        again.seek(image.tell())
    return again


def raise_if_busy(error: Exception) -> None:
    """Raise an error that says nothing of the file, so that no sound image is left out for it."""
    if isinstance(error, OSError) and error.errno in BUSY:
        raise error


def one_line(error: Exception) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


# --- parsers ------------------------------------------------------------------------------------


def _parser(path: Path, start: bytes) -> Callable[[BinaryIO, str], ImageFile.ImageFile]:
    for magic, parser in _PARSERS.items():
        if start.startswith(magic):
            return parser
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return _heif
    known = _known_but_unread(start)
    if known:
        raise UserError(
            f"{path}: not an image that can be read: {known} is not supported; save the image as "
            "PNG or TIFF"
        )
    raise UserError(
        f"{path}: not an image that can be read; expected the content of a {FORMATS} file; "
        "convert or remove it"
    )


def _known_but_unread(start: bytes) -> str:
    for magic, name in (
        (b"GIF8", "a GIF"),
        (b"%PDF", "a PDF"),
        (b"8BPS", "a Photoshop file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"ZISRAWFILE", "a Zeiss CZI file"),
        (b"\x1f\x8b", "a gzip archive, such as NIfTI,"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"MM\0+", "a BigTIFF of big-endian bytes"),
    ):
        if start.startswith(magic):
            return name
    return "AVIF" if start[4:12] in (b"ftypavif", b"ftypavis") else ""


def _heif(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise UserError(
            f"{name}: HEIC is not supported without Pillow's plug-in: pip install pillow-heif, or "
            "save the image as PNG"
        ) from error
    image: ImageFile.ImageFile = HeifImageFile(file, name)
    return image


def _png(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    try:
        return PngImagePlugin.PngImageFile(file, name)
    except ValueError as error:
        # Pillow stops at profiles and texts that unpack to more than a megabyte, as a defence
        # against bombs; neither is used here.
        if "too large" not in str(error).lower():
            raise
        file.seek(0)
        return PngImagePlugin.PngImageFile(io.BytesIO(_without_texts(file.read())), name)


def _without_texts(data: bytes) -> bytes:
    """A PNG without its colour profile and texts, which are not unpacked."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if kind not in (b"iCCP", b"zTXt", b"iTXt", b"tEXt"):
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def _unsupported_tiff(file: BinaryIO) -> str:
    """Why Pillow has no reader for a TIFF whose tags can be read; '' where they cannot."""
    try:
        file.seek(0)
        header = file.read(8)
        header += file.read(8) if header[2:3] == b"+" or header[3:4] == b"+" else b""
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        compression, photometric = tags.get(259, 1), tags.get(262)
        bits, samples = tags.get(258, (1,)), tags.get(277, 1)
        form = (tags.get(339) or (1,))[0]
        deepest, samples = max(map(int, bits)), int(samples)
    except Exception:  # damaged tags fail in any way
        return ""
    if compression in _TIFF_COMPRESSIONS:
        return f"{_TIFF_COMPRESSIONS[compression]} compression in a TIFF is not supported"
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return ""
    if photometric in (0, 1) and samples > 2:
        return (
            f"a TIFF with {samples} channels in one page, which it does not call red, green and "
            "blue, is not supported: save the channels as pages, for config.data.pages, or as RGB"
        )
    if form in (2, 3, 5, 6) or samples > 4 or deepest > 16 or photometric in (8, 32803, 34892):
        kind = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}.get(form, "unsigned")
        return (
            f"TIFF pixels of {samples} {kind} samples of {deepest} bits are not supported, "
            "expected 1, 3 or 4 unsigned samples of 8 or 16 bits"
        )
    return ""


_PARSERS: dict[bytes, Callable[[BinaryIO, str], ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    _PNG: _png,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"\0\0\0\x0cjP  \r\n\x87\n": Jpeg2KImagePlugin.Jpeg2KImageFile,
    b"\xff\x4f\xff\x51": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
