"""Numbers, shares and names as text for people: aligned, rounded, without control characters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
"""Columns of the terminal and of report.txt."""

# Longer class names are cut to this many characters.
NAME_WIDTH = 20

UNDEFINED = "-"


def clean_name(name: str, width: int = NAME_WIDTH) -> str:
    """A class name for one cell: no control characters, at most `width` characters."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= width else name[: width - 2] + ".."


def clean_file(file: str, width: int) -> str:
    """A file name for one cell, as `clean_name`; a long one keeps its end, which identifies it."""
    file = clean_name(file, len(file))
    return file if len(file) <= width else ".." + file[2 - width :]


def percent(share: float | None) -> str:
    """A share, 0 to 1, as percent with one decimal; a dash for None."""
    return UNDEFINED if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A figure with three decimals; a dash for None."""
    return UNDEFINED if value is None else f"{value:.3f}"


def paragraph(text: str, width: int = WIDTH) -> str:
    """A text in lines of at most so many columns, whatever lines it had; long words stay whole."""
    return textwrap.fill(
        " ".join(text.split()), width, break_long_words=False, break_on_hyphens=False
    )


def align(
    rows: Sequence[Sequence[str]], left: int = 1, together: int = 1, width: int = WIDTH
) -> str:
    """Format rows of equally many cells as aligned columns, two blanks apart.

    A table wider than `width` becomes several, one below the other, each with the columns that are
    flush left.

    Args:
      rows: the cells, the heading first.
      left: how many leading columns are flush left; the others are flush right.
      together: how many of the others belong together, such as a figure and its interval.
      width: of the output, in columns.
    """
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    first, blocks = sum(widths[:left]), [list[int]()]
    for start in range(left, len(widths), together):
        group = list(range(start, min(start + together, len(widths))))
        used = first + sum(widths[index] for index in [*blocks[-1], *group]) - 2
        if used > width and blocks[-1]:
            blocks.append([])
        blocks[-1] += group
    return "\n\n".join(
        _align([[*row[:left], *(row[index] for index in block)] for row in rows], left)
        for block in blocks
    )


def _align(rows: Sequence[Sequence[str]], left: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


SHARES = (
    *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "npv", "f1"),
)


def span(name: str, interval: Sequence[float] | None) -> str:
    """An interval of the metric `name`, in percent for shares; a dash for None."""
    if interval is None:
        return UNDEFINED
    if name in SHARES:
        return share_span(interval)
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def share_span(interval: Sequence[float] | None) -> str:
    """An interval of a share, as `64 to 91 %`; a dash for None."""
    if interval is None:
        return UNDEFINED
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
