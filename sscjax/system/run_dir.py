"""A run's folder: the names of all its files, and one reader for them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sscjax.errors import UserError
from sscjax.system import files

# ---- the names of a run's files ------------------------------------------------------------------

# The record that identifies a run and says whether it is finished; PROTOCOL is that of a
# cross-validation, whose folds are runs. PROGRESS is there while one is at work.
RECORD = "run.json"
PROTOCOL = "protocol.json"
PROGRESS = ".progress.json.tmp"

# The inputs: every image with its hash, the split, how tiles were cut, and the audit.
MANIFEST = "manifest.json"
SPLITS = "splits.csv"
SLIDES = "slides.json"
AUDIT = "audit.json"

# Results of the selected stage, calibrated, by image and by subject. FOLDS_TABLE belongs to a
# cross-validation, MASKS to networks that predict masks.
PREDICTIONS = "predictions.csv"
SUBJECT_PREDICTIONS = "predictions_by_subject.csv"
METRICS = "metrics.json"
CALIBRATION = "calibration.json"
OUTLIERS = "outliers.npz"
MASKS = "masks.csv"
FOLDS_TABLE = "folds.csv"

# Learning curves.
CURVES = "curves.csv"
TENSORBOARD = "tensorboard"

# For people to read: reports and pictures. The figure of a confusion matrix is `confusion_plot`.
REPORT = "report.txt"
PAGE = "report.html"
CARD = "model_card.md"
CURVES_PLOT = "curves.png"
CALIBRATION_PLOT = "calibration.png"
MASKS_SHEET = "masks.png"

# How saliency maps are made, and whether they may be read. A folder of them, and its index.
MAPS = "maps.json"
EXPLANATIONS = "explanations"
EXPLANATIONS_INDEX = "explanations.json"

# One folder for each stage, with its parameters, PREDICTIONS, STAGE record, and where no images
# were held back for validation, predictions of the training images by classifiers of inner folds.
STAGES = "stages"
OUT_OF_FOLD = "out_of_fold.csv"
MODEL = "model"
STAGE = "stage.json"

# In a cross-validation: one run for each fold; if nested, also the runs of its search.
# HANDED_ON is the run that is fitted to all images, to be handed on.
FOLDS = "folds"
HANDED_ON = "model"
SEARCH = "search"
SEARCH_RESULT = "search.json"

# To resume from; a finished run no longer needs them.
CHECKPOINTS = "checkpoints"

# Labels that the predictions of a cross-validation contradict.
LABEL_NOISE = "label_noise.csv"
LABEL_NOISE_SHEET = "label_noise.png"

# Written by `sscjax learning-curve`: a folder with a text, two tables and a picture.
LEARNING_CURVE = "learning_curve"
LEARNING_CURVE_TEXT = "learning_curve.txt"
LEARNING_CURVE_JSON = "learning_curve.json"
LEARNING_CURVE_TABLE = "learning_curve.csv"
LEARNING_CURVE_PLOT = "learning_curve.png"

# Written by `sscjax reproduce`: which results of a repeated run are the same.
REPRODUCTION = "reproduction.json"


def confusion_plot(split: str) -> str:
    """The name of the figure of a split's confusion matrix."""
    return f"confusion_{split}.png"


# ---- reading -------------------------------------------------------------------------------------

