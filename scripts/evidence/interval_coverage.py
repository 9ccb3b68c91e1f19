"""How often 95 % intervals hold the true value, in small and unequal designs.

    # The whole grid, 300 tables for each design, or a part of it:
    python scripts/evidence/interval_coverage.py
    python scripts/evidence/interval_coverage.py --repeats 100 --every 4 --again 600

Tables of predictions are drawn from a population whose figures are known, and every interval that
`sscjax.evaluation` gives is compared with them. A table without an interval counts neither as held
nor as missed; the share of tables that have one is printed.

Of some ten thousand shares a few are low by chance. With `--again` a design in which a figure was
held in fewer than 93 % of the tables is simulated again for that figure with so many new tables,
and the new share stands in place of the old one.

The population: the scores of an image are normal around means by its class, with a part that all
images of a subject share. The part is chosen for the intraclass correlation of right and wrong, the
means for the accuracy; the probabilities are the softmax of the scores, calibrated or twice as
confident. What is true of a table is the figure of a population with as many images of each class:
per image its mean over images, per subject its mean over subjects, each with the mean
probabilities of its images.

Run with a checkout of an earlier version on PYTHONPATH, it measures that version:

    git worktree add ../before 5a2fde5
    PYTHONPATH=../before python scripts/evidence/interval_coverage.py --every 8 --repeats 60
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from coverage_population import BINS, UNITS, Design, Interval, grid, table, truth_of

from sscjax.evaluation import calibration, curves, intervals
from sscjax.evaluation.predictions import Predictions
from sscjax.system import formatting

# The share of tables that is asked for; seed of the first table that is drawn again.
_HELD, _AGAIN = 0.93, 100_000

# --- intervals ------------------------------------------------------------------------------------


def given(rows: Predictions, quick: bool = False) -> dict[str, Interval | None]:
    """The interval of every figure that this version of the package gives.

    Args:
      rows: a table of predictions.
      quick: leave out log loss, Brier score and calibration error.
    """
    if hasattr(intervals, "estimates"):
        known = (intervals.without_losses if quick else intervals.estimates)(rows, True)
        ends = {name: one.interval for name, one in known.items()}
    else:
        ends = _given_before(rows)
    return {name: None if pair is None else (pair[0], pair[1]) for name, pair in ends.items()}


def _given_before(rows: Predictions) -> dict[str, list[float] | None]:
    """The same of a version without `intervals.estimates`."""
    content = intervals.figures(rows, True)
    quality = calibration.quality(rows, BINS, "mass")
    ends = {name: content[name] for name in ("accuracy", "balanced_accuracy", "macro_auroc")}
    ends |= {name: content[name] for name in ("quadratic_kappa", "log_loss")}
    ends |= {name: quality[f"{name}_interval"] for name in ("brier", "ece")}
    for index, entry in enumerate(content["per_class"]):
        name = entry.pop("name")
        ends |= {f"{kind} {name}": pair for kind, pair in entry.items()}
        pair = curves.curves(rows, index)
        ends[f"average_precision {name}"] = None if pair is None else pair[1].interval
    return ends


def edges_of(rows: Predictions) -> np.ndarray:
    """The bins of the calibration error."""
    number = int(np.clip(len(rows) // 10, 1, BINS))
    return np.quantile(rows.confidence, np.linspace(0, 1, number + 1))


@dataclasses.dataclass(frozen=True)
class Held:
    """One figure in all tables of one design.

    Attributes:
      figure: its name, with its class.
      unit: 'image' or 'subject'.
      design: the design.
      tables: how many had an interval.
      held: in how many it held the truth.
      drawn: how many there were.
      width: median of the intervals' widths.
    """

    figure: str
    unit: str
    design: str
    tables: int
    held: int
    drawn: int
    width: float

    @property
    def share(self) -> float:
        """Of the tables with an interval, those in which it held the truth."""
        return self.held / self.tables


def measure(
    design: Design, repeats: int, first: int = 0, size: int = 6000, quick: bool = False
) -> Iterator[Held]:
    """All figures and classes of one design, per image and per subject.

    Args:
      design: that tables are drawn from.
      repeats: number of tables.
      first: seed of the first one.
      size: subjects of the population whose figures are true.
      quick: see `given`.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    drawn: dict[tuple[str, str], int] = {}
    for seed in range(first, first + repeats):
        images = table(design, seed)
        for unit, rows in zip(UNITS, (images, images.by_subject()), strict=True):
            counts = np.bincount(rows.labels, minlength=len(rows.classes)).astype(float)
            truth = truth_of(design, unit, size)
            known = truth.figures(counts, edges_of(rows), rows.classes)
            for name, ends in given(rows, quick).items():
                key = (name, unit)
                drawn[key] = drawn.get(key, 0) + 1
                if ends is not None:
                    inside = ends[0] - 1e-9 <= known[name] <= ends[1] + 1e-9
                    found.setdefault(key, []).append((inside, ends[1] - ends[0]))
    for (name, unit), count in drawn.items():
        pairs = found.get((name, unit), [])
        held, widths = (list(column) for column in zip(*pairs, strict=True)) if pairs else ([], [])
        width = float(np.median(widths)) if widths else float("nan")
        yield Held(name, unit, str(design), len(pairs), int(sum(held)), count, width)


