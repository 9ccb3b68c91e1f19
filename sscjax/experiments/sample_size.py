"""How many subjects the next study needs: `sscjax sample-size RUN [OTHER]`.

A finished study is the pilot of the next one. It says how large that must be for intervals of a
given width, and, with two runs on the same images, to show that one is better; with an assurance,
because the pilot's own figures are uncertain (`evaluation.study_size`). The plan takes subjects
like those of the pilot, with classes in the same shares, and the models as they are; what more
TRAINING subjects would gain, `sscjax learning-curve` estimates.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics, paired_tests, study_size
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.study_size import Clustering, Contributions, Plan
from sscjax.experiments import compare, run_predictions
from sscjax.reports import tables
from sscjax.system import files, formatting

WITHIN = (10.0, 7.5, 5.0)
POWER = 0.8

# Below this many subjects their own scatter is not known well enough to plan by.
FEWEST = 10

OVERALL = ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa")
_DIFFERENCES = ("accuracy", "balanced_accuracy", "macro_auroc")

# Images per patient for which patients are planned, beside the pilot's own number.
_IMAGES = (1, 2, 5, 10, 20, 50)


@dataclasses.dataclass(frozen=True)
class Need:
    """One figure and the subjects it needs.

    Attributes:
      name: of the figure, with its class where it has one.
      value: in the pilot.
      interval: its 95 % interval there.
      plans: for each half width, in the requested order.
    """

    name: str
    value: float
    interval: tuple[float, float]
    plans: tuple[Plan, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
      within: half widths of the intervals in percentage points.
      power: probability of showing a true difference.
      assurance: probability that the next study reaches the width, or has the power.
    """

    within: Sequence[float] = WITHIN
    power: float = POWER
    assurance: float = study_size.ASSURANCE

    def check(self) -> None:
        """Raise a UserError for a number out of its range."""
        if any(not 0 < points < 50 for points in self.within):
            raise UserError(f"--within={list(self.within)}: expected points above 0 and below 50")
        for name, value in (("power", self.power), ("assurance", self.assurance)):
            if not 0.5 <= value < 1:
                raise UserError(f"--{name}={value}: expected a probability of 0.5 to less than 1")


def samplesize(
    run: Path,
    other: Path | None = None,
    options: Options | None = None,
    *,
    json_path: Path | None = None,
) -> int:
    """Print how many subjects figures, and a difference, need; 0.

    Raises:
      UserError: anything that the user can fix.
    """
    options = options or Options()
    options.check()
    runs = [run_predictions.read_run(path, "test") for path in (run, other) if path is not None]
    first, ordered = runs[0].predictions, runs[0].ordered
    subjects = len(set(first.subjects.tolist()))
    if subjects < FEWEST:
        raise UserError(
            f"{run} was tested on {subjects} subjects: at least {FEWEST} are needed to plan by; "
            "cross-validate (--config.protocol=kfold), so that every subject is tested"
        )
    half_widths = [points / 100 for points in options.within]
    needs = {
        unit: needs_of(table, half_widths, ordered, options.assurance)
        for unit, table in (("image", first), ("subject", runs[0].subjects))
    }
    print(_text(run, needs, options, first))
    result: dict[str, Any] = {
        "run": str(run),
        "subjects": subjects,
        "within_points": list(options.within),
        "assurance": options.assurance,
        "needs": {
            unit: [dataclasses.asdict(need) for need in entries] for unit, entries in needs.items()
        },
    }
    if len(first) > subjects:
        own = study_size.clustering(first)
        exchange = exchange_of(own, half_widths, options.assurance)
        print("\n" + _exchange_text(own, exchange, options))
        result["clustering"] = {
            "intraclass_correlation": own.correlation,
            "interval": None if own.interval is None else list(own.interval),
            "images_per_subject": own.images,
            "design_effect": own.design_effect(own.images),
            "subjects_by_images": exchange,
        }
    if other is not None:
        one, two = compare.align(runs, intersection=False)
        differences = {
            "image": difference_needs(one.predictions, two.predictions, options),
            "subject": difference_needs(one.subjects, two.subjects, options),
        }
        print("\n" + _difference_text(run, other, differences, options))
        result |= {"other": str(other), "power": options.power, "differences": differences}
    if json_path is not None:
        files.write_json(json_path, result)
    return 0


