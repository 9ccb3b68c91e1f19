"""What is weak about a test that software can see: few of a class, wide intervals, few held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sscjax.evaluation.predictions import Predictions
from sscjax.system.formatting import clean_name, span

FEW = 5
"""Subjects of a class in the test below which its own figures say little."""

WIDE = 0.3
"""Width of an interval above which its figure says little."""

FEW_HELD_OUT = 20
"""Subjects below which rules that are chosen on them may fit these few alone."""


def few_of_a_class(tested: Predictions, unit: str) -> list[str]:
    """Classes with fewer than `FEW` rows in the test; a class with none is named as well.

    Args:
      tested: test rows, one for each subject or image.
      unit: 'subject' or 'image'.
    """
    few = []
    for label, name in enumerate(tested.classes):
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


def wide(ranges: Mapping[str, Any], unit: str) -> list[str]:
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
    return [
        f"THRESHOLDS FROM {count} SUBJECT{'' if count == 1 else 'S'}: temperature, thresholds and "
        f"prediction sets were chosen on them, fewer than {FEW_HELD_OUT}: for others they may be "
        "wrong."
    ]
