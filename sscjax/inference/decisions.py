"""From probabilities and distances to decisions, by a run's rules; as tables, JSON and text.

A decision is a class, 'abstain' (no answer: the probability of the most probable class is below the
confidence threshold) or 'out_of_distribution' (the image is unlike the training images). Beside it
stands the prediction set, the classes that cannot be excluded. A subject's row is aggregated from
its images' calibrated probabilities, calibrated once more, and has thresholds and sets of its own:
those of images do not fit it. It is out-of-distribution where more than half of its images are.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.data.inputs import InputImage
from sscjax.evaluation import calibration
from sscjax.evaluation.predictions import aggregate
from sscjax.evaluation.rules import Rules, Unit, UnitRules
from sscjax.inference.outputs import Outputs
from sscjax.system import files, formatting

ABSTAIN, OUT_OF_DISTRIBUTION = "abstain", "out_of_distribution"

# How the table on the screen calls what is no class.
SHORT = {ABSTAIN: "no answer", OUT_OF_DISTRIBUTION: "out of distribution"}

# How a subject's row is made, in words.
AGGREGATED = {"mean": "mean", "geometric": "geometric mean"}

# Rows of the table on the screen; the files have all.
MOST_ROWS = 25


@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions and what they were made of, a row per image or per subject.

    Attributes:
      names: [N] str, files or subjects.
      subjects: [N] str.
      labels: [N] str, the true class; '' where it is not known.
      sites: [N] str, the hospital or scanner; '' where it is not known.
      images: [N] int, 1 or more: the number of images of each row.
      probabilities: [N,C] float64, 0 to 1, calibrated; rows sum to 1.
      distances: [N] float64, 0 or more, see `ood.Detector`; of a subject the median of its images.
      predicted: [N] int, 0 to C-1, the most probable class.
      scores: [N] float64, 0 to 1, the probability of disease (any class but the first).
      positive: [N] bool, the score reaches the run's threshold.
      abstained: [N] bool, the confidence is below the run's confidence threshold.
      out_of_distribution: [N] bool, the distance is above the run's limit.
      sets: [N,K] bool, the classes that cannot be excluded; K of the C columns are classes.
    """

    names: np.ndarray
    subjects: np.ndarray
    labels: np.ndarray
    sites: np.ndarray
    images: np.ndarray
    probabilities: np.ndarray
    distances: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    positive: np.ndarray
    abstained: np.ndarray
    out_of_distribution: np.ndarray
    sets: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def confidence(self) -> np.ndarray:
        """[N] float64, the probability of the most probable class."""
        return self.probabilities.max(axis=1)

    def outcomes(self, columns: Sequence[str]) -> list[str]:
        """Of each row the class, `ABSTAIN` or `OUT_OF_DISTRIBUTION`.

        Args:
          columns: C names of the probabilities.
        """
        classes = np.array(columns)[self.predicted]
        answered = np.where(self.abstained, ABSTAIN, classes)
        return np.where(self.out_of_distribution, OUT_OF_DISTRIBUTION, answered).tolist()

    def set_names(self, columns: Sequence[str]) -> list[list[str]]:
        """Of each row the classes in its prediction set; `columns` as of `outcomes`."""
        names = np.array(columns)[: self.sets.shape[1]]
        return [names[inside].tolist() for inside in self.sets]


def decide(
    images: Sequence[InputImage],
    outputs: Outputs,
    rules: Rules,
    classes: int,
    distance_limit: float,
) -> Decisions:
    """Apply a run's rules to each image.

    Args:
      images: N images.
      outputs: the network's, of the same images.
      rules: the run's.
      classes: how many of the columns stand for a class.
      distance_limit: images at a larger distance are out-of-distribution; infinite where the
        run's flag is not usable.
    """
    return _decisions(
        names=np.array([image.file for image in images], dtype=str),
        subjects=np.array([image.subject for image in images], dtype=str),
        labels=np.array([image.label for image in images], dtype=str),
        sites=np.array([image.site for image in images], dtype=str),
        images=np.ones(len(images), int),
        probabilities=outputs.probabilities,
        distances=outputs.distances,
        out_of_distribution=outputs.distances > distance_limit,
        rules=rules.image,
        classes=classes,
    )


def by_subject(images: Decisions, rules: Rules, classes: int) -> Decisions:
    """One row per subject, in the order of first appearance.

    Args:
      images: a row per image.
      rules: the run's.
      classes: how many of the columns stand for a class.
    """
    names = list(dict.fromkeys(images.subjects.tolist()))
    number = {name: index for index, name in enumerate(names)}
    group = np.array([number[name] for name in images.subjects.tolist()], dtype=np.int64)
    members = [np.flatnonzero(images.subjects == name) for name in names]
    flagged = images.out_of_distribution
    return _decisions(
        names=np.array(names, dtype=str),
        subjects=np.array(names, dtype=str),
        labels=np.array([_common(images.labels[rows]) for rows in members], dtype=str),
        sites=np.array([_common(images.sites[rows]) for rows in members], dtype=str),
        images=np.array([len(rows) for rows in members], int),
        probabilities=calibration.calibrate(
            aggregate(images.probabilities, group, rules.aggregation), rules.subject.temperature
        ),
        distances=np.array([np.median(images.distances[rows]) for rows in members]),
        out_of_distribution=np.array([flagged[rows].mean() > 0.5 for rows in members], bool),
        rules=rules.subject,
        classes=classes,
    )


def _common(names: np.ndarray) -> str:
    """The label or site of all, '' where they differ."""
    return str(names[0]) if len(set(names.tolist())) == 1 else ""


