"""A stage of training as data: its settings, its progress, and its result."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions
from sscjax.models import base
from sscjax.training import freezing

BatchNormMode = Literal["running", "batch"]
OptimizerName = Literal["adam", "adamw", "sgd", "lbfgs"]
ScheduleName = Literal["constant", "cosine", "linear"]
Trainable = Literal["head", "all"]


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """The fields of `config.stages.NAME`, with their types, defaults and checks.

    `configs/default.py` has the same fields with the same defaults, each with its comment; a test
    compares them. Everything between the config and the training loop takes them as they are.

    Attributes:
      epochs: passes over the training images; with 'lbfgs' at most so many iterations.
      trainable: 'head', the classifier alone, or 'all' layers but the first `freeze_first`.
      freeze_first: layers from the input that stay frozen; only with 'all'.
      online_augment: augment again at every step instead of training on copies.
      batch_norm: what BatchNorm of the trained layers normalises by: 'running' averages or the
        'batch'.
      optimizer: 'adam', 'adamw', 'sgd' (Nesterov momentum 0.9), or 'lbfgs': L2-regularised logistic
        regression on the features of the frozen network, fitted to convergence; only with 'head'.
      learning_rate: at its highest.
      schedule: 'constant', 'cosine' or 'linear', after the warm-up.
      warmup_epochs: epochs of linear warm-up from 0; may be a fraction.
      end_factor: last learning rate as a share of the highest.
      weight_decay: decoupled weight decay of kernels, per unit of learning rate; 'adamw' and 'sgd'.
      clip_norm: gradients are scaled down to this global norm; 0 leaves them.
      l2: of 'lbfgs': strength of the penalty; of several the best in 5-fold cross-validation over
        the subjects of the training images.
      patience: epochs without a better validation metric before the stage ends; 0: never.
    """

    epochs: int = 10
    trainable: Trainable = "all"
    freeze_first: int = 0
    online_augment: bool = False
    batch_norm: BatchNormMode = "running"
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    schedule: ScheduleName = "constant"
    warmup_epochs: float = 0.0
    end_factor: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    l2: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    patience: int = 0

    def check(self, name: str) -> None:
        """Check types and ranges; how many layers can be frozen, the network says later.

        Args:
          name: of the stage, for the message.

        Raises:
          UserError: a field is out of its range, or contradicts another.
        """
        where = f"stage {name}"
        if self.epochs < 1:
            raise UserError(f"{where}: epochs={self.epochs}, expected 1 or more")
        for field, value in (("learning_rate", self.learning_rate), ("patience", self.patience)):
            if value < 0:
                raise UserError(f"{where}: {field}={value}, expected 0 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise UserError(
                f"{where}: warmup_epochs={self.warmup_epochs}, expected 0 to less than "
                f"epochs={self.epochs}; set --config.stages.{name}.warmup_epochs=0"
            )
        for field, known in (
            ("batch_norm", get_args(BatchNormMode)),
            ("trainable", get_args(Trainable)),
            ("optimizer", get_args(OptimizerName)),
            ("schedule", get_args(ScheduleName)),
        ):
            if getattr(self, field) not in known:
                expected = " or ".join(map(repr, known))
                raise UserError(f"{where}: {field}={getattr(self, field)!r}, expected {expected}")
        if self.uses_lbfgs:
            self._check_lbfgs(where)

    @property
    def uses_lbfgs(self) -> bool:
        """Whether L-BFGS fits a linear classifier to features, so that no steps are taken."""
        return self.optimizer == "lbfgs"

    def _check_lbfgs(self, stage: str) -> None:
        where = f"{stage}: optimizer='lbfgs'"
        if self.trainable != "head":
            raise UserError(f"{where} fits the classifier alone; set trainable='head'")
        if self.online_augment:
            raise UserError(
                f"{where} needs the same images all the time; set online_augment=False (and "
                "config.augment.copies for augmented ones)"
            )
        if not self.l2 or min(self.l2) <= 0:
            raise UserError(f"{stage}: l2={self.l2}, expected numbers above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(StageSettings):
    """A stage of a run: the settings of its block, and what it takes from the rest of the config.

    Attributes:
      name: of the stage in `config.stages`.
      index: its position in `config.stage_order`, from 0.
      seed: of the run.
      batch_size: images per step.
      micro_batch: images that go through the network at a time, see `Program`.
      drawn_by: the micro-batch that dropout is drawn by; 0 for `micro_batch` itself.
      metric: validation metric that chooses the epoch, or 'none'.
      feature_megabytes: features of frozen layers up to this size are held in memory.
      checkpoint_seconds: least time between two checkpoints.
    """

    name: str
    index: int
    seed: int
    batch_size: int
    micro_batch: int
    drawn_by: int
    metric: str
    feature_megabytes: float
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        self.check(self.name)
        if self.batch_size < 1:
            raise UserError(f"config.batch_size={self.batch_size}, expected 1 or more")
        if self.micro_batch < 1:
            raise UserError(
                f"config.micro_batch={self.micro_batch}, expected 1 or more; set it to 8, or to "
                "batch_size to take the whole batch at once"
            )
        if self.patience and self.metric == "none":
            raise UserError(
                f"stage {self.name}: patience={self.patience} needs a validation metric; set "
                "config.select.metric or patience=0"
            )


@dataclasses.dataclass
class StageProgress:
    """The progress of a stage; JSON-ready, part of every checkpoint.

    Attributes:
      stage: the stage's name.
      epoch: epochs done in this stage.
      curves: the learning curves of the whole run so far, one dict per epoch.
      best_epoch: epoch of the stage with the best validation metric, 0 before the first.
      best_value: that metric; None without one.
      stopped_early: whether the stage ended by its patience.
      seconds: time spent in this stage's epochs.
      l2: of a stage fitted by L-BFGS: the chosen strength of the penalty.
      steps: taken in an epoch that was interrupted; 0 between epochs.
      loss: sum of the losses over the images of these steps.
      correct: number of them that were classified correctly.
    """

    stage: str
    epoch: int = 0
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    stopped_early: bool = False
    seconds: float = 0.0
    l2: float | None = None
    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0

    def end_epoch(self, epoch: int, figures: dict[str, Any]) -> None:
        """An epoch of the stage is over: its figures are the next row of the run's curves."""
        self.epoch, self.steps, self.loss, self.correct = epoch, 0, 0.0, 0.0
        self.curves.append({"epoch": len(self.curves) + 1, "stage": self.stage, **figures})


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What training a stage returns: its chosen parameters and predictions of all originals.

    `out_of_fold` are predictions of the training images, each by a classifier that was fitted to
    none of the images of its subject; None with validation images, or where there are no folds.
    """

    params: freezing.Params
    batch_stats: freezing.Params
    progress: StageProgress
    predictions: Predictions
    counts: freezing.Counts
    out_of_fold: Predictions | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The chosen parameters and running averages, as `Model.apply` takes them."""
        return base.variables(self.params, self.batch_stats)


@dataclasses.dataclass(frozen=True)
class FinishedStage:
    """A finished stage as it lies in the run's folder; `out_of_fold` as of `StageResult`.

    `value` is its metric of the validation images, or of the out-of-fold predictions.
    """

    progress: StageProgress
    counts: freezing.Counts
    predictions: Predictions
    value: float | None
    out_of_fold: Predictions | None = None

    @property
    def held_out(self) -> Predictions:
        """The rows that rules are chosen on: validation images, or out-of-fold predictions."""
        validation = self.predictions.where("val")
        return validation if self.out_of_fold is None else self.out_of_fold
