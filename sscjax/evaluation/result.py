"""Metrics of predictions from any program: each per image and per subject, with its interval.

`evaluate` takes plain arrays. The figures are those of `metrics`, the intervals
those of `intervals`: images of one subject are not independent, so intervals are clustered by
subject.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.clustered import Estimate
from sscjax.evaluation.predictions import SUM_TOLERANCE, Predictions
from sscjax.system import formatting

_IN_PERCENT = (
    *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "npv", "f1"),
)

# Of a result as a notebook prints it, which is wider than a terminal.
_COLUMNS = 100


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure counted per image and per subject.

    Attributes:
      name: its key, such as 'balanced_accuracy' or 'sensitivity early'.
      per_image: every image counts once; the interval is clustered by subject.
      per_subject: every subject counts once, with the mean probabilities of its images.
    """

    name: str
    per_image: Estimate
    per_subject: Estimate


class UnknownFigureError(UserError, KeyError):
    """There is no figure of that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Evaluation(Mapping[str, Figure]):
    """Figures by name; printed, it is a table.

    The names are accuracy, balanced_accuracy, macro_auroc, quadratic_kappa (where the classes are
    ordered), log_loss (nats), brier (0 to 2), ece (expected calibration error, 0 to 1), and of each
    class 'sensitivity NAME', 'specificity NAME', 'precision NAME' (PPV), 'npv NAME', 'f1 NAME',
    'auroc NAME' and 'average_precision NAME'.

    Attributes:
      classes: names in the order of the columns.
      images: how many images.
      subjects: how many subjects; 0 where none were given.
      confusion: [C,C] int64 images, rows the true class, columns the predicted one.
    """

    def __init__(self, figures: Mapping[str, Figure], images: Predictions, subjects: int) -> None:
        self._figures = dict(figures)
        self.classes, self.images, self.subjects = images.classes, len(images), subjects
        self.confusion = metrics.confusion_matrix(
            images.labels, images.predicted, len(images.classes)
        )

    def __getitem__(self, name: str) -> Figure:
        if name not in self._figures:
            near = difflib.get_close_matches(str(name), self._figures, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(self)}"
            raise UnknownFigureError(f"there is no figure {name!r}; {hint}")
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __repr__(self) -> str:
        of = f" of {self.subjects} subjects" if self.subjects else ""
        head = ["", "per image", "95 % interval"]
        head += ["per subject", "95 % interval"] if self.subjects else []
        lines = [head]
        for figure in self.values():
            name = formatting.clean_name(figure.name.replace("_", " "), 32)
            cells = [name, *_cells(figure.name, figure.per_image)]
            cells += _cells(figure.name, figure.per_subject) if self.subjects else []
            lines.append(cells)
        return f"{self.images} images{of}\n{formatting.align(lines, width=_COLUMNS)}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, numbers, text and None, ready for JSON."""
        return {
            "classes": list(self.classes),
            "images": self.images,
            "subjects": self.subjects,
            "confusion": self.confusion.tolist(),
            "figures": {name: dataclasses.asdict(figure) for name, figure in self.items()},
        }


def _cells(name: str, estimate: Estimate) -> list[str]:
    """Value and interval as text."""
    in_percent = name.partition(" ")[0] in _IN_PERCENT
    value = (formatting.percent if in_percent else formatting.number)(estimate.value)
    if estimate.low is None or estimate.high is None:
        return [value, formatting.UNDEFINED]
    ends = (estimate.low, estimate.high)
    return [value, formatting.share_span(ends) if in_percent else formatting.span(name, ends)]


# --- from arrays ----------------------------------------------------------------------------------


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    subjects: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    ordered: bool = False,
) -> Evaluation:
    """Figures with 95 % confidence intervals for predictions of any program.

    Args:
      labels: [N] int, the true class as an index of the columns, or [N] str, its name.
      probabilities: [N,C] float, 0 to 1, rows sum to 1; or [N], the probability of the second of
        two classes.
      subjects: [N] names or numbers, the patient of each image; None: images count as independent,
        and nothing is given per subject.
      classes: C names in the order of the columns; None: the numbers '0', '1' and so on.
      ordered: the classes are a scale (normal, early, late): adds quadratic kappa.

    Returns:
      a mapping of names to figures; each has `per_image` and `per_subject` with `value`, `low`,
      `high`, `method` and `reason`.

    Raises:
      UserError: shapes that do not fit, values that are not finite or not probabilities, a label
        that is no class.

    Example:
      >>> import sscjax
      >>> result = sscjax.evaluate([0, 0, 1, 1], [0.1, 0.4, 0.8, 0.3], classes=("normal", "ssc"))
      >>> result["accuracy"].per_image.value
      0.75
      >>> result["sensitivity ssc"].per_image.method
      'Clopper and Pearson 1934, exact binomial'
    """
    table = _probabilities(probabilities)
    names = _names(classes, labels, table.shape[1])
    truth = _labels(labels, names, len(table))
    known = subjects is not None
    patients = _subjects(subjects, len(table)) if known else np.arange(len(table)).astype(str)
    predictions = Predictions(
        files=np.arange(len(table)).astype(str),
        subjects=patients,
        splits=np.full(len(table), "test"),
        labels=truth,
        probabilities=table,
        classes=names,
    )
    return of_tables(predictions, predictions.by_subject() if known else None, ordered)


