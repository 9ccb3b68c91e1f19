"""What white is, for a whole set: how files whose pixels can be read in several ways are read.

A camera of 12 bits writes values below 4096 into 16-bit files, which are nearly black where white is
65535. Which white is meant cannot be seen in one image without making a dark image bright, so it
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
"""Words of `Reading.pages`; a number from 1 is a page as well."""

DIM = 64
"""Of 255: where no image of a set has a value above it, the set is suspiciously dark."""

# How many file names a note lists.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the files of a set are read where there is a choice.

    Attributes:
      bits: bits that the samples of 16-bit files use, one of `DEPTHS`; 0: 16, until the whole set
        has been looked at.
      pages: which page of a file with several is read: '' finds out or refuses, 'first', 'middle',
        a number from 1, or 'channels', where two or three grey pages are red, green and blue.
      mpp: micrometres per pixel that all images with a known resolution are brought to; 0: none
        are, and a set of several resolutions is refused; -1: none are.

    Raises:
      UserError: a field is out of its range.
    """

    bits: int = 0
    pages: str = ""
    mpp: float = 0.0

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
        self._notes: dict[str, set[Path]] = {}

    def see_deep(self, path: Path, largest: int) -> None:
        """Record the largest value, 0 to 65535, of a file with 16 bits per sample."""
        with self._lock:
            self.largest[path] = max(largest, self.largest.get(path, 0))

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


def describe(bits: int, count: int) -> str:
    """What is said of the rule for `count` 16-bit files; '' for full 16 bits."""
    if bits in (0, 16):
        return ""
    files = "1 file" if count == 1 else f"{count:,} files"
    return (
        f"{files} of 16 bits per sample hold values of {bits} bits: white is {2**bits - 1:,} for "
        "the whole set"
    )


