"""A run's config as frozen dataclasses, all made and checked here before anything is computed.

A config is a ConfigDict for the user: a file, the command line, a run's record. Everything else
reads `Settings`, which `read` makes of it. Each block has a class, in the lowest folder that uses
it, with the fields of the block in `configs/default.py` and their defaults: a test compares them.
So a new field is the config's line with its comment, the class's line, and its check.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypeVar, get_args

from ml_collections import ConfigDict

from sscjax.data.settings import AuditSettings, AugmentSettings, DataSettings, SplitSettings
from sscjax.errors import UserError
from sscjax.evaluation import metrics, reliability
from sscjax.models import factory
from sscjax.models.factory import ModelSettings
from sscjax.system import terminal
from sscjax.training.losses import LossSettings
from sscjax.training.stage import Stage, StageSettings

Protocol = Literal["holdout", "repeated", "kfold", "nested", "loso", "leave_one_site_out", "auto"]
Fallback = Literal["bundled", "random", "error"]
Selection = Literal["best", "last"]

T = TypeVar("T")

# By the type of a field: the types that a value may have, and what they are called.
_KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
    tuple: (tuple, "values with commas between them"),
    Mapping: (Mapping, "a block for each stage"),
}

# What records of earlier versions lack; the default is what those versions did.
_ADDED_LATER = (
    *("private", "data.corrupt", "data.layout", "data.columns", "data.merge_spellings"),
    *("data.shared_subjects", "data.pixel_bits", "data.pages", "data.mpp", "model.vit_pooling"),
    "intended_use",
)


class OtherVersionError(UserError):
    """A config whose fields are not those of this version."""


@dataclasses.dataclass(frozen=True)
class CrossValidationSettings:
    """The block `config.cv`.

    Raises:
      UserError: a number is too small.
    """

    folds: int = 5
    repeats: int = 0
    inner_folds: int = 3
    search: tuple[str, ...] = ("stages.finetune.learning_rate=3e-5,1e-4,3e-4",)

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("inner_folds", 2), ("repeats", 0)):
            if getattr(self, name) < least:
                raise UserError(f"config.cv.{name}={getattr(self, name)}: expected {least} or more")


@dataclasses.dataclass(frozen=True)
class ScratchSettings:
    """The block `config.scratch`, for networks from random weights.

    Raises:
      UserError: a number is out of its range.
    """

    momentum: float = 0.9
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise UserError(f"config.scratch.momentum={self.momentum}: expected 0 to less than 1")
        if self.learning_rate < 0:
            raise UserError(
                f"config.scratch.learning_rate={self.learning_rate}: expected 0 or more"
            )


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """The block `config.select`.

    Raises:
      UserError: there is no such metric, or no such rule.
    """

    metric: str = "balanced_accuracy"
    stage: Selection = "best"

    def __post_init__(self) -> None:
        names = (*metrics.VALIDATION_METRICS, metrics.MASK_METRIC, "none")
        if self.metric not in names:
            known = ", ".join(names)
            raise UserError(f"config.select.metric={self.metric!r}, expected one of {known}")
        if self.stage not in get_args(Selection):
            raise UserError(f"config.select.stage={self.stage!r}: expected 'best' or 'last'")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """The block `config.checkpoint`.

    Raises:
      UserError: no checkpoint would be kept.
    """

    every_seconds: float = 20.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"config.checkpoint.keep={self.keep}: expected 1 or more")


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """The block `config.features`.

    Raises:
      UserError: a size is negative.
    """

    max_megabytes: float = 1000
    disk_megabytes: float = 10000

    def __post_init__(self) -> None:
        for name in ("max_megabytes", "disk_megabytes"):
            if getattr(self, name) < 0:
                raise UserError(f"config.features.{name}={getattr(self, name)}: expected 0 or more")

    @property
    def disk_bytes(self) -> float:
        """The most that all stored features may take on disk."""
        return float(self.disk_megabytes) * 2**20


def _default_stages() -> Mapping[str, StageSettings]:
    return {
        "head": StageSettings(trainable="head", epochs=200, learning_rate=1e-4),
        "finetune": StageSettings(
            epochs=16,
            freeze_first=10,
            online_augment=True,
            learning_rate=1e-4,
            schedule="cosine",
            warmup_epochs=1.0,
        ),
    }


@dataclasses.dataclass(frozen=True)
class Settings:
    """All fields of a config; `configs/default.py` says what each means.

    Raises:
      UserError: a field is out of its range, or blocks contradict each other.
    """

    name: str = "default"
    seed: int = 0
    protocol: Protocol = "holdout"
    cv: CrossValidationSettings = CrossValidationSettings()
    private: bool = False
    intended_use: str = ""
    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    audit: AuditSettings = AuditSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    pretrained: str = "imagenet"
    pretrained_fallback: Fallback = "bundled"
    scratch: ScratchSettings = ScratchSettings()
    loss: LossSettings = LossSettings()
    batch_size: int = 32
    micro_batch: int = 8
    select: SelectSettings = SelectSettings()
    calibration: reliability.Options = reliability.Options()
    checkpoint: CheckpointSettings = CheckpointSettings()
    features: FeatureSettings = FeatureSettings()
    stage_order: tuple[str, ...] = ("head", "finetune")
    stages: Mapping[str, StageSettings] = dataclasses.field(default_factory=_default_stages)

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            near = terminal.nearest(self.protocol, list(get_args(Protocol)))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(
                f"config.protocol={self.protocol!r}: expected one of "
                f"{', '.join(get_args(Protocol))}{hint}"
            )
        if self.seed < 0:
            raise UserError(f"config.seed={self.seed}: expected 0 or more")
        if self.private and self.data.storage == "array_record":
            raise UserError(
                "config.private=True and config.data.storage='array_record': a prepared set in the "
                "cache folder holds the names of files and subjects; set data.storage=direct"
            )
        if self.augment.counts_before_split and self.split.by != "image":
            raise UserError(
                "config.augment.counts_before_split puts copies of one image into several splits; "
                "set config.split.by=image to repeat the paper's design, or empty the field"
            )
        self._check_network()
        self.ordered_stages()

    def _check_network(self) -> None:
        if self.loss.segmentation and not self.model.backbone.predicts_masks:
            raise UserError(
                f"config.loss.segmentation={self.loss.segmentation}: model.name="
                f"{self.model.name!r} has no head for masks; set model.name=fd_unet or "
                "mobilenet_unet, or 0"
            )
        # How many classes there are is known when the images are: here any number will do.
        masks = 2 if self.loss.segmentation else 0
        task = factory.Task(self.model.outputs or 2, self.data.image_size, masks)
        factory.build_model(self.model, task)
        if self.pretrained_fallback not in get_args(Fallback):
            raise UserError(
                f"config.pretrained_fallback={self.pretrained_fallback!r}: expected 'bundled', "
                "'random' or 'error'"
            )
        backbone = self.model.backbone
        if self.pretrained != "none" and backbone.family is None:
            raise UserError(
                f"config.pretrained={self.pretrained!r}: there are no weights for "
                f"model.name={self.model.name!r}; set pretrained=none"
            )
        if self.pretrained in ("imagenet", "bundled") and not backbone.published:
            raise UserError(
                f"config.pretrained={self.pretrained!r}: expected a file of weights of "
                f"{self.model.name!r} (.safetensors or .pth, as timm or transformers write them), "
                "or none for random weights"
            )

    @property
    def data_seed(self) -> int:
        """Of images that are made before any split."""
        return self.seed if self.data.seed < 0 else self.data.seed

    @property
    def split_seed(self) -> int:
        """Of the split, which may differ from that of all else."""
        return self.seed if self.split.seed < 0 else self.split.seed

    @property
    def validates(self) -> bool:
        """Whether images are held back for validation.

        Epochs are chosen by them. A classifier that L-BFGS fits to convergence has none to choose,
        so a run of nothing else fits it to all images that are not for testing.
        """
        return not all(stage.uses_lbfgs for stage in self.ordered_stages())

    def ordered_stages(self) -> list[Stage]:
        """The stages to be run, in order, each with what it takes from the other blocks.

        Raises:
          UserError: a stage is not defined, or its fields make no sense.
        """
        if not self.stage_order:
            raise UserError("config.stage_order is empty: name at least one of config.stages")
        if len(set(self.stage_order)) < len(self.stage_order):
            raise UserError(f"config.stage_order={self.stage_order}: expected distinct names")
        return [self._stage(index, name) for index, name in enumerate(self.stage_order)]

    def _stage(self, index: int, name: str) -> Stage:
        if name not in self.stages:
            known = ", ".join(self.stages)
            raise UserError(f"config.stage_order names {name!r}; config.stages has {known}")
        return Stage(
            **dataclasses.asdict(self.stages[name]),
            name=name,
            index=index,
            seed=self.seed,
            batch_size=self.batch_size,
            micro_batch=self.micro_batch,
            drawn_by=0,
            metric=self.select.metric,
            feature_megabytes=self.features.max_megabytes,
            checkpoint_seconds=self.checkpoint.every_seconds,
        )


# --- from a config --------------------------------------------------------------------------------


def read(config: ConfigDict | Mapping[str, Any], *, of_record: bool = False) -> Settings:
    """The settings of a config, checked.

    Args:
      config: of a run that is to be trained, or `config` of a record.
      of_record: of a run that was trained, perhaps by another version: fields that it lacks have
        their defaults, and fields that are no longer known are passed over.

    Raises:
      OtherVersionError: a field is missing or unknown.
      UserError: a field is out of its range, or fields contradict each other.

    Example:
      >>> from sscjax.configs import smoke
      >>> read(smoke.get_config()).data.image_size
      32
    """
    return read_block(Settings, config, of_record=of_record)


def read_block(
    kind: type[T],
    values: ConfigDict | Mapping[str, Any],
    *,
    of_record: bool = False,
    name: str = "",
) -> T:
    """One block of a config as its class, checked; arguments and errors as of `read`.

    Args:
      kind: a class such as `ModelSettings`.
      values: of its fields by name.
      of_record: see `read`.
      name: of the block, such as 'model', for messages.
    """
    given = values.to_dict() if isinstance(values, ConfigDict) else values
    if not isinstance(given, Mapping):
        raise OtherVersionError(f"config.{name}={given!r}: expected a block of fields")
    hints = _hints(typing.cast("Hashable", kind))
    prefix = f"{name}." if name else ""
    arguments: dict[str, Any] = {}
    for field in hints:
        if field in given:
            arguments[field] = _value(hints[field], given[field], of_record, f"{prefix}{field}")
        elif not of_record and f"{prefix}{field}" not in _ADDED_LATER:
            raise OtherVersionError(
                f"the config has no field {prefix}{field}: add it, as in configs/default.py"
            )
    unknown = [field for field in given if field not in hints]
    if unknown and not of_record:
        near = difflib.get_close_matches(unknown[0], list(hints), n=1, cutoff=0.5)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        raise OtherVersionError(f"there is no field config.{prefix}{unknown[0]}{hint}")
    return kind(**arguments)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The type of each field of a block's class."""
    return typing.get_type_hints(kind)


def _value(hint: Any, value: Any, of_record: bool, name: str) -> Any:
    """A field's value as its class holds it: a block as its own class, a list as a tuple."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read_block(hint, value, of_record=of_record, name=name)
    if isinstance(value, Mapping):
        # The block `stages`, whose names the user chooses.
        return {
            key: read_block(StageSettings, block, of_record=of_record, name=f"{name}.{key}")
            for key, block in value.items()
        }
    value = tuple(value) if isinstance(value, list) else value
    origin = typing.get_origin(hint)
    kind, expected = _KINDS[str if origin is Literal else origin or hint]
    if not isinstance(value, kind) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"config.{name}={value!r}: expected {expected}")
    return value
