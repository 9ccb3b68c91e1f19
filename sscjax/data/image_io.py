"""One image file to 8-bit RGB pixels, or one clear line that says why not.

`image_formats` recognises and opens the file, `image_pages` chooses among its pages, `dicom` reads
what Pillow does not.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from sscjax.data import colour_profile, image_formats, image_pages, tiff_kinds
from sscjax.data.image_formats import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from sscjax.data.image_formats import is_image_name as is_image_name
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import BUSY, UserError

MIN_SIDE = 8
"""Pixels; a smaller image holds nothing that could be classified."""

MAX_PIXELS = 178_956_970
"""Default upper limit of an image's pixels: half a gigabyte as RGB."""

_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

# Of 16 bits per colour Pillow keeps the high bytes; by these names it keeps the low ones.
_LOW_BYTES = {
    **{f"{mode};16B": f"{mode};16L" for mode in ("RGB", "RGBA", "RGBX")},
    **{f"{mode};16L": f"{mode};16B" for mode in ("RGB", "RGBA", "RGBX")},
    **{f"{mode};16N": f"{mode};16B" for mode in ("RGB", "RGBA", "RGBX")},
}

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

_PLAIN = Decoding()


def read_image(
    path: Path | str,
    size: int | None,
    *,
    max_pixels: int = MAX_PIXELS,
    decoding: Decoding = _PLAIN,
    observed: Observed | None = None,
    side: int = 0,
) -> np.ndarray:
    """Decodes one jpg, png, tif, bmp, webp, jp2, heic or DICOM file to RGB.

    Grey, palette, CMYK and 1-bit images become RGB; transparency is laid on white, the background
    of a slide; pixels of 16 bits keep the high byte of the bits that `decoding` names, so that
    brightness depends on the set and not on the contrast of the one image; an EXIF orientation is
    applied. Colour profiles are ignored.

    Args:
      path: the file.
      size: side of the result in pixels, or None for the image's own size. A non-square image is
        cropped to its central square first: stretching would change the shape of cells and the
        direction of fibres, which is what the classes differ in.
      max_pixels: an image with more pixels by its header is refused before anything is decoded.
      decoding: what white is in 16-bit files, and which page is read.
      observed: is told what was seen and what was not read.
      side: of the central square in pixels of the file; 0: as large as fits.

    Returns:
      uint8 [size,size,3] (or [H,W,3] when `size` is None), RGB, 0..255.

    Raises:
      UserError: the file is missing, unreadable, empty, damaged, no such image, not supported,
        under 8x8 pixels or `side`, over `max_pixels`, or of a pixel format without an agreed white.
        The message names the file.
      OSError: the system cannot read any file now, for want of memory or of open files.
    """
    path = Path(path)
    with opened(path) as file:
        if _is_dicom(file):
            from sscjax.data import dicom

            upright = dicom.read(path, file, decoding, observed, max_pixels)
            _check_size(path, *upright.size, max_pixels)
        else:
            upright = _decode(path, file, max_pixels, decoding, observed)
    if side > min(upright.size):
        raise UserError(
            f"{path}: the image is {upright.width}x{upright.height} pixels, and its resolution "
            f"asks for {side}x{side} of them; set a smaller --config.data.mpp"
        )
    return np.array(upright if size is None else _reduce(upright, size, side))


def read_header(path: Path | str) -> tuple[str, int, int]:
    """Format, width and height of an image file in pixels, nothing decoded.

    Raises:
      UserError: the file is no image that `read_image` would read.
    """
    path = Path(path)
    with opened(path) as file:
        if _is_dicom(file):
            from sscjax.data import dicom

            return "DICOM", *dicom.read_size(path, file)
        image = image_formats.parse_header(path, file)
        return str(image.format), image.width, image.height


