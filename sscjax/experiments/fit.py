"""Training from image sets in memory: an ordinary run without test images, in its folder or not.

`fit` writes a config and gives it to `single_run.run` together with the splits and the network that
it has, so that a run of the same config on the same images gives the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.data import lazy
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.experiments import overrides, single_run
from sscjax.experiments.model import Model
from sscjax.inference import classifier
from sscjax.inference.classifier import Classifier
from sscjax.training.stage import StageSettings


@dataclasses.dataclass(frozen=True)
class Stage(StageSettings):
    """A stage of training: the fields of `config.stages.NAME`, see `StageSettings`, and a name.

    They are checked when the training begins.

    Attributes:
      name: of the stage in the record; '' for a number.
    """

    name: str = ""

    def fields(self) -> dict[str, Any]:
        """Those of the config's block."""
        return {key: value for key, value in vars(self).items() if key != "name"}


@dataclasses.dataclass(frozen=True)
class Head(Stage):
    """Training of the classifier alone on features of the frozen backbone; fields: see `Stage`."""

    epochs: int = 200
    trainable: Literal["head", "all"] = "head"
    learning_rate: float = 1e-4
    name: str = "head"


@dataclasses.dataclass(frozen=True)
class Finetune(Stage):
    """Training of every layer but the first ones, with augmentation; fields: see `Stage`."""

    epochs: int = 16
    freeze_first: int = 10
    online_augment: bool = True
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_epochs: float = 1.0
    name: str = "finetune"


DEFAULT_STAGES = (Head(), Finetune())


# The arguments of `sscjax.fit`.
def fit(
    model: Model,
    train: ImageSet,
    val: ImageSet,
    *,
    stages: Sequence[Stage] = DEFAULT_STAGES,
    seed: int = 0,
    batch_size: int = 32,
    workdir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    fields: Mapping[str, Any] | None = None,
) -> Classifier:
    """Train a network; for arguments see `sscjax.fit`."""
    if not isinstance(model, Model):
        raise UserError(
            f"model is a {type(model).__name__}: expected what sscjax.create_model returns"
        )
    images, splits = _joined(model, train, val)
    given = {**images.loaded_by, "seed": seed, "batch_size": batch_size}
    config = _config(model, stages, {"data.classes": images.classes, **given, **(fields or {})})
    shared = set(train.subjects.tolist()) & set(val.subjects.tolist())
    config.split.by = "image" if shared else "subject"
    synthetic = bool(images.loaded_by) and not (config.data.path or config.data.tfds)
    handed = single_run.Given(splits, model.network)
    with _folder(workdir) as folder:
        loaded = images, synthetic
        single_run.run(config, folder, fresh=fresh, loaded=loaded, given=handed, pictures="none")
        return classifier.open_run(folder)


def _joined(model: Model, train: ImageSet, val: ImageSet) -> tuple[ImageSet, np.ndarray]:
    """Both sets as one, and the split of each image.

    Raises:
      UserError: they do not fit each other or the network.
    """
    for name, image_set in (("train", train), ("val", val)):
        _check_set(model, name, image_set)
    _check_classes(model, train, val)
    sets = (train, val)
    files = np.concatenate([image_set.files for image_set in sets])
    if len(set(files.tolist())) < len(files):
        raise UserError(
            "train and val hold an image twice, by its name in `files`: expected each image once, "
            "as ImageSet.split gives them"
        )
    splits = np.repeat(["train", "val"], [len(train), len(val)])
    joined = dataclasses.replace(
        train,
        images=lazy.Joined([image_set.images for image_set in sets]),
        labels=np.concatenate([image_set.labels for image_set in sets]),
        subjects=np.concatenate([image_set.subjects for image_set in sets]),
        files=files,
        splits=splits,
        masks=_masks([image_set.masks for image_set in sets]),
        origins=_together([image_set.origins for image_set in sets]),
        sites=_together([image_set.sites for image_set in sets]),
    )
    return joined, splits


def _check_set(model: Model, name: str, image_set: ImageSet) -> None:
    """Check that a set has images of the network's size, of every class."""
    if not isinstance(image_set, ImageSet):
        raise UserError(
            f"{name} is a {type(image_set).__name__}: expected an ImageSet, such as "
            "ImageSet.split returns"
        )
    side, images = model.image_size, image_set.images
    if tuple(images.shape[1:]) != (side, side, 3) or images.dtype != np.uint8:
        shape = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"{name} has images of {images.dtype} {shape}, and the model takes uint8 "
            f"{side}x{side}x3: give load_images and create_model the same image_size"
        )
    present = set(np.unique(image_set.labels).tolist())
    missing = [label for k, label in enumerate(image_set.classes) if k not in present]
    if missing:
        raise UserError(
            f"{name} has no image of class {missing[0]!r}: expected every class in both sets"
        )


def _check_classes(model: Model, train: ImageSet, val: ImageSet) -> None:
    """Check that the sets have the same classes, as many as the network."""
    if train.classes != val.classes or train.mask_classes != val.mask_classes:
        raise UserError(
            f"train has the classes {', '.join(train.classes)}, val has {', '.join(val.classes)}: "
            "expected the same in the same order"
        )
    if len(train.classes) != model.num_classes:
        raise UserError(
            f"the images have {len(train.classes)} classes, the model {model.num_classes}: give "
            f"create_model num_classes={len(train.classes)}"
        )
    unmasked = train.masks is None or val.masks is None
    if model.mask_classes and (unmasked or len(train.mask_classes) != model.mask_classes):
        raise UserError(
            f"the model has {model.mask_classes} classes of masks, the images have "
            f"{len(train.mask_classes)} with names: expected as many (load_images mask_classes)"
        )


def _masks(masks: Sequence[Any]) -> Any:
    return None if any(part is None for part in masks) else lazy.Joined(masks)


def _together(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [column for column in columns if column is not None]
    return np.concatenate(present) if len(present) == len(columns) else None


def _config(model: Model, stages: Sequence[Stage], fields: Mapping[str, Any]) -> ConfigDict:
    """The config of the run."""
    config = model.config.copy_and_resolve_references()
    config.name = "fit"
    if isinstance(stages, Stage):
        stages = (stages,)
    names: list[str] = []
    for name in list(config.stages):
        del config.stages[name]
    for number, stage in enumerate(stages, 1):
        if not isinstance(stage, Stage):
            raise UserError(
                f"stages[{number - 1}] is a {type(stage).__name__}: expected sscjax.Head, Finetune "
                "or Stage"
            )
        name = stage.name or f"stage_{number}"
        name = f"{name}_{number}" if name in names else name
        if not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"stage {name!r}: expected a name of letters, digits, - and _")
        names.append(name)
        config.stages[name] = default.stage()
        overrides.set_fields(config, stage.fields(), f"stages.{name}")
    config.stage_order = tuple(names)
    for fixed in ("model", "pretrained", "pretrained_fallback"):
        if any(name == fixed or name.startswith(f"{fixed}.") for name in fields):
            raise UserError(f"{fixed} is fixed by create_model: give it there")
    return overrides.set_fields(config, fields)


@contextlib.contextmanager
def _folder(workdir: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder that is named, or one that is gone afterwards."""
    if workdir is not None:
        yield Path(os.path.realpath(Path(workdir).expanduser()))
        return
    with tempfile.TemporaryDirectory(prefix="sscjax-") as name:
        yield Path(os.path.realpath(name)) / "run"