def again(design: Design, measured: list[Held], repeats: int, quick: bool = False) -> list[Held]:
    """The same, with new tables for the figures that were held too rarely."""
    rarely = {(one.figure, one.unit) for one in measured if one.tables and one.share < _HELD}
    if not rarely:
        return measured
    repeated = {
        (one.figure, one.unit): one for one in measure(design, repeats, _AGAIN, quick=quick)
    }
    return [repeated[key] if (key := (one.figure, one.unit)) in rarely else one for one in measured]


def summary(measured: list[Held], fewest: int) -> str:
    """A row for each figure and unit.

    Args:
      measured: of all designs.
      fewest: tables with an interval that a design needs for its coverage to count.
    """
    lines = [["figure", "per", "worst", "of", "under 93 %", "mean", "given", "width"]]
    of_figure: dict[tuple[str, str], list[Held]] = {}
    for one in measured:
        of_figure.setdefault((one.figure.partition(" ")[0], one.unit), []).append(one)
    for (figure, unit), of in of_figure.items():
        share_given = sum(one.tables for one in of) / sum(one.drawn for one in of)
        counted = [one for one in of if one.tables >= fewest]
        if not counted:
            lines.append([figure, unit, "-", "-", "-", "-", formatting.percent(share_given), "-"])
            continue
        shares = np.array([one.share for one in counted])
        worst = counted[int(shares.argmin())]
        lines.append(
            [
                figure,
                unit,
                formatting.percent(worst.share),
                worst.design,
                f"{(shares < _HELD).sum()} of {len(shares)}",
                formatting.percent(shares.mean()),
                formatting.percent(share_given),
                f"{np.mean([one.width for one in counted]):.3f}",
            ]
        )
    return formatting.align(lines, left=2)


def read(path: Path) -> list[Held]:
    """What `append` wrote; nothing where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Held(row[0], row[1], row[2], int(row[3]), int(row[4]), int(row[5]), float(row[6]))
            for row in csv.reader(file)
        ]


def append(path: Path, results: list[Held]) -> None:
    """A row for each figure, class and unit of one design."""
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(dataclasses.astuple(one) for one in results)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=300, help="tables of each design")
    parser.add_argument("--every", type=int, default=1, help="take every n-th design only")
    parser.add_argument(
        "--again", type=int, default=0, help="new tables where a figure was held too rarely"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first table")
    parser.add_argument(
        "--csv", type=Path, help="keep what is measured here; what it has is not measured again"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out log loss, Brier score and calibration error, which take most of the time",
    )
    parser.add_argument("--first", type=int, default=0, help="the first of these designs")
    arguments = parser.parse_args()
    measured = read(arguments.csv) if arguments.csv else []
    done = {one.design for one in measured}
    # In another order, or every n-th would be of the same accuracy.
    designs = grid()
    designs = [designs[index] for index in np.random.default_rng(0).permutation(len(designs))]
    designs = [one for one in designs[arguments.first :: arguments.every] if str(one) not in done]
    for number, design in enumerate(designs):
        print(f"{number + 1} of {len(designs)}: {design}", file=sys.stderr, flush=True)
        quick = arguments.quick
        results = list(measure(design, arguments.repeats, arguments.seed, quick=quick))
        if arguments.again:
            results = again(design, results, arguments.again, quick)
        measured += results
        if arguments.csv:
            append(arguments.csv, results)
    count = len({one.design for one in measured})
    print(f"{count} designs, {arguments.repeats} tables each\n")
    print(summary(measured, max(2, arguments.repeats // 10)))


if __name__ == "__main__":
    main()
