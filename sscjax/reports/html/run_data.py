"""What a run's folder holds, read once: files that other parts write are there or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions
from sscjax.system import run_dir


@dataclasses.dataclass(frozen=True)
class Folder:
    """A finished run or cross-validation.

    Attributes:
      path: where it lies.
      record: run.json; of a cross-validation its first fold's, with what protocol.json has of it
        in its place.
      metrics: metrics.json.
      predictions: predictions.csv; of an image that several repeats tested, the first test.
      subjects: predictions_by_subject.csv, likewise; of folders without one, the subjects' mean
        probabilities.
      curves: rows of curves.csv, numbers as float, what is empty as None.
      stages: stage.json by the stage's name, in the order of the config.
      optional: audit, calibration, manifest, explanations and protocol, by name; None where the
        file is not there.
      folds: of a cross-validation, by name.
      hands_on: whether a cross-validation holds a model that is fitted to all images.
    """

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    predictions: Predictions
    subjects: Predictions
    curves: list[dict[str, Any]]
    stages: dict[str, Mapping[str, Any]]
    optional: dict[str, Any]
    folds: dict[str, Folder]
    hands_on: bool = False

    @property
    def repeated(self) -> bool:
        """Whether images were tested several times: `predictions` has the first test of each."""
        return self.metrics.get("over_repeats") is not None

    @property
    def is_cross_validation(self) -> bool:
        """Whether the folder holds the folds of a cross-validation."""
        return bool(self.folds)

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run or cross-validation."""
        return self.record["config"]


_OPTIONAL = {
    "audit": run_dir.AUDIT,
    "calibration": run_dir.CALIBRATION,
    "manifest": run_dir.MANIFEST,
    "explanations": f"{run_dir.EXPLANATIONS}/{run_dir.EXPLANATIONS_INDEX}",
    "protocol": run_dir.PROTOCOL,
}


def read(path: Path) -> Folder:
    """Read a folder.

    Raises:
      UserError: it holds no finished run, or a file in it is damaged.
    """
    run = run_dir.RunDir(path)
    if not run.has(run_dir.RECORD) and not run.has(run_dir.PROTOCOL):
        raise UserError(
            f"{path} holds no run (neither {run_dir.RECORD} nor {run_dir.PROTOCOL}): give the "
            "folder of a run"
        )
    for name in (run_dir.METRICS, run_dir.PREDICTIONS):
        if not run.has(name):
            raise UserError(f"{path} has no {name}: finish the run first, by its own command")
    folds = {fold.name: read(fold.path) for fold in run.folds(run_dir.METRICS)}
    record = run.optional(run_dir.RECORD)
    if record is None:
        if not folds:
            raise UserError(
                f"{path / run_dir.FOLDS} holds no finished run: finish the "
                "cross-validation by its own command"
            )
        # What the cross-validation itself records goes before what its first fold was given.
        protocol = run.optional(run_dir.PROTOCOL)
        recorded = {key: protocol[key] for key in ("config", "data", "command") if key in protocol}
        record = {**next(iter(folds.values())).record, **recorded}
    _check(path / run_dir.RECORD, record)
    predictions = _first_tests(Predictions.read_csv(run.predictions))
    by_subject = run.has(run_dir.SUBJECT_PREDICTIONS)
    return Folder(
        path=path,
        record=record,
        metrics=run.metrics(),
        predictions=predictions,
        subjects=_first_tests(Predictions.read_csv(run.subject_predictions))
        if by_subject
        else predictions.by_subject(),
        curves=run.curves(),
        stages={
            name: about
            for name in record["config"]["stage_order"]
            if (about := run.stage(name).read()) is not None
        },
        optional={name: run.optional(file) for name, file in _OPTIONAL.items()},
        folds=folds,
        hands_on=bool(folds) and (path / run_dir.MODEL / run_dir.RECORD).is_file(),
    )


def _first_tests(table: Predictions) -> Predictions:
    """Each row once: the models of several repeats are not to be averaged into one."""
    # Split by image, a subject has a row in each split.
    names = [f"{split} {file}" for split, file in zip(table.splits, table.files, strict=True)]
    _, first = np.unique(names, return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(first))


def _check(path: Path, record: Any) -> None:
    missing = [key for key in ("config", "data", "weights", "versions") if key not in record]
    if missing:
        raise UserError(
            f"{path} is damaged (no {', '.join(missing)}): start the run again with --fresh"
        )
