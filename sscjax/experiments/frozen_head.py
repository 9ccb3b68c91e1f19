"""Features of a frozen backbone, and L2-regularised classifiers fitted to any of the images.

For questions that need hundreds of trainings: learning curves, planted label errors. Each takes
about a second, as the features are computed once and kept in the cache folder, where a run with the
same images and weights finds them.
"""

from __future__ import annotations

import dataclasses

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
    """

    images: ImageSet
    ordered: bool
    features: np.ndarray
    objective: Objective
    weighting: str
    penalties: tuple[float, ...]
    seed: int
    weights: str

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
        problem = linear_probe.Problem(
            self.features[train], chosen.labels, objective, classes, max_iter=_MAX_ITERATIONS
        )
        folds = splits.subject_folds(chosen, linear_probe.FOLDS, self.seed)
        if folds.any():
            l2 = problem.choose(self.penalties, folds).l2
        else:
            l2 = sorted(self.penalties)[len(self.penalties) // 2]
        fitted = problem.fit(l2)
        logits = self.features[test] @ fitted.kernel + fitted.bias
        probabilities = np.asarray(self.objective.probabilities(jnp.asarray(logits)), np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)


def load(config: ConfigDict) -> FrozenHead:
    """The images of a config and their features by its backbone as it is before any training.

    Args:
      config: of a run with MobileNetV2; its stages, splits and copies are not used.

    Raises:
      UserError: another network or random weights, or what `data_from_config.load_images` raises.
    """
    settings = settings_module.read(config, of_record=True)
    if settings.model.name != "mobilenet_v2":
        raise UserError(
            f"config.model.name={settings.model.name!r}: its features are random before it is "
            "trained, and frozen features are needed here; use a config with mobilenet_v2, such as "
            "best_three_class"
        )
    # One output for each class, whatever the run had.
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, outputs=0))
    image_set, synthetic = data_from_config.load_images(settings)
    # Prescribed splits play no part here.
    image_set = dataclasses.replace(image_set, splits=None)
    network = setup.create_network(settings, len(image_set.classes), 0, earlier_fallback=False)
    if network.weights.kind != "file":
        raise UserError(
            f"config.pretrained={settings.pretrained!r}: frozen features need trained weights; set "
            "imagenet, bundled, or a weight file"
        )
    ordered = data_from_config.is_ordered(settings, image_set, synthetic)
    everything = np.full(len(image_set), "train")
    images = Images(image_set, everything, image_set, synthetic, settings.split.by, ordered)
    return FrozenHead(
        images=image_set,
        ordered=ordered,
        features=_features(settings, images, network),
        objective=network.objective,
        weighting=settings.loss.class_weights,
        penalties=_penalties(settings),
        seed=settings.seed,
        weights=network.weights.name,
    )


def _features(settings: Settings, images: Images, network: Network) -> np.ndarray:
    """What the classifier is fed, of each image: [N,D] float32."""
    stage = dataclasses.replace(
        settings.ordered_stages()[0], trainable="head", freeze_first=0, online_augment=False
    )
    program = programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(network.weights.convention.scaling),
        micro_batch=stage.micro_batch,
    )
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
