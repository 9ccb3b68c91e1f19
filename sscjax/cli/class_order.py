"""The order of the classes of a folder: asked for on a terminal, else said."""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sscjax.cli.parsing import WIDTH, nearest
from sscjax.data.names import sounding_healthy
from sscjax.errors import UserError
from sscjax.system import files, run_dir


def settle(path: str, workdir: Path, private: bool = False) -> tuple[str, ...]:
    """The classes in their order; () leaves them in the order of their names.

    A run that is resumed has the order that it was started with. On a terminal the user is asked.

    Args:
      path: of the images.
      workdir: the run's folder.
      private: no name of a folder is written.

    Raises:
      UserError: the images cannot be listed.
    """
    with _silent():
        from sscjax.data import image_folder

        listing = image_folder.list_images(Path(path).expanduser(), private=private)
    names = tuple(listing.classes)
    earlier = _earlier(workdir)
    if earlier is not None and set(earlier) == set(names):
        return earlier
    patients: dict[str, set[str]] = {name: set() for name in names}
    for record in listing.records:
        patients[record.label].add(record.subject)
    counts = {name: len(of_class) for name, of_class in patients.items()}
    # A resumed run that had them by name is not asked either.
    if earlier is None and sys.stdin.isatty() and sys.stdout.isatty():
        return ask(names, counts)
    print(said(names), file=sys.stderr, flush=True)
    return ()


def said(names: Sequence[str]) -> str:
    """The order by name, and how to give another."""
    shown = ", ".join(map(files.escaped, names))
    other = ",".join(map(files.escaped, suggested(names)))
    text = f"Classes by name: {shown}. The first counts as healthy. Another order, such as:"
    return f"{textwrap.fill(text, WIDTH)}\n  --classes={other}"


def suggested(names: Sequence[str]) -> list[str]:
    """An order whose first class sounds healthy; the order itself says nothing of the others."""
    first = [sounding_healthy(names) or names[-1]]
    rest = [name for name in names if name not in first]
    # If that is the order by name already: another one with the same beginning.
    return [*first, *(reversed(rest) if list(names[:1]) == first else rest)]


def ask(names: Sequence[str], patients: Mapping[str, int]) -> tuple[str, ...]:
    """Ask on the terminal until an order is given; Enter takes that of the names.

    Args:
      names: of the classes.
      patients: how many each has.
    """
    shown = ", ".join(f"{files.escaped(name)} ({patients[name]} patients)" for name in names)
    print(textwrap.fill(f"The folder has {len(names)} classes: {shown}.", WIDTH))
    print("Which order, the healthy one first? Names with commas; Enter: as above.")
    while True:
        try:
            answer = input("> ")
        except EOFError:
            return tuple(names)
        if not answer.strip():
            return tuple(names)
        given = tuple(part.strip() for part in answer.split(",") if part.strip())
        if sorted(given) == sorted(names):
            return given
        print(textwrap.fill(_wrong(given, names), WIDTH))


def _wrong(given: Sequence[str], names: Sequence[str]) -> str:
    unknown = [name for name in given if name not in names]
    if unknown:
        shown = files.escaped(unknown[0])
        return f"There is no class {shown}{nearest(unknown[0], names)}; expected {', '.join(names)}"
    missing = [name for name in names if name not in given]
    if missing:
        return f"Name all of them, {', '.join(map(files.escaped, missing))} too."
    return "Name each class once."


def _earlier(workdir: Path) -> tuple[str, ...] | None:
    """The order that the run in a folder was started with, () for that of the names; or None."""
    for name in (run_dir.PROTOCOL, run_dir.RECORD):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):
            record: Any = files.read_json(workdir / name)
            return tuple(map(str, record["config"]["data"]["classes"]))
    return None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What listing warns of is said when the images are read."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
