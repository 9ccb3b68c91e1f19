"""A table of predictions and the figures drawn from it: counts and sums, divided once.

Only numpy. A figure that is undefined for a table (the sensitivity of a class that never occurs) is
None, never NaN, so that everything here can be written as JSON and shown as a dash.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.files import csv_name, csv_text, write_text

SPLITS = ("train", "val", "test")

# The fixed columns of predictions.csv; one column `p_<class>` per class follows.
CSV_COLUMNS = ("file", "subject", "split", "label", "prediction")

# How far a row of probabilities may be from summing to 1 (float32 softmax is within 1e-6).
SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about each image (or each subject), beside the truth.

    Attributes:
      files: [N] str, the image's name as in its `ImageSet`; a subject's name after `by_subject`.
      subjects: [N] str.
      splits: [N] str of 'train', 'val', 'test'.
      labels: [N] int32, the true class, an index into `classes`.
      probabilities: [N,C] float64 (any float is accepted and widened), rows sum to 1.
      classes: C distinct names in label order. A model with more outputs than classes is given
        names for the outputs that stand for nothing; those classes have no support.

    Raises:
      ValueError: the arrays do not fit together or a row is no distribution.
    """

    files: np.ndarray
    subjects: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, dtype in (
            ("files", str),
            ("subjects", str),
            ("splits", str),
            ("labels", np.int32),
            ("probabilities", np.float64),
        ):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        object.__setattr__(self, "classes", tuple(self.classes))
        self._check()

    def _check(self) -> None:
        count, num_classes = len(self.labels), len(self.classes)
        if len(set(self.classes)) != num_classes or num_classes < 2:
            raise ValueError(f"classes are {self.classes}, expected two or more distinct names")
        for name in ("files", "subjects", "splits", "labels"):
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
        )

    @classmethod
    def join(cls, tables: Sequence[Predictions]) -> Predictions:
        """The rows of one or more tables of the same classes, one behind the other."""
        names = ("files", "subjects", "splits", "labels", "probabilities")
        columns = {name: np.concatenate([getattr(one, name) for one in tables]) for name in names}
        return cls(**columns, classes=tables[0].classes)

    def by_subject(self) -> Predictions:
        """One row per subject, in the order of first appearance.

        The probabilities are the mean over the subject's images. The label is the one most of its
        images carry; of equally frequent ones the higher index, which for ordered classes is the
        more severe. A subject with images in several splits (a split by image) gives one row for
        each of them: what was seen in training never leaks into a row of the test split.
        """
        keys = list(zip(self.splits.tolist(), self.subjects.tolist(), strict=True))
        row_of = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        group = np.array([row_of[key] for key in keys], dtype=np.int64)
        num_classes = len(self.classes)
        sums = np.zeros((len(row_of), num_classes))
        np.add.at(sums, group, self.probabilities)
        votes = np.zeros((len(row_of), num_classes), dtype=np.int64)
        np.add.at(votes, (group, self.labels), 1)
        # Searching the reversed columns makes the higher index win a tie.
        labels = num_classes - 1 - np.argmax(votes[:, ::-1], axis=1)
        subjects = np.array([subject for _, subject in row_of], dtype=str)
        return Predictions(
            files=subjects,
            subjects=subjects,
            splits=np.array([split for split, _ in row_of], dtype=str),
            labels=labels,
            probabilities=sums / votes.sum(axis=1, keepdims=True),
            classes=self.classes,
        )

    def write_csv(self, path: Path | str) -> None:
        """Write the table atomically; `read_csv` gives back the same numbers to the bit."""
        rows: list[list[Any]] = [[*CSV_COLUMNS, *(f"p_{name}" for name in self.classes)]]
        for file, subject, split, label, prediction, row in zip(
            self.files.tolist(),
            self.subjects.tolist(),
            self.splits.tolist(),
            self.labels.tolist(),
            self.predicted.tolist(),
            self.probabilities.tolist(),
            strict=True,
        ):
            names = (self.classes[label], self.classes[prediction])
            rows.append([file, subject, split, *names, *row])
        write_text(path, csv_text(rows))

    @classmethod
    def read_csv(cls, path: Path | str) -> Predictions:
        """Read what `write_csv` wrote.

        Raises:
          UserError: the file is missing or is not such a table; names the file and the line.
        """
        header, rows = _read_rows(Path(path))
        num_fixed = len(CSV_COLUMNS)
        names = tuple(column.removeprefix("p_") for column in header[num_fixed:])
        expected = [*CSV_COLUMNS, *(f"p_{name}" for name in names)]
        if header != expected or len(names) < 2:
            wanted = ", ".join([*CSV_COLUMNS, "p_<class>, p_<class>..."])
            raise UserError(f"{path}: columns are {', '.join(header)}; expected {wanted}")
        index = {name: number for number, name in enumerate(names)}
        labels, probabilities = [], []
        for line, row in rows:
            if len(row) != len(header):
                raise UserError(f"{path}: line {line} has {len(row)} fields, not {len(header)}")
            row[:num_fixed] = map(csv_name, row[:num_fixed])
            try:
                labels.append(index[row[3]])
                probabilities.append([float(value) for value in row[num_fixed:]])
            except (KeyError, ValueError) as error:
                raise UserError(f"{path}: line {line} cannot be used: {error}") from None
        images, subjects, splits = (np.array([row[k] for _, row in rows], str) for k in range(3))
        table = np.array(probabilities, dtype=np.float64).reshape(len(rows), len(names))
        try:
            result = cls(images, subjects, splits, np.array(labels, np.int32), table, names)
        except ValueError as error:
            raise UserError(f"{path}: {error}; write the file again from its run") from None
        for (line, row), prediction in zip(rows, result.predicted.tolist(), strict=True):
            if row[4] != names[prediction]:
                found = f"prediction {row[4]!r}, but its probabilities say {names[prediction]!r}"
                raise UserError(f"{path}: line {line} has {found}; was the file edited?")
        return result


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


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """[C,C] int64 counts, rows the true class, columns the predicted one.

    Args:
      labels: [N] int, 0..C-1.
      predicted: [N] int, 0..C-1.
      num_classes: C.
    """
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def _ratio(numerator: int | np.integer, denominator: int | np.integer) -> float | None:
    return int(numerator) / int(denominator) if denominator else None


