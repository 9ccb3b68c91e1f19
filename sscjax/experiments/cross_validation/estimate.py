"""How long a cross-validation will take, measured on this machine before the first fold.

One batch goes through the frozen network, and a classifier of the real size takes a few steps; the
rest is counting. Only of recipes that fit a classifier to frozen features (every stage 'lbfgs'):
epochs that stop early, or augment online, are not known beforehand.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import numpy as np

from sscjax.data import lazy
from sscjax.data.dataset import ImageSet
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.system import cache_dir
from sscjax.training import frozen_features, linear_probe, programs, setup
from sscjax.training.settings import Settings

# Evaluations of the loss that a fit takes, each starting from the fit of the next stronger penalty;
# between 20 and 40 on tiles of skin and prostate.
_EVALUATIONS = 30

# What a fold does besides, as a share of its fits: metrics, rules, files.
_BESIDES = 0.3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What was measured.

    Attributes:
      images_per_second: through the frozen network; None where the features are there already.
      features: seconds for the features of all images.
      fold: seconds for the fits of one fold.
    """

    images_per_second: float | None
    features: float
    fold: float

    @property
    def by_kind(self) -> dict[str, float]:
        """Seconds of the first fold, of the others, of the figures, the model and the page."""
        fold = self.fold * (1 + _BESIDES)
        return {
            "first": self.features + fold,
            "fold": fold,
            "report": fold,
            "model": fold,
            "page": fold,
        }

    def of_all(self, folds: int) -> float:
        """Seconds of a cross-validation of so many folds, with the model of all images."""
        kinds = self.by_kind
        return sum(kinds.values()) + kinds["fold"] * (folds - 2)


def measure(
    settings: Settings, image_set: ImageSet, plan: list[Fold], fallback: bool
) -> Estimate | None:
    """Measure; None where nothing is known beforehand.

    Args:
      settings: of the cross-validation.
      image_set: its images.
      plan: its folds.
      fallback: whether an earlier start could not get ImageNet's weights.

    Raises:
      UserError: weights that are not available, or do not fit.
    """
    if settings.validates:
        return None
    classes = len(image_set.classes)
    network = setup.create_network(settings, classes, 0, earlier_fallback=fallback)
    stage = settings.ordered_stages()[0]
    program = programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(network.weights.convention.scaling),
        micro_batch=stage.micro_batch,
    )
    last, images = network.model.features_end, image_set.images
    size = frozen_features.prefix_shape(
        network.model, network.variables, last, (len(images), *images.shape[1:])
    )
    key = frozen_features.key(
        program,
        last,
        network.params,
        network.batch_stats,
        images=lazy.fingerprint(images),
        scaling=network.weights.convention.scaling,
        batch_size=stage.batch_size,
    )
    rate = None
    if not (cache_dir.cache_dir() / "features" / f"{key}.npy").is_file():
        compute = programs.make_features(program, last)
        batch = images[frozen_features.batch_rows(len(images), stage.batch_size)]

        def run() -> None:
            jax.block_until_ready(compute(network.params, network.batch_stats, batch))

        rate = stage.batch_size / _seconds(run)
    trained = len(images) - min(len(fold.tested) for fold in plan)
    fold = _fold(settings, image_set, trained, math.prod(size[1:]))
    return Estimate(rate, len(images) / rate if rate else 0.0, fold)


def _fold(settings: Settings, image_set: ImageSet, images: int, width: int) -> float:
    """Seconds for the fits of one fold, of so many training images and features."""
    classes = len(image_set.classes)
    outputs = settings.model.output_count(classes)
    rng = np.random.default_rng(0)
    problem = linear_probe.Problem(
        rng.standard_normal((images, width), np.float32),
        rng.integers(0, classes, images),
        settings.loss.objective(outputs),
        outputs,
        max_iter=4,
    )
    evaluations = 1

    def run() -> None:
        nonlocal evaluations
        evaluations = problem.minimise(1e-3)[1]

    seconds = _seconds(run) / evaluations
    total = 0.0
    for stage in settings.ordered_stages():
        # Of every pair of folds left out, by each penalty; then of every fold, and of none.
        folds = linear_probe.FOLDS
        fits = (folds + folds * (folds - 1) // 2) * len(stage.l2) + folds + 1
        total += fits * _EVALUATIONS * seconds
    return total


def _seconds(run: Callable[[], None]) -> float:
    """Of a second call: the first one compiles."""
    run()
    started = time.monotonic()
    run()
    return max(time.monotonic() - started, 1e-6)
