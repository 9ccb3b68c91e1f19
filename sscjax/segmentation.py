"""How well masks are told: Dice's coefficient and IoU of each class, with intervals by subject.

Everything comes from a table of pixel counts, one row per image. The counts of all images are added
up before a coefficient is taken: of an image that has hardly any of a class, its own coefficient
says little. Pixels of which the mask says nothing are not counted. The intervals are the bootstrap
of subjects in `intervals`: neighbouring pixels, and images of one patient, are not independent.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax import files, intervals, report

KINDS = ("both", "predicted", "true")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Pixels of N images by K classes.

    Attributes:
      files, subjects, splits: [N] str.
      classes: K names.
      counts: [N,K,3] int64, in the order of `KINDS`: pixels that are predicted as the class and are
        of it, that are predicted as it, and that are of it.
    """

    files: np.ndarray
    subjects: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def where(self, split: str) -> Table:
        """The images of one split."""
        chosen = self.splits == split
        return Table(
            *(self.files[chosen], self.subjects[chosen], self.splits[chosen]),
            *(self.classes, self.counts[chosen]),
        )

    def write_csv(self, path: Path) -> None:
        """One row per image, three columns per class."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        columns = [f"{kind} {name}" for name in self.classes for kind in KINDS]
        writer.writerow(["file", "subject", "split", *columns])
        flat = self.counts.reshape(len(self), -1).tolist()
        names = zip(self.files.tolist(), self.subjects.tolist(), self.splits.tolist(), strict=True)
        writer.writerows([*some, *row] for some, row in zip(names, flat, strict=True))
        files.write_text(path, text.getvalue())


def dice(counts: np.ndarray) -> np.ndarray:
    """2 * both / (predicted + true) of [...,3]: [...], NaN where the class is nowhere."""
    both, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(2 * both, predicted + true)


def iou(counts: np.ndarray) -> np.ndarray:
    """Both / (predicted or true) of [...,3]: [...], NaN where the class is nowhere."""
    both, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(both, predicted + true - both)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    found = np.full(above.shape, np.nan)
    return np.divide(above, below, out=found, where=below > 0)


_FIGURES = {"dice": dice, "iou": iou}


def figures(table: Table) -> dict[str, Any]:
    """Dice and IoU of each class and their means over the classes that are there, JSON-ready."""
    total = table.counts.sum(axis=0)
    values = {name: function(total) for name, function in _FIGURES.items()}
    return {
        "n": len(table),
        "n_subjects": len(set(table.subjects.tolist())),
        **{f"mean_{name}": _mean(found) for name, found in values.items()},
        "per_class": [
            {
                "name": label,
                **{name: _number(found[index]) for name, found in values.items()},
                "pixels": int(total[index, 2]),
            }
            for index, label in enumerate(table.classes)
        ],
    }


def interval_figures(
    table: Table, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Intervals [low, high] in the shape of `figures`, or None for fewer than eight subjects."""
    names, group = np.unique(table.subjects, return_inverse=True)
    of_subject = np.zeros((len(names), *table.counts.shape[1:]), np.int64)
    np.add.at(of_subject, group, table.counts)
    enough = len(names) >= intervals.FEWEST_OF_ALL
    rngs = [np.random.default_rng([seed, 0])]
    draws = intervals.subject_draws(np.zeros(len(names), int), resamples, rngs)
    totals = np.tensordot(draws, of_subject, axes=1)  # [R,K,3]

    def interval(values: np.ndarray) -> list[float] | None:
        found = intervals.percentile(values, len(names)) if enough else None
        return None if found is None else list(found)

    drawn = {name: function(totals) for name, function in _FIGURES.items()}
    return {
        "level": intervals.LEVEL,
        "resamples": resamples,
        "n_subjects": len(names),
        **{f"mean_{name}": interval(_row_means(found)) for name, found in drawn.items()},
        "per_class": [
            {"name": label, **{name: interval(found[:, index]) for name, found in drawn.items()}}
            for index, label in enumerate(table.classes)
        ],
    }


def _row_means(values: np.ndarray) -> np.ndarray:
    """[R,K] to [R], over what is defined."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1) * 1.0)


def _mean(values: np.ndarray) -> float | None:
    return _number(_row_means(values[None])[0])


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def by_split(table: Table) -> dict[str, Any]:
    """`figures` of each split that has masks, and the intervals of the test split."""
    parts = {split: table.where(split) for split in ("train", "val", "test")}
    parts = {split: part for split, part in parts.items() if len(part)}
    return {
        "classes": list(table.classes),
        "splits": {split: figures(part) for split, part in parts.items()},
        "test_intervals": interval_figures(parts["test"]) if "test" in parts else None,
    }


def text(found: Mapping[str, Any]) -> str:
    """What `by_split` gives, as a table: the test split, or the last that has masks."""
    split = list(found["splits"])[-1]
    values, ranges = found["splits"][split], found["test_intervals"]
    rows = [[f"masks, {split}", "Dice", "95 % interval", "IoU", "95 % interval"]]

    def row(title: str, place: int | None) -> list[str]:
        cells = [title]
        for kind in _FIGURES:
            key = kind if place is not None else f"mean_{kind}"
            one = values if place is None else values["per_class"][place]
            ends = ranges if ranges is None or place is None else ranges["per_class"][place]
            cells += [
                report.number(one[key]),
                report.span(key, None if ends is None or split != "test" else ends[key]),
            ]
        return cells

    rows += [row(report.clean_name(name), place) for place, name in enumerate(found["classes"])]
    rows.append(row("mean", None))
    note = (
        f"Pixels of {values['n']} images added up; intervals by subject ({values['n_subjects']}), "
        f"for {intervals.FEWEST_OF_ALL} and more."
    )
    return report.align(rows) + "\n" + note
