"""Micrometres per pixel: what is believed, and how a set of several is brought to one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sscjax.data.image_io import read_upright_size
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError

LOWEST, HIGHEST = 0.05, 20.0
"""Micrometres per pixel of any light microscope; 72 dpi are 353, a default and no measurement."""

ALIKE = 1.1
"""Resolutions that differ by less than this factor are one: scanners differ by a few percent."""

LEAST_SIDE = 8  # pixels of a file that become an image


def believable(mpp: float) -> bool:
    """Whether a number can be the micrometres per pixel of a microscope's image.

    Example:
      >>> believable(0.25), believable(352.8)
      (True, False)
    """
    return LOWEST <= mpp <= HIGHEST


def differ(values: Sequence[float]) -> bool:
    """Whether resolutions, all known, are not one."""
    return bool(values) and max(values) > ALIKE * min(values)


def side(mpp: float, decoding: Decoding, size: int, path: Path) -> int:
    """Side in pixels of the central square that becomes an image; 0: as large as fits.

    Args:
      mpp: of the file, 0 where it is unknown.
      decoding: names the resolution that images are brought to.
      size: side of the image in pixels.
      path: for the message.

    Raises:
      UserError: the square has too few pixels.
    """
    if decoding.mpp <= 0 or not mpp:
        return 0
    pixels = round(size * decoding.mpp / mpp)
    if pixels < LEAST_SIDE:
        raise UserError(
            f"{path}: has {mpp:g} micrometres per pixel, of which {decoding.mpp:g} would take "
            f"{pixels} pixels; set a larger --config.data.mpp"
        )
    return pixels


def check(where: str, known: Sequence[tuple[Path, float]], decoding: Decoding, size: int) -> None:
    """Refuse a set of several resolutions unless the settings say what to do about it.

    Args:
      where: name of the set.
      known: the files with a known resolution, and it.
      decoding: the settings.
      size: side of the images in pixels.

    Raises:
      UserError: with the exact option.
    """
    if decoding.mpp or not differ([mpp for _, mpp in known]):
        return
    fields = []
    for path, mpp in known:
        try:
            fields.append(mpp * min(read_upright_size(path)))
        except UserError:
            continue  # is reported where its pixels are read
    lowest, highest = (bound(mpp for _, mpp in known) for bound in (min, max))
    # Rounded down: the smallest field must hold it.
    common = max(int(min(fields, default=size * highest) / size * 1000) / 1000, 0.001)
    raise UserError(
        f"{where}: its images have {lowest:g} to {highest:g} micrometres per pixel, so that the "
        f"same tissue has several sizes; --config.data.mpp={common:g} brings all to one resolution "
        "(their central squares are used), --config.data.mpp=-1 leaves them as they are"
    )
