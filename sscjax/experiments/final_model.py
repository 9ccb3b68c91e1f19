"""What the model of the chosen stage makes of the originals: features and masks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import dataset, lazy
from sscjax.data.dataset import Images, ImageSet
from sscjax.data.lazy import Rows
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
MADE_UP = 32

# Images whose masks are drawn.
_MASKS_DRAWN = 6


@dataclasses.dataclass(frozen=True)
class FinalModel:
    """The model of the chosen stage, read from the run's folder once for all that it computes."""

    program: programs.Program
    variables: dict[str, Any]
    scaling: str
    batch_size: int
    seed: int

    def features(
        self, images: Images, store: frozen_features.Store, folds: np.ndarray | None = None
    ) -> reliability.Features:
        """What the network hands to its classifier, for every original and for made-up images.

        Args:
          images: the run's images.
          store: where a stage that trained the classifier alone has kept those of the originals.
          folds: [T] int, the folds of subjects that distances of the T training images leave out,
            where there are no validation images; None: they are drawn here.
        """
        originals, training = images.originals.images, images.splits == "train"
        validation = np.flatnonzero(images.splits == "val")
        inverted = validation if len(validation) else np.flatnonzero(training)
        made_up = ood.made_up(originals[inverted[:MADE_UP]], self.seed)
        features = self._kept(originals, store)
        parts = [originals] * (features is None) + list(made_up.values())
        with Progress("features to compare", sum(map(len, parts))) as progress:
            extract = functools.partial(
                evaluate.penultimate,
                self._function(originals),
                self.variables["params"],
                self.variables["batch_stats"],
                batch_size=self.batch_size,
                progress=progress.advance,
            )
            of_parts = [extract(pixels) for pixels in parts]
        if features is None:
            features = of_parts.pop(0)
        return reliability.Features(
            features,
            dict(zip(made_up, of_parts, strict=True)),
            None
            if len(validation)
            else self._out_of_fold(features[training], images.originals.subjects[training], folds),
        )

    def _shape(self, images: Rows) -> tuple[int, ...]:
        """Of what the classifier is fed, before maps are averaged: [N,D] or [N,h,w,D]."""
        model = self.program.model
        return frozen_features.prefix_shape(
            model, self.variables, model.features_end, tuple(images.shape)
        )

    def _function(self, images: Rows) -> Callable[..., Any]:
        """From parameters, averages and images [B,H,W,3] to what the classifier is fed."""
        if len(self._shape(images)) > 2:
            return evaluate.make_penultimate(self.program)
        # The function of a stage that trains the classifier alone, which is then compiled already.
        return programs.make_features(self.program, self.program.model.features_end)

    def _kept(self, originals: Rows, store: frozen_features.Store) -> np.ndarray | None:
        """[N,D] from the store; None where nothing is, as after a stage that trained more."""
        shape = self._shape(originals)
        if len(shape) > 2:
            return None  # stages keep maps, of which only the means are wanted here
        key = frozen_features.key(
            self.program,
            self.program.model.features_end,
            self.variables["params"],
            self.variables["batch_stats"],
            images=lazy.fingerprint(originals),
            scaling=self.scaling,
            batch_size=self.batch_size,
        )
        kept = store.entry(key, held=True).read(shape)
        return None if kept is None else np.asarray(kept)

    def _out_of_fold(
        self, features: np.ndarray, subjects: np.ndarray, folds: np.ndarray | None
    ) -> np.ndarray:
        """[T] distances of the training images, each from a detector without its subject.

        Of a single subject the folds are of images: for a new one the limit is then too low.
        """
        if folds is None:
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
    scaling = network.weights.convention.scaling
    return FinalModel(program, dict(variables), scaling, settings.batch_size, settings.seed)
