"""After a cross-validation: the model of all images, which is handed on, in the folder `model/`.

It is trained as the folds are, with the seeds of the config. Only where nothing has to be held out
for it: a stage of epochs needs validation images, and the folds of 'nested' each choose their own
settings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sscjax.data.dataset import ImageSet
from sscjax.experiments import single_run
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.experiments.handed_on import Tested
from sscjax.system import run_dir
from sscjax.training import settings as run_settings
from sscjax.training.settings import Settings

KINDS = ("kfold", "loso", "repeated")


def applies(settings: Settings) -> bool:
    """Whether the cross-validation ends with a model of all images."""
    return settings.protocol in KINDS and not settings.validates


def run(
    config: ConfigDict,
    folder: Path,
    loaded: tuple[ImageSet, bool],
    tested: Tested,
    fallback: bool,
) -> None:
    """Fit the model of all images, unless it is finished.

    Args:
      config: of the cross-validation.
      folder: its folder.
      loaded: its images, copies that are made before the split among them; whether they are the
        synthetic ones.
      tested: its figures and rules.
      fallback: whether its folds use what replaces ImageNet's weights.

    Raises:
      UserError: as of `single_run.run`.
    """
    of_all = config.copy_and_resolve_references()
    of_all.protocol = "holdout"
    of_all.data.seed = run_settings.read(config).data_seed
    splits = np.full(len(loaded[0]), "train")
    single_run.run(
        of_all,
        run_dir.RunDir(folder).handed_on.path,
        loaded=loaded,
        fallback=fallback,
        given=single_run.Given(splits, tested=tested),
        pictures="none",
    )


def fold_of_images(folds: list[Fold], images: int) -> np.ndarray:
    """[N] int, the fold that tested each image in the first repeat that did; others have their own.

    Args:
      folds: of the cross-validation.
      images: how many there are.
    """
    number = np.full(images, len(folds))
    for index in reversed(range(len(folds))):
        number[folds[index].tested] = index
    return number


def about(settings: Settings, folds: list[Fold], image_set: ImageSet) -> dict[str, object]:
    """What identifies the cross-validation in the record of the model."""
    return {
        "protocol": settings.protocol,
        "folds": len(folds),
        "repeats": len({fold.repeat for fold in folds}),
        "images": len(image_set),
        "subjects": len(set(image_set.subjects.tolist())),
    }
