"""A slide: its size, its resolution, its levels, and any rectangle of it as pixels.

What OpenSlide opens is read piece by piece, never all in memory. Plain images are slides of one
level and are held, up to `image_io.MAX_PIXELS`; larger PNG and TIFF files are read in bands, see
`flat`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sscjax.data import image_io, resolution
from sscjax.data.slides import flat
from sscjax.errors import UserError

SLIDE_SUFFIXES = (
    *(".svs", ".ndpi", ".tif", ".tiff", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif"),
    *(".czi", ".dcm"),
)
"""Suffixes (lower case) of what OpenSlide may open; a .tif may also be a plain image."""

SUFFIXES = tuple(dict.fromkeys((*SLIDE_SUFFIXES, *image_io.IMAGE_SUFFIXES)))


class Slide(Protocol):
    """What the rest asks of a slide.

    Attributes:
      width, height: of level 0, in pixels.
      mpp: micrometres per pixel of level 0; None where the file does not say, or what it says
        cannot be (`resolution.believable`).
      said_mpp: what the file says, believable or not.
      downsamples: of each level, 1.0 first, rising.
    """

    width: int
    height: int
    mpp: float | None
    said_mpp: float | None
    downsamples: tuple[float, ...]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        """A rectangle, uint8 [height,width,3]; transparent parts are white.

        Args:
          x: of its left edge, in pixels of level 0.
          y: of its upper edge, likewise.
          level: number of the level.
          width: in pixels of that level.
          height: likewise.
        """

    def thumbnail(self, side: int) -> np.ndarray:
        """All of the slide, uint8 [h,w,3], the longer side at most `side` pixels."""


# Pixels of a slide that are held at a time; where a row of its thumbnail needs more, at most that.
_BAND, _MOST = 4_000_000, 250_000_000

MAX_PIXELS = 10**12
"""Of a slide's finest level: ten times what the largest scanners make."""


@contextlib.contextmanager
def open_slide(path: Path) -> Iterator[Slide]:
    """Open a slide, and close it at the end.

    Raises:
      UserError: it cannot be opened, or stops being readable; the message names the file.
    """
    # What is no file is refused there; OpenSlide would wait for a pipe without end.
    if path.suffix.lower() not in SLIDE_SUFFIXES or not os.path.isfile(path):
        with _plain(path) as plain:
            yield plain
        return
    openslide = _library()
    try:
        whole = openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError:
        if path.suffix.lower() not in image_io.IMAGE_SUFFIXES:
            raise UserError(
                f"{path}: not a slide that OpenSlide can read; replace or remove it"
            ) from None
        with _plain(path) as plain:
            yield plain
        return
    except (openslide.OpenSlideError, OSError) as error:
        raise _unreadable(path, error) from error
    try:
        yield _Whole(path, whole)
    except openslide.OpenSlideError as error:
        raise _unreadable(path, error) from error
    finally:
        whole.close()


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[_Plain]:
    if not os.path.isfile(path) or not flat.is_needed(path):
        yield _Plain(image_io.read_image(path, None))
        return
    pixels = flat.Flat(path)
    try:
        yield _Plain(pixels.pixels)
    finally:
        pixels.close()


def opens(path: Path) -> bool:
    """Whether OpenSlide takes the file for a slide; False where it is not installed."""
    if not os.path.isfile(path):
        return False
    try:
        return _library().OpenSlide.detect_format(str(path)) is not None
    except UserError:
        return False


def dicom_series(path: Path) -> str:
    """The series of a DICOM whole slide, whose files OpenSlide reads together; '' of others."""
    return str(_property(path, "dicom.SeriesInstanceUID") if path.suffix.lower() == ".dcm" else "")


def file_mpp(path: Path) -> float | None:
    """Micrometres per pixel that a slide says and that can be believed; no pixel is read."""
    if path.suffix.lower() not in SLIDE_SUFFIXES or not opens(path):
        return None
    try:
        with _library().OpenSlide(str(path)) as whole:
            said = _resolution(whole.properties)
    except Exception:  # said where it is cut
        return None
    return said if said is not None and resolution.believable(said) else None


def _property(path: Path, name: str) -> str:
    if not opens(path):
        return ""
    try:
        with _library().OpenSlide(str(path)) as whole:
            return str(whole.properties.get(name, ""))
    except Exception:  # said where it is cut
        return ""