def read_upright_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file in pixels, turned as its EXIF orientation says.

    Raises:
      UserError: the file is no image that `read_image` would read.
    """
    path = Path(path)
    with opened(path) as file:
        if _is_dicom(file):
            from sscjax.data import dicom

            return dicom.read_size(path, file)
        image = image_formats.parse_header(path, file)
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in _SIDEWAYS
        return (image.height, image.width) if turned else (image.width, image.height)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
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
        reason = error.strerror or image_formats.one_line(error)
        raise UserError(f"{path}: cannot be read ({reason}); restore or remove it") from error


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


def _is_dicom(file: BinaryIO) -> bool:
    start = file.read(132)
    file.seek(0)
    return image_formats.is_dicom(start)


def _decode(
    path: Path, file: BinaryIO, max_pixels: int, decoding: Decoding, observed: Observed | None
) -> Image.Image:
    """The image as RGB, upright."""
    image = image_formats.parse_header(path, file)
    _check_size(path, *image.size, max_pixels)
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tiff_kinds.check(path, image, observed)
        check_mode(path, image)
        pages = image_pages.choose(path, image, decoding, observed)
        layers = []
        for number in pages.numbers:
            if number:
                image.seek(number)
            layers.append(_to_rgb(path, image, decoding, observed))
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        if observed is not None and colour_profile.differs(image):
            observed.note("with a colour profile other than sRGB the profile was not applied", path)
        upright = layers[0] if len(layers) == 1 else _mixed(layers, pages.colours)
    except UserError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        image_formats.raise_if_busy(error)
        raise image_formats.load_error(path, file, error) from error
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    return upright


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise UserError(
            f"{path}: the image is {width}x{height} pixels, expected at least "
            f"{MIN_SIDE}x{MIN_SIDE}; remove it"
        )
    if width * height > max_pixels:
        raise UserError(
            f"{path}: the image claims {width}x{height} pixels, over the limit of {max_pixels}: a "
            "decompression bomb, or a whole slide, which `sscjax slides` cuts into tiles"
        )


def check_mode(path: Path, image: ImageFile.ImageFile) -> None:
    """Refuse pixels without an agreed white by how Pillow reads them.

    Raises:
      UserError: floating point, 32 bit, signed or Lab.
    """
    if image.mode not in _EIGHT_BIT and _bits_per_sample(image) == 0:
        raise UserError(
            f"{path}: pixels of Pillow mode {image.mode!r} (floating point, 32 bit, signed or Lab) "
            "have no agreed white and are not supported; save the image as 8-bit or 16-bit grey or "
            "RGB"
        )


def _bits_per_sample(image: ImageFile.ImageFile) -> int:
    """Depth of deep unsigned grey pixels (9..16); 8 for modes Pillow reads as 8 bit; 0: refused."""
    if image.mode in _EIGHT_BIT:
        return 8
    if image.mode.startswith("I;16"):
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0])
        return 16
    # Older Pillow widens 16-bit grey png to mode I; the values are the same.
    if isinstance(image, PngImagePlugin.PngImageFile) and image.mode.split(";")[0] == "I":
        return 16
    return 0


# --- pixels to RGB ------------------------------------------------------------------------------


def _to_rgb(
    path: Path, image: ImageFile.ImageFile, decoding: Decoding, observed: Observed | None
) -> Image.Image:
    """The current page of an image as RGB; it is decoded here."""
    deep = _raw_mode(image) in _LOW_BYTES or ";16" in _raw_mode(image)
    low = _low_bytes(image, decoding.bits) if deep and image.mode in _EIGHT_BIT else None
    image.load()
    bits = _bits_per_sample(image)
    if bits > 8:
        return _deep_grey_to_rgb(path, image, bits, decoding, observed)
    plain: Image.Image = image
    if deep:
        plain = _deep_colour(path, image, low, decoding, observed)
    if image.mode in ("La", "RGBa"):
        plain = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if plain.mode in ("LA", "PA", "RGBA") or "transparency" in plain.info:
        return _on_white(path, plain.convert("RGBA"))
    return plain.convert("RGB")


def _on_white(path: Path, layer: Image.Image) -> Image.Image:
    if layer.getchannel("A").getextrema()[1] == 0:
        raise UserError(
            f"{path}: is transparent everywhere, so that nothing of it would be seen; save it "
            "without an alpha channel"
        )
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _deep_grey_to_rgb(
    path: Path,
    image: ImageFile.ImageFile,
    bits: int,
    decoding: Decoding,
    observed: Observed | None,
) -> Image.Image:
    deep = np.asarray(image).astype(np.uint16)
    clear = (
        None if isinstance(image, TiffImagePlugin.TiffImageFile) else image.info.get("transparency")
    )
    if bits == 16:  # fewer bits are the file's own word for what white is
        bits = decoding.bits or 16
        shown = deep if clear is None else deep[deep != clear]
        _observe(path, int(shown.max(initial=0)), bits, observed)
    # The high byte, as Pillow itself does for 16-bit RGB: equal tissue stays equally bright.
    grey = (deep >> (bits - 8)).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow inverts 'white is zero' for 8 bits, but not for 16.
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            grey = 255 - grey
    elif isinstance(clear, int):
        grey = np.where(deep == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the decoder is told to arrange the samples, such as 'RGB;16B'; '' where it is not."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    name = arguments if isinstance(arguments, str) else (arguments or ("",))[0]
    return name if isinstance(name, str) else ""


def _low_bytes(image: ImageFile.ImageFile, bits: int) -> np.ndarray | None:
    """The low bytes of a colour image with 16 bits per sample, where not all bits are used."""
    raw = _raw_mode(image)
    if bits in (0, 16) or raw not in _LOW_BYTES or image.fp is None:
        return None
    again = image_formats.reopened(image)
    other = _LOW_BYTES[raw]
    again.tile = [
        tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
        for tile in again.tile
    ]
    again.load()
    return np.asarray(again)


def _deep_colour(
    path: Path,
    image: ImageFile.ImageFile,
    low: np.ndarray | None,
    decoding: Decoding,
    observed: Observed | None,
) -> Image.Image:
    """A colour image of 16 bits per sample, of which Pillow has read the high bytes."""
    high = np.asarray(image)
    colours = high[..., :3] if high.ndim == 3 and image.mode != "LA" else high[..., 0]
    bits = decoding.bits or 16
    # The low bytes are not known before all files have been seen, and do not decide.
    _observe(path, int(colours.max(initial=0)) << 8 | 255, bits, observed)
    if bits == 16:
        return image
    if low is None:
        raise UserError(
            f"{path}: {bits} of 16 bits per sample are not supported in this kind of image; save "
            "it as 8-bit"
        )
    scaled = high.copy()
    deep = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    scaled[..., :3] = deep >> (bits - 8)
    return Image.fromarray(scaled, image.mode)


def _observe(path: Path, largest: int, bits: int, observed: Observed | None) -> None:
    if observed is not None:
        observed.see_deep(path, largest)
    if largest >= 2**bits:
        raise UserError(
            f"{path}: holds values up to {largest}, and white is {2**bits - 1} for this set; set "
            "--config.data.pixel_bits=16, or leave the image out"
        )


def _mixed(layers: list[Image.Image], colours: np.ndarray) -> Image.Image:
    """Grey channels added up in their colours."""
    total = np.zeros((layers[0].height, layers[0].width, 3), np.float32)
    for layer, colour in zip(layers, colours, strict=True):
        total += np.asarray(layer.getchannel(0), np.float32)[..., None] * colour.astype(np.float32)
    return Image.fromarray(np.clip(np.round(total), 0, 255).astype(np.uint8))


def _reduce(image: Image.Image, size: int, side: int = 0) -> Image.Image:
    """The central square at `size`.

    Lanczos, because it is the sharpest of Pillow's filters that widen with the reduction: fibres
    and nuclear borders survive without the moire that plain interpolation makes and with less
    blur than averaging blocks.
    """
    width, height = image.size
    side = side or min(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: a pure crop is exact
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)
