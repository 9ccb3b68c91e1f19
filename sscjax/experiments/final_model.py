"""What the model of the chosen stage makes of the originals: features and masks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import dataset
from sscjax.data.dataset import Images, ImageSet
from sscjax.data.splits import unlabelled_folds
from sscjax.evaluation import ood, reliability, segmentation
from sscjax.reports import figures
from sscjax.system import run_dir
from sscjax.system.progress import Progress
from sscjax.training import (
    checkpoint,
    evaluate,
    frozen_features,
    linear_probe,
    programs,
    setup,
)
from sscjax.training.network import Network
from sscjax.training.settings import Settings

# Images of each kind that the out-of-distribution flag is tried on.
_MADE_UP = 32

# Images whose masks are drawn.
_MASKS_DRAWN = 6


@dataclasses.dataclass(frozen=True)
class FinalModel:
    """The model of the chosen stage, read from the run's folder once for all that it computes."""

    program: programs.Program
    variables: dict[str, Any]
    batch_size: int
    seed: int

    def features(self, images: Images) -> reliability.Features:
        """What the network hands to its classifier, for every original and for made-up images."""
        originals, training = images.originals.images, images.splits == "train"
        validation = np.flatnonzero(images.splits == "val")
        inverted = validation if len(validation) else np.flatnonzero(training)
        made_up = ood.made_up(originals[inverted[:_MADE_UP]], self.seed)
        total = len(originals) + sum(map(len, made_up.values()))
        with Progress("features of the images", total) as progress:
            extract = functools.partial(
                evaluate.penultimate,
                evaluate.make_penultimate(self.program),
                self.variables["params"],
                self.variables["batch_stats"],
                batch_size=self.batch_size,
                progress=progress.advance,
            )
            features = extract(originals)
            return reliability.Features(
                features,
                {kind: extract(pixels) for kind, pixels in made_up.items()},
                None
                if len(validation)
                else self._out_of_fold(features[training], images.originals.subjects[training]),
            )

    def _out_of_fold(self, features: np.ndarray, subjects: np.ndarray) -> np.ndarray:
        """[T] distances of the training images, each from a detector without its subject.

        Of a single subject the folds are of images: for a new one the limit is then too low.
        """
        several = len(set(subjects.tolist())) > 1
        groups = subjects if several else np.arange(len(subjects)).astype(str)
        folds = unlabelled_folds(groups, linear_probe.FOLDS, self.seed)
        return ood.out_of_fold_distances(features, folds)

    def masks(self, images: Images, folder: Path) -> segmentation.Table | None:
        """Pixels of each class in the masks of the originals; None without masks.

        Draws a few of the test images with their masks into the run's folder.
        """
        if not self.program.model.mask_classes:
            return None
        originals = images.originals
        assert originals.masks is not None
        with_mask = dataset.with_masks(originals, np.arange(len(originals)))
        masked, splits = originals.take(with_mask), images.splits[with_mask]
        with Progress("masks of the images", len(masked)) as progress:
            counts = evaluate.mask_counts(
                programs.make_masks(self.program),
                self.variables["params"],
                self.variables["batch_stats"],
                masked,
                batch_size=self.batch_size,
                progress=progress.advance,
            )
        self._draw_masks(masked, splits, folder / run_dir.MASKS_SHEET)
        return segmentation.Table(
            masked.files, masked.subjects, splits, masked.mask_classes, *counts
        )

    def _draw_masks(self, masked: ImageSet, splits: np.ndarray, path: Path) -> None:
        """Draw a few test images with their true and predicted masks, each of another subject."""
        tested = np.flatnonzero(splits == "test")
        if not len(tested):
            return
        _, first = np.unique(masked.subjects[tested], return_index=True)
        shown = tested[np.sort(first)][:_MASKS_DRAWN]
        # Always the same number of images, so that XLA compiles one shape.
        pixels = masked.images[shown[frozen_features.batch_rows(len(shown), _MASKS_DRAWN)]]
        predict = programs.make_masks(self.program)
        predicted = predict(self.variables["params"], self.variables["batch_stats"], pixels)
        assert masked.masks is not None
        sheet = figures.mask_sheet(
            pixels[: len(shown)],
            np.asarray(masked.masks[shown]),
            np.asarray(predicted)[: len(shown)],
            masked.mask_classes,
        )
        figures.write_png(path, sheet)


def read(settings: Settings, folder: Path, network: Network, stage: str) -> FinalModel:
    """The model of a finished stage.

    Args:
      settings: of the run.
      folder: the run's.
      network: of the run; gives model, objective and the structure of the parameters.
      stage: its name.
    """
    variables = checkpoint.load_model(run_dir.RunDir(folder).stage(stage).model, network.variables)
    program = programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(network.weights.convention.scaling),
        micro_batch=settings.micro_batch,
    )
    return FinalModel(program, dict(variables), settings.batch_size, settings.seed)