def _library() -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise UserError(
            "slides need the packages openslide-python and openslide-bin: "
            "pip install 'sscjax[slides]'"
        ) from error
    return openslide


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: the slide is truncated or damaged ({reason}); replace or remove it")


class _Whole:
    """A slide by OpenSlide."""

    def __init__(self, path: Path, whole: Any) -> None:
        self._whole = whole
        self.width, self.height = whole.dimensions
        if self.width * self.height > MAX_PIXELS:
            raise UserError(
                f"{path}: the slide claims {self.width}x{self.height} pixels, more than any "
                "scanner makes; replace or remove it"
            )
        self._path = path
        self.downsamples = tuple(map(float, whole.level_downsamples))
        self.said_mpp = _resolution(whole.properties)
        believed = self.said_mpp is not None and resolution.believable(self.said_mpp)
        self.mpp = self.said_mpp if believed else None

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        return _on_white(self._whole.read_region((x, y), level, (width, height)))

    def thumbnail(self, side: int) -> np.ndarray:
        factor = max(max(self.width, self.height) / side, 1.0)
        width, height = (max(1, round(edge / factor)) for edge in (self.width, self.height))
        level = self._whole.get_best_level_for_downsample(factor + 0.01)
        wide, high = self._whole.level_dimensions[level]
        small = np.empty((height, width, 3), np.uint8)
        if wide * (high / height + 2) > _MOST:
            raise UserError(
                f"{self._path}: the smallest level of use has {wide}x{high} pixels, too many for a "
                "thumbnail; save the slide with smaller levels (a pyramid)"
            )
        # In bands, because a slide may have no level that is small.
        band_height = max(1, int(_BAND * height / (wide * high)))
        for top in range(0, height, band_height):
            low = min(top + band_height, height)
            first, last = (edge * high / height for edge in (top, low))
            start, stop = math.floor(first), min(math.ceil(last), high)
            corner = (0, round(start * self.downsamples[level]))
            band = _on_white(self._whole.read_region(corner, level, (wide, stop - start)))
            small[top:low] = Image.fromarray(band).resize(
                (width, low - top), Image.Resampling.BOX, (0, first - start, wide, last - start)
            )
        return small


class _Plain:
    """A plain image."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.downsamples: tuple[float, ...] = (1.0,)
        self.mpp: float | None = None
        self.said_mpp: float | None = None
        self.height, self.width = pixels.shape[:2]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        assert level == 0
        pixels = np.full((height, width, 3), 255, np.uint8)
        part = self._pixels[y : y + height, x : x + width]
        pixels[: len(part), : part.shape[1]] = part
        return pixels

    def thumbnail(self, side: int) -> np.ndarray:
        if self.width * self.height <= image_io.MAX_PIXELS:
            image = Image.fromarray(self._pixels)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            return np.asarray(image)
        factor = max(max(self.width, self.height) / side, 1.0)
        width, height = (max(1, round(edge / factor)) for edge in (self.width, self.height))
        small = np.empty((height, width, 3), np.uint8)
        step = max(1, int(_BAND * height / (self.width * self.height)))
        for top in range(0, height, step):
            low = min(top + step, height)
            first, last = (edge * self.height / height for edge in (top, low))
            start, stop = math.floor(first), min(math.ceil(last), self.height)
            band = Image.fromarray(np.asarray(self._pixels[start:stop]))
            box = (0, first - start, self.width, last - start)
            small[top:low] = band.resize((width, low - top), Image.Resampling.BOX, box)
        return small


def _resolution(properties: Any) -> float | None:
    """The mean of both axes; scanners differ by a thousandth between them."""
    try:
        axes = [float(properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
    except (KeyError, ValueError):
        axes = _ome_resolution(properties.get("tiff.ImageDescription", "")[:1_000_000])
    mean = sum(axes) / 2 if len(axes) == 2 else math.nan
    return mean if 0 < mean < math.inf else None


def _ome_resolution(description: str) -> list[float]:
    """Micrometres per pixel of both axes of an OME-TIFF; [] where it names another unit or none."""
    axes = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', description)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', description)
        scale = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}
        factor = scale.get(unit.group(1)) if unit else 1.0  # micrometres unless it says otherwise
        try:
            if size and factor:
                axes.append(float(size.group(1)) * factor)
        except ValueError:
            return []
    return axes


def _on_white(image: Image.Image) -> np.ndarray:
    """OpenSlide gives transparency where nothing was scanned."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
