"""Features of a frozen backbone, and L2-regularised classifiers fitted to any of the images.

For questions that need hundreds of trainings: learning curves, planted label errors. Each takes
about a second, as the features are computed once and kept in the cache folder, where a run with the
same images and weights finds them.
"""

from __future__ import annotations

import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sscjax.data import splits
from sscjax.data.dataset import Images, ImageSet
from sscjax.errors import UserError
from sscjax.experiments import data_from_config
from sscjax.system import cache_dir
from sscjax.training import (
    class_weights,
    freezing,
    frozen_features,
    linear_probe,
    programs,
    setup,
    stage_inputs,
    stage_work,
)
from sscjax.training import settings as settings_module
from sscjax.training.losses import Objective
from sscjax.training.network import Network
from sscjax.training.settings import Settings
from sscjax.training.stage import StageSettings

_MAX_ITERATIONS = 200

# Of the second and later encoders against the first, where several are read; the strength of the
# penalty moves all of them.
_FACTORS = (0.25, 1.0, 4.0)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenHead:
    """Images, their features, and how a classifier is fitted to them.

    Attributes:
      images: the N images.
      ordered: whether their classes are in order of severity.
      features: [N,D] float32.
      objective: loss and probabilities, classes not yet weighted.
      weighting: 'balanced' or 'none', as `config.loss.class_weights`.
      penalties: strengths of the L2 penalty to choose among.
      seed: of the folds that choose the penalty.
      weights: what the backbone is.
      parameters: of the backbone.
      images_per_second: that its features are computed with; None where it was not measured.
      widths: numbers of features of each encoder, where they are of several side by side; their sum
        is D. Each has a penalty of its own; () for one encoder.
    """

    images: ImageSet
    ordered: bool
    features: np.ndarray
    objective: Objective
    weighting: str
    penalties: tuple[float, ...]
    seed: int
    weights: str
    parameters: int = 0
    images_per_second: float | None = None
    widths: tuple[int, ...] = ()

    def predict(
        self, train: np.ndarray, test: np.ndarray, labels: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities of the images `test` by a classifier fitted to the images `train`.

        The penalty is chosen by cross-validation over the subjects of `train`, as in a stage that
        L-BFGS fits; with too few subjects it is the middle one.

        Args:
          train: [M] int, with every class among their labels.
          test: [T] int.
          labels: [N] int, in place of the images' own; None for these.

        Returns:
          [T,C] float64.
        """
        chosen = self.images.take(train)
        if labels is not None:
            chosen = dataclasses.replace(chosen, labels=labels[train].astype(np.int32))
        classes = len(self.images.classes)
        objective = dataclasses.replace(
            self.objective,
            class_weights=class_weights.class_weights(self.weighting, chosen.labels, classes),
        )
        folds = splits.subject_folds(chosen, linear_probe.FOLDS, self.seed)
        fits = []
        for factors in self._factors() if folds.any() else [None]:
            problem = linear_probe.Problem(
                self.features[train],
                chosen.labels,
                objective,
                classes,
                max_iter=_MAX_ITERATIONS,
                factors=factors,
            )
            if folds.any():
                choice = problem.choose(self.penalties, folds)
                fits.append((min(choice.losses.values(), default=0.0), choice.l2, problem))
            else:
                fits.append((0.0, linear_probe.middle(self.penalties), problem))
        _, l2, problem = min(fits, key=lambda fit: fit[0])
        fitted = problem.fit(l2)
        logits = self.features[test] @ fitted.kernel + fitted.bias
        probabilities = np.asarray(self.objective.probabilities(jnp.asarray(logits)), np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def _factors(self) -> list[np.ndarray | None]:
        """What features may be multiplied by: [D] each, or None for one encoder."""
        if len(self.widths) < 2:
            return [None]
        total = sum(self.widths)
        # At 1 encoders count alike, however many features they have.
        alike = [np.sqrt(total / width) for width in self.widths]
        return [
            np.repeat(np.multiply(alike, chosen), self.widths)
            for chosen in itertools.product((1.0,), *[_FACTORS] * (len(self.widths) - 1))
        ]


def read_images(config: ConfigDict) -> ImageSet:
    """The images of a config, prescribed splits left out.

    Raises:
      UserError: what `data_from_config.load_images` raises.
    """
    return _load_images(settings_module.read(config, of_record=True))[0]


def without_features(config: ConfigDict) -> FrozenHead:
    """The images of a config, for features that come from elsewhere: [N,0] for now.

    Raises:
      UserError: what `data_from_config.load_images` raises.
    """
    settings = _one_output_each(settings_module.read(config, of_record=True))
    image_set, synthetic = _load_images(settings)
    return FrozenHead(
        images=image_set,
        ordered=data_from_config.is_ordered(settings, image_set, synthetic),
        features=np.zeros((len(image_set), 0), np.float32),
        objective=settings.loss.objective(len(image_set.classes)),
        weighting=settings.loss.class_weights,
        penalties=_penalties(settings),
        seed=settings.seed,
        weights="",
    )


def _load_images(settings: Settings, say: bool = True) -> tuple[ImageSet, bool]:
    """The images, and whether they are synthetic; prescribed splits play no part here."""
    image_set, synthetic = data_from_config.load_images(settings, say=say)
    return dataclasses.replace(image_set, splits=None), synthetic


def _one_output_each(settings: Settings) -> Settings:
    """One output for each class, whatever the run had."""
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, outputs=0))


def load(
    config: ConfigDict, *, allow_random: bool = False, timed: int = 0, say: bool = True
) -> FrozenHead:
    """The images of a config and their features by its backbone as it is before any training.

    Args:
      config: of a run with pretrained weights; its stages, splits and copies are not used.
      allow_random: whether random weights will do.
      timed: images whose speed is measured; 0: it is not.
      say: whether the log says what was read.

    Raises:
      UserError: a network without pretrained weights, or what `data_from_config.load_images`
        raises.
    """
    settings = settings_module.read(config, of_record=True)
    if settings.model.backbone.family is None or settings.model.backbone.predicts_masks:
        raise UserError(
            f"config.model.name={settings.model.name!r}: its features are random before it is "
            "trained, and frozen features are needed here; use a config with mobilenet_v2, such as "
            "best_three_class"
        )
    settings = _one_output_each(settings)
    image_set, synthetic = _load_images(settings, say)
    network = setup.create_network(settings, len(image_set.classes), 0, earlier_fallback=False)
    if network.weights.kind != "file" and not allow_random:
        raise UserError(
            f"config.pretrained={settings.pretrained!r}: frozen features need trained weights; set "
            "imagenet, bundled, or a weight file"
        )
    ordered = data_from_config.is_ordered(settings, image_set, synthetic)
    everything = np.full(len(image_set), "train")
    images = Images(image_set, everything, image_set, synthetic, settings.split.by, ordered)
    features = _features(settings, images, network)
    head = set(network.model.layer_names[network.model.head_start :])
    backbone = {name: leaves for name, leaves in network.params.items() if name not in head}
    return FrozenHead(
        images=image_set,
        ordered=ordered,
        features=features,
        objective=network.objective,
        weighting=settings.loss.class_weights,
        penalties=_penalties(settings),
        seed=settings.seed,
        weights=network.weights.name if network.weights.kind == "file" else "random",
        parameters=freezing.count(backbone),
        images_per_second=_speed(settings, images, network, timed) if timed else None,
    )


def _speed(settings: Settings, images: Images, network: Network, count: int) -> float:
    """Images per second through the backbone, compiled: the faster of two rounds."""
    program = _program(settings, network)
    size = settings.batch_size
    function = programs.make_features(program, network.model.features_end)
    stored = jnp.asarray(images.originals.images[np.arange(size) % len(images.originals)])
    arguments = network.params, network.batch_stats, stored
    jax.block_until_ready(function(*arguments))
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(-(-count // size)):
            jax.block_until_ready(function(*arguments))
        rates.append(-(-count // size) * size / (time.perf_counter() - start))
    return max(rates)


def _program(settings: Settings, network: Network) -> programs.Program:
    return programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(network.weights.convention.scaling),
        micro_batch=settings.micro_batch,
    )


def _features(settings: Settings, images: Images, network: Network) -> np.ndarray:
    """What the classifier is fed, of each image: [N,D] float32."""
    stage = dataclasses.replace(
        settings.ordered_stages()[0], trainable="head", freeze_first=0, online_augment=False
    )
    program = _program(settings, network)
    store = frozen_features.Store(cache_dir.cache_dir() / "features", settings.features.disk_bytes)
    labels = stage_work.layer_labels(stage, network)
    ready, _, features = stage_inputs.prepare(stage, images, network, program, labels, store)
    if ready.first == 0:
        raise UserError("the features are not computed ahead: raise config.features.max_megabytes")
    return np.reshape(features[:], (len(features), -1))


def _penalties(settings: Settings) -> tuple[float, ...]:
    """Those of the stage that L-BFGS fits, or the default ones."""
    fitted = [settings.stages[name] for name in settings.stage_order]
    return next((stage.l2 for stage in fitted if stage.uses_lbfgs), StageSettings().l2)