# --- the arithmetic -------------------------------------------------------------------------------


def fewest_for(wanted: float) -> int:
    """Subjects below which no share is known so well, even if the model is right in all of them.

    Clopper and Pearson's interval of n right of n is as wide as 2 * `wanted`.
    """
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - 2 * wanted) - 1e-9)


def needs_of(
    table: Predictions,
    half_widths: Sequence[float],
    ordered: bool = False,
    assurance: float = study_size.ASSURANCE,
) -> list[Need]:
    """What the figures of a table need: the overall ones, then the shares of each class.

    Args:
      table: test predictions, a row for each image or for each subject.
      half_widths: of the intervals wanted, 0 to 1/2.
      ordered: whether kappa has a meaning.
      assurance: probability that the next study reaches a width.
    """
    values = metrics.figures(table, ordered)
    ranges = intervals.figures(table, ordered)
    shares = study_size.contributions(table, ordered, prior=True)
    others = study_size.contributions(table, ordered, prior=False)
    entries = [(name, name, values[name], ranges[name]) for name in OVERALL]
    for index, (own, its) in enumerate(zip(values["per_class"], ranges["per_class"], strict=True)):
        for name in ("sensitivity", "specificity"):
            entries.append((f"{name} {index}", f"{name} {own['name']}", own[name], its[name]))
    classes = len(set(table.labels.tolist()))
    needs = []
    for key, name, value, span in entries:
        of_area = key in ("macro_auroc", "quadratic_kappa")
        own = (others if of_area else shares).get(key)
        if value is None or span is None or own is None:
            continue
        own = study_size.widened(own, (span[1] - span[0]) / 2)
        plans = tuple(_plan(own, key, half, classes, assurance) for half in half_widths)
        title = tables.figure_title(name) if key == name else name
        needs.append(Need(title, value, (span[0], span[1]), plans))
    return needs


def _plan(own: Contributions, key: str, half: float, classes: int, assurance: float) -> Plan:
    """Subjects for one width; of the balanced accuracy at least what classes all right need."""
    made = study_size.plan(own, half, assurance)
    if key != "balanced_accuracy":
        return made
    # The mean of C independent shares is known better by the root of C.
    each = min(half * math.sqrt(classes), 0.49)
    least = classes * fewest_for(each)
    return Plan(*(max(least, count) for count in (made.subjects, made.low, made.high)))


def exchange_of(
    own: Clustering, half_widths: Sequence[float], assurance: float = study_size.ASSURANCE
) -> dict[int, list[int]]:
    """Patients by images per patient: for each half width of the accuracy per image."""
    numbers = sorted({*_IMAGES, max(1, round(own.images))})
    return {
        images: [
            study_size.subjects_with_images(own, images, half, assurance) for half in half_widths
        ]
        for images in numbers
    }


def subjects_to_show(
    deviation: float | np.ndarray, difference: float, power: float = POWER
) -> float | np.ndarray:
    """Subjects that show a difference in a two-sided test at 5 % with a given power.

    Args:
      deviation: standard deviation of the difference between two subjects' contributions.
      difference: the true one, above 0.
      power: probability of finding it.
    """
    z, z_power = stats.norm.ppf(1 - (1 - LEVEL) / 2), stats.norm.ppf(power)
    return ((z + z_power) * deviation / difference) ** 2


def difference_needs(
    first: Predictions, second: Predictions, options: Options
) -> list[dict[str, Any]]:
    """What it takes to show the differences between two models on the same rows."""
    values = [metrics.figures(table, False) for table in (first, second)]
    ranges = paired_tests.difference_intervals(first, second, False)
    pair = [study_size.contributions(table, False, prior=False) for table in (first, second)]
    needs = []
    for name in _DIFFERENCES:
        span = ranges.get(name)
        if span is None or any(name not in one for one in pair):
            continue
        seen = values[0][name] - values[1][name]
        both = dataclasses.replace(
            pair[0][name], values=pair[0][name].values - pair[1][name].values, value=None
        )
        own = study_size.widened(both, (span[1] - span[0]) / 2)
        deviations = own.widening * own.deviation(own.populations())

        def assured(difference: float, deviations: np.ndarray = deviations) -> int:
            needed = subjects_to_show(deviations, difference, options.power)
            return math.ceil(float(np.quantile(needed, options.assurance)))

        needs.append(
            {
                "name": tables.figure_title(name),
                "difference": seen,
                "interval": [span[0], span[1]],
                "for_seen": assured(abs(seen)) if seen else None,
                "for_points": {points: assured(points / 100) for points in (10, 5)},
            }
        )
    return needs


