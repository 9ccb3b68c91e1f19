"""A stage of training as data: what it is to do, how far it is, what it ends with."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from sscjax.errors import UserError
from sscjax.evaluation import metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.models import base
from sscjax.training import freezing


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage as the config gives it (see `configs/default.py`), and its place in the run."""

    name: str
    index: int
    seed: int
    epochs: int
    trainable: Literal["head", "all"]
    freeze_first: int
    online_augment: bool
    batch_norm: Literal["running", "batch"]
    optimizer: Literal["adam", "adamw", "sgd", "lbfgs"]
    learning_rate: float
    schedule: Literal["constant", "cosine", "linear"]
    warmup_epochs: float
    end_factor: float
    weight_decay: float
    clip_norm: float
    l2: tuple[float, ...]
    patience: int
    batch_size: int
    micro_batch: int
    drawn_by: int
    metric: str
    feature_megabytes: float
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"stage {self.name}: epochs={self.epochs}, expected 1 or more")
        if self.batch_size < 1:
            raise UserError(f"config.batch_size={self.batch_size}, expected 1 or more")
        if self.micro_batch < 1:
            raise UserError(
                f"config.micro_batch={self.micro_batch}, expected 1 or more; set it to 8, or to "
                "batch_size to take the whole batch at once"
            )
        for name, value in (("learning_rate", self.learning_rate), ("patience", self.patience)):
            if value < 0:
                raise UserError(f"stage {self.name}: {name}={value}, expected 0 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UserError(
                f"stage {self.name}: warmup_epochs={self.warmup_epochs}, expected 0 to less than "
                f"epochs={self.epochs}; set --config.stages.{self.name}.warmup_epochs=0"
            )
        if self.solved:
            self._check_solved()
        if self.batch_norm not in ("running", "batch"):
            raise UserError(
                f"stage {self.name}: batch_norm={self.batch_norm!r}, expected 'running' or 'batch'"
            )
        names = (*metrics.VALIDATION_METRICS, metrics.MASK_METRIC, "none")
        if self.metric not in names:
            known = ", ".join(names)
            raise UserError(f"config.select.metric={self.metric!r}, expected one of {known}")
        if self.patience and self.metric == "none":
            raise UserError(
                f"stage {self.name}: patience={self.patience} needs a validation metric; set "
                "config.select.metric or patience=0"
            )

    @property
    def solved(self) -> bool:
        """Whether the stage fits a linear classifier to features instead of taking steps."""
        return self.optimizer == "lbfgs"

    def _check_solved(self) -> None:
        where = f"stage {self.name}: optimizer='lbfgs'"
        if self.trainable != "head":
            raise UserError(f"{where} fits the classifier alone; set trainable='head'")
        if self.online_augment:
            raise UserError(
                f"{where} needs the same images all the time; set online_augment=False (and "
                "config.augment.copies for augmented ones)"
            )
        if not self.l2 or min(self.l2) <= 0:
            raise UserError(f"stage {self.name}: l2={self.l2}, expected numbers above 0")


@dataclasses.dataclass
class Course:
    """How far a stage is; JSON-ready, part of every checkpoint.

    Attributes:
      stage: the stage's name.
      epoch: epochs done in this stage.
      rows: the learning curves of the whole run so far, one dict per epoch.
      best_epoch: epoch of the stage with the best validation metric, 0 before the first.
      best_value: that metric; None without one.
      stopped_early: whether the stage ended by its patience.
      seconds: time spent in this stage's epochs.
      l2: of a stage that was solved: the chosen strength of the penalty.
      steps: taken in an epoch that was interrupted; 0 between epochs.
      loss, correct: sums over the images of these steps.
    """

    stage: str
    epoch: int = 0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    stopped_early: bool = False
    seconds: float = 0.0
    l2: float | None = None
    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished stage: its chosen parameters, how it went, and predictions of all originals."""

    params: freezing.Params
    batch_stats: freezing.Params
    course: Course
    predictions: Predictions
    counts: freezing.Counts

    @property
    def variables(self) -> dict[str, Any]:
        """The chosen parameters and running averages, as `Model.apply` takes them."""
        return base.variables(self.params, self.batch_stats)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished stage as it is kept in the run's folder; `value` is its validation metric."""

    course: Course
    counts: freezing.Counts
    predictions: Predictions
    value: float | None
