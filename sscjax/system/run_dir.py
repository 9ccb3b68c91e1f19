"""A run's folder: the names of all its files, and one reader for them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sscjax.errors import UserError
from sscjax.system import files

# ---- the names of a run's files ------------------------------------------------------------------

# What identifies a run and says whether it is finished; the same of a cross-validation, whose
# folds are runs of their own.
RECORD = "run.json"
PROTOCOL = "protocol.json"

# What went into the run: every image with its hash, the split, how tiles were cut, the audit.
MANIFEST = "manifest.json"
SPLITS = "splits.csv"
SLIDES = "slides.json"
AUDIT = "audit.json"

# Results as tables and numbers: of the chosen stage, calibrated. FOLDS_TABLE is of a
# cross-validation, MASKS of networks that predict masks.
PREDICTIONS = "predictions.csv"
METRICS = "metrics.json"
CALIBRATION = "calibration.json"
OUTLIERS = "outliers.npz"
MASKS = "masks.csv"
FOLDS_TABLE = "folds.csv"

# The course of the training.
CURVES = "curves.csv"
TENSORBOARD = "tensorboard"

# For people to read: reports and pictures. The figure of a confusion matrix is `confusion_plot`.
REPORT = "report.txt"
PAGE = "report.html"
CARD = "model_card.md"
CURVES_PLOT = "curves.png"
CALIBRATION_PLOT = "calibration.png"
MASKS_SHEET = "masks.png"

# A folder of pictures, and what each of them is.
EXPLANATIONS = "explanations"
EXPLANATIONS_INDEX = "explanations.json"

# A folder for each stage, with its parameters, its own PREDICTIONS, and its course.
STAGES = "stages"
MODEL = "model"
STAGE = "stage.json"

# Of a cross-validation: a run for each fold; of a nested one also those of its search.
FOLDS = "folds"
SEARCH = "search"
SEARCH_RESULT = "search.json"

# To resume from; of no use to a finished run.
CHECKPOINTS = "checkpoints"

# In the folder of a run that was repeated by `sscjax reproduce`: what came out the same.
REPRODUCTION = "reproduction.json"


def confusion_plot(split: str) -> str:
    """The name of the figure of a split's confusion matrix."""
    return f"confusion_{split}.png"


# ---- reading -------------------------------------------------------------------------------------

