"""What a run predicted for the images and the subjects of a split.

A RUN is the folder of a run, of one of its stages (RUN/stages/NAME) or of a cross-validation, or a
predictions.csv. Its subjects' rows are the answers that a user of the run gets: aggregated as the
run does it, and calibrated for subjects. A stage has no such rows of its own; its images, which are
not calibrated, are aggregated as its run does it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sscjax.data import manifest
from sscjax.errors import UserError
from sscjax.evaluation import calibration
from sscjax.evaluation.predictions import Aggregation, Predictions, SubjectLabel
from sscjax.system import files, run_dir

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SubjectRule:
    """How a run makes one row of a subject's images.

    Attributes:
      aggregation: see `predictions.AGGREGATIONS`.
      label: what a subject is whose images have several labels.
      temperature: what its logits are divided by; of a cross-validation that for new patients.
    """

    aggregation: Aggregation = "mean"
    label: SubjectLabel = "majority"
    temperature: float = 1.0

    def apply(self, images: Predictions) -> Predictions:
        """A row for each subject of the images."""
        table = images.by_subject(self.aggregation, self.label)
        return calibration.apply(table, self.temperature)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run predicted for a split.

    Attributes:
      path: as it was given.
      predictions: a row per image.
      subjects: a row per subject, the run's answers.
      rule: how these are made of the images.
      ordered: whether its classes are a scale, so that kappa has a meaning.
      hashes: SHA-256 of the run's images by name, and of what ('file' or 'pixels'); empty where
        there is no manifest.
      config: the name of its config; '' where there is no record.
    """

    path: Path
    predictions: Predictions
    subjects: Predictions
    rule: SubjectRule
    ordered: bool
    hashes: Mapping[str, tuple[str, str]]
    config: str = ""

    def take(self, names: list[str]) -> Run:
        """The images of these names, in this order, and their subjects, in the order of names.

        A subject of whom images are left out is aggregated again from those that stay.
        """
        place = {file: row for row, file in enumerate(self.predictions.files.tolist())}
        images = self.predictions.take(np.array([place[file] for file in names], np.int64))
        before = dict(zip(*np.unique(self.predictions.subjects, return_counts=True), strict=True))
        after = dict(zip(*np.unique(images.subjects, return_counts=True), strict=True))
        own = self.subjects.subjects.tolist()
        whole = np.array([after.get(name) == before.get(name) for name in own], bool)
        parts = np.array([after[name] < before[name] for name in images.subjects.tolist()], bool)
        tables = [self.subjects.take(whole)]
        if parts.any():
            tables.append(self.rule.apply(images.take(parts)))
        joined = Predictions.join(tables)
        order = np.argsort(joined.subjects, kind="stable")
        return dataclasses.replace(self, predictions=images, subjects=joined.take(order))


def read_run(path: Path, split: str) -> Run:
    """Read the predictions of a run, a stage, or the first repeat of a cross-validation.

    Raises:
      UserError: there are none, or none of this split, or an image is predicted twice.
    """
    table = path / run_dir.PREDICTIONS if path.is_dir() else path
    if not table.is_file():
        raise UserError(f"{path} holds no {run_dir.PREDICTIONS}: give the folder of a finished run")
    predictions = Predictions.read_csv(table).where(split)
    if not len(predictions):
        raise UserError(f"{table} has no rows of the split {split!r}: choose another --split")
    of_stage = table.parent.parent.name == run_dir.STAGES
    run = run_dir.RunDir(table.parent.parent.parent if of_stage else table.parent)
    repeats = _repeats(predictions, table, split, run.has(run_dir.PROTOCOL))
    if repeats > 1:
        # Tested several times, a patient is still one patient.
        predictions = _first(predictions)
        _LOG.info("%s: the first of %d repeats is taken", path, repeats)
    rule, subjects = _rule(run, of_stage), None
    if not of_stage and table.name == run_dir.PREDICTIONS:
        subjects = _answers(run, predictions, split)
    if subjects is None:
        subjects = rule.apply(predictions)
    return Run(
        path=path,
        predictions=predictions,
        subjects=subjects,
        rule=rule,
        ordered=_is_ordered(run.path),
        hashes=_hashes(run.path),
        config=_config_name(run.path),
    )


def _repeats(predictions: Predictions, table: Path, split: str, of_folds: bool) -> int:
    """How often each image was tested: more than once in a cross-validation with repeats only."""
    unique, counts = np.unique(predictions.files, return_counts=True)
    repeats, once = int(counts.max()), predictions.files[: len(unique)]
    # Repeat after repeat, each with every image; those of hold-outs have others each time.
    in_turn = np.array_equal(predictions.files, np.tile(once, repeats))
    if repeats > 1 and not (in_turn and of_folds):
        raise UserError(
            f"{table} predicts {unique[counts.argmax()]} {repeats} times in the split "
            f"{split!r}, expected once: give one run or fold, not several in one table"
        )
    return repeats


def _first(table: Predictions) -> Predictions:
    """The first row of each name, in the table's order."""
    _, first = np.unique(table.files, return_index=True)
    return table.take(np.sort(first))


def _rule(run: run_dir.RunDir, of_stage: bool) -> SubjectRule:
    """By calibration.json; without one the mean, as it is."""
    content = run.optional(run_dir.CALIBRATION)
    if content is None:
        return SubjectRule()
    try:
        return SubjectRule(
            aggregation=content["rules"]["aggregation"],
            label=content["subject_label"],
            temperature=1.0 if of_stage else float(content["rules"]["subject"]["temperature"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.path / run_dir.CALIBRATION} is damaged ({error}): give "
            f"{run.path / run_dir.PREDICTIONS} in a folder without it"
        ) from error


def _answers(run: run_dir.RunDir, images: Predictions, split: str) -> Predictions | None:
    """The rows of subjects that the run has written; None where there are none.

    Raises:
      UserError: they are of other subjects than the images.
    """
    if not run.has(run_dir.SUBJECT_PREDICTIONS):
        return None
    table = _first(Predictions.read_csv(run.subject_predictions).where(split))
    strangers = sorted(set(table.subjects.tolist()) - set(images.subjects.tolist()))
    if strangers or not len(table):
        found = f"has the subject {strangers[0]}" if strangers else f"has no rows of {split!r}"
        raise UserError(
            f"{run.subject_predictions} {found}, unlike {run.predictions}: both are written by the "
            "run; write them again from it, or delete the first"
        )
    return table


def _config_name(folder: Path) -> str:
    """The name of the config that the run or cross-validation followed, or ''."""
    run = run_dir.RunDir(folder)
    for name in (run_dir.RECORD, run_dir.PROTOCOL):
        record = run.optional(name)
        if isinstance(record, dict) and isinstance(record.get("config"), dict):
            return str(record["config"].get("name", ""))
    return ""


def _is_ordered(folder: Path) -> bool:
    """Whether the run has a kappa among its own metrics."""
    path = folder / run_dir.METRICS
    if not path.is_file():
        return False
    try:
        splits = files.read_json(path)["splits"].values()
        return any(split["image"]["quadratic_kappa"] is not None for split in splits)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): give {folder / run_dir.PREDICTIONS} in a folder "
            "without it"
        ) from error


def _hashes(folder: Path) -> dict[str, tuple[str, str]]:
    """By the run's manifest; all folds of a cross-validation have the same images."""
    own = run_dir.RunDir(folder)
    for run in (own, *own.folds(run_dir.MANIFEST)):
        if run.has(run_dir.MANIFEST):
            rows = manifest.read(run.path)["images"]
            return {row["file"]: (row["of"], row["sha256"]) for row in rows}
    return {}
