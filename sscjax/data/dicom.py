"""Plain DICOM images by pydicom: the pixels as they are meant to be shown, and the patient's ID.

Grey values become 8 bits by the window or look-up table of the file (DICOM PS3.3, C.11.2), without
one by the bits that the file or the set uses; MONOCHROME1 is inverted. Of the header only what the
pixels need is read, and `patient_ids` reads PatientID alone. Whole slides are left to
`sscjax.data.slides`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sscjax.data import image_formats
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError
from sscjax.system import machine

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"

_TAGS = (
    *("SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PresentationLUTShape", "PixelAspectRatio"),
    *("NumberOfFrames", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
)

# Python's filters of warnings belong to the process: one thread at a time may silence pydicom.
_LOCK = threading.Lock()


def read(
    path: Path, file: BinaryIO, decoding: Decoding, observed: Observed | None, max_pixels: int
) -> Image.Image:
    """The image in an open DICOM file, as RGB.

    Args:
      path: for messages.
      file: at its beginning.
      decoding: which frame, and what white is where the file says nothing.
      observed: is told the largest value where white is not known.
      max_pixels: more are refused before anything is decoded.

    Raises:
      UserError: no image, not supported, or damaged.
    """
    pydicom = _library(path)
    try:
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, specific_tags=list(_TAGS))
            _check(path, header, max_pixels)
            frame = _frame(path, header, decoding)
            values = pydicom.pixels.pixel_array(header, index=frame)
            return _shown(path, header, values, frame, decoding, observed)
    except UserError:
        raise
    except Exception as error:  # a parser of damaged bytes may fail in any way
        image_formats.raise_if_busy(error)
        text = image_formats.one_line(error)
        if "missing dependencies" in text or "no pixel data decoders" in text.lower():
            raise UserError(
                f"{path}: this compression of DICOM is not supported by the packages that are "
                "installed: pip install 'sscjax[dicom]', or save the image uncompressed"
            ) from error
        raise image_formats.unreadable(path, error, "the DICOM image is") from error


def read_size(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
      UserError: the header is damaged, or there is no image.
    """
    header = _header(path, file, ("Rows", "Columns"))
    try:
        return int(header.Columns), int(header.Rows)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a DICOM file without an image; remove it") from error


def patient_ids(paths: Sequence[Path]) -> dict[Path, str]:
    """PatientID of each DICOM file among the paths; '' where it is empty or cannot be read.

    Raises:
      UserError: pydicom is not installed, and there is a DICOM file.
    """

    def patient(path: Path) -> str | None:
        try:
            if not path.is_file():  # opening a pipe would wait for who writes into it
                return None
            with path.open("rb") as file:
                start = file.read(132)
                if not image_formats.is_dicom(start):
                    return None
                file.seek(0)
                return str(_header(path, file, ("PatientID",)).get("PatientID", "") or "").strip()
        except OSError:
            return None
        except UserError as error:
            if "pip install" in str(error):
                raise
            return ""  # reported where its pixels are read

    candidates = [path for path in paths if path.suffix.lower() not in _NEVER]
    with ThreadPoolExecutor(max_workers=machine.processors()) as pool:
        found = list(pool.map(patient, candidates))
    return {path: one for path, one in zip(candidates, found, strict=True) if one is not None}


# Suffixes of other formats: these files are not opened to look for a patient.
_NEVER = tuple(suffix for suffix in image_formats.IMAGE_SUFFIXES if suffix != ".dcm")


def _library(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise UserError(
            f"{path}: DICOM is not supported without the package pydicom: "
            "pip install 'sscjax[dicom]'"
        ) from error
    # Its warnings about unusual headers would be one for each file, and name patients.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


def _header(path: Path, file: BinaryIO, tags: Sequence[str]) -> Any:
    pydicom = _library(path)
    try:
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags))
            for tag in tags:
                header.get(tag)  # values are converted when they are first asked for
            return header
    except Exception as error:  # a parser of damaged bytes may fail in any way
        image_formats.raise_if_busy(error)
        raise image_formats.unreadable(path, error, "the DICOM header is") from error


def _check(path: Path, header: Any, max_pixels: int) -> None:
    if "PixelData" not in header or not header.get("Rows") or not header.get("Columns"):
        raise UserError(
            f"{path}: a DICOM file without an image of whole numbers (a report, a structure, or "
            "floating-point pixels) is not supported; remove it"
        )
    if str(header.get("SOPClassUID", "")) == _WHOLE_SLIDE:
        raise UserError(
            f"{path}: a DICOM whole slide is not supported as an image; cut it with `sscjax slides`"
        )
    stored = int(header.get("BitsStored") or 0)
    if int(header.get("HighBit", stored - 1)) != stored - 1:
        raise UserError(
            f"{path}: DICOM pixels whose {stored} bits end at bit {header.HighBit} are not "
            "supported; save the image again, with HighBit one less than BitsStored"
        )
    aspect = [int(part) for part in header.get("PixelAspectRatio") or (1, 1)]
    if aspect[0] != aspect[1]:
        raise UserError(
            f"{path}: its pixels are not square (PixelAspectRatio {aspect[0]}:{aspect[1]}), which "
            "is not supported; save the image with square pixels"
        )
    width, height = int(header.Columns), int(header.Rows)
    if width * height > max_pixels:
        raise UserError(
            f"{path}: the image claims {width}x{height} pixels, over the limit of {max_pixels}; "
            "remove it"
        )


