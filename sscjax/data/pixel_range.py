"""What white is, for a whole set: how files whose pixels can be read in several ways are read.

A camera of 12 bits writes values below 4096 into 16-bit files, which are nearly black where white
is 65535. Which white is meant cannot be seen in one image without making a dark image bright, so it
is chosen once, from the largest value of all 16-bit files of a set, and stored with the run.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from sscjax.errors import UserError

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that the samples of 16-bit files may use."""

PAGES = ("", "first", "middle", "channels")
"""Words of `Decoding.pages`; a number from 1 is a page as well."""

DIM = 64
"""Of 255: where no image of a set has a value above it, the set is suspiciously dark."""

# How many file names a note lists.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the files of a set are read where there is a choice.

    Attributes:
      bits: bits that the samples of 16-bit files use, one of `DEPTHS`; 0: 16, until the whole set
        has been looked at.
      pages: which page of a file with several is read: '' finds out or refuses, 'first', 'middle',
        a number from 1, or 'channels', where two or three grey pages are red, green and blue.
      mpp: micrometres per pixel that all images with a known resolution are brought to; 0: none
        are, and a set of several resolutions is refused; -1: none are.
      masks: whether masks are opened; they are never taken for images.

    Raises:
      UserError: a field is out of its range.
    """

    bits: int = 0
    pages: str = ""
    mpp: float = 0.0
    masks: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (0, *DEPTHS):
            known = ", ".join(map(str, DEPTHS))
            raise UserError(
                f"config.data.pixel_bits={self.bits}: expected one of {known}, or 0 to find out"
            )
        if self.pages not in PAGES and not (self.pages.isdecimal() and int(self.pages) > 0):
            raise UserError(
                f"config.data.pages={self.pages!r}: expected first, middle, channels or the number "
                "of a page from 1"
            )
        if self.mpp != -1 and not 0 <= self.mpp <= 100:
            raise UserError(
                f"config.data.mpp={self.mpp:g}: expected micrometres per pixel above 0, 0 to find "
                "out, or -1 to leave images as they are"
            )


class Observed:
    """What was seen while images were read, by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.largest: dict[Path, int] = {}
        self.mask_values: dict[Path, list[int]] = {}
        self._mask_colour: tuple[Path, tuple[int, int, int]] | None = None
        self._notes: dict[str, set[Path]] = {}

    def see_deep(self, path: Path, largest: int) -> None:
        """Record the largest value, 0 to 65535, of a file with 16 bits per sample."""
        with self._lock:
            self.largest[path] = max(largest, self.largest.get(path, 0))

    def see_mask(self, path: Path, values: list[int]) -> None:
        """Record which values a mask holds."""
        with self._lock:
            self.mask_values[path] = values

    def see_mask_colour(self, path: Path, colour: tuple[int, int, int]) -> None:
        """Record the colour of a mask that is black and one colour.

        Raises:
          UserError: another mask of the set has another colour, which may mean another class.
        """
        with self._lock:
            if self._mask_colour is None:
                self._mask_colour = path, colour
            other, before = self._mask_colour
        if before != colour:
            raise UserError(
                f"{path}: is painted in the colour {colour}, and {other.name} in {before}, "
                "expected numbers of classes; save the masks as 8-bit grey, or with a palette"
            )

    def note(self, kind: str, path: Path) -> None:
        """Record that something of a file was not read; `kind` completes 'of 3 files ...'."""
        with self._lock:
            self._notes.setdefault(kind, set()).add(path)

    @property
    def bits(self) -> int:
        """Bits that all 16-bit files together use; 0 where there is none."""
        return bits_for(max(self.largest.values())) if self.largest else 0

    def notes(self) -> list[str]:
        """One line for each kind of note, with the first files by name."""
        lines = []
        for kind, paths in sorted(self._notes.items()):
            names = sorted(path.name for path in paths)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            files = "1 file" if len(names) == 1 else f"{len(names):,} files"
            lines.append(f"of {files} {kind}: {', '.join(names[:_NAMED])}{more}")
        return lines


def bits_for(largest: int) -> int:
    """The smallest of `DEPTHS` that holds a value.

    Example:
      >>> bits_for(255), bits_for(1000), bits_for(4095), bits_for(4096)
      (8, 10, 12, 14)
    """
    return next(bits for bits in DEPTHS if largest < 2**bits)


def describe(bits: int) -> str:
    """What is said of the rule; '' for full 16 bits and where no file has so many.

    Example:
      >>> describe(12)
      '16-bit files hold values of 12 bits: white is 4,095 for the whole set'
    """
    if bits in (0, 16):
        return ""
    return f"16-bit files hold values of {bits} bits: white is {2**bits - 1:,} for the whole set"
