"""The images of a finished run, from the folder in its config or from one that the user names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import data_from_config
from sscjax.inference.classifier import Classifier
from sscjax.system import run_dir
from sscjax.training.settings import read


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Images of a run.

    Attributes:
      images: uint8 [N,S,S,3].
      labels: [N] int, index into the run's classes.
      split: 'train', 'val' or 'test', which they are from.
    """

    images: np.ndarray
    labels: np.ndarray
    split: str

    def __len__(self) -> int:
        return len(self.labels)


def find(opened: Classifier, data: str | None, splits: Sequence[str], most: int) -> Sample:
    """Up to `most` images of one split, evenly over it.

    Args:
      opened: the run.
      data: where its images are now; None: where they were.
      splits: 'train', 'val' or 'test'; the first that the run has images in is taken.
      most: 1 or more.

    Raises:
      UserError: the images are not there, or they are not the run's.
    """
    settings = read(opened.record["config"], of_record=True)
    if data is not None:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, path=data))
    root = settings.data.root
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: the run's images are not there; name their folder by --data=PATH")
    image_set, _ = data_from_config.load_images(settings)
    image_set = data_from_config.copies_before_split(settings, image_set)
    table = predictions.Predictions.read_csv(run_dir.RunDir(opened.folder).predictions)
    index_of = {file: index for index, file in enumerate(image_set.files.tolist())}
    split = next(name for name in splits if (table.splits == name).any())
    split_files = table.files[table.splits == split].tolist()
    indices = np.array([index_of[file] for file in split_files if file in index_of], int)
    if not len(indices) or image_set.classes != opened.classes:
        raise UserError(
            f"{image_set.source} holds no {split} images of {opened.folder}: name the "
            "folder of the run's images by --data=PATH"
        )
    spread = np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int)
    chosen = indices[spread]
    return Sample(image_set.images[chosen], image_set.labels[chosen], split)
