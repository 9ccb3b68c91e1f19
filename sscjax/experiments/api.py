"""The public functions of `sscjax`, as docs/notebook.md uses them.

They print nothing and change no setting of the process. What a user can correct is raised as
`UserError`, a `ValueError` of one line.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation.result import evaluate
from sscjax.experiments import data_from_config, overrides, run_result
from sscjax.experiments import fit as training
from sscjax.experiments import model as networks
from sscjax.experiments.fit import DEFAULT_STAGES, Finetune, Head, Stage
from sscjax.experiments.model import Model
from sscjax.experiments.run_result import RunResult
from sscjax.inference import ensemble
from sscjax.inference.classifier import Classifier
from sscjax.inference.ensemble import Ensemble
from sscjax.training import settings

if TYPE_CHECKING:
    from sscjax.data.batches import Images

__all__ = [
    "Finetune",
    "Head",
    "ImageSet",
    "Stage",
    "UserError",
    "create_model",
    "evaluate",
    "extract_features",
    "fit",
    "load",
    "load_images",
    "run",
]

_Path = str | os.PathLike[str]


def load_images(
    path: _Path | None = None,
    *,
    classes: Sequence[str] = (),
    image_size: int = 128,
    seed: int = 0,
    private: bool = False,
    **fields: Any,
) -> ImageSet:
    """Read labelled images from a folder or a manifest, or draw the synthetic set.

    Args:
      path: a folder with a folder for each class (`class/subject/image.jpg`), or a manifest.csv, or
        a folder with one, with the columns file, label, subject and optionally split and mask;
        None: the embedded synthetic set of skin biopsies.
      classes: names in label order, the healthy one first; () takes the sorted names.
      image_size: side in pixels, 32 or more; the central square of each image is reduced to it.
      seed: of the synthetic set.
      private: numbers stand in place of the names of files and subjects.
      **fields: other fields of `config.data`, such as corrupt='skip', merge='early=ssc,late=ssc'
        or mask_classes=('background', 'tumour'), see configs/default.py.

    Returns:
      an `ImageSet`: images [N,image_size,image_size,3] uint8, labels [N] int32, subjects [N] str,
      files [N] str, classes.

    Raises:
      UserError: no such folder, an image that cannot be read, a class without images.

    Example:
      >>> import sscjax
      >>> data = sscjax.load_images(image_size=32)
      >>> data
      ImageSet(629 images of 40 subjects, 32x32 pixels: 347 normal, 141 early, 141 late)
      >>> data.images.shape, data.labels[:3].tolist()
      ((629, 32, 32, 3), [0, 0, 0])
    """
    if path is not None and not os.fspath(path):
        raise UserError("path is empty: expected a folder, or None for the synthetic set")
    if isinstance(classes, str):
        raise UserError(f"classes={classes!r}: expected several names, such as ('normal', 'ssc')")
    place = "" if path is None else os.fspath(path)
    config = overrides.set_fields(default.get_config(), fields, "data")
    given = {
        "data.path": place,
        "data.classes": tuple(classes),
        "data.image_size": image_size,
        "data.seed": seed,
        "private": private,
    }
    overrides.set_fields(config, given)
    image_set, _ = data_from_config.load_images(settings.read(config))
    given["data.classes"] = config.data.classes
    loaded_by = {**given, **{f"data.{name}": value for name, value in fields.items()}}
    return dataclasses.replace(image_set, loaded_by=loaded_by)


# Everything behind the star is set by name and has a default: likewise in `fit`.
def create_model(
    name: str,
    num_classes: int,
    *,
    pretrained: _Path = "imagenet",
    image_size: int = 128,
    seed: int = 0,
    mask_classes: int = 0,
    fallback: str = "bundled",
    **fields: Any,
) -> Model:
    """A network with its starting weights.

    Args:
      name: 'mobilenet_v2', 'cnn', 'fd_unet' or 'mobilenet_unet'.
      num_classes: number of classes, 2 or more.
      pretrained: 'imagenet' (from the cache, else downloaded), 'bundled' (the package's own
        backbone, trained on drawn textures), 'none' (random), or a weight file (.h5, .weights.h5,
        .safetensors, .pth).
      image_size: side of the images in pixels, 32 or more.
      seed: of weights that are random.
      mask_classes: classes of segmentation masks; 0 trains none. For the two U-Nets.
      fallback: where ImageNet's weights can be had neither from the cache nor by download:
        'bundled', 'random', or 'error'. The log and the model's `weights` say so.
      **fields: other fields of `config.model`, such as alpha=0.35, dropout=0.2 or
        feature_layers=('block_13_expand_relu',), see configs/default.py.

    Returns:
      a model for `extract_features` and `fit`; it has `name`, `parameters`, `weights`, `layers`.

    Raises:
      UserError: no such model or field, or weights that are not available or do not fit.

    Example:
      >>> import sscjax
      >>> sscjax.create_model("mobilenet_v2", 3, pretrained="none", image_size=32, alpha=0.35)
      Model(mobilenet_v2, 3 classes, 32x32 pixels, 399,971 parameters, weights: random)
    """
    return networks.create(
        name,
        num_classes,
        pretrained=os.fspath(pretrained),
        image_size=image_size,
        seed=seed,
        mask_classes=mask_classes,
        fallback=fallback,
        fields=fields,
    )


def extract_features(
    model: Model | Classifier, images: Images, layers: Sequence[str] = ()
) -> np.ndarray:
    """Features of images, averaged over space; nothing is random.

    Args:
      model: what `create_model`, `fit` or `load` returns.
      images: uint8 [N,H,W,3] from 0 to 255, of any N and size; a list of [H,W,3]; an `ImageSet`; a
        path of an image or folder, or a list of these.
      layers: whose outputs are averaged and joined, by their names in `model.layers`; () takes what
        the classifier is fed.

    Returns:
      [N,D] float32; D is 1280 for MobileNetV2 of width 1.

    Raises:
      UserError: no such layer, or an image that cannot be read.

    Example:
      >>> import numpy as np, sscjax
      >>> model = sscjax.create_model("mobilenet_v2", 2, pretrained="none", alpha=0.35,
      ...                             image_size=32)
      >>> sscjax.extract_features(model, np.zeros((3, 40, 50, 3), np.uint8)).shape
      (3, 1280)
    """
    return networks.extract_features(model, images, layers)


# Long by its description alone.
def fit(
    model: Model,
    train: ImageSet,
    val: ImageSet,
    *,
    stages: Sequence[Stage] = DEFAULT_STAGES,
    seed: int = 0,
    batch_size: int = 32,
    workdir: _Path | None = None,
    fresh: bool = False,
    **fields: Any,
) -> Classifier:
    """Train a classifier, by the same code as `run`: with the same images, the same bits.

    The epoch, the temperature, the thresholds and the limit of the out-of-distribution flag are
    chosen on the validation images. If every stage has `optimizer="lbfgs"`, which fits to
    convergence, there is no epoch to choose: the classifier is then fitted to the images of `train`
    and `val` together, and the rules are chosen on their out-of-fold predictions.

    Args:
      model: what `create_model` returns; it is not changed.
      train: images to train on, every class among them.
      val: validation images, likewise; of other subjects. They are trained on where no stage needs
        a validation set, see above.
      stages: what is trained, one after the other.
      seed: of augmentation, dropout and the order of the images.
      batch_size: images per step.
      workdir: folder of checkpoints, curves and predictions: an interrupted training, given again,
        resumes there; None: a temporary folder.
      fresh: delete the training in that folder first.
      **fields: other fields of the config by their dotted names, as in
        `**{"augment.stain": 0.3, "select.metric": "macro_auroc"}`, see configs/default.py.

    Returns:
      a classifier with `predict_proba`, `predict`, `explain` and `save`.

    Raises:
      UserError: images that do not fit the model, a field that makes no sense, leaks between train
        and val, or a training that diverges.

    Example:
      >>> import sscjax
      >>> data = sscjax.load_images(image_size=32, synthetic=dict(normal=24, early=12, late=12,
      ...     normal_subjects=6, early_subjects=6, late_subjects=6))
      >>> train, val, test = data.split()
      >>> model = sscjax.create_model("cnn", 3, pretrained="none", image_size=32, cnn_widths=(4,),
      ...                             cnn_dense=())
      >>> classifier = sscjax.fit(model, train, val, stages=[sscjax.Head(epochs=2)],
      ...                         micro_batch=8)
      >>> classifier
      Classifier(CNN, 32x32 pixels, classes: normal, early, late)
      >>> classifier.predict_proba(test.images).shape == (len(test), 3)
      True
    """
    return training.fit(
        model,
        train,
        val,
        stages=stages,
        seed=seed,
        batch_size=batch_size,
        workdir=workdir,
        fresh=fresh,
        fields=fields,
    )


def load(folder: _Path) -> Classifier | Ensemble:
    """Open a classifier that was saved, or the folder of a finished run or cross-validation.

    Args:
      folder: what `save` was given, or the workdir of a run.

    Returns:
      a classifier; of a cross-validation the model of all images, or where it has none the models
      of its folds as one.

    Raises:
      UserError: the folder holds no finished run, or a file in it is damaged.

    Example:
      >>> import sscjax
      >>> sscjax.load("not there")
      Traceback (most recent call last):
      sscjax.errors.UserError: not there does not exist: expected the folder of a finished run
    """
    return ensemble.open_folder(Path(folder))


def run(
    config: ConfigDict | ModuleType | _Path,
    workdir: _Path | None = None,
    *,
    fresh: bool = False,
    command: Sequence[str] = (),
    **overrides_: Any,
) -> RunResult:
    """Train, evaluate and report, as `sscjax train` does; given again, it resumes or does nothing.

    Args:
      config: the name of a config ('three_class'), a file, a module of `sscjax.configs`, or a
        ConfigDict, which is not changed.
      workdir: the run's folder; None: runs/NAME, with the protocol where it is not a hold-out.
      fresh: delete the run in that folder first.
      command: words that the record keeps as the command.
      **overrides_: fields of the config by their dotted names, as in `**{"data.path": "skin"}`.

    Returns:
      a result with `folder`, `figures` (metrics of the test images, see `evaluate`), `predictions`,
      `text` (the report) and `classifier()`.

    Raises:
      UserError: anything that the user can correct.

    Example:
      >>> import sscjax
      >>> sscjax.run("three_class", "runs/a", **{"data.pth": "skin"})
      Traceback (most recent call last):
      sscjax.errors.UserError: config has no field 'data.pth'; did you mean 'data.path'?
    """
    wanted = overrides.set_fields(overrides.config_of(config), overrides_)
    if workdir is None:
        workdir = overrides.default_folder(wanted.name, wanted.protocol)
    # Unlike `Path.resolve`, without an error of its own for a link that leads round in a ring.
    folder = Path(os.path.realpath(Path(workdir).expanduser()))
    return run_result.run(wanted, folder, fresh=fresh, command=command)
