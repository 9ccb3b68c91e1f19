"""Which file a cell of a table means: by its path, or else by its name below the folder."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path, PurePosixPath, PureWindowsPath

from sscjax.data import names, scan
from sscjax.data.image_formats import IMAGE_SUFFIXES
from sscjax.data.listing import refuse_outside, target_of
from sscjax.errors import UserError

# What Label Studio puts in front of the name of an uploaded file.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")

# What follows the name of a file in an address: `a.png?v=2`.
_QUERY = re.compile(r"(?<=\.)(?P<suffix>\w{2,5})[?#].*$")


class Finder:
    """Finds the files that a table names, by their path or else by their name below the folder."""

    def __init__(self, folder: Path, tree: scan.Tree | None = None):
        """Args: the table's folder, and what lies below it where that is known already."""
        self.folder = folder
        self.by_name = 0
        self._tree = tree
        self._index: dict[str, list[str]] | None = None
        self._inside: dict[Path, bool] = {}

    def find(self, where: str, name: str) -> tuple[Path, str]:
        """An image, and its path relative to the folder.

        Raises:
          UserError: there is none, or there are several, or it lies elsewhere.
        """
        if self._is_file(name):
            return self.named(where, name)
        candidates = self._below(name)
        if len(candidates) > 1:
            raise UserError(
                f"{where}: {name} may be {' or '.join(candidates[:3])}; write the path from the "
                "table's folder"
            )
        if candidates:
            self.by_name += 1
            return self._checked(where, self.folder / candidates[0], candidates[0])
        return self.named(where, name)

    def named(self, where: str, name: str) -> tuple[Path, str]:
        """A file of exactly this path relative to the folder.

        Raises:
          UserError: it does not exist, or leaves the folder.
        """
        relative = _relative(name)
        if relative is None:
            raise UserError(
                f"{where}: {name} leaves the folder {self.folder}; give a path inside it, relative "
                "to the manifest"
            )
        if not self._is_file(name):
            kind = "is not a file" if self._exists(relative) else "does not exist"
            raise UserError(
                f"{where}: {name} {kind}{self._with_zeros(name)}; correct the row or restore the "
                "file"
            )
        return self._checked(where, self.folder / relative, relative.as_posix())

    def _with_zeros(self, name: str) -> str:
        """Says which image has the same number with zeros in front, which spreadsheets drop."""
        number = os.path.splitext(name)[0]
        if not number.isdecimal():
            return ""
        alike = [key for key in self._names() if key.isdecimal() and int(key) == int(number)]
        return f" ({alike[0]} does: format the column as text)" if alike else ""

    def holds(self, name: str) -> bool:
        """Whether a name of a table is that of an image here."""
        return self._is_file(name) or bool(self._below(name))

    def _checked(self, where: str, path: Path, file: str) -> tuple[Path, str]:
        # Only a link leads elsewhere: one look for each folder, and one for each file.
        parent = path.parent
        if parent not in self._inside:
            self._inside[parent] = target_of(parent).is_relative_to(target_of(self.folder))
        if not self._inside[parent] or path.is_symlink():
            refuse_outside(self.folder, path, where)
        return path, file

    def _is_file(self, name: str) -> bool:
        relative = _relative(name)
        try:
            return bool(name) and relative is not None and (self.folder / relative).is_file()
        except (OSError, ValueError):  # a name that this system cannot have
            return False

    def _exists(self, relative: PurePosixPath) -> bool:
        try:
            return (self.folder / relative).exists()
        except (OSError, ValueError):
            return False

    def _holds_folder(self, name: str) -> bool:
        relative = _relative(name)
        try:
            return relative is not None and (self.folder / relative).is_dir()
        except (OSError, ValueError):
            return False

    def _below(self, name: str) -> list[str]:
        """Images below the folder that a name may mean: by name, or by name without its suffix."""
        wanted = _QUERY.sub(r"\g<suffix>", name.replace("\\", "/").rpartition("?d=")[2])
        if not wanted or ".." in wanted.split("/"):
            return []
        above, _, base = wanted.rpartition("/")
        is_there = above and self._holds_folder(above)
        decoded = urllib.parse.unquote(base)
        index = self._names()
        for spelling in dict.fromkeys((base, decoded, _UPLOAD.sub("", decoded))):
            candidates = index.get(_file_key(spelling), [])
            if is_there:  # and lacks it: an image of that name elsewhere is another
                candidates = [file for file in candidates if _is_in(file, above)]
            exact = [file for file in candidates if _ends_alike(file, wanted)]
            if candidates:
                return exact if len(exact) == 1 else candidates
        return []

    def _names(self) -> dict[str, list[str]]:
        """Images by their names with and without suffix."""
        if self._index is None:
            self._tree = self._tree or scan.scan(self.folder)
            self._index = {}
            for file in self._tree.files:
                name = file.rpartition("/")[2]
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES:
                    for key in {_file_key(name), _file_key(stem)}:
                        self._index.setdefault(key, []).append(file)
        return self._index


def _relative(name: str) -> PurePosixPath | None:
    """A path of a table as one relative to its folder; None where it leads elsewhere."""
    # Tables are carried between systems: both kinds of slash, either kind of absolute path.
    relative = PurePosixPath(name.replace("\\", "/"))
    windows = PureWindowsPath(name)
    elsewhere = relative.is_absolute() or windows.drive or windows.root or ".." in relative.parts
    return None if elsewhere else relative


def _is_in(file: str, folder: str) -> bool:
    parent = PurePosixPath(folder).as_posix()
    return _file_key(file.rpartition("/")[0]) == _file_key(parent)


def _file_key(name: str) -> str:
    return names.normal(name).casefold()


def _ends_alike(file: str, wanted: str) -> bool:
    """Whether one path is the end of the other, their suffixes aside."""
    one, other = (os.path.splitext(text)[0].casefold().strip("/") for text in (file, wanted))
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")
