"""From a run's settings and images to the network that is trained: model, weights, loss, inputs.

The model is built by `models/factory.py`, its weights are found by `starting_weights.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.data import augment
from sscjax.data.augment import Changes
from sscjax.data.dataset import Images
from sscjax.data.lazy import Rows
from sscjax.models import factory, initial_variables
from sscjax.models.pretrained import bundled, encoder_config, load, preprocessing
from sscjax.models.resnet import ResNet
from sscjax.models.vit import VisionTransformer
from sscjax.training import checkpoint, frozen_features, losses, programs, starting_weights
from sscjax.training.class_weights import class_weights, mask_weights
from sscjax.training.network import Network
from sscjax.training.settings import Settings

_LOG = logging.getLogger(__name__)

_CALIBRATION_BATCHES = 4


def build_network(
    settings: Settings, images: Images, *, earlier_fallback: bool, created: Network | None = None
) -> Network:
    """Build the model with its starting weights.

    Args:
      settings: of the run.
      images: the run's images; random weights are calibrated on the training images.
      earlier_fallback: the run that is resumed could not get ImageNet's weights and started from
        what replaces them: it resumes with the same, without looking for them again.
      created: what `create_network` gave for these settings, where the caller has it.
    """
    originals = images.originals
    classes, masks = len(originals.classes), len(originals.mask_classes)
    if created is None:
        created = create_network(settings, classes, masks, earlier_fallback=earlier_fallback)
    network = _with_running_averages(settings, created, images.training.images)
    outputs = settings.model.output_count(classes)
    return dataclasses.replace(network, objective=_weighted(settings.loss, outputs, images))


def create_network(
    settings: Settings, classes: int, mask_classes: int, *, earlier_fallback: bool
) -> Network:
    """The model with its starting weights, before it has seen an image.

    Running averages that come from no file are 0 and 1; classes have no weights.

    Args:
      settings: of a run; the blocks model, loss and scratch, the size of images and the seed.
      classes: how many there are.
      mask_classes: classes of the masks; without a weight for them in the loss there is no head.
      earlier_fallback: see `build_network`.

    Raises:
      UserError: fields that make no sense, or weights that are not available or do not fit.
    """
    outputs, size = settings.model.output_count(classes), settings.data.image_size
    task = factory.Task(outputs, size, mask_classes if settings.loss.segmentation else 0)
    objective = settings.loss.objective(outputs)
    model: Any = factory.build_model(settings.model, task)
    variables = jax.tree.map(jnp.asarray, initial_variables(model, size, settings.seed))
    params, batch_stats = dict(variables["params"]), dict(variables.get("batch_stats", {}))
    path, weights = starting_weights.find(settings, earlier_fallback)
    momentum = settings.scratch.momentum
    if path is not None:
        # What the file cannot hold is left out: the new layers behind the backbone.
        new = set(model.layer_names[model.head_start :])
        assert settings.model.backbone.family is not None
        family = settings.model.backbone.family(model)
        loaded = load.load_backbone(path, _without(params, new), _without(batch_stats, new), family)
        own = Path(path).parent == Path(bundled.__file__).parent
        weights = dataclasses.replace(
            weights,
            kind="file",
            name=f"bundled {Path(path).name}" if own else Path(path).name,
            sha256=loaded.sha256,
            convention=_convention(path, model, loaded.convention),
        )
        params, batch_stats = {**params, **loaded.params}, {**batch_stats, **loaded.batch_stats}
        momentum = loaded.convention.bn_momentum
    else:
        # So that a run is not resumed from other random weights.
        weights = dataclasses.replace(weights, sha256=checkpoint.tree_sha256(params))
    if batch_stats:
        model = factory.with_convention(model.clone(bn_momentum=momentum), weights.convention)
    return Network(model, params, batch_stats, objective, weights)


def _convention(
    path: Path, model: Any, of_format: preprocessing.Convention
) -> preprocessing.Convention:
    """What a file of weights assumes: of MobileNetV2 its format says so, else what lies beside."""
    if not isinstance(model, (VisionTransformer, ResNet)):
        return of_format
    width = model.shape.width if isinstance(model, VisionTransformer) else None
    facts = encoder_config.beside(path, width)
    if facts.restriction:
        _LOG.warning("%s: licence %s, %s", path.name, facts.licence, facts.restriction)
    if facts.convention is not None:
        return facts.convention
    _LOG.warning(
        "%s: nothing beside it says how its pixels were scaled, so ImageNet's mean and standard "
        "deviation are taken; put the config.json it was published with into its folder",
        path.name,
    )
    return of_format


def _without(tree: dict[str, Any], layers: set[str]) -> dict[str, Any]:
    return {name: leaves for name, leaves in tree.items() if name not in layers}


def _with_running_averages(settings: Settings, network: Network, images: Rows) -> Network:
    """The network with running averages of the training images where no file gave any."""
    model: Any = network.model
    # All layers, or those that are new behind the backbone.
    first = model.head_start if network.weights.kind == "file" else 0
    if not set(model.layer_names[first:]) & set(network.batch_stats):
        return network
    batches = _calibration_batches(images, settings, network.weights.convention.scaling)
    batch_stats = frozen_features.calibrate_batch_norm(
        model.clone(bn_momentum=0.0), network.params, network.batch_stats, batches, first
    )
    return dataclasses.replace(network, batch_stats=batch_stats)


def _calibration_batches(
    images: Rows, settings: Settings, scaling: preprocessing.Scaling
) -> list[jax.Array]:
    rng = np.random.default_rng(settings.seed)
    size = min(len(images), 2 * settings.batch_size)
    return [
        jnp.asarray(
            preprocessing.preprocess(images[rng.choice(len(images), size, replace=False)], scaling)
        )
        for _ in range(_CALIBRATION_BATCHES)
    ]


def _weighted(settings: losses.LossSettings, outputs: int, images: Images) -> losses.Objective:
    """The objective with the weights of classes and of mask classes in the training images."""
    originals = images.originals
    objective = dataclasses.replace(
        settings.objective(outputs),
        class_weights=class_weights(
            settings.class_weights, images.training.labels, len(originals.classes)
        ),
    )
    if not objective.segmentation:
        return objective
    training = originals.take(np.flatnonzero(images.splits == "train"))
    assert training.masks is not None
    weights = mask_weights(settings.mask_weights, training.masks, len(originals.mask_classes))
    return dataclasses.replace(objective, mask_weights=weights)


def make_inputs(scaling: preprocessing.Scaling, changes: Changes | None = None) -> programs.Inputs:
    """How stored uint8 images become the network's input.

    Masks may be a fourth channel behind the colours: they are moved with their image, and else
    stay as they are.

    Args:
      scaling: of the pixels, as the weights assume.
      changes: how images are augmented in training; None: not at all.
    """

    def inputs(stored: jax.Array, key: jax.Array | None) -> jax.Array:
        pixels, maps = stored[..., :3].astype(jnp.float32), stored[..., 3:]
        if changes is not None and key is not None:
            pixels, maps = augment.augment_with_masks(key, pixels, maps, changes)
        pixels = preprocessing.preprocess(pixels, scaling)
        if not maps.shape[-1]:
            return pixels
        return jnp.concatenate([pixels, maps.astype(jnp.float32)], axis=-1)

    return inputs
