"""What is weak about a test that software can see: few of a class, wide intervals, few held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.evaluation.predictions import Predictions
from sscjax.system.formatting import clean_name, span

FEW = 5
"""Subjects of a class in the test below which its own figures say little."""

WIDE = 0.3
"""Width of the interval of an accuracy above which it says little."""

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


def wide(interval: Sequence[float] | None, unit: str) -> list[str]:
    """A warning where the interval of the accuracy is wider than `WIDE`.

    Args:
      interval: its ends, 0 to 1; None where there is none.
      unit: 'subject' or 'image'.
    """
    if interval is None or interval[1] - interval[0] <= WIDE:
        return []
    points = 100 * (interval[1] - interval[0])
    return [
        f"WIDE INTERVAL: the accuracy per {unit} lies in {span('accuracy', interval)}, "
        f"{points:.0f} points: only more subjects make it narrower (sscjax sample-size)."
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
