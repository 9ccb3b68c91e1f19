"""Which page of a file with several is the image: one of them, or channels that are put together.

A tif, png or webp may hold several pages: smaller copies of a slide, the channels of a microscope,
the slices of a stack, an animation. What the file or the settings say is followed; grey pages of
one size that nobody explains are refused, because any choice would be a guess.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from sscjax.data.image_formats import raise_if_busy
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError

# Pages of a file that are looked at; a stack has more, and is refused all the same.
_MOST = 256

_DESCRIPTION, _SUBFILE, _REDUCED = 270, 254, 1
_GREY = ("L", "I;16", "I;16B", "I;16L", "I;16N")


class Pages(NamedTuple):
    """What of a file is read.

    Attributes:
      numbers: the pages, from 0; several are channels.
      colours: [K,3] the colour of each channel, 0 to 1.
    """

    numbers: tuple[int, ...]
    colours: np.ndarray


_FIRST = Pages((0,), np.ones((1, 3)))


def choose(
    path: Path, image: ImageFile.ImageFile, decoding: Decoding, observed: Observed | None
) -> Pages:
    """The pages of a file that are its image.

    Args:
      path: the file.
      image: the same, at its first page.
      decoding: what the settings say about files with several pages.
      observed: is told of pages that are not read.

    Raises:
      UserError: several pages of which none is the obvious one, or a page that does not exist.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        frames = int(getattr(image, "n_frames", 1))
        if frames < 2:
            return _FIRST
        same = list(range(min(frames, _MOST)))
        smaller, grey = 0, False
    elif not image.tag_v2.next:  # the common case, at no cost
        return _FIRST
    else:
        same, smaller, grey = _look_at(image)
    description = _description(image)
    if len(same) < 2:
        pages = _FIRST
    elif decoding.pages:
        pages = _asked(path, decoding.pages, same, grey)
    elif not grey:
        pages = _FIRST
    else:
        pages = _channels(description, same) or _refuse(path, description, same)
    unread = len(same) - len(pages.numbers)
    if observed is not None and unread:
        shown = "middle page" if decoding.pages == "middle" else f"page {pages.numbers[0] + 1}"
        observed.note(f"with several pages only {shown} was read", path)
    if observed is not None and smaller:
        observed.note("with pages of other sizes (levels, labels, thumbnails) only the first", path)
    return pages


def _look_at(image: TiffImagePlugin.TiffImageFile) -> tuple[list[int], int, bool]:
    """Pages as large as the first, the number of others, and whether the first is grey."""
    size, mode, same, others = image.size, image.mode, [0], 0
    number = 0
    while image.tag_v2.next and number + 1 < _MOST:
        number += 1
        try:
            image.seek(number)
            reduced = int(image.tag_v2.get(_SUBFILE, 0)) & _REDUCED
        except EOFError:
            break
        except Exception as error:  # damaged pages fail in any way; none of them is the image
            raise_if_busy(error)
            others += 1
            break
        if image.size == size and image.mode == mode and not reduced:
            same.append(number)
        else:
            others += 1
    image.seek(0)
    return same, others, mode in _GREY


def _description(image: ImageFile.ImageFile) -> str:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ""
    return str(image.tag_v2.get(_DESCRIPTION, ""))[:1_000_000]


def _asked(path: Path, wanted: str, same: list[int], grey: bool) -> Pages:
    """The pages that the settings name."""
    if wanted == "channels":
        if len(same) > 3 or not grey:
            raise UserError(
                f"{path}: holds {len(same)} {'grey' if grey else 'colour'} pages, and "
                "config.data.pages='channels' needs two or three grey ones; name a page by its "
                "number instead, such as --config.data.pages=1"
            )
        return Pages(tuple(same), np.eye(3)[: len(same)])
    number = {"first": 1, "middle": (len(same) + 1) // 2}.get(wanted) or int(wanted)
    if number > len(same):
        raise UserError(
            f"{path}: holds {len(same)} pages, and config.data.pages={wanted!r}; name a page that "
            "every file has"
        )
    return Pages((same[number - 1],), np.ones((1, 3)))


def _channels(description: str, same: list[int]) -> Pages | None:
    """The channels that OME or ImageJ wrote, if these are all pages and two or three."""
    if len(same) > 3 or _axes(description)["channels"] != len(same):
        return None
    colours = np.array([_rgb(int(text)) for text in re.findall(r'\bColor="(-?\d+)"', description)])
    if len(colours) != len(same) or not colours.any(axis=1).all():
        colours = np.eye(3)[: len(same)]
    return Pages(tuple(same), colours)


def _rgb(colour: int) -> tuple[float, float, float]:
    """OME writes red, green, blue and alpha as one signed number of 32 bits."""
    value = colour & 0xFFFFFFFF
    return (value >> 24) / 255, (value >> 16 & 255) / 255, (value >> 8 & 255) / 255


def _axes(description: str) -> dict[str, int]:
    """Number of channels, slices and times, 1 where nothing is said."""
    found = {"channels": 1, "slices": 1, "times": 1}
    for name, patterns in (
        ("channels", (r'\bSizeC="(\d+)"', r"^channels=(\d+)")),
        ("slices", (r'\bSizeZ="(\d+)"', r"^slices=(\d+)")),
        ("times", (r'\bSizeT="(\d+)"', r"^frames=(\d+)")),
    ):
        for pattern in patterns:
            match = re.search(pattern, description, re.MULTILINE)
            if match:
                found[name] = int(match.group(1)[:9])
                break
    return found


def _refuse(path: Path, description: str, same: list[int]) -> Pages:
    said = [f"{number} {name}" for name, number in _axes(description).items() if number > 1]
    channels = " or, if they are red, green and blue, =channels" if len(same) <= 3 else ""
    meaning = " x ".join(said) if said else "channels, slices or times: the file does not say"
    raise UserError(
        f"{path}: holds {len(same)} grey pages of one size ({meaning}); choose one for all files "
        f"by --config.data.pages=first, =middle or a number from 1{channels}"
    )
