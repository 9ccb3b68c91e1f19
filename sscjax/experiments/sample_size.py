"""How many subjects the next study needs: `sscjax sample-size RUN [OTHER]`.

An interval by subject shrinks with the root of the number of subjects, so a finished study says how
large the next one must be: for a figure within so many points, and, with two runs on the same
images, to show that one is better. It takes subjects like those of the study, with as many images
each and classes in the same shares, and the models as they are; a test set cannot say what more
TRAINING subjects would gain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics, paired_tests
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import compare
from sscjax.reports import tables
from sscjax.system import files, formatting

WITHIN = (10.0, 7.5, 5.0)
POWER = 0.8

# Below this many subjects their own scatter is not known well enough to plan by.
FEWEST = 10

SHARES = ("accuracy", "balanced_accuracy")


@dataclasses.dataclass(frozen=True)
class Need:
    """One figure and the subjects it needs.

    Attributes:
      name: of the figure, with its class where it has one.
      value: in the study, 0 to 1.
      interval: its 95 % interval there.
      subjects: that the interval rests on.
      wanted: subjects for each half width, in the requested order.
    """

    name: str
    value: float
    interval: tuple[float, float]
    subjects: int
    wanted: tuple[int, ...]


def samplesize(
    run: Path,
    other: Path | None = None,
    *,
    within: Sequence[float] = WITHIN,
    power: float = POWER,
    json_path: Path | None = None,
) -> int:
    """Print how many subjects figures, and a difference, need; 0.

    Raises:
      UserError: anything that the user can fix.
    """
    if any(not 0 < points < 50 for points in within):
        raise UserError(f"--within={list(within)}: expected points above 0 and below 50")
    if not 0.5 <= power < 1:
        raise UserError(f"--power={power}: expected a chance of 0.5 to less than 1")
    runs = [compare.read_run(path, "test") for path in (run, other) if path is not None]
    first = runs[0].predictions
    subjects = len(set(first.subjects.tolist()))
    if subjects < FEWEST:
        raise UserError(
            f"{run} was tested on {subjects} subjects: at least {FEWEST} are needed to plan by; "
            "cross-validate (--config.protocol=kfold), so that every subject is tested"
        )
    needs = {
        unit: needs_of(table, [points / 100 for points in within])
        for unit, table in (("image", first), ("subject", first.by_subject()))
    }
    print(_text(run, needs, within, first))
    found: dict[str, Any] = {
        "run": str(run),
        "subjects": subjects,
        "within_points": list(within),
        "needs": {unit: [dataclasses.asdict(one) for one in some] for unit, some in needs.items()},
    }
    if other is not None:
        aligned = compare.align(runs, intersection=False)
        pair = [one.predictions for one in aligned]
        differences = {
            "image": difference_needs(pair[0], pair[1], power),
            "subject": difference_needs(pair[0].by_subject(), pair[1].by_subject(), power),
        }
        print("\n" + _difference_text(run, other, differences, power))
        found |= {"other": str(other), "power": power, "differences": differences}
    if json_path is not None:
        files.write_json(json_path, found)
    return 0


# --- the arithmetic -------------------------------------------------------------------------------


def subjects_for(subjects: int, half_width: float, wanted: float) -> int:
    """How many subjects give an interval of half width `wanted`, where some gave `half_width`."""
    return math.ceil(subjects * (half_width / wanted) ** 2 - 1e-9)


def subjects_to_show(
    subjects: int, half_width: float, difference: float, power: float = POWER
) -> int:
    """How many subjects show a difference in a two-sided test at 5 % with a given chance.

    Args:
      subjects: of the study.
      half_width: of its 95 % interval of the difference.
      difference: the true one, above 0.
      power: chance to find it.
    """
    z, z_power = stats.norm.ppf(1 - (1 - intervals.LEVEL) / 2), stats.norm.ppf(power)
    return subjects_for(subjects, half_width * (z + z_power) / z, difference)


def fewest_for(wanted: float) -> int:
    """Subjects below which no share is known so well, even if the model is right in all of them.

    Clopper and Pearson's interval of n right of n is as wide as 2 * `wanted`.
    """
    return math.ceil(math.log((1 - intervals.LEVEL) / 2) / math.log(1 - 2 * wanted) - 1e-9)


def needs_of(table: Predictions, half_widths: Sequence[float]) -> list[Need]:
    """What the shares of a table need: the overall ones, then those of each class.

    Args:
      table: test predictions, a row for each image or for each subject.
      half_widths: of the intervals wanted, 0 to 1/2.
    """
    values = metrics.figures(table, False)
    ranges = intervals.figures(table, False)
    labels = table.by_subject().labels
    everyone = len(labels)
    entries = [(tables.figure_title(name), values[name], ranges[name], everyone) for name in SHARES]
    for index, (one, its) in enumerate(zip(values["per_class"], ranges["per_class"], strict=True)):
        with_class = int((labels == index).sum())
        counts = {"sensitivity": with_class, "specificity": everyone - with_class}
        entries += [
            (f"{name} {one['name']}", one[name], its[name], count) for name, count in counts.items()
        ]
    return [
        Need(
            name,
            value,
            (span[0], span[1]),
            everyone,
            tuple(
                max(
                    subjects_for(everyone, (span[1] - span[0]) / 2, half),
                    math.ceil(fewest_for(half) * everyone / count),
                )
                for half in half_widths
            ),
        )
        for name, value, span, count in entries
        if value is not None and span is not None and count
    ]


def difference_needs(first: Predictions, second: Predictions, power: float) -> list[dict[str, Any]]:
    """What it takes to show the differences between two models on the same rows."""
    values = [metrics.figures(one, False) for one in (first, second)]
    ranges = paired_tests.difference_intervals(first, second, False)
    subjects = len(set(first.subjects.tolist()))
    found = []
    for name in SHARES:
        span = ranges.get(name)
        if span is None:
            continue
        seen, half = values[0][name] - values[1][name], (span[1] - span[0]) / 2
        found.append(
            {
                "name": tables.figure_title(name),
                "difference": seen,
                "interval": [span[0], span[1]],
                "for_seen": subjects_to_show(subjects, half, abs(seen), power) if seen else None,
                "for_points": {
                    points: subjects_to_show(subjects, half, points / 100, power)
                    for points in (10, 5)
                },
            }
        )
    return found


# --- what is printed ------------------------------------------------------------------------------


def _text(
    run: Path, needs: Mapping[str, Sequence[Need]], within: Sequence[float], table: Predictions
) -> str:
    some = len(set(table.subjects.tolist()))
    blocks = [
        f"{formatting.clean_file(str(run), 50)}: {len(table)} images of {some} subjects tested"
    ]
    for unit, entries in needs.items():
        rows = [[f"per {unit}", "here", "95 % interval", *(f"+-{p:g} points" for p in within)]]
        for one in entries:
            span = f"{100 * one.interval[0]:.1f} to {100 * one.interval[1]:.1f} %"
            cells = [formatting.clean_name(one.name, 34), formatting.percent(one.value), span]
            rows.append([*cells, *(f"{number:,}" for number in one.wanted)])
        blocks.append(formatting.align(rows))
    blocks.append(
        "Subjects in all, with classes in the same shares, whose 95 % interval reaches so far to\n"
        "either side: an interval by subject shrinks with the root of their number; never fewer\n"
        "than would do if all were right. Plan for some that cannot be used."
    )
    return "\n\n".join(blocks)


def _difference_text(
    run: Path, other: Path, found: Mapping[str, Sequence[Mapping[str, Any]]], power: float
) -> str:
    rows = [["A - B", "difference", "95 % interval", "to show that", "10 points", "5 points"]]
    for unit, entries in found.items():
        for one in entries:
            low, high = (100 * value for value in one["interval"])
            seen = formatting.UNDEFINED if one["for_seen"] is None else f"{one['for_seen']:,}"
            cells = [f"{one['name']} per {unit}", f"{100 * one['difference']:+.1f} %"]
            cells += [f"{low:+.1f} to {high:+.1f} %", seen]
            rows.append([*cells, *(f"{number:,}" for number in one["for_points"].values())])
    return (
        f"A = {formatting.clean_file(str(run), 90)}\n"
        f"B = {formatting.clean_file(str(other), 90)}\n\n"
        f"{formatting.align(rows)}\n\n"
        f"Subjects to show a difference at p < 0.05 with a chance of {power:.0%}: one as large as\n"
        "that seen here, of 10 and of 5 points. The one seen is itself uncertain: see its interval."
    )
