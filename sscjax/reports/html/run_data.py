"""What a run's folder holds, read once: files that other parts write are there or not."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions
from sscjax.system import files

RUN, PROTOCOL = "run.json", "protocol.json"
FOLDS = "folds"
EXPLANATIONS = "explanations"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A finished run or protocol.

    Attributes:
      path: where it lies.
      record: run.json; of a protocol what protocol.json has of it, and its first fold's run.json.
      metrics: metrics.json.
      predictions: predictions.csv; of an image that several repeats tested, the first test.
      curves: rows of curves.csv, numbers as float, what is empty as None.
      stages: stage.json by the stage's name, in the order of the config.
      optional: audit, calibration, manifest, explanations and protocol, by name; None where the
        file is not there.
      folds: of a protocol, by name.
    """

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    predictions: Predictions
    curves: list[dict[str, Any]]
    stages: dict[str, dict[str, Any]]
    optional: dict[str, Any]
    folds: dict[str, Folder]

    @property
    def repeated(self) -> bool:
        """Whether images were tested several times: `predictions` has the first test of each."""
        return self.metrics.get("over_repeats") is not None

    @property
    def is_protocol(self) -> bool:
        """Whether the folder holds several runs of one protocol."""
        return bool(self.folds)

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run or protocol."""
        return self.record["config"]


_OPTIONAL = {
    "audit": "audit.json",
    "calibration": "calibration.json",
    "manifest": "manifest.json",
    "explanations": f"{EXPLANATIONS}/explanations.json",
    "protocol": PROTOCOL,
}


def read(path: Path) -> Folder:
    """Read a folder.

    Raises:
      UserError: it holds no finished run, or a file in it is damaged.
    """
    if not (path / RUN).is_file() and not (path / PROTOCOL).is_file():
        raise UserError(
            f"{path} holds no run (neither {RUN} nor {PROTOCOL}): give the folder of a run"
        )
    for name in ("metrics.json", "predictions.csv"):
        if not (path / name).is_file():
            raise UserError(f"{path} has no {name}: finish the run first, by its own command")
    folds = {fold.name: read(fold) for fold in _finished_folds(path)}
    own = _json(path / RUN)
    if own is None:
        if not folds:
            raise UserError(f"{path / FOLDS} holds no finished run: run the protocol to its end")
        # What the protocol itself records goes before what its first fold was given.
        protocol = _json(path / PROTOCOL)
        kept = {key: protocol[key] for key in ("config", "data", "command") if key in protocol}
        own = {**next(iter(folds.values())).record, **kept}
    _check(path / RUN, own)
    return Folder(
        path=path,
        record=own,
        metrics=_json(path / "metrics.json"),
        predictions=_first_tests(Predictions.read_csv(path / "predictions.csv")),
        curves=list(_curves(path / "curves.csv")),
        stages={
            name: found
            for name in own["config"]["stage_order"]
            if (found := _json(path / "stages" / name / "stage.json")) is not None
        },
        optional={name: _json(path / file) for name, file in _OPTIONAL.items()},
        folds=folds,
    )


def _first_tests(table: Predictions) -> Predictions:
    """Each image once: the models of several repeats are not to be averaged into one."""
    _, first = np.unique(table.files, return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(first))


def _finished_folds(path: Path) -> Iterator[Path]:
    """Folds of a protocol in the order of their names, numbers by their value."""
    found = [entry for entry in (path / FOLDS).glob("*") if (entry / "metrics.json").is_file()]
    yield from sorted(found, key=lambda entry: (len(entry.name), entry.name))


def _check(path: Path, record: Any) -> None:
    missing = [key for key in ("config", "data", "weights", "versions") if key not in record]
    if missing:
        raise UserError(f"{path} is damaged (no {', '.join(missing)}): start the run anew")


def _json(path: Path) -> Any:
    """What a file holds; None where there is none."""
    if not path.is_file():
        return None
    try:
        return files.read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): make it anew by the run's command") from None


def _curves(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {key: value if key == "stage" else _number(value) for key, value in row.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
