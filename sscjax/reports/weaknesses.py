"""What is weak about a test that software can see: few of a class, wide intervals, few held out.

They are found once, at the end of a run, and kept among the warnings of metrics.json: the terminal,
report.txt, report.html and exported files say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.rules import Unit
from sscjax.reports import tested as tests
from sscjax.system.formatting import clean_name, span

FEW = 5
"""Subjects of a class in the test below which its own figures say little."""

WIDE = 0.3
"""Width of an interval above which its figure says little."""

FEW_HELD_OUT = 20
"""Subjects below which rules that are chosen on them may fit these few alone."""


# One argument for each file of the run that it is found in.
def find(
    tested: Predictions,
    classes: Sequence[str],
    ranges: Mapping[str, Any],
    calibration: Mapping[str, Any],
    audit: Mapping[str, Any],
    by: str,
) -> list[str]:
    """What is weak about a test, a sentence or two each, the gravest first.

    Args:
      tested: the rows of the test images.
      classes: names of the classes, without outputs of the network that stand for none.
      ranges: intervals of its figures by unit, in `test_intervals` of metrics.json.
      calibration: calibration.json.
      audit: audit.json; what leaks is a warning of its own.
      by: of the split, 'subject' or 'image'.
    """
    if not len(tested):
        lines = [
            "NO TEST IMAGES: the figures are of images that the model was chosen or fitted by."
        ]
        return [*lines, *few_held_out(calibration), *audited(audit)]
    unit = tests.unit_of(tested, by)
    few = few_of_a_class(tested, classes, unit)
    return [
        *few,
        *wide(ranges.get(unit) or {}, unit),
        *few_held_out(calibration),
        *audited(audit, known=("few_subjects",) if few else ()),
    ]


def calm(warning: str) -> str:
    """A warning that does not begin in capitals, on one line: 'NO SUBJECTS: ...' as 'No subjects'.

    What follows the first colon or comma stays as it is: names of classes, and AUROC.
    """
    words = warning.split()
    end = 0
    while end < len(words) and not re.search("[a-z]", words[end]):
        end += 1
        if words[end - 1][-1] in ":,":
            break
    line = " ".join([*map(str.lower, words[:end]), *words[end:]])
    return line[:1].upper() + line[1:]


def audited(audit: Mapping[str, Any], known: tuple[str, ...] = ()) -> list[str]:
    """What the audit warns of.

    Args:
      audit: audit.json, {} where there is none.
      known: kinds of findings that another warning names.
    """
    return [
        f"AUDIT: {finding.get('title', finding.get('kind', ''))}."
        for finding in audit.get("findings", [])
        if finding.get("severity") == "warning" and finding.get("kind") not in known
    ]


def few_of_a_class(tested: Predictions, classes: Sequence[str], unit: Unit) -> list[str]:
    """Classes with fewer than `FEW` different subjects, or images, in the test; also with none.

    Args:
      tested: the rows of the test images.
      classes: names of the classes.
      unit: 'subject' or 'image'.
    """
    few = []
    for label, name in enumerate(classes):
        units = tested.subjects if unit == "subject" else tested.files
        count = len(set(units[tested.labels == label].tolist()))
        if count < FEW:
            few.append(f"{count} of {clean_name(name)}")
    if not few:
        return []
    return [
        f"FEW TEST {unit.upper()}S OF A CLASS: {', '.join(few)}. Figures of a class with "
        f"fewer than {FEW} say little."
    ]


_WIDTHS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auroc": "mean AUROC",
}


def wide(ranges: Mapping[str, Any], unit: Unit) -> list[str]:
    """A warning where the interval of a figure that counts most is wider than `WIDE`.

    Args:
      ranges: of a unit, in `test_intervals` of metrics.json.
      unit: 'subject' or 'image'.
    """
    found = [
        f"{title} {span(key, ends)}"
        for key, title in _WIDTHS.items()
        if (ends := ranges.get(key)) is not None and ends[1] - ends[0] > WIDE
    ]
    if not found:
        return []
    return [
        f"WIDE INTERVALS, of more than {100 * WIDE:.0f} points per {unit}: {', '.join(found)}. "
        "Only more subjects make them narrower (sscjax sample-size)."
    ]


def few_held_out(calibration: Mapping[str, Any]) -> list[str]:
    """A warning where thresholds and temperature rest on few subjects.

    Args:
      calibration: calibration.json, {} where there is none.
    """
    count = (calibration.get("held_out") or {}).get("subjects")
    if count is None or count >= FEW_HELD_OUT:
        return []
    if not count:
        return [
            "NO THRESHOLDS WERE CHOSEN, for no subjects could be held out for them: probabilities "
            "are as the network gave them, and it always answers."
        ]
    return [
        f"THRESHOLDS FROM {count} SUBJECT{'' if count == 1 else 'S'}: temperature, thresholds and "
        f"prediction sets were chosen on them, fewer than {FEW_HELD_OUT}: for others they may be "
        "wrong."
    ]
