"""Metrics of masks: Dice, IoU and Hausdorff distance of each class, with intervals by subject.

Everything comes from a table of pixel counts and distances, one row per image. The counts of all
images are added up before a coefficient is taken: of an image that has hardly any of a class, its
own coefficient says little. Distances are averaged over the images that have the class, or are
predicted to have it. Pixels without a label are not counted. The intervals are the
bootstrap of subjects in `intervals`: neighbouring pixels, and images of one patient, are not
independent.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import intervals
from sscjax.system import files, formatting

KINDS = ("both", "predicted", "true")
DISTANCE = "hausdorff95"


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Pixels of N images by K classes.

    Attributes:
      files, subjects, splits: [N] str.
      classes: K names.
      counts: [N,K,3] int64, in the order of `KINDS`: pixels that are predicted as the class and are
        of it, that are predicted as it, and that are of it.
      distances: [N,K] float64, `surfaces.hausdorff95` in pixels; NaN where neither has the class.
    """

    files: np.ndarray
    subjects: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    counts: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def where(self, split: str) -> Table:
        """The images of one split."""
        chosen = self.splits == split
        return Table(
            *(self.files[chosen], self.subjects[chosen], self.splits[chosen]),
            *(self.classes, self.counts[chosen], self.distances[chosen]),
        )

    def write_csv(self, path: Path) -> None:
        """One row per image, four columns per class."""
        columns = [f"{kind} {name}" for name in self.classes for kind in KINDS]
        columns += [f"{DISTANCE} {name}" for name in self.classes]
        names = zip(self.files.tolist(), self.subjects.tolist(), self.splits.tolist(), strict=True)
        counts = self.counts.reshape(len(self), -1).tolist()
        lines = [
            [
                *identity,
                *numbers,
                *("" if np.isnan(distance) else f"{distance:.3f}" for distance in distances),
            ]
            for identity, numbers, distances in zip(
                names, counts, self.distances.tolist(), strict=True
            )
        ]
        files.write_text(path, files.csv_text([["file", "subject", "split", *columns], *lines]))


def read_csv(path: Path) -> Table:
    """What `Table.write_csv` wrote.

    Raises:
      UserError: the file is missing, or another's.
    """
    try:
        text = io.StringIO(path.read_text(encoding="utf-8"), newline="")
        [head, *lines] = csv.reader(text)
        last = KINDS[-1] + " "
        classes = tuple(name.removeprefix(last) for name in head if name.startswith(last))
        counts = np.array([row[3 : 3 + 3 * len(classes)] for row in lines], np.int64)
        distances = [[float(cell or "nan") for cell in row[-len(classes) :]] for row in lines]
        names = [np.array([files.csv_name(row[k]) for row in lines], str) for k in range(3)]
        return Table(
            *(names[0], names[1], names[2], classes),
            *(counts.reshape(len(lines), len(classes), 3), np.array(distances, np.float64)),
        )
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete this fold's folder and give the same command "
            "again"
        ) from error


def join(tables: Sequence[Table]) -> Table:
    """The rows of several tables of the same classes as one."""
    columns = ("files", "subjects", "splits", "counts", "distances")
    columns_of = {
        name: np.concatenate([getattr(table, name) for table in tables]) for name in columns
    }
    return Table(classes=tables[0].classes, **columns_of)


def dice(counts: np.ndarray) -> np.ndarray:
    """2 * both / (predicted + true) of [...,3]: [...], NaN where the class is nowhere."""
    both, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(2 * both, predicted + true)


def iou(counts: np.ndarray) -> np.ndarray:
    """Both / (predicted or true) of [...,3]: [...], NaN where the class is nowhere."""
    both, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(both, predicted + true - both)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    ratio = np.full(above.shape, np.nan)
    return np.divide(above, below, out=ratio, where=below > 0)


def mean_dice(counts: np.ndarray) -> float:
    """Mean Dice over the classes that occur, of pixels [N,K,3] added up; NaN where none does."""
    return float(_row_means(dice(counts.sum(axis=0))[None])[0])


_FIGURES = {"dice": dice, "iou": iou}


def figures(table: Table) -> dict[str, Any]:
    """All figures of each class and their means over the classes that are there, JSON-ready."""
    total = table.counts.sum(axis=0)
    values = {name: function(total) for name, function in _FIGURES.items()}
    values[DISTANCE] = _ratio(*(part.sum(axis=0) for part in _summed(table.distances)))
    return {
        "n": len(set(table.files.tolist())),
        "tests": len(table),
        "n_subjects": len(set(table.subjects.tolist())),
        **{f"mean_{name}": _mean(of_classes) for name, of_classes in values.items()},
        "per_class": [
            {
                "name": label,
                **{name: _number(of_classes[index]) for name, of_classes in values.items()},
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
    parts = []
    for part in _summed(table.distances):
        parts.append(np.zeros((len(names), part.shape[1])))
        np.add.at(parts[-1], group, part)
    enough = len(names) >= intervals.FEWEST_OF_ALL
    rngs = [np.random.default_rng([seed, 0])]
    draws = intervals.subject_draws(np.zeros(len(names), int), resamples, rngs)
    totals = np.tensordot(draws, of_subject, axes=1)  # [R,K,3]

    def interval(values: np.ndarray) -> list[float] | None:
        ends = intervals.percentile(values, len(names)) if enough else None
        return None if ends is None else list(ends)

    drawn = {name: function(totals) for name, function in _FIGURES.items()}
    drawn[DISTANCE] = _ratio(*(np.tensordot(draws, part, axes=1) for part in parts))
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


def _summed(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a mean of [N,K] with NaN is made of: values with 0 in their place, and their number."""
    defined = np.isfinite(distances)
    return np.where(defined, distances, 0.0), defined.astype(np.float64)


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


def text(content: Mapping[str, Any]) -> str:
    """What `by_split` gives, for the terminal."""
    return formatting.align(rows(content)) + "\n" + note(content)


def rows(content: Mapping[str, Any]) -> list[list[str]]:
    """What `by_split` gives, as a table: the test split, or the last that has masks."""
    split = list(content["splits"])[-1]
    values, ranges = content["splits"][split], content["test_intervals"]
    table = [
        [
            *(f"masks, {split}", "Dice", "95 % interval", "IoU", "95 % interval"),
            *("edges apart, pixels", "95 % interval"),
        ]
    ]

    def row(title: str, index: int | None) -> list[str]:
        cells = [title]
        for kind in (*_FIGURES, DISTANCE):
            key = kind if index is not None else f"mean_{kind}"
            source = values if index is None else values["per_class"][index]
            ends = ranges if ranges is None or index is None else ranges["per_class"][index]
            cells += [
                formatting.number(source[key]),
                formatting.span(key, None if ends is None or split != "test" else ends[key]),
            ]
        return cells

    table += [
        row(formatting.clean_name(name), index) for index, name in enumerate(content["classes"])
    ]
    return [*table, row("mean", None)]


def note(content: Mapping[str, Any]) -> str:
    """What is to be known of the table's figures."""
    values = list(content["splits"].values())[-1]
    several = values["tests"] > values["n"]
    times = f", tested {values['tests']} times in all" if several else ""
    return (
        f"Pixels of {values['n']} images added up{times}; intervals by subject "
        f"({values['n_subjects']}), for {intervals.FEWEST_OF_ALL} and more. Edges: 95th percentile "
        "of the Hausdorff distance, mean over images."
    )
