"""How long a cross-validation will take, measured on this machine before the first fold.

Three things are measured: images per second through the frozen network, seconds of the audit, which
each fold repeats with its own splits, and seconds of an evaluation of the loss of a classifier of
the real size. The rest is counting. Only of recipes that fit a classifier to frozen features (every
stage 'lbfgs'): epochs that stop early, or augment online, are not known beforehand.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sscjax.data import lazy, splits
from sscjax.data.audit import checks
from sscjax.data.dataset import ImageSet
from sscjax.experiments import final_model
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.inference import explanations
from sscjax.system import cache_dir
from sscjax.training import frozen_features, linear_probe, programs, setup
from sscjax.training.settings import Settings

# Evaluations of the loss that a fit takes, each starting from the fit of the next stronger penalty;
# between 17 (the strongest) and 47, 29 on average, on tiles of prostate and of skin.
_EVALUATIONS = 29

# What a fold does besides (metrics, intervals, files), the page, and the figures of all folds for
# each test of an image, in seconds of a processor: 4.6 s of 1,389 tests, 2.5 s for their page.
_BESIDES, _PAGE, _OF_A_TEST = 3.0, 2.5, 3.3e-3

# Noise, one colour, stripes and inverted images, on which the out-of-distribution flag is tried.
_MADE_UP = 4 * final_model.MADE_UP

# A map takes a pass forwards and one backwards, which costs about twice as much.
_PASSES_OF_A_MAP = 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What was measured.

    Attributes:
      images_per_second: through the frozen network.
      features: seconds for the features of all images; 0 where they are there already.
      audit: seconds of the audit of one fold.
      fits: seconds for the fits of one fold.
      tests: of images, in all folds.
      waiting: seconds that pass for one of a processor, 1 or more: what other programs take.
    """

    images_per_second: float
    features: float
    audit: float
    fits: float
    tests: int
    waiting: float = 1.0

    @property
    def by_kind(self) -> dict[str, float]:
        """Seconds of each kind of step.

        'first': the first fold; 'drawn': others whose maps are drawn; 'fold': those without;
        'report', 'model' and 'page': what comes after them.
        """
        made_up = _MADE_UP / self.images_per_second
        maps = _PASSES_OF_A_MAP * explanations.MOST_MAPS / self.images_per_second
        fold = self.audit + made_up + self.fits + _BESIDES * self.waiting
        return {
            "first": self.features + fold + maps,
            "drawn": fold + maps,
            "fold": fold,
            "report": _OF_A_TEST * self.tests * self.waiting,
            "model": fold,
            "page": _PAGE * self.waiting,
        }

    def of_all(self, repeats: Sequence[int]) -> float:
        """Seconds of a cross-validation with the model of all images.

        Args:
          repeats: of each fold, the repeat that it is of, from 0.
        """
        kinds = self.by_kind
        drawn = sum(repeat == 0 for repeat in repeats)
        folds = (
            kinds["first"] + (drawn - 1) * kinds["drawn"] + (len(repeats) - drawn) * kinds["fold"]
        )
        return folds + kinds["report"] + kinds["model"] + kinds["page"]


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
    kept = (cache_dir.cache_dir() / "features" / f"{key}.npy").is_file()
    compute = programs.make_features(program, last)
    batch = images[frozen_features.batch_rows(len(images), stage.batch_size)]

    def run() -> None:
        jax.block_until_ready(compute(network.params, network.batch_stats, batch))

    seconds, waiting = _seconds(run)
    rate = stage.batch_size / seconds
    features = 0.0 if kept else len(images) / rate
    fits = _fits(settings, image_set, plan[0].tested, math.prod(size[1:]))
    tests = sum(len(fold.tested) for fold in plan)
    return Estimate(rate, features, _audit(settings, image_set), fits, tests, waiting)


def _audit(settings: Settings, image_set: ImageSet) -> float:
    """Seconds of a fold's audit: the search for copies was made, and is remembered."""
    started = time.monotonic()
    checks.audit(image_set, None, settings.data.root, allowed=True)
    return time.monotonic() - started


def _fits(settings: Settings, image_set: ImageSet, tested: np.ndarray, width: int) -> float:
    """Seconds for the fits of a fold that tests these images, by so many features."""
    classes = len(image_set.classes)
    outputs = settings.model.output_count(classes)
    training = image_set.take(np.setdiff1d(np.arange(len(image_set)), tested))
    rng = np.random.default_rng(0)
    problem = linear_probe.Problem(
        rng.standard_normal((len(training), width), np.float32),
        training.labels,
        settings.loss.objective(outputs),
        outputs,
        max_iter=8,
    )
    evaluations = 1

    def run() -> None:
        nonlocal evaluations
        evaluations = problem.minimise(1e-3)[1]

    seconds = _seconds(run)[0] / evaluations
    folds = splits.subject_folds(training, linear_probe.FOLDS, settings.seed)
    fits = sum(
        number_of_fits(int(folds.max()) + 1, len(set(stage.l2)))
        for stage in settings.ordered_stages()
    )
    return fits * _EVALUATIONS * seconds


def number_of_fits(folds: int, strengths: int) -> int:
    """How often a classifier is fitted by `linear_probe.Problem.cross_fit`, and to all images.

    Without each fold, and where there are strengths to choose among without each pair of them, by
    every strength; then without each fold, and of all. A single fold is none.
    """
    if folds < 2:
        return 1
    pairs = folds * (folds - 1) // 2 if strengths > 1 and folds > 2 else 0
    return (folds + pairs) * strengths + folds + 1


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Of a second call, for the first one compiles: seconds, and for each one of a processor."""
    run()
    started, used = time.monotonic(), time.process_time()
    run()
    seconds = max(time.monotonic() - started, 1e-6)
    return seconds, max(1.0, seconds / max(time.process_time() - used, 1e-6))