def _decisions(*, rules: UnitRules, classes: int, **columns: np.ndarray) -> Decisions:
    """The columns that are given, and those that follow from them by the rules."""
    probabilities = columns["probabilities"]
    used = probabilities[:, :classes]
    scores = used[:, 1:].sum(axis=1) / used.sum(axis=1)
    threshold = 0.0 if rules.confidence_threshold is None else rules.confidence_threshold
    return Decisions(
        **columns,
        predicted=probabilities.argmax(axis=1),
        scores=scores,
        positive=scores >= rules.threshold,
        abstained=probabilities.max(axis=1) < threshold,
        sets=rules.sets.members(probabilities),
    )


# --- as files -------------------------------------------------------------------------------------


def as_rows(table: Decisions, columns: Sequence[str], unit: Unit) -> list[dict[str, Any]]:
    """A dict for each row, ready for JSON.

    Args:
      table: rows of images or of subjects.
      columns: names of the probabilities.
      unit: 'image' or 'subject'.
    """
    entries, sets = [], table.set_names(columns)
    for k, outcome in enumerate(table.outcomes(columns)):
        entry: dict[str, Any] = {}
        if unit == "image":
            entry["file"] = str(table.names[k])
        entry["subject"] = str(table.subjects[k])
        if table.sites[k]:
            entry["site"] = str(table.sites[k])
        if unit == "subject":
            entry["images"] = int(table.images[k])
        if table.labels[k]:
            entry["label"] = str(table.labels[k])
        entry |= {
            "decision": outcome,
            "prediction_set": sets[k],
            "most_probable": columns[int(table.predicted[k])],
            "confidence": float(table.confidence[k]),
            "disease_score": float(table.scores[k]),
            "positive": bool(table.positive[k]),
            "abstained": bool(table.abstained[k]),
            "out_of_distribution": bool(table.out_of_distribution[k]),
            "distance": float(table.distances[k]),
            "probabilities": dict(zip(columns, table.probabilities[k].tolist(), strict=True)),
        }
        entries.append(entry)
    return entries


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `as_rows` as CSV; of the probabilities a column `p_<class>` each.

    The classes of a prediction set stand in one cell, with ` | ` between them.
    """
    flat = []
    for row in rows:
        cells = {key: value for key, value in row.items() if key != "probabilities"}
        cells["prediction_set"] = " | ".join(row["prediction_set"])
        flat.append({**cells, **{f"p_{key}": p for key, p in row["probabilities"].items()}})
    header = list(dict.fromkeys(key for row in flat for key in row))
    return files.csv_text([header, *([row.get(key) for key in header] for row in flat)])


# --- as text --------------------------------------------------------------------------------------


def table_text(table: Decisions, columns: Sequence[str], unit: Unit, file: str) -> str:
    """The table for the screen: the first `MOST_ROWS` rows, and where the others are.

    Args:
      table: rows of images or of subjects.
      columns: names of the probabilities.
      unit: 'image' or 'subject'.
      file: the path of the whole table.
    """
    head = [unit, *(["images"] if unit == "subject" else []), "decision", "set"]
    head += [formatting.clean_name(name, 14) for name in columns]
    lines = [[*head, "disease", "distance"]]
    for k, outcome in enumerate(table.outcomes(columns)[:MOST_ROWS]):
        cells = [formatting.clean_file(str(table.names[k]), 34)]
        cells += [str(table.images[k])] if unit == "subject" else []
        cells.append(formatting.clean_name(SHORT.get(outcome, outcome), 19))
        cells.append(" ".join(str(index + 1) for index in np.flatnonzero(table.sets[k])))
        cells += [formatting.percent(float(share)) for share in table.probabilities[k]]
        score = formatting.percent(float(table.scores[k])) + (" +" if table.positive[k] else "  ")
        lines.append([*cells, score, f"{table.distances[k]:.2f}"])
    # Flush left: the name and the decision, with the count of images between them right.
    text = formatting.align(lines, left=1 if unit == "subject" else 2)
    more = len(table) - MOST_ROWS
    return text + (f"\n... and {more} more in {file}" if more > 0 else "")


def legend(rules: Rules, unit: Unit, distance_limit: float, classes: Sequence[str] = ()) -> str:
    """What the columns of `table_text` mean, by the run's rules for the unit.

    Args:
      rules: the run's.
      unit: what a row of the table is.
      distance_limit: as of `decide`.
      classes: names by which the numbers in the column of sets are explained.
    """
    own = rules.of(unit)
    threshold = own.confidence_threshold
    abstain = (
        f"no answer: below the confidence threshold of {formatting.percent(threshold)}"
        if threshold is not None
        else "no answer: never, there is no confidence threshold"
    )
    numbered = ", ".join(
        f"{index} {formatting.clean_name(name)}" for index, name in enumerate(classes, 1)
    )
    far = (
        f"out of distribution: unlike the training images, distance above {distance_limit:.2f}"
        if math.isfinite(distance_limit)
        else "out of distribution: never, the run's flag misses most images made up to try it"
    )
    lines = [
        f"disease: {formatting.clean_name(rules.positive, 40)}; + from "
        f"{formatting.percent(own.threshold)} on ({own.threshold_rule})",
        f"{abstain} ({own.abstention_rule})",
        f"set: the classes that cannot be excluded ({numbered}); {own.sets.rule}",
        far,
    ]
    if unit == "subject":
        lines.append(
            f"a subject has the {AGGREGATED[rules.aggregation]} of its images' probabilities, "
            f"calibrated by a temperature of {own.temperature:.2f}"
        )
    return "\n".join(
        line
        for text in lines
        for line in textwrap.wrap(text, formatting.WIDTH - 2, break_on_hyphens=False)
    )
