"""A finished fold, read from its folder and compared with its plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import segmentation
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import run_warnings
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.system import run_dir


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished fold as it lies in its folder.

    Attributes:
      fold: what was planned.
      metrics: its metrics.json.
      fallback: what stood in for ImageNet's weights, see `run_warnings.stand_in`.
      predictions: of its test images, by the model that it ended with.
      stages: the same by the model of each stage.
      search: of 'nested': the candidates, their scores and which was chosen.
      masks: of its test images, where masks are predicted.
    """

    fold: Fold
    metrics: dict[str, Any]
    fallback: str
    predictions: Predictions
    stages: dict[str, Predictions]
    search: dict[str, Any] | None
    masks: segmentation.Table | None = None

    @property
    def raw(self) -> Predictions:
        """Of its test images, as the network gave them, by the model that it ended with."""
        return self.stages[self.metrics["final_stage"]]


def read_fold(
    fold: Fold, path: Path, image_set: ImageSet, search: dict[str, Any] | None
) -> Outcome:
    """Read a finished fold from its folder.

    Args:
      fold: what was planned.
      path: the fold's folder.
      image_set: the images of the whole cross-validation.
      search: see `Outcome`.

    Raises:
      UserError: its predictions are not those of the images that it was to test.
    """
    run = run_dir.RunDir(path)
    figures, record = run.metrics(), run.record()
    return Outcome(
        fold=fold,
        metrics=figures,
        fallback=run_warnings.stand_in(record["weights"]) if record else "",
        predictions=_tested(fold, run.predictions, image_set),
        stages={
            name: _tested(fold, run.stage(name).predictions, image_set)
            for name in figures["stages"]
        },
        search=search,
        masks=_masks(fold, path / run_dir.MASKS, image_set, figures.get("segmentation")),
    )


def _masks(
    fold: Fold, path: Path, image_set: ImageSet, figures: dict[str, Any] | None
) -> segmentation.Table | None:
    """The masks of the test images, which must be those that the fold's figures are of."""
    if figures is None or "test" not in figures["splits"]:
        return None
    table = segmentation.read_csv(path).where("test")
    names = table.files.tolist()
    same = (
        set(names) <= set(image_set.files[fold.tested].tolist())
        and len(set(names)) == len(names) == figures["splits"]["test"]["n"]
        and list(table.classes) == figures["classes"]
    )
    if not same:
        raise UserError(
            f"{path}: its test rows are not the masks that {fold.name} tests; "
            "delete this fold's folder and give the same command again"
        )
    return table


def _tested(fold: Fold, path: Path, image_set: ImageSet) -> Predictions:
    """The test rows, which must be those that were planned, in the order of the set."""
    table = Predictions.read_csv(path).where("test")
    wanted = fold.tested
    same = len(table) == len(wanted) and all(
        np.array_equal(ours, theirs)
        for ours, theirs in (
            (table.files, image_set.files[wanted]),
            (table.subjects, image_set.subjects[wanted]),
            (table.labels, image_set.labels[wanted]),
        )
    )
    if not same:
        raise UserError(
            f"{path}: its test rows are not the {len(wanted)} images that {fold.name} tests; "
            "delete this fold's folder and give the same command again"
        )
    return table
