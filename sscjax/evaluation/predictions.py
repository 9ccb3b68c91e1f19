"""Tables of predictions: each image with its subject, split, label and probabilities."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from sscjax.errors import UserError
from sscjax.system.files import csv_name, csv_text, write_text

SPLITS = ("train", "val", "test")

# The fixed columns of predictions.csv; one column `p_<class>` per class follows. Where sites are
# known, a column `site` stands behind the subject.
CSV_COLUMNS = ("file", "subject", "split", "label", "prediction")
_SITE = "site"

# How a subject's images become one row of probabilities: by their mean, or by the mean of their
# logarithms (the geometric mean, scaled to a sum of 1).
Aggregation = Literal["mean", "geometric"]
AGGREGATIONS: tuple[Aggregation, ...] = ("mean", "geometric")

# What a subject is whose images have several labels: what most of them have (of equally many the
# higher, which for ordered classes is the more severe), the highest of any, or no row at all.
SubjectLabel = Literal["majority", "worst", "image"]

# The least positive number that float32, in which networks compute, keeps in full: 0 means less.
LEAST = float(np.finfo(np.float32).tiny)

# How far a row of probabilities may be from summing to 1 (float32 softmax is within 1e-6).
SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for each image (or each subject), beside the truth.

    Attributes:
      files: [N] str, the image's name as in its `ImageSet`; a subject's name after `by_subject`.
      subjects: [N] str.
      splits: [N] str of 'train', 'val', 'test'.
      labels: [N] int32, the true class, an index into `classes`.
      probabilities: [N,C] float64 (any float is accepted and widened), rows sum to 1.
      classes: C distinct names in label order. A model with more outputs than classes is given
        names for the outputs that stand for nothing; those classes have no support.
      sites: [N] str, the hospital or scanner; None where it is not known.

    Raises:
      ValueError: the arrays do not fit together or a row is no distribution.
    """

    files: np.ndarray
    subjects: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    sites: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, dtype in (
            ("files", str),
            ("subjects", str),
            ("splits", str),
            ("labels", np.int32),
            ("probabilities", np.float64),
        ):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if self.sites is not None:
            object.__setattr__(self, "sites", np.asarray(self.sites, dtype=str))
        object.__setattr__(self, "classes", tuple(self.classes))
        self._check()

    def _check(self) -> None:
        count, num_classes = len(self.labels), len(self.classes)
        if len(set(self.classes)) != num_classes or num_classes < 2:
            raise ValueError(f"classes are {self.classes}, expected two or more distinct names")
        sites = () if self.sites is None else ("sites",)
        for name in ("files", "subjects", "splits", "labels", *sites):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not ({count},)")
        if self.probabilities.shape != (count, num_classes):
            shape = self.probabilities.shape
            raise ValueError(f"probabilities have shape {shape}, not ({count}, {num_classes})")
        if count == 0:
            return
        if not set(self.splits.tolist()) <= set(SPLITS):
            raise ValueError(f"splits are {sorted(set(self.splits.tolist()))}, expected {SPLITS}")
        if self.labels.min() < 0 or self.labels.max() >= num_classes:
            raise ValueError(f"labels reach outside 0..{num_classes - 1}")
        if not np.isfinite(self.probabilities).all() or self.probabilities.min() < 0:
            raise ValueError("probabilities must be finite and not negative")
        worst = float(np.abs(self.probabilities.sum(axis=1) - 1).max())
        if worst > SUM_TOLERANCE:
            raise ValueError(f"a row of probabilities misses the sum of 1 by {worst:.3g}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{(self.splits == name).sum()} {name}" for name in SPLITS if name in self.splits
        )
        subjects = len(set(self.subjects.tolist()))
        names = len(self.classes)
        return f"Predictions({counts or '0'} rows of {subjects} subjects, {names} classes)"

    @property
    def predicted(self) -> np.ndarray:
        """[N] int32, the most probable class; of equally probable ones the lowest index."""
        return np.argmax(self.probabilities, axis=1).astype(np.int32)

    @property
    def confidence(self) -> np.ndarray:
        """[N] float64, the probability of the most probable class."""
        return self.probabilities.max(axis=1)

    def where(self, split: str) -> Predictions:
        """The rows of one split ('train', 'val' or 'test'), in their order."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
        return self.take(self.splits == split)

    def take(self, rows: np.ndarray) -> Predictions:
        """The rows that `rows` names by number or by a mask, in that order."""
        return Predictions(
            files=self.files[rows],
            subjects=self.subjects[rows],
            splits=self.splits[rows],
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            classes=self.classes,
            sites=None if self.sites is None else self.sites[rows],
        )

    @classmethod
    def join(cls, tables: Sequence[Predictions]) -> Predictions:
        """The rows of one or more tables of the same classes, one behind the other."""
        names = ["files", "subjects", "splits", "labels", "probabilities"]
        if all(table.sites is not None for table in tables):
            names.append("sites")
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables]) for name in names
        }
        return cls(**columns, classes=tables[0].classes)

    def by_subject(
        self, aggregation: Aggregation = "mean", label: SubjectLabel = "majority"
    ) -> Predictions:
        """One row per subject, in the order of first appearance.

        A subject with images in several splits (a split by image) gives one row for each of them:
        what was seen in training never leaks into a row of the test split.

        Args:
          aggregation: how its images' probabilities become one row, see `AGGREGATIONS`.
          label: what it is where its images have several labels, see `SubjectLabel`.
        """
        keys = list(zip(self.splits.tolist(), self.subjects.tolist(), strict=True))
        row_of = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        group = np.array([row_of[key] for key in keys], dtype=np.int64)
        votes = np.zeros((len(row_of), len(self.classes)), dtype=np.int64)
        np.add.at(votes, (group, self.labels), 1)
        labels = (votes > 0) if label == "worst" else votes
        subjects = np.array([subject for _, subject in row_of], dtype=str)
        # A subject has one site, so that of its first image is that of all.
        first = np.unique(group, return_index=True)[1]
        table = Predictions(
            files=subjects,
            subjects=subjects,
            splits=np.array([split for split, _ in row_of], dtype=str),
            labels=most_frequent(labels),
            probabilities=aggregate(self.probabilities, group, aggregation),
            classes=self.classes,
            sites=None if self.sites is None else self.sites[first],
        )
        return table.take((votes > 0).sum(axis=1) == 1) if label == "image" else table

    @property
    def subjects_of_several_labels(self) -> int:
        """How many subjects have images with different labels."""
        labels: dict[str, set[int]] = {}
        for subject, label in zip(self.subjects.tolist(), self.labels.tolist(), strict=True):
            labels.setdefault(subject, set()).add(label)
        return sum(len(distinct) > 1 for distinct in labels.values())

    @property
    def largest_share(self) -> tuple[str, float]:
        """The subject with the most rows, and its share of them, 0 to 1; ('', 0) without rows."""
        if not len(self):
            return "", 0.0
        names, counts = np.unique(self.subjects, return_counts=True)
        return str(names[counts.argmax()]), float(counts.max() / len(self))

    def write_csv(self, path: Path | str) -> None:
        """Write the table atomically; `read_csv` gives back the same numbers to the bit."""
        header = [*_fixed(self.sites is not None), *(f"p_{name}" for name in self.classes)]
        sites = [[]] * len(self) if self.sites is None else self.sites[:, None].tolist()
        rows: list[list[Any]] = [header]
        for file, subject, site, split, label, prediction, row in zip(
            self.files.tolist(),
            self.subjects.tolist(),
            sites,
            self.splits.tolist(),
            self.labels.tolist(),
            self.predicted.tolist(),
            self.probabilities.tolist(),
            strict=True,
        ):
            names = (self.classes[label], self.classes[prediction])
            rows.append([file, subject, *site, split, *names, *row])
        write_text(path, csv_text(rows))

    @classmethod
    def read_csv(cls, path: Path | str) -> Predictions:
        """Read what `write_csv` wrote.

        Raises:
          UserError: the file is missing or is not such a table; names the file and the line.
        """
        header, rows = _read_rows(Path(path))
        fixed = _fixed(header[2:3] == [_SITE])
        num_fixed = len(fixed)
        names = tuple(column.removeprefix("p_") for column in header[num_fixed:])
        expected = [*fixed, *(f"p_{name}" for name in names)]
        if header != expected or len(names) < 2:
            wanted = ", ".join([*CSV_COLUMNS, "p_<class>, p_<class>..."])
            raise UserError(f"{path}: columns are {', '.join(header)}; expected {wanted}")
        index = {name: number for number, name in enumerate(names)}
        labels, probabilities = [], []
        for line, row in rows:
            if len(row) != len(header):
                raise UserError(f"{path}: line {line} has {len(row)} fields, not {len(header)}")
            row[:num_fixed] = map(csv_name, row[:num_fixed])
            label = row[num_fixed - 2]
            if label not in index:
                raise UserError(
                    f"{path}: line {line} has the label {label!r}, expected one of "
                    f"{', '.join(names)}, the columns of probabilities"
                )
            try:
                labels.append(index[label])
                probabilities.append([float(value) for value in row[num_fixed:]])
            except ValueError as error:
                raise UserError(f"{path}: line {line} cannot be used: {error}") from None
        columns = {name: np.array([row[k] for _, row in rows], str) for k, name in enumerate(fixed)}
        images, subjects, splits = (columns[name] for name in ("file", "subject", "split"))
        table = np.array(probabilities, dtype=np.float64).reshape(len(rows), len(names))
        try:
            truth = np.array(labels, np.int32)
            result = cls(images, subjects, splits, truth, table, names, columns.get(_SITE))
        except ValueError as error:
            raise UserError(f"{path}: {error}; write the file again from its run") from None
        for (line, row), prediction in zip(rows, result.predicted.tolist(), strict=True):
            stated = row[num_fixed - 1]
            if stated != names[prediction]:
                found = f"prediction {stated!r}, but its probabilities say {names[prediction]!r}"
                raise UserError(f"{path}: line {line} has {found}; was the file edited?")
        return result


def _fixed(has_sites: bool) -> list[str]:
    """The fixed columns of a table."""
    names = list(CSV_COLUMNS)
    return [*names[:2], _SITE, *names[2:]] if has_sites else names


def group_means(probabilities: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean probabilities of each group, such as of a subject's images: [G,K] float64.

    Args:
      probabilities: [N,K] float.
      group: [N] int, each row's group, 0 to G - 1; every group has a row.
    """
    sums = np.zeros((int(group.max(initial=-1)) + 1, probabilities.shape[1]))
    np.add.at(sums, group, probabilities)
    return sums / np.bincount(group, minlength=len(sums))[:, None]


def aggregate(probabilities: np.ndarray, group: np.ndarray, aggregation: Aggregation) -> np.ndarray:
    """One row of probabilities for each group of rows: [G,K] float64, rows sum to 1.

    Args:
      probabilities: [N,K] float, rows sum to 1.
      group: [N] int, see `group_means`.
      aggregation: see `AGGREGATIONS`.
    """
    if aggregation == "mean":
        return group_means(probabilities, group)
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), LEAST))
    return special.softmax(group_means(logs, group), axis=1)


def most_frequent(votes: np.ndarray) -> np.ndarray:
    """The column with the most votes of each row [G,K], of equally many the highest: [G] int."""
    return votes.shape[1] - 1 - np.argmax(votes[:, ::-1], axis=1)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file and its rows with their line numbers; empty lines are skipped."""
    try:
        # A spreadsheet may have put a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            return header, [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no readable table of predictions: {error}") from None
