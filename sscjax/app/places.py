"""Paths that come from the browser: folders to choose from, and files inside one folder only."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path, PurePosixPath

from sscjax.data.image_formats import IMAGE_SUFFIXES
from sscjax.errors import UserError

# Entries of a folder that are looked at: a listing must be there at once.
_LOOKED_AT = 5000


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder as the chooser shows it.

    Attributes:
      path: of it.
      folders: the folders inside by name, without hidden ones.
      images: how many image files lie in it, among the first few thousand entries.
      more: whether there are more entries than were looked at.
    """

    path: Path
    folders: tuple[Path, ...]
    images: int
    more: bool

    @property
    def parents(self) -> list[Path]:
        """The folders above it, the highest first, and itself."""
        return [*reversed(self.path.parents), self.path]


def place(text: str) -> Place:
    """List a folder.

    Args:
      text: its path, as it was typed: '~' is the home folder.

    Raises:
      UserError: there is no such folder, or it cannot be read.
    """
    path = Path(os.path.abspath(Path(text.strip()).expanduser()))
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {state}: choose a folder")
    try:
        with os.scandir(path) as entries:
            listed = [entry for entry, _ in zip(entries, range(_LOOKED_AT + 1), strict=False)]
            folders = [Path(entry.path) for entry in listed if _is_open_folder(entry)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): choose another") from error
    images = sum(_is_image(entry.name) for entry in listed)
    ordered = sorted(folders, key=lambda folder: folder.name.casefold())
    return Place(path, tuple(ordered), images, len(listed) > _LOOKED_AT)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _is_open_folder(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def named(text: str) -> str:
    """A name of a study as a name of a folder.

    Raises:
      UserError: it is empty, begins with a dot, or has characters that a name of a folder cannot
        have everywhere.

    Example:
      >>> named(" skin 2 ")
      'skin 2'
    """
    name = text.strip()
    unusable = re.search(r'^\.|[\\/:*?"<>|\x00-\x1f]|\.$', name)
    if not name or len(name) > 80 or unusable or not name.isprintable():
        raise UserError(
            f"{name!r} is no name for a study: expected up to 80 letters, digits, spaces, - or _, "
            "without a dot in front"
        )
    return name


def inside(folder: Path, text: str) -> Path:
    """A path inside a folder; links are followed first.

    Args:
      folder: the folder.
      text: the path below it, with '/'.

    Raises:
      UserError: it leads out of the folder.
    """
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(root / text))
    if "\0" in text or not path.is_relative_to(root):
        raise UserError("this path leads out of the folder of the study")
    return path


def upload_name(text: str) -> PurePosixPath:
    """The path below the folder of uploads that an image is kept under.

    Args:
      text: the file's path as the browser gives it, 'patient/image.png'.

    Raises:
      UserError: it is no image by its name, or a part of the path is unusable.
    """
    parts = [part for part in re.split(r"[\\/]", text) if part not in ("", ".")]
    usable = bool(parts) and all(not part.startswith(".") and part.isprintable() for part in parts)
    if not usable or len(parts) > 8 or any(len(part.encode()) > 200 for part in parts):
        raise UserError(f"{text[:80]!r}: this name cannot be used; rename the file")
    if not _is_image(parts[-1]):
        raise UserError(f"{parts[-1]!r} is no image by its name: leave it out")
    return PurePosixPath(*(re.sub(r'[:*?"<>|]', "_", part) for part in parts))
