"""One image file to 8-bit RGB pixels, or one clear line that says why not.

Only jpg, png, tif and bmp are parsed, chosen by content and not by suffix. The format's Pillow
class is used directly rather than `PIL.Image.open`: that one applies process-wide pixel limits
and warnings, which a library must not change and worker threads cannot change safely.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from sscjax.errors import BUSY, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
"""Suffixes (lower case) by which an image file is found in a folder."""

MIN_SIDE = 8
"""Pixels; a smaller image holds nothing that could be classified."""

MAX_PIXELS = 178_956_970
"""Default upper limit of an image's pixels: half a gigabyte as RGB."""

_PARSERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}

_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""


def read_image(path: Path | str, size: int | None, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one jpg, png, tif or bmp file to RGB.

    Grey, palette, CMYK and 1-bit images become RGB; transparency is laid on white, the background
    of a slide; 16-bit pixels keep their high byte, so that brightness depends on the bit depth
    and not on the contrast of the one image; an EXIF orientation is applied; of a multi-frame tif
    the first frame is read. Colour profiles are ignored.

    Args:
      path: the file.
      size: side of the result in pixels, or None for the image's own size. A non-square image is
        cropped to its central square first: stretching would change the shape of cells and the
        direction of fibres, which is what the classes differ in.
      max_pixels: an image with more pixels by its header is refused before anything is decoded.

    Returns:
      uint8 [size,size,3] (or [H,W,3] when `size` is None), RGB, 0..255.

    Raises:
      UserError: the file is missing, unreadable, empty, truncated, no such image, under 8x8 pixels,
        over `max_pixels`, or of a pixel format without an agreed white. The message names the file.
      OSError: the system cannot read any file now, for want of memory or of open files.
    """
    path = Path(path)
    with _opened(path) as file:
        return _decode(path, file, size, max_pixels)


def read_header(path: Path | str) -> tuple[str, int, int]:
    """Format, width and height of an image file in pixels, nothing decoded.

    Raises:
      UserError: the file is no image that `read_image` would read.
    """
    path = Path(path)
    with _opened(path) as file:
        image = _parse_header(path, file)
        return str(image.format), image.width, image.height


def read_upright_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file in pixels, turned as its EXIF orientation says.

    Raises:
      UserError: the file is no image that `read_image` would read.
    """
    path = Path(path)
    with _opened(path) as file:
        image = _parse_header(path, file)
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in _SIDEWAYS
        return (image.height, image.width) if turned else (image.width, image.height)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, while it is read.

    Raises:
      UserError: what the system has against reading it, by its name.
      OSError: the system cannot read any file now.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise UserError(f"{path}: is a folder, expected an image file")
        if not stat.S_ISREG(kind):  # opening a pipe would wait for who writes into it
            raise UserError(
                f"{path}: is a pipe, socket or device, expected an image file; remove it"
            )
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; correct the path or restore the file") from error
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; expected a readable image file") from error
    except OSError as error:
        if error.errno in BUSY:
            raise
        raise UserError(
            f"{path}: cannot be read ({error.strerror or _one_line(error)}); restore or remove it"
        ) from error


def resize_pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crops and reduces decoded pixels exactly as `read_image` does.

    Args:
      pixels: uint8 [H,W,3] RGB or [H,W,1] grey, 0..255.
      size: side of the result in pixels.

    Returns:
      uint8 [size,size,3].
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.array(_reduce(image.convert("RGB"), size))


def _decode(path: Path, file: BinaryIO, size: int | None, max_pixels: int) -> np.ndarray:
    image = _parse_header(path, file)
    _check_header(path, image, max_pixels)
    try:
        image.load()
        bits = _bits_per_sample(image)
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        upright = _to_rgb(image, bits)
    except UserError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        _raise_if_busy(error)
        raise UserError(
            f"{path}: the image is truncated or damaged ({_one_line(error)}); replace or remove it"
        ) from error
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    return np.array(upright if size is None else _reduce(upright, size))


def _parse_header(path: Path, file: BinaryIO) -> ImageFile.ImageFile:
    start = file.read(8)
    if not start:
        raise UserError(f"{path}: the file is empty (zero bytes); replace or remove it")
    file.seek(0)
    for magic, parser in _PARSERS.items():
        if start.startswith(magic):
            try:
                return parser(file, str(path))
            except Exception as error:  # as above: any failure means a damaged header
                _raise_if_busy(error)
                raise UserError(
                    f"{path}: the image's header is truncated or damaged ({_one_line(error)}); "
                    "replace or remove it"
                ) from error
    raise UserError(
        f"{path}: not an image that can be read; expected the content of a jpg, png, tif or bmp "
        "file; convert or remove it"
    )


def _check_header(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise UserError(
            f"{path}: the image is {width}x{height} pixels, expected at least "
            f"{MIN_SIDE}x{MIN_SIDE}; remove it"
        )
    if width * height > max_pixels:
        raise UserError(
            f"{path}: the image claims {width}x{height} pixels, over the limit of {max_pixels}: a "
            "decompression bomb or a whole slide; cut it into tiles or remove it"
        )
    if image.mode not in _EIGHT_BIT and _bits_per_sample(image) == 0:
        raise UserError(
            f"{path}: pixels of Pillow mode {image.mode!r} (floating point, 32 bit, signed or Lab) "
            "have no agreed white; save the image as 8-bit or 16-bit grey or RGB"
        )


def _bits_per_sample(image: ImageFile.ImageFile) -> int:
    """Depth of deep unsigned grey pixels (9..16); 8 for modes Pillow reads as 8 bit; 0: refused."""
    if image.mode in _EIGHT_BIT:
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode.startswith("I;16"):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
    # Older Pillow widens 16-bit grey png to mode I; the values are the same.
    if isinstance(image, PngImagePlugin.PngImageFile) and image.mode.split(";")[0] == "I":
        return 16
    return 0


def _to_rgb(image: ImageFile.ImageFile, bits: int) -> Image.Image:
    if bits > 8:
        return _deep_grey_to_rgb(image, bits)
    plain: Image.Image = image
    if image.mode in ("La", "RGBa"):
        plain = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if plain.mode in ("LA", "PA", "RGBA") or "transparency" in plain.info:
        layer = plain.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return plain.convert("RGB")


def _deep_grey_to_rgb(image: ImageFile.ImageFile, bits: int) -> Image.Image:
    deep = np.asarray(image).astype(np.uint16)
    # The high byte, as Pillow itself does for 16-bit RGB: equal tissue stays equally bright.
    grey = (deep >> (bits - 8)).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow inverts 'white is zero' for 8 bits, but not for 16.
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            grey = 255 - grey
    elif isinstance(clear := image.info.get("transparency"), int):
        grey = np.where(deep == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _reduce(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size`.

    Lanczos, because it is the sharpest of Pillow's filters that widen with the reduction: fibres
    and nuclear borders survive without the moire that plain interpolation makes and with less
    blur than averaging blocks.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: a pure crop is exact
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _raise_if_busy(error: Exception) -> None:
    """Raise an error that says nothing of the file, so that no sound image is left out for it."""
    if isinstance(error, OSError) and error.errno in BUSY:
        raise error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
