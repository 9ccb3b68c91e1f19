"""Metrics of masks: Dice, IoU and Hausdorff distance of each class, with intervals by subject.

Everything comes from a table of pixel counts and distances, one row per image. The counts of all
images are added up before a coefficient is taken: of an image that has hardly any of a class, its
own coefficient says little. Distances are averaged over the images that have the class, or are
predicted to have it. Pixels without a label are not counted. Neighbouring pixels, and
images of one patient, are not independent: IoU is a share of pixels, clustered by subject as shares
of images are (`limits`), and Dice is 2 IoU / (1 + IoU).
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from sscjax.errors import UserError
from sscjax.evaluation import limits
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


METHODS = {
    "iou": "Korn and Graubard 1998 for pixels, variance by subject of Bell and McCaffrey 2002",
    "mean": "the classes' intervals, combined by MOVER (Zou and Donner 2008)",
    DISTANCE: "t interval of the logarithm, variance by subject of Bell and McCaffrey 2002",
}


def interval_figures(table: Table) -> dict[str, Any]:
    """Intervals [low, high] in the shape of `figures`, or None; `methods` names their sources.

    None of a class that fewer than two subjects have, and of a distance that is 0.
    """
    names, group = np.unique(table.subjects, return_inverse=True)
    of_subject = np.zeros((len(names), *table.counts.shape[1:]), np.float64)
    np.add.at(of_subject, group, table.counts)
    both, predicted, true = np.moveaxis(of_subject, -1, 0)  # [S,K] each
    # [K,S] of the pixels that are of the class or predicted as it.
    sums, sizes = both.T, (predicted + true - both).T
    of = limits.spread(sums, sizes)
    ends = np.stack([of.mean, *limits.mean_limits(sums, sizes)], axis=1)  # [K,3]
    values = {"iou": ends, "dice": 2 * ends / (1 + ends), DISTANCE: _distances(table, group)}
    content: dict[str, Any] = {"level": limits.LEVEL, "n_subjects": len(names), "methods": METHODS}
    for name, of_classes in values.items():
        # Distances of classes have no common sum of pixels: their mean is given without interval.
        mean = None if name == DISTANCE else _mean_interval(of_classes, of.residuals)
        content[f"mean_{name}"] = mean
    content["per_class"] = [
        {"name": label, **{name: _pair(known[index, 1:]) for name, known in values.items()}}
        for index, label in enumerate(table.classes)
    ]
    return content


def _distances(table: Table, group: np.ndarray) -> np.ndarray:
    """Mean distance of each class, its lower and its upper limit: [K,3], NaN where there are none.

    A distance is positive and skewed, so its interval is symmetric for its logarithm.
    """
    values, defined = _summed(table.distances)
    sums = np.stack([np.bincount(group, column) for column in values.T])
    sizes = np.stack([np.bincount(group, column) for column in defined.T])
    of = limits.spread(sums, sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = special.stdtrit(of.freedom, (1 + limits.LEVEL) / 2) * np.sqrt(of.variance) / of.mean
        usable = (of.mean > 0) & np.isfinite(reach) & ((sizes > 0).sum(1) >= 2)
        factor = np.exp(np.where(usable, reach, np.nan))
        return np.stack([of.mean, of.mean / factor, of.mean * factor], axis=1)


def _mean_interval(ends: np.ndarray, residuals: np.ndarray) -> list[float] | None:
    """Of the mean over the classes that occur, whose errors are correlated: [low, high] or None."""
    occurring = np.isfinite(ends[:, 0])
    if not occurring.any() or not np.isfinite(ends[occurring]).all():
        return None
    value, low, high = ends[occurring].T
    below, above = ((value - low) / len(value)).tolist(), ((high - value) / len(value)).tolist()
    least, greatest = limits.combine(float(value.mean()), below, above, residuals[occurring])
    return [max(0.0, least), min(1.0, greatest)]


def _pair(ends: np.ndarray) -> list[float] | None:
    return [float(end) for end in ends] if np.isfinite(ends).all() else None


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
    table = formatting.align(rows(content), together=2)
    return f"{table}\n{formatting.paragraph(note(content))}"


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
        f"({values['n_subjects']}): Korn and Graubard. Edges: 95th percentile of the Hausdorff "
        "distance, mean over images."
    )
