"""A small picture written by Pillow in every format that is read, and read back: for the doctor."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sscjax.data import decode
from sscjax.errors import UserError

FORMATS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "bmp": "BMP"}
"""Suffix of each format, and what Pillow calls it."""

SIDE = 16

# A jpg is not exact: of a smooth picture at quality 95 no pixel is further off than this.
_JPEG_OFF = 8


def picture() -> np.ndarray:
    """Smooth and not symmetric, so that no turn or exchanged channel goes unnoticed."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    parts = (16 * rows + 4, 120 + 4 * columns, 250 - 6 * rows - 6 * columns)
    return np.stack(parts, axis=-1).astype(np.uint8)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    """The file that Pillow writes for uint8 [H,W,3] in the format of a suffix of `FORMATS`."""
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(pixels).save(file, FORMATS[suffix], **options)
    return file.getvalue()


def misread() -> list[str]:
    """A line for each format whose pixels do not come back; empty where all is well."""
    wanted, found = picture(), []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FORMATS:
            path = Path(folder) / f"trial.{suffix}"
            try:
                path.write_bytes(encoded(wanted, suffix))
                pixels = decode.read_image(path, None)
            except (UserError, OSError, KeyError) as error:
                reason = " ".join(str(error).split()).replace(str(path), "the trial")
                found.append(f"{suffix}: {reason}")
                continue
            if pixels.shape != wanted.shape:
                found.append(f"{suffix}: came back as {pixels.shape}, expected {wanted.shape}")
                continue
            off = int(np.abs(pixels.astype(int) - wanted).max())
            if off > (_JPEG_OFF if suffix == "jpg" else 0):
                found.append(f"{suffix}: a pixel is off by {off} of 255")
    return found