# --- what is printed ------------------------------------------------------------------------------


def _text(
    run: Path, needs: Mapping[str, Sequence[Need]], options: Options, table: Predictions
) -> str:
    subjects = len(set(table.subjects.tolist()))
    blocks = [
        f"{formatting.clean_file(str(run), 40)}: {len(table)} images of {subjects} subjects tested"
    ]
    for unit, entries in needs.items():
        lines = [[f"per {unit}", "here", *(f"+-{points:g} points" for points in options.within)]]
        for need in entries:
            show = (
                formatting.number
                if "kappa" in need.name or "AUROC" in need.name
                else (formatting.percent)
            )
            cells = [formatting.clean_name(need.name, 30), show(need.value)]
            lines.append([*cells, *map(_cell, need.plans)])
        blocks.append(formatting.align(lines))
    blocks.append(
        _paragraph(
            "Subjects in all, with classes in the same shares, with which the next study's 95 % "
            "interval reaches so far to either side with a probability of "
            f"{options.assurance:.0%}; in brackets the range that the pilot leaves open (90 %), by "
            "the width to be expected. Points of AUROC and kappa are hundredths. Plan for some "
            "that cannot be used."
        )
    )
    return "\n\n".join(blocks)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, formatting.WIDTH, break_on_hyphens=False)


def _cell(plan: Plan) -> str:
    return f"{plan.subjects:,} ({plan.low:,}-{plan.high:,})"


def _exchange_text(own: Clustering, exchange: Mapping[int, Sequence[int]], options: Options) -> str:
    lines = [["images per patient", *(f"+-{points:g} points" for points in options.within)]]
    for images, counts in exchange.items():
        lines.append([str(images), *(f"{count:,}" for count in counts)])
    return f"{formatting.align(lines)}\n\n" + _paragraph(
        "Patients for the accuracy per image, with the same assurance: more images of a patient "
        "replace more patients only as far as they differ. Intraclass correlation of right and "
        f"wrong: {own.correlation:.2f} ({formatting.span('', own.interval)}); the pilot's "
        f"{own.images:.0f} images per patient count as "
        f"{own.images / own.design_effect(own.images):.1f} independent ones (design effect "
        f"{own.design_effect(own.images):.1f})."
    )


def _difference_text(
    run: Path,
    other: Path,
    differences: Mapping[str, Sequence[Mapping[str, Any]]],
    options: Options,
) -> str:
    lines = [["A - B", "difference", "95 % interval", "to show that", "10 points", "5 points"]]
    for unit, entries in differences.items():
        for entry in entries:
            low, high = (100 * value for value in entry["interval"])
            seen = formatting.UNDEFINED if entry["for_seen"] is None else f"{entry['for_seen']:,}"
            cells = [f"{entry['name']} per {unit}", f"{100 * entry['difference']:+.1f}"]
            cells += [f"{low:+.1f} to {high:+.1f}", seen]
            lines.append([*cells, *(f"{number:,}" for number in entry["for_points"].values())])
    return (
        f"A = {formatting.clean_file(str(run), formatting.WIDTH - 4)}\n"
        f"B = {formatting.clean_file(str(other), formatting.WIDTH - 4)}\n\n"
        f"{formatting.align(lines)}\n\n"
        + _paragraph(
            "Differences in percentage points, of AUROC in hundredths. Subjects to show one at "
            f"p < 0.05 with a power of {options.power:.0%}, with the assurance above: one as large "
            "as that seen here, of 10 and of 5 points. The one seen is itself uncertain: see its "
            "interval."
        )
    )
