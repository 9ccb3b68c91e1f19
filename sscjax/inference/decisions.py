"""What a network says of new images, judged by its run's rules, as tables, JSON and text.

Three answers are possible: a class; 'unsure', where the probability of the most probable class is
below what the run's validation images needed to be right often enough; 'foreign', where the image
is unlike those that the network was trained on. A subject has the mean probabilities of its images,
as in training; it is foreign where most of its images are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.data.inputs import Asked
from sscjax.evaluation.predictions import group_means
from sscjax.inference.answers import Answers, Rules
from sscjax.system import files, formatting

UNSURE, FOREIGN = "unsure", "foreign"

# Rows of the table on the screen; the files have all.
MOST_ROWS = 25


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Answers with what the rules make of them, a row per image or per subject.

    Attributes:
      names: [N] str, files or subjects.
      subjects: [N] str.
      labels: [N] str, '' where unknown.
      images: [N] int, how many images each row stands for.
      probabilities: [N,C] float64, calibrated.
      distances: [N] float64; of a subject the median of its images.
      predicted: [N] int, the most probable class.
      scores: [N] float64, probability of disease (any class but the first).
      positive: [N] bool, whether that reaches the run's threshold.
      unsure: [N] bool, below the least confidence that is answered.
      foreign: [N] bool, unlike the training images.
    """

    names: np.ndarray
    subjects: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    probabilities: np.ndarray
    distances: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    positive: np.ndarray
    unsure: np.ndarray
    foreign: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def confidence(self) -> np.ndarray:
        """[N] probability of the most probable class."""
        return self.probabilities.max(axis=1)

    def answer(self, columns: Sequence[str]) -> list[str]:
        """The class of each row, or why there is none."""
        return [
            FOREIGN if foreign else UNSURE if unsure else columns[best]
            for best, unsure, foreign in zip(
                self.predicted.tolist(), self.unsure.tolist(), self.foreign.tolist(), strict=True
            )
        ]


def judge(
    asked: Sequence[Asked], answers: Answers, rules: Rules, classes: int, far: float
) -> Judged:
    """Apply a run's rules to each image.

    Args:
      asked: N images.
      answers: of the same.
      rules: the run's.
      classes: how many of the columns stand for a class.
      far: distances above it are foreign.
    """
    return _judged(
        names=np.array([one.file for one in asked], dtype=str),
        subjects=np.array([one.subject for one in asked], dtype=str),
        labels=np.array([one.label for one in asked], dtype=str),
        images=np.ones(len(asked), int),
        probabilities=answers.probabilities,
        distances=answers.distances,
        foreign=answers.distances > far,
        rules=rules,
        classes=classes,
    )


def by_subject(images: Judged, rules: Rules, classes: int) -> Judged:
    """One row per subject, in the order of first appearance; arguments as of `judge`."""
    names = list(dict.fromkeys(images.subjects.tolist()))
    number = {name: index for index, name in enumerate(names)}
    group = np.array([number[name] for name in images.subjects.tolist()], dtype=np.int64)
    rows = [np.flatnonzero(images.subjects == name) for name in names]
    return _judged(
        names=np.array(names, dtype=str),
        subjects=np.array(names, dtype=str),
        labels=np.array([_common(images.labels[some]) for some in rows], dtype=str),
        images=np.array([len(some) for some in rows], int),
        probabilities=group_means(images.probabilities, group),
        distances=np.array([np.median(images.distances[some]) for some in rows]),
        foreign=np.array([images.foreign[some].mean() > 0.5 for some in rows], bool),
        rules=rules,
        classes=classes,
    )


def _common(labels: np.ndarray) -> str:
    """The label of all, '' where they differ."""
    return str(labels[0]) if len(set(labels.tolist())) == 1 else ""


def _judged(*, rules: Rules, classes: int, **rows: np.ndarray) -> Judged:
    probabilities = rows["probabilities"]
    used = probabilities[:, :classes]
    scores = used[:, 1:].sum(axis=1) / used.sum(axis=1)
    least = 0.0 if rules.least_confidence is None else rules.least_confidence
    return Judged(
        **rows,
        predicted=probabilities.argmax(axis=1),
        scores=scores,
        positive=scores >= rules.threshold,
        unsure=probabilities.max(axis=1) < least,
    )


# --- as files -------------------------------------------------------------------------------------


def as_rows(judged: Judged, columns: Sequence[str], unit: str) -> list[dict[str, Any]]:
    """A dict for each row, ready for JSON.

    Args:
      judged: rows of images or of subjects.
      columns: names of the probabilities.
      unit: 'image' or 'subject'.
    """
    found = []
    for k, answer in enumerate(judged.answer(columns)):
        row: dict[str, Any] = {}
        if unit == "image":
            row["file"] = str(judged.names[k])
        row["subject"] = str(judged.subjects[k])
        if unit == "subject":
            row["images"] = int(judged.images[k])
        if judged.labels[k]:
            row["label"] = str(judged.labels[k])
        row |= {
            "answer": answer,
            "most_probable": columns[int(judged.predicted[k])],
            "confidence": float(judged.confidence[k]),
            "disease_score": float(judged.scores[k]),
            "positive": bool(judged.positive[k]),
            "unsure": bool(judged.unsure[k]),
            "foreign": bool(judged.foreign[k]),
            "distance": float(judged.distances[k]),
            "probabilities": dict(zip(columns, judged.probabilities[k].tolist(), strict=True)),
        }
        found.append(row)
    return found


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `as_rows` as CSV; of the probabilities a column `p_<class>` each."""
    flat = []
    for row in rows:
        cells = {key: value for key, value in row.items() if key != "probabilities"}
        flat.append({**cells, **{f"p_{key}": p for key, p in row["probabilities"].items()}})
    header = list(dict.fromkeys(key for row in flat for key in row))
    return files.csv_text([header, *([row.get(key) for key in header] for row in flat)])


# --- as text --------------------------------------------------------------------------------------


def table(judged: Judged, columns: Sequence[str], unit: str, file: str) -> str:
    """The table for the screen; of many rows the first ones, and where the others are."""
    head = [unit, *(["images"] if unit == "subject" else []), "answer"]
    head += [formatting.clean_name(name, 14) for name in columns]
    rows = [[*head, "disease", "distance"]]
    for k, answer in enumerate(judged.answer(columns)[:MOST_ROWS]):
        cells = [formatting.clean_file(str(judged.names[k]), 34)]
        cells += [str(judged.images[k])] if unit == "subject" else []
        cells.append(formatting.clean_name(answer, 16))
        cells += [formatting.percent(float(share)) for share in judged.probabilities[k]]
        score = formatting.percent(float(judged.scores[k])) + (" +" if judged.positive[k] else "  ")
        rows.append([*cells, score, f"{judged.distances[k]:.2f}"])
    # Flush left: the name and the answer, with the count of images between them right.
    lines = formatting.align(rows, left=1 if unit == "subject" else 2)
    left = len(judged) - MOST_ROWS
    return lines + (f"\n... and {left} more in {file}" if left > 0 else "")


def legend(rules: Rules, far: float) -> str:
    """What the columns of `table` mean, by the run's rules."""
    least = rules.least_confidence
    unsure = (
        f"unsure: the most probable class has less than {formatting.percent(least)}"
        if least is not None
        else "unsure: never said"
    )
    return "\n".join(
        [
            f"disease: {formatting.clean_name(rules.positive, 40)}; + from "
            f"{formatting.percent(rules.threshold)} on ({rules.threshold_rule})",
            f"{unsure} ({rules.abstention_rule})",
            f"foreign: unlike the training images, at a distance above {far:.2f}",
        ]
    )