def accuracy(confusion: np.ndarray) -> float | None:
    """Share of all rows that are right, 0..1; None for an empty table."""
    return _ratio(np.trace(confusion), confusion.sum())


def sensitivity(confusion: np.ndarray, index: int) -> float | None:
    """Share of the rows of class `index` that are called so (recall); None if it has no rows."""
    return _ratio(confusion[index, index], confusion[index].sum())


def specificity(confusion: np.ndarray, index: int) -> float | None:
    """Share of the rows of other classes that are not called `index`; None if there are none."""
    others = confusion.sum() - confusion[index].sum()
    false_positives = confusion[:, index].sum() - confusion[index, index]
    return _ratio(others - false_positives, others)


def precision(confusion: np.ndarray, index: int) -> float | None:
    """Share right among the rows called `index` (PPV); None if nothing was called so."""
    return _ratio(confusion[index, index], confusion[:, index].sum())


def f1(confusion: np.ndarray, index: int) -> float | None:
    """Harmonic mean of precision and sensitivity; None if the class is neither true nor called."""
    both = confusion[index].sum() + confusion[:, index].sum()
    return _ratio(2 * confusion[index, index], both)


def balanced_accuracy(confusion: np.ndarray) -> float | None:
    """Mean sensitivity over the classes that occur, 0..1; None for an empty table."""
    values = [sensitivity(confusion, index) for index in range(len(confusion))]
    return _mean_of_defined(values)


def _mean_of_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def quadratic_kappa(confusion: np.ndarray) -> float | None:
    """Cohen's kappa with weights (i-j)^2 over ordered classes, -1..1.

    1 is full agreement, 0 what the two margins give by chance. None where chance leaves no
    disagreement to compare with: an empty table, or all rows of one class and called that.
    """
    steps = np.arange(len(confusion))
    weights = (steps[:, None] - steps[None, :]) ** 2
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0))
    observed = int((weights * confusion).sum()) * int(confusion.sum())
    ratio = _ratio(observed, int((weights * by_chance).sum()))
    return None if ratio is None else 1.0 - ratio


