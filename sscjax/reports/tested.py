"""How a model was tested, as one sentence: '40 patients never seen in training: 32 right, ...'.

It is kept in metrics.json, so that the terminal, the report, an exported file and its page all say
the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.rules import Unit
from sscjax.system import formatting


def names_subjects(predictions: Predictions) -> bool:
    """Whether any row's subject is more than the name of its file."""
    pairs = zip(predictions.subjects.tolist(), predictions.files.tolist(), strict=True)
    return any(subject != re.sub(r"#\d+$", "", file) for subject, file in pairs)


def unit_of(tested: Predictions, by: str) -> Unit:
    """What counts as one test: a subject, or an image where no new subject is tested.

    Args:
      tested: the rows of the test images.
      by: of the split, 'subject' or 'image'.
    """
    return "subject" if names_subjects(tested) and by == "subject" else "image"


def about(
    figures: Mapping[str, Any], ranges: Mapping[str, Any], tested: Predictions, by: str
) -> dict[str, Any]:
    """What the sentence is made of, ready for JSON.

    Args:
      figures: of the test by unit, in `splits` of metrics.json.
      ranges: their intervals by unit, in `test_intervals`.
      tested: the rows of the test images, those of all repeats.
      by: of the split, 'subject' or 'image'.

    Returns:
      unit; number, of different subjects or images; images, different ones; tests, of each on
      average; right, on average; accuracy, 0 to 1, and its interval or null; by, of the split;
      largest, the class with most tests, and its share, 0 to 1.
    """
    unit = unit_of(tested, by)
    own, images = figures[unit], len(set(tested.files.tolist()))
    number = len(set(tested.subjects.tolist())) if unit == "subject" else images
    counts = np.array(own["confusion"]).sum(1)
    largest = int(counts.argmax())
    return {
        "unit": unit,
        "number": number,
        "images": images,
        "tests": own["n"] / number,
        "right": round(own["accuracy"] * number),
        "accuracy": own["accuracy"],
        "interval": ranges[unit]["accuracy"],
        "by": by,
        "largest": own["classes"][largest],
        "share": float(counts[largest] / counts.sum()),
    }


def sentence(test: Mapping[str, Any]) -> str:
    """'40 patients never seen in training: 32 right, 80 % (64 to 91 %)'.

    Args:
      test: what `about` gives.
    """
    seen = "never seen in training"
    if test["by"] == "image":
        seen = "of patients seen in training"
    elif test["unit"] == "image":
        seen = "not trained on"
    noun = {"subject": "patient", "image": "image"}[test["unit"]]
    noun += "" if test["number"] == 1 else "s"
    average = " on average" if test["tests"] > 1 else ""
    return (
        f"{test['number']:,} {noun} {seen}: {test['right']:,} right{average}, "
        f"{100 * test['accuracy']:.0f} %{_span(test['interval'])}"
    )


def detail(test: Mapping[str, Any]) -> str:
    """What goes with the sentence: the kind of interval, how often, and the simplest answer."""
    how = f" Each was tested {test['tests']:.0f} times." if test["tests"] >= 2 else ""
    name = formatting.clean_name(test["largest"])
    return f"95 % confidence interval.{how} Always {name!r}: {100 * test['share']:.0f} %."


def _span(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    return f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)"
