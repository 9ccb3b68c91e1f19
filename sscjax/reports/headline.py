"""The end of a run on the terminal: the figure that counts, what is weak about it, what is next.

Made from the run's folder alone, in at most `LINES` lines of `WIDTH` columns. Everything else
stands in the report.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.evaluation.predictions import Predictions
from sscjax.reports.html.sections import names_subjects
from sscjax.system import files, formatting, run_dir, terminal

LINES, WIDTH = 24, 80

# Patients of a class below which its own figures say little, and the width of an interval of the
# accuracy, in points, above which the whole does.
FEW, WIDE = 5, 30

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
    ending = ["", *_end(folder, run).splitlines()]
    room = LINES - len(first) - len(ending) - 2
    return "\n".join([*first, *_list(found, room), *ending])


def figure_and_weaknesses(folder: Path) -> tuple[list[str], list[str]]:
    """The lines of the figure that counts, and what is weak about it; both [] without a test.

    Args:
      folder: of a finished run or cross-validation.

    Raises:
      UserError: a file in it is missing or damaged.
    """
    run = run_dir.RunDir(folder)
    metrics, audit = run.metrics(), run.optional(run_dir.AUDIT) or {}
    tested = Predictions.read_csv(run.predictions).where("test")
    if "test" not in metrics["splits"] or not len(tested):
        return [], []
    return _first(metrics, tested), weaknesses(metrics, tested, audit)


# --- the figure -----------------------------------------------------------------------------------


def _first(metrics: Mapping[str, Any], tested: Predictions) -> list[str]:
    """'40 patients never seen in training: 32 right, 80 % (64 to 91 %)', and what goes with it."""
    unit = "subject" if _by_patient(metrics, tested) else "image"
    figures, ranges = metrics["splits"]["test"][unit], metrics["test_intervals"][unit]
    units = tested.subjects if unit == "subject" else tested.files
    number = len(set(units.tolist()))
    tests = figures["n"] / number if number else 0.0
    right = round(figures["accuracy"] * number)
    average = " on average" if tests > 1 else ""
    seen = "never seen in training"
    if any(line.startswith("SPLIT BY IMAGE") for line in metrics["warnings"]):
        seen = "of patients seen in training"
    elif unit == "image":
        seen = "not trained on"
    noun = {"subject": "patient", "image": "image"}[unit] + ("" if number == 1 else "s")
    share = f"{100 * figures['accuracy']:.0f} %"
    span = _span(ranges["accuracy"])
    lines = [f"{number:,} {noun} {seen}: {right:,} right{average}, {share}{span}"]
    counts = np.array(figures["confusion"]).sum(1)
    largest = int(counts.argmax())
    name = formatting.clean_name(figures["classes"][largest])
    how = f" Each was tested {tests:.0f} times." if tests >= 2 else ""
    always = 100 * counts[largest] / counts.sum()
    lines.append(f"95 % confidence interval.{how} Always {name!r}: {always:.0f} %.")
    return [line for one in lines for line in textwrap.wrap(one, WIDTH)]


def _by_patient(metrics: Mapping[str, Any], tested: Predictions) -> bool:
    split_by_image = any(line.startswith("SPLIT BY IMAGE") for line in metrics["warnings"])
    return names_subjects(tested) and not split_by_image


def _span(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    return f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)"


# --- what is weak about it ------------------------------------------------------------------------


def weaknesses(
    metrics: Mapping[str, Any], tested: Predictions, audit: Mapping[str, Any]
) -> list[str]:
    """What a reader of the figure must know, a sentence or two each, the gravest first.

    Args:
      metrics: metrics.json.
      tested: the rows of the test images.
      audit: audit.json, {} where there is none.
    """
    lines = [_calm(warning) for warning in metrics["warnings"]]
    if _by_patient(metrics, tested):
        lines += _few(tested)
        interval = metrics["test_intervals"]["subject"]["accuracy"]
        width = 100 * (interval[1] - interval[0]) if interval else 0.0
        if width > WIDE:
            lines.append(
                f"The interval is {width:.0f} points wide: only more patients make it narrower "
                "(sscjax sample-size)."
            )
    leaks = any(line.startswith("LEAKAGE") for line in metrics["warnings"])
    for finding in audit.get("findings", []):
        severity = finding.get("severity")
        if severity == "warning" or (severity == "leak" and not leaks):
            lines.append(f"Audit: {finding.get('title', finding.get('kind', ''))}.")
    return lines


def _calm(warning: str) -> str:
    """A warning of the report without capitals: 'NO SUBJECTS: ...' as 'No subjects: ...'."""
    words = [
        word.lower() if re.fullmatch(r"[A-Z]{2,}[:,.;]?", word) or word == "A" else word
        for word in warning.split()
    ]
    line = " ".join(words)
    return line[:1].upper() + line[1:]


def _few(tested: Predictions) -> list[str]:
    """Classes with fewer than `FEW` patients in the test."""
    few = []
    for label, name in enumerate(tested.classes):
        count = len(set(tested.subjects[tested.labels == label].tolist()))
        if 0 < count < FEW:
            few.append(f"{count} of {formatting.clean_name(name)}")
    if not few:
        return []
    return [f"Few patients of a class: {', '.join(few)}. Its own figures say little."]


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
    if run.has(run_dir.RECORD) or run.handed_on.has(run_dir.RECORD):
        lines.append(f"  sscjax export {quoted} --format=web --out=PAGE")
    page = run_dir.PAGE if run.has(run_dir.PAGE) else run_dir.REPORT
    lines.append(f"Report: {files.escaped(str(Path(shown) / page))}")
    return "\n".join(lines)


def _relative(folder: Path) -> str:
    """The folder as short as it can be named from here."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(folder)