KEYS = ("status", "config", "data", "weights", "stages", "versions")


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """What a program's own record holds, all `keys` among it; None without the file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = files.read_json(path)
        return {**found, **{key: found[key] for key in keys}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): start anew with --fresh") from error


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where no run was started.

    Raises:
      UserError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        found = {key: record[key] for key in KEYS}
        sizes = [int(stage["micro_batch"]) for stage in found["stages"]]
        if not sizes or min(sizes) < 1:
            raise ValueError("a stage with a micro_batch above 0 is expected")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh") from error


class RunDir:
    """The folder of a run, or of a cross-validation; nothing is read before it is needed.

    JSON, CSV of numbers, texts and the places of all files. Tables and arrays are read by the
    types that they are: `Predictions.read_csv(run.predictions)`, `Detector.load(run.outliers)`.

    Args:
      path: the folder; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    # -- places

    @property
    def name(self) -> str:
        """The folder's own name: of a fold 'fold_0'."""
        return self.path.name

    @property
    def predictions(self) -> Path:
        """The table of the chosen stage's predictions."""
        return self.path / PREDICTIONS

    @property
    def outliers(self) -> Path:
        """The arrays of the out-of-distribution detector."""
        return self.path / OUTLIERS

    @property
    def explanations(self) -> Path:
        """The folder of pictures."""
        return self.path / EXPLANATIONS

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, which a finished run can do without."""
        return self.path / CHECKPOINTS

    def has(self, name: str) -> bool:
        """Whether the folder holds a file of this name."""
        return (self.path / name).is_file()

    def stage(self, name: str) -> StageDir:
        """The folder of a stage; it need not exist."""
        return StageDir(self.path / STAGES / name)

    def stages(self) -> list[StageDir]:
        """The stages that have a folder, by name."""
        return [StageDir(path) for path in sorted((self.path / STAGES).glob("*")) if path.is_dir()]

    def fold(self, name: str) -> RunDir:
        """The run of a fold; it need not exist."""
        return RunDir(self.path / FOLDS / name)

    def folds(self, holding: str = RECORD) -> list[RunDir]:
        """The folds whose folders hold a file of this name; numbers in names by their value."""
        places = [path.parent for path in (self.path / FOLDS).glob(f"*/{holding}")]
        return [RunDir(path) for path in sorted(places, key=lambda path: (len(path.name), path))]

    def searched(self) -> list[RunDir]:
        """All runs of a nested cross-validation's search that were begun."""
        return [RunDir(path.parent) for path in sorted((self.path / SEARCH).glob(f"*/*/{RECORD}"))]

    # -- records

    def record(self) -> dict[str, Any] | None:
        """The run's record; None where no run was started.

        Raises:
          UserError: it is damaged.
        """
        return read(self.path)

    def finished_record(self) -> dict[str, Any]:
        """The record of a finished run.

        Raises:
          UserError: there is no run, it is not finished, or its record is damaged.
        """
        if not self.path.is_dir():
            state = "is a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {state}: expected the folder of a finished run")
        record = self.record()
        if record is None:
            if folds := self.folds():
                raise UserError(
                    f"{self.path} is a protocol of {len(folds)} runs, which only "
                    f"`sscjax predict` takes together: name one, such as {folds[0].path}, "
                    "or train a run with --config.protocol=holdout"
                )
            raise UserError(
                f"{self.path} holds no run (no {RECORD}): expected the folder that --workdir named"
            )
        if record["status"] != "finished":
            raise UserError(
                f"the run in {self.path} is not finished: give its own command again first"
            )
        return record

    def protocol(self) -> dict[str, Any]:
        """The record of a cross-validation, with its status, folds and config.

        Raises:
          UserError: there is none, or it is damaged.
        """
        path = self.path / PROTOCOL
        try:
            record = files.read_json(path)
            needed = {key: record[key] for key in ("status", "folds", "config")}
            return {**record, **needed, "versions": record.get("versions", {})}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}: {error}): give the protocol's "
                "command again"
            ) from error

    # -- results

    def metrics(self) -> dict[str, Any]:
        """The figures of all splits.

        Raises:
          UserError: they are not there, or damaged.
        """
        return self._required(METRICS)

    def calibration(self) -> dict[str, Any]:
        """Temperature, thresholds and reliability.

        Raises:
          UserError: they are not there, or damaged.
        """
        return self._required(CALIBRATION)

    def optional(self, name: str) -> Any:
        """What one of the folder's JSON files holds; None where there is none.

        Raises:
          UserError: it is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return files.read_json(path)
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({error}): make it again by the run's command"
            ) from None

    def curves(self) -> list[dict[str, Any]]:
        """The learning curves, numbers as float, what is empty as None; [] without epochs."""
        path = self.path / CURVES
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {key: value if key == "stage" else _number(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]

    def report(self) -> str | None:
        """The closing text; None where the run did not come to it."""
        path = self.path / REPORT
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def _required(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = files.read_json(path)
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
            return content
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{path} cannot be read ({reason}): it is written at the end of a run; give the "
                "run's command again"
            ) from error


class StageDir:
    """The folder of one stage of a run.

    Args:
      path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The folder of the parameters."""
        return self.path / MODEL

    @property
    def predictions(self) -> Path:
        """The table of the stage's predictions, as its network gave them."""
        return self.path / PREDICTIONS

    @property
    def about(self) -> Path:
        """The course of the stage and its numbers of parameters; written last."""
        return self.path / STAGE

    def read(self) -> Mapping[str, Any] | None:
        """What `about` holds; None where the stage is not finished.

        Raises:
          UserError: it is damaged.
        """
        if not self.about.is_file():
            return None
        try:
            content = files.read_json(self.about)
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
            return content
        except ValueError as error:
            raise UserError(
                f"{self.about} is damaged ({type(error).__name__}: {error}): delete {self.path} "
                "to train this stage again"
            ) from error


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
