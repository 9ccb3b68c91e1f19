"""The end of a run on the terminal: the figure that counts, what is weak about it, what is next.

Made from the run's folder alone, in at most `LINES` lines of `WIDTH` columns. Everything else
stands in the report.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from sscjax.models.factory import BACKBONES
from sscjax.reports import tested, weaknesses
from sscjax.system import files, run_dir, terminal

LINES, WIDTH = 24, 80

# Lines that a weakness may take; the rest of it stands in the report.
_LINES_EACH = 2


def text(folder: Path) -> str:
    """The closing lines of a finished run or cross-validation.

    Args:
      folder: of it.

    Raises:
      UserError: a file in it is missing or damaged.
    """
    run = run_dir.RunDir(folder)
    first, found = figure_and_weaknesses(folder)
    if not first:
        return _end(folder, run)
    lines = [line for one in first for line in textwrap.wrap(one, WIDTH)]
    ending = ["", *_end(folder, run).splitlines()]
    room = LINES - len(lines) - len(ending) - 2
    return "\n".join([*lines, *_list(found, room), *ending])


def figure_and_weaknesses(folder: Path) -> tuple[list[str], list[str]]:
    """What counts of a test, in two sentences, and what is weak about it; both [] without a test.

    Args:
      folder: of a finished run or cross-validation.

    Raises:
      UserError: a file in it is missing or damaged.
    """
    metrics = run_dir.RunDir(folder).metrics()
    test = metrics.get("tested")
    if test is None:
        return [], []
    first = [tested.sentence(test), tested.detail(test)]
    return first, [weaknesses.calm(warning) for warning in metrics["warnings"]]


# --- what is weak about it ------------------------------------------------------------------------


def _list(found: Sequence[str], room: int) -> list[str]:
    """The weaknesses in at most so many lines and a heading."""
    if not found:
        return ["", "Nothing that the software can see is weak about it. Read the limits, though."]
    lines = ["", "What is weak about it:"]
    for index, one in enumerate(found):
        wrapped = textwrap.wrap(
            files.escaped(one),
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            max_lines=_LINES_EACH,
            placeholder=" ...",
        )
        left = len(found) - index - 1
        if len(wrapped) + (1 if left else 0) > room:
            lines.append(f"- and {left + 1} more: see the report")
            break
        lines += wrapped
        room -= len(wrapped)
    return lines


# --- what is next ---------------------------------------------------------------------------------


def _end(folder: Path, run: run_dir.RunDir) -> str:
    """The commands that go on from here, and the report."""
    shown = _relative(folder)
    quoted = terminal.again([shown])
    lines = []
    if run.has(run_dir.PROTOCOL) and run.handed_on.has(run_dir.RECORD):
        lines += textwrap.wrap(
            "The model to hand on is fitted to all of them; its figures are those above.", WIDTH
        )
    lines += ["Next:", f"  sscjax predict {quoted} NEW_IMAGES"]
    if _can_be_exported(run):
        lines.append(f"  sscjax export {quoted} --format=web --out=PAGE")
    page = run_dir.PAGE if run.has(run_dir.PAGE) else run_dir.REPORT
    lines.append(f"Report: {files.escaped(str(Path(shown) / page))}")
    return "\n".join(lines)


def _can_be_exported(run: run_dir.RunDir) -> bool:
    """Whether there is one model, of a network that can be written for other programs."""
    own = next((one for one in (run, run.handed_on) if one.has(run_dir.RECORD)), None)
    if own is None:
        return False
    config = (own.optional(run_dir.RECORD) or {}).get("config", {})
    row = BACKBONES.get(config.get("model", {}).get("name", ""))
    return row is None or row.exported


def _relative(folder: Path) -> str:
    """The folder as short as it can be named from here."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(folder)