def of_tables(images: Predictions, subjects: Predictions | None, ordered: bool) -> Evaluation:
    """The figures of two tables of the same predictions.

    Args:
      images: a row per image.
      subjects: a row per subject; None where they are not known.
      ordered: whether quadratic kappa has a meaning.
    """
    by_image = intervals.estimates(images, ordered)
    if subjects is None:
        nothing = Estimate(None, reason="no subjects were given")
        by_subject = dict.fromkeys(by_image, nothing)
    else:
        by_subject = intervals.estimates(subjects, ordered)
    figures = {name: Figure(name, by_image[name], by_subject[name]) for name in by_image}
    patients = 0 if subjects is None else len(set(subjects.subjects.tolist()))
    return Evaluation(figures, images, patients)


# --- checks ---------------------------------------------------------------------------------------


def _probabilities(given: ArrayLike) -> np.ndarray:
    """[N,C] float64, checked."""
    try:
        table = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"probabilities are not numbers ({error}): expected [N,C] floats") from None
    if table.ndim == 1 and len(table):
        _refuse_outside(table)
        table = np.stack([1 - table, table], axis=1)
    if table.ndim != 2 or table.shape[1] < 2:
        raise UserError(
            f"probabilities have shape {table.shape}: expected [N,C] with a column for each of two "
            "or more classes, or [N] with the probability of the second of two"
        )
    if not len(table):
        raise UserError("there are no predictions: expected one row or more")
    _refuse_outside(table)
    misses = np.abs(table.sum(axis=1) - 1)
    worst = int(misses.argmax())
    if misses[worst] > SUM_TOLERANCE:
        raise UserError(
            f"row {worst} of the probabilities sums to {table[worst].sum():.4g}: expected 1; give "
            "probabilities (softmax of logits), not scores"
        )
    return table


def _refuse_outside(table: np.ndarray) -> None:
    """Raise a UserError for what is not finite, or no share."""
    bad = ~np.isfinite(table)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise UserError(
            f"probabilities hold {int(bad.sum())} values that are not finite, first in row {row}: "
            "leave these images out, or see why their prediction failed"
        )
    outside = (table < 0) | (table > 1 + SUM_TOLERANCE)
    if outside.any():
        row = int(np.argwhere(outside)[0][0])
        raise UserError(
            f"row {row} of the probabilities holds {table[outside][0]:.4g}: expected 0 to 1; give "
            "probabilities (softmax of logits), not scores"
        )


def _names(classes: Sequence[str] | None, labels: ArrayLike, columns: int) -> tuple[str, ...]:
    """A name for each column."""
    if classes is None:
        if np.asarray(labels).dtype.kind in "USO":
            raise UserError(
                "labels are names, and classes=None: name the classes in the order of the columns "
                "of the probabilities"
            )
        return tuple(str(index) for index in range(columns))
    if isinstance(classes, str):
        raise UserError(f"classes={classes!r}: expected several names, such as ('normal', 'ssc')")
    names = tuple(str(name) for name in classes)
    if len(names) != columns or len(set(names)) < columns:
        raise UserError(
            f"classes are {', '.join(names)}, and the probabilities have {columns} columns: "
            "expected a distinct name for each column"
        )
    return names


def _labels(given: ArrayLike, names: tuple[str, ...], count: int) -> np.ndarray:
    """[N] int32, checked."""
    labels = _column(given, count, "labels")
    if labels.dtype.kind in "USO":
        unknown = [name for name in labels.tolist() if name not in names]
        if unknown:
            raise UserError(
                f"label {unknown[0]!r} is none of the classes ({', '.join(names)}): correct the "
                "label, or name the class and give its probabilities"
            )
        return np.array([names.index(name) for name in labels.tolist()], np.int32)
    if labels.dtype.kind not in "iub":
        raise UserError(f"labels have the type {labels.dtype}: expected whole numbers or names")
    whole = labels.astype(np.int64)
    if whole.min() < 0 or whole.max() >= len(names):
        raise UserError(
            f"labels reach from {whole.min()} to {whole.max()}: expected 0 to {len(names) - 1}, "
            "the columns of the probabilities"
        )
    return whole.astype(np.int32)


def _subjects(given: ArrayLike | None, count: int) -> np.ndarray:
    """[N] str."""
    return _column(given, count, "subjects").astype(str)


def _column(given: Any, count: int, name: str) -> np.ndarray:
    """[N], as many as there are predictions."""
    column = np.asarray(given)
    if column.shape != (count,):
        raise UserError(
            f"{name} have shape {column.shape}: expected ({count},), one for each row of the "
            "probabilities"
        )
    return column