def _frame(path: Path, header: Any, decoding: Decoding) -> int:
    frames = int(header.get("NumberOfFrames") or 1)
    if frames <= 1:
        return 0
    pages = decoding.pages
    if not pages or pages == "channels":
        raise UserError(
            f"{path}: holds {frames} frames; choose one for all files by --config.data.pages=first"
            ", =middle or a number from 1"
        )
    number = {"first": 1, "middle": (frames + 1) // 2}.get(pages) or int(pages)
    if number > frames:
        raise UserError(
            f"{path}: holds {frames} frames, and config.data.pages={pages!r}; name a frame that "
            "every file has"
        )
    return number - 1


def _shown(
    path: Path,
    header: Any,
    values: np.ndarray,
    frame: int,
    decoding: Decoding,
    observed: Observed | None,
) -> Image.Image:
    """Decoded values as they are meant to be shown, RGB."""
    from pydicom.pixels import processing as pixels

    kind = str(header.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, header)
        if values.dtype == np.uint16 and not _is_eight_bit_palette(header):
            values = values >> 8
    elif kind.startswith("MONOCHROME"):
        grey = _grey(path, header, values, frame, decoding, observed)
        inverse = kind == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
        values = np.repeat((255 - grey if inverse else grey)[..., None], 3, axis=2)
    elif values.ndim == 3 and values.shape[2] == 3:
        stored = int(header.BitsStored)
        values = values >> (stored - 8) if stored > 8 else values
    if values.ndim != 3 or values.shape[2] != 3:
        raise UserError(
            f"{path}: DICOM pixels of the kind {kind!r:.40} are not supported; save the image as "
            "grey or RGB"
        )
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))


def _is_eight_bit_palette(header: Any) -> bool:
    """Whether a palette that is said to have 16 bits holds values of 8, as some programs write."""
    data = (
        header.get(f"{colour}PaletteColorLookupTableData") for colour in ("Red", "Green", "Blue")
    )
    return all(max(bytes(one or b"")[1::2], default=0) == 0 for one in data)


def _grey(
    path: Path,
    header: Any,
    values: np.ndarray,
    frame: int,
    decoding: Decoding,
    observed: Observed | None,
) -> np.ndarray:
    """Grey values uint8 [H,W], by window, by look-up table, or by the bits that are used."""
    from pydicom.pixels import processing as pixels

    group = _functional_group(header, frame)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        scaled = pixels.apply_voi(pixels.apply_modality_lut(values, header), header)
        return _eight_bits(scaled.astype(np.float64) / (2**bits - 1))
    voi, rescale = group.get("FrameVOILUTSequence"), group.get("PixelValueTransformationSequence")
    window = voi[0] if voi else header
    if window.get("WindowWidth") is not None and window.get("WindowCenter") is not None:
        scaled = pixels.apply_modality_lut(values, rescale[0] if rescale else header)
        return _eight_bits(
            windowed(
                scaled.astype(np.float64),
                _first(window.WindowCenter),
                _first(window.WindowWidth),
                str(window.get("VOILUTFunction") or "LINEAR"),
            )
        )
    stored = int(header.BitsStored)
    slope = (rescale[0] if rescale else header).get("RescaleSlope")
    if header.get("ModalityLUTSequence") or float(slope or 1) != 1:
        raise UserError(
            f"{path}: says how its pixels are to be rescaled (modality) and not which of the "
            "results are black and white; export the image with a window (WindowCenter, "
            "WindowWidth)"
        )
    if int(header.PixelRepresentation):
        raise UserError(
            f"{path}: signed DICOM pixels without a window have no agreed black and white and are "
            "not supported; export the image with a window (WindowCenter, WindowWidth)"
        )
    if stored <= 8:
        return _eight_bits(values / (2**stored - 1))
    if stored > 16:
        raise UserError(
            f"{path}: DICOM pixels of {stored} bits without a window are not supported; export the "
            "image with a window (WindowCenter, WindowWidth)"
        )
    if stored == 16:
        largest, stored = int(values.max(initial=0)), decoding.bits or 16
        if observed is not None:
            observed.see_deep(path, largest)
        if largest >= 2**stored:
            raise UserError(
                f"{path}: holds values up to {largest}, and white is {2**stored - 1} for this set; "
                "set --config.data.pixel_bits=16, or leave the image out"
            )
    return np.asarray(values >> (stored - 8)).astype(np.uint8)


def windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values through a window, 0 to 1 (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
      values: float64, after the modality's rescaling.
      centre: of the window.
      width: of the window, 1 or more.
      function: 'LINEAR', 'LINEAR_EXACT' or 'SIGMOID'.

    Raises:
      ValueError: another function, or no width.

    Example:
      >>> windowed(np.array([0.0, 50.0, 100.0]), 50.0, 100.0, "LINEAR_EXACT").tolist()
      [0.0, 0.5, 1.0]
    """
    if function == "SIGMOID" and width > 0:
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50))))
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR" or width < 1:
        raise ValueError(f"unsupported window: {function:.40}, width {width}")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _functional_group(header: Any, frame: int) -> dict[str, Any]:
    """What an enhanced multi-frame object says of a frame, that of the frame itself first."""
    found: dict[str, Any] = {}
    shared = header.get("SharedFunctionalGroupsSequence") or []
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[frame : frame + 1]]:
        for name in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
            if group.get(name):
                found[name] = group.get(name)
    return found


def _first(value: Any) -> float:
    """A file may hold several windows; the first is the one that is shown."""
    try:
        return float(value)
    except TypeError:
        return float(value[0])


def _eight_bits(share: np.ndarray) -> np.ndarray:
    return np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
