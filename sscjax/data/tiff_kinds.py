"""Kinds of TIFF pixels that Pillow decodes to something else than what the file means."""

from __future__ import annotations

from pathlib import Path

from PIL import TiffImagePlugin

from sscjax.data.pixel_range import Observed
from sscjax.errors import UserError

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
_UNSIGNED = (1, 4)  # 4: undefined
_UNSPECIFIED, _SEPARATE = 0, 2


def check(path: Path, image: TiffImagePlugin.TiffImageFile, observed: Observed | None) -> None:
    """Refuse by name what would be read wrongly, and note what is left out.

    Args:
      path: the file.
      image: its page that is read; nothing is decoded.
      observed: is told of a channel that is not read.

    Raises:
      UserError: signed or floating-point samples; 16-bit samples in planes, of which Pillow reads
        each byte as a pixel; a second channel that would be dropped.
    """
    tags = image.tag_v2
    forms = set(tags.get(_FORMAT) or (1,))
    if not forms <= set(_UNSIGNED):
        kind = {2: "signed", 3: "floating-point"}.get(max(forms), "complex")
        raise UserError(
            f"{path}: {kind} pixels have no agreed white (nor black) and are not supported; save "
            "the image as 8-bit or 16-bit unsigned grey or RGB"
        )
    bits, samples = max(tags.get(_BITS) or (1,)), int(tags.get(_SAMPLES, 1))
    if tags.get(_PLANAR, 1) == _SEPARATE and samples > 1 and bits > 8:
        raise UserError(
            f"{path}: a TIFF with {bits}-bit samples in separate planes is not supported; save it "
            "with interleaved samples (planar configuration: contiguous), or as PNG"
        )
    extra = tags.get(_EXTRA)
    unknown = extra is None or extra[0] == _UNSPECIFIED
    if samples == 2 and unknown and tags.get(_PHOTOMETRIC) in (0, 1):
        raise UserError(
            f"{path}: a TIFF with two channels, of which it does not call the second transparency, "
            "is not supported; save the channels as pages, for config.data.pages, or only the one "
            "to be read"
        )
    if samples == 4 and unknown and tags.get(_PHOTOMETRIC) == 2 and observed is not None:
        kind = "with a fourth channel of unknown kind only red, green and blue were read"
        observed.note(kind, path)