KEYS = ("status", "config", "data", "weights", "stages", "versions")


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """Read a record and check that it has all `keys`; None if the file does not exist.

    Raises:
      UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        return {**record, **{key: record[key] for key in keys}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): start again with --fresh") from error


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None if no run was started there.

    Raises:
      UserError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        checked = {key: record[key] for key in KEYS}
        sizes = [int(stage["micro_batch"]) for stage in checked["stages"]]
        if not sizes or min(sizes) < 1:
            raise ValueError("a stage with a micro_batch above 0 is expected")
        return checked
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): start again with --fresh") from error


class RunDir:
    """The folder of a run or of a cross-validation; nothing is read before it is needed.

    Gives the paths of all files, and reads JSON, CSV of numbers and texts. Tables and arrays are
    read by their own classes: `Predictions.read_csv(run.predictions)`,
    `Detector.load(run.outliers)`.

    Args:
      path: the folder; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    # -- paths

    @property
    def name(self) -> str:
        """The folder's own name: of a fold 'fold_0'."""
        return self.path.name

    @property
    def predictions(self) -> Path:
        """The table of the selected stage's predictions."""
        return self.path / PREDICTIONS

    @property
    def subject_predictions(self) -> Path:
        """The same by subject, calibrated by the subjects' own temperature."""
        return self.path / SUBJECT_PREDICTIONS

    @property
    def outliers(self) -> Path:
        """The arrays of the out-of-distribution detector."""
        return self.path / OUTLIERS

    @property
    def explanations(self) -> Path:
        """The folder of saliency maps."""
        return self.path / EXPLANATIONS

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; a finished run no longer needs it."""
        return self.path / CHECKPOINTS

    def has(self, name: str) -> bool:
        """Whether the folder contains a file of this name."""
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
        """The folds whose folders contain a file of this name, in the order of their numbers."""
        folders = [path.parent for path in (self.path / FOLDS).glob(f"*/{holding}")]
        return [RunDir(path) for path in sorted(folders, key=lambda path: (len(path.name), path))]

    @property
    def handed_on(self) -> RunDir:
        """Of a cross-validation the run that is fitted to all images; it need not exist."""
        return RunDir(self.path / HANDED_ON)

    def of_model(self) -> RunDir:
        """The run whose model predicts for new patients: this, or that which it hands on.

        Raises:
          UserError: it is a cross-validation that is not finished.
        """
        if not self.has(PROTOCOL) or not self.handed_on.has(RECORD):
            return self
        if self.protocol()["status"] != "finished":
            raise UserError(
                f"the cross-validation in {self.path} is not finished: give its own command again "
                "first"
            )
        return self.handed_on

    def searched(self) -> list[RunDir]:
        """All started runs of a nested cross-validation's search."""
        return [RunDir(path.parent) for path in sorted((self.path / SEARCH).glob(f"*/*/{RECORD}"))]

    # -- records

    def record(self) -> dict[str, Any] | None:
        """The run's record; None if no run was started.

        Raises:
          UserError: the record is damaged.
        """
        return read(self.path)

    def finished_record(self) -> dict[str, Any]:
        """The record of a finished run.

        Raises:
          UserError: there is no run, it has not finished, or its record is damaged.
        """
        if not self.path.is_dir():
            state = "is a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {state}: expected the folder of a finished run")
        record = self.record()
        if record is None:
            if folds := self.folds():
                raise UserError(
                    f"{self.path} is a cross-validation of {len(folds)} runs without a model of "
                    "all images, which only `sscjax predict` takes: name one of them, such as "
                    f"{folds[0].path}, or train another with `sscjax train FOLDER`"
                )
            raise UserError(
                f"{self.path} holds no run (no {RECORD}): expected the folder that --workdir named"
            )
        if record["status"] != "finished":
            raise UserError(f"the run in {self.path} is not finished: run its command again first")
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
        """The metrics of all splits.

        Raises:
          UserError: the file is missing or damaged.
        """
        return self._required(METRICS)

    def calibration(self) -> dict[str, Any]:
        """Temperature, thresholds and reliability.

        Raises:
          UserError: the file is missing or damaged.
        """
        return self._required(CALIBRATION)

    def optional(self, name: str) -> Any:
        """The contents of one of the folder's JSON files; None if it does not exist.

        Raises:
          UserError: the file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return files.read_json(path)
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({error}): give the run's command again to rewrite it"
            ) from None

    def curves(self) -> list[dict[str, Any]]:
        """The learning curves, one dict for each epoch: floats, None for empty cells; may be []."""
        path = self.path / CURVES
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {key: value if key == "stage" else _number(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]

    def report(self) -> str | None:
        """The text of the report; None if the run did not reach it."""
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
                f"{path} cannot be read ({reason}): it is written at the end of a run; run the "
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
        """The table of the stage's predictions, not calibrated."""
        return self.path / PREDICTIONS

    @property
    def out_of_fold(self) -> Path:
        """Predictions of the training images, each without its subject; not calibrated."""
        return self.path / OUT_OF_FOLD

    @property
    def about(self) -> Path:
        """The stage's history and numbers of parameters; written last."""
        return self.path / STAGE

    def read(self) -> Mapping[str, Any] | None:
        """The contents of `about`; None if the stage has not finished.

        Raises:
          UserError: the file is damaged.
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
