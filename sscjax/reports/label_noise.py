"""Suspect labels as a table for programs, as text, and with the images to look at."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sscjax.data.lazy import Rows
from sscjax.errors import UserError
from sscjax.evaluation.label_noise import Suspects
from sscjax.reports import figures
from sscjax.system import files, formatting

COLUMNS = (
    *("list", "rank", "file", "subject", "label", "suggested", "p_label", "p_suggested", "score"),
    *("listed", "confident"),
)

HEADING = ("name", "label", "predicted", "with", "label's", "confident")

# Rows of the text, and images of the picture.
MOST_SHOWN = 8
MOST_PICTURES = 24

NOTE = (
    "Labels that models which never saw the patient contradict, the strongest first: to be looked "
    "at again, not to be changed. Subjects: by the mean over their images. Images: contradicted "
    "by more than the others of their subject. Most are no errors (docs/results.md); 'yes' under "
    "confident: by the thresholds of confident learning (Northcutt et al. 2021)."
)


def csv_rows(images: Suspects, subjects: Suspects) -> Iterator[list[Any]]:
    """All subjects and images in the order of their rank, the heading first."""
    yield list(COLUMNS)
    for kind, suspects in (("subjects", subjects), ("images", images)):
        for row in range(len(suspects)):
            yield [
                *(kind, row + 1, str(suspects.names[row]) if kind == "images" else ""),
                str(suspects.subjects[row]),
                suspects.classes[suspects.labels[row]],
                suspects.classes[suspects.suggested[row]],
                *(float(suspects.self_confidence[row]), float(suspects.suggested_confidence[row])),
                float(suspects.scores[row]),
                *("yes" if flag else "no" for flag in _flags(suspects, row)),
            ]


def _flags(suspects: Suspects, row: int) -> tuple[bool, bool]:
    return bool(suspects.listed[row]), bool(suspects.confident[row])


def text(images: Suspects, subjects: Suspects) -> str:
    """The first of each list, for the report of a cross-validation."""
    blocks = []
    for kind, suspects in (("subject", subjects), ("image", images)):
        rows = table(suspects, MOST_SHOWN)
        if len(rows) > 1:
            count = int(suspects.listed.sum())
            rows[0][0] = f"{kind}s whose label to check: {count} of {len(suspects)}"
            blocks.append(formatting.align(rows))
    if not blocks:
        return "No label is contradicted by models that never saw its patient."
    return "\n\n".join([*blocks, formatting.paragraph(NOTE)])


def table(suspects: Suspects, most: int) -> list[list[str]]:
    """The first listed rows as cells, the heading first."""
    rows = [list(HEADING)]
    for row in range(min(most, int(suspects.listed.sum()))):
        rows.append(
            [
                formatting.clean_file(str(suspects.names[row]), 40),
                formatting.clean_name(suspects.classes[suspects.labels[row]], 14),
                formatting.clean_name(suspects.classes[suspects.suggested[row]], 14),
                formatting.percent(float(suspects.suggested_confidence[row])),
                formatting.percent(float(suspects.self_confidence[row])),
                "yes" if suspects.confident[row] else "no",
            ]
        )
    return rows


def read_rows(path: Path) -> dict[str, list[list[str]]]:
    """The first listed rows of a file of `csv_rows`, as the cells of `table`, by list.

    Raises:
      UserError: the file is not such a table.
    """
    cells: dict[str, list[list[str]]] = {"subjects": [], "images": []}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows = cells[row["list"]]
                if row["listed"] == "yes" and len(rows) < MOST_SHOWN:
                    name = row["file"] if row["list"] == "images" else row["subject"]
                    names = map(files.csv_name, (name, row["label"], row["suggested"]))
                    shares = (float(row[key]) for key in ("p_suggested", "p_label"))
                    rows.append([*names, *map(formatting.percent, shares), row["confident"]])
    except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): give the run's command again"
        ) from error
    return {kind: [list(HEADING), *rows] for kind, rows in cells.items() if rows}


def picture(images: Suspects, names: Any, pixels: Rows) -> Figure | None:
    """The first listed images with label and suggested class; None where none is listed.

    Args:
      images: as `label_noise.suspects` gives them.
      names: [N] str, the files of the images.
      pixels: [N,H,W,3] uint8.
    """
    count = min(MOST_PICTURES, int(images.listed.sum()))
    if not count:
        return None
    place = {name: row for row, name in enumerate(names.tolist())}
    panels = []
    for row in range(count):
        label, suggested = (
            formatting.clean_name(images.classes[one[row]], 12)
            for one in (images.labels, images.suggested)
        )
        title = f"{row + 1}. {label}, or {suggested}?"
        panels.append((title, pixels[place[str(images.names[row])]]))
    return figures.image_sheet("Images whose label to check", panels, columns=min(count, 6))
