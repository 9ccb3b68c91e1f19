"""The folders of a set as levels of names, for whoever finds out what the levels mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from sscjax.data import folder_names, names
from sscjax.data.layout import option
from sscjax.errors import UserError

Folders = Collection[tuple[str, ...]]
"""Folders that hold images, each as the names from the set's folder down."""


class NoClassesError(UserError):
    """The folders hold no level of classes: what they hold has to be listed in a table."""


@dataclasses.dataclass(frozen=True)
class View:
    """Folders below one level of splits, or below the top.

    Attributes:
      folder: the set's folder, for messages.
      prefix: of the layout that was found so far: '' or 'split/'.
      dirs: the folders with images, from the first level that is no split down.
    """

    folder: str
    prefix: str
    dirs: Folders

    @property
    def tops(self) -> list[str]:
        """Names at the top."""
        return sorted({parts[0] for parts in self.dirs})

    def kids(self) -> dict[str, set[str]]:
        """For each name at the top those below it."""
        kids: dict[str, set[str]] = {top: set() for top in self.tops}
        for parts in self.dirs:
            if len(parts) > 1:
                kids[parts[0]].add(parts[1])
        return kids

    def level(self, number: int) -> list[str]:
        """Distinct names at a level, 0 the top."""
        return sorted({parts[number] for parts in self.dirs if len(parts) > number})

    @property
    def depth(self) -> int:
        """Levels of the deepest folder."""
        return max(map(len, self.dirs))

    def patients_first(self) -> bool:
        """Whether many folders hold the same few names, as in patient/class/image.png."""
        kids = self.kids()
        below = {names.key(name) for inner in kids.values() for name in inner}
        pairs = sum(len(inner) for inner in kids.values())
        repeated = 2 <= len(below) < len(kids) and pairs >= 2 * len(below) and all(kids.values())
        named = folder_names.are_patients(self.tops) and 0 < len(below) < len(kids)
        return (repeated or named) and not folder_names.are_ids(self.level(1))

    def option(self, text: str) -> str:
        """The exact option for a layout below these splits."""
        return option(self.prefix + text)

    def refusal(self, what: str, options: Sequence[str]) -> UserError:
        """The error that says what was found and names the options."""
        return UserError(f"{self.folder}: {what}; {' or '.join(options)}")


def refuse_copies(folder: Path, files: Collection[str], classes: Sequence[str]) -> None:
    """Refuse a folder that a file manager copied: it would count as another class or patient.

    Args:
      folder: the set's folder.
      files: its images, relative to it.
      classes: names of classes where the config gives them; these are no copies.

    Raises:
      UserError: there is one, by its name.
    """
    beside: dict[str, set[str]] = {}
    for inner in {file.rpartition("/")[0] for file in files}:
        while inner:
            above, _, name = inner.rpartition("/")
            beside.setdefault(above, set()).add(name)
            inner = above
    for above, siblings in sorted(beside.items()):
        for name, original in folder_names.copies(siblings).items():
            if name not in classes:
                raise UserError(
                    f"{folder / above / name}: is a copy of the folder {original} by its "
                    "name, and would count as another class or patient; remove it, or rename it "
                    "if it holds other images"
                )