def auroc(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """Area under the ROC curve, the Mann-Whitney statistic with midranks for ties.

    Args:
      scores: [N] float, higher speaks for positive.
      positives: [N] bool.

    Returns:
      The chance that a positive scores above a negative, ties counted half; None without both.
    """
    positives = np.asarray(positives, dtype=bool)
    num_positive = int(positives.sum())
    num_negative = len(positives) - num_positive
    if not num_positive or not num_negative:
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    # Twice the midrank of a group of ties, first + last rank, is whole: the sum stays exact.
    doubled_ranks = 2 * np.cumsum(sizes) - sizes + 1
    doubled_sum = int(doubled_ranks[group][positives].sum())
    return (doubled_sum - num_positive * (num_positive + 1)) / (2 * num_positive * num_negative)


def class_aurocs(predictions: Predictions) -> list[float | None]:
    """Each class against all others by its probability; None for a class without both sides."""
    return [
        auroc(predictions.probabilities[:, index], predictions.labels == index)
        for index in range(len(predictions.classes))
    ]


def macro_auroc(predictions: Predictions) -> float | None:
    """Mean of `class_aurocs` over the classes that have one; None if no class has."""
    return _mean_of_defined(class_aurocs(predictions))


def log_loss(predictions: Predictions) -> float | None:
    """Mean of -ln(probability of the true class), in nats; None for an empty table.

    A probability of 0 counts as float64's epsilon, as in scikit-learn, so the loss stays finite.
    """
    if not len(predictions):
        return None
    chosen = predictions.probabilities[np.arange(len(predictions)), predictions.labels]
    logs = np.log(np.maximum(chosen, np.finfo(np.float64).eps))
    return -math.fsum(logs.tolist()) / len(predictions)


def _confusion_of(predictions: Predictions) -> np.ndarray:
    return confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))


def figures(predictions: Predictions, ordered: bool) -> dict[str, Any]:
    """All figures of a table, ready for JSON.

    Args:
      predictions: one row per image or per subject.
      ordered: the classes are a scale (normal, early, late), so kappa has a meaning.

    Returns:
      n, n_subjects, accuracy, balanced_accuracy, macro_auroc, quadratic_kappa (None unless
      ordered), log_loss, classes, confusion (rows true), and per_class: a list in class order of
      name, support, sensitivity, specificity, precision, f1, auroc. Shares are 0..1.
    """
    confusion = _confusion_of(predictions)
    aurocs = class_aurocs(predictions)
    return {
        "n": len(predictions),
        "n_subjects": len(set(predictions.subjects.tolist())),
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_auroc": _mean_of_defined(aurocs),
        "quadratic_kappa": quadratic_kappa(confusion) if ordered else None,
        "log_loss": log_loss(predictions),
        "classes": list(predictions.classes),
        "confusion": confusion.tolist(),
        "per_class": [
            {
                "name": name,
                "support": int(confusion[index].sum()),
                "sensitivity": sensitivity(confusion, index),
                "specificity": specificity(confusion, index),
                "precision": precision(confusion, index),
                "f1": f1(confusion, index),
                "auroc": aurocs[index],
            }
            for index, name in enumerate(predictions.classes)
        ],
    }


def figures_by_split(predictions: Predictions, ordered: bool) -> dict[str, dict[str, Any]]:
    """`figures` of each split that has rows: {split: {'image': figures, 'subject': figures}}."""
    result = {}
    for split in SPLITS:
        table = predictions.where(split)
        if len(table):
            result[split] = {
                "image": figures(table, ordered),
                "subject": figures(table.by_subject(), ordered),
            }
    return result


VALIDATION_METRICS: dict[str, Callable[[Predictions], float | None]] = {
    "accuracy": lambda predictions: accuracy(_confusion_of(predictions)),
    "balanced_accuracy": lambda predictions: balanced_accuracy(_confusion_of(predictions)),
    "macro_auroc": macro_auroc,
    "log_loss": log_loss,
}

# Figures of a whole table, in the order in which they are shown.
OVERALL = ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss")

# Of masks, not of predictions: `segmentation.mean_dice`.
MASK_METRIC = "mean_dice"

HIGHER_IS_BETTER: dict[str, bool] = {
    MASK_METRIC: True,
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_auroc": True,
    "log_loss": False,
}


def validation_metric(name: str, predictions: Predictions) -> float:
    """The figure that picks the best epoch; `HIGHER_IS_BETTER[name]` is its direction.

    Args:
      name: a key of `VALIDATION_METRICS`.
      predictions: the rows to judge by, normally those of the validation split.

    Raises:
      UserError: the name is unknown, or the figure is undefined for these rows.
    """
    if name not in VALIDATION_METRICS:
        known = ", ".join(VALIDATION_METRICS)
        raise UserError(f"validation metric {name!r} is unknown; choose one of {known}")
    value = VALIDATION_METRICS[name](predictions)
    if value is None:
        occurring = len(set(predictions.labels.tolist()))
        found = f"{len(predictions)} validation images of {occurring} classes"
        raise UserError(f"{name} is undefined for {found}; enlarge the validation split")
    return value
