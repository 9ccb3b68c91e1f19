"""From a config and its images to the network that is trained: model, weights, loss, inputs."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sscjax.data import augment
from sscjax.data.augment import changes
from sscjax.data.dataset import Images
from sscjax.data.lazy import Rows
from sscjax.errors import UserError
from sscjax.models import (
    CNN,
    MODELS,
    FDUNet,
    MobileNetUNet,
    MobileNetV2,
    UNetBlock,
    initial_variables,
)
from sscjax.models.pretrained import bundled, download, load, preprocessing
from sscjax.training import checkpoint, frozen_features, losses, programs
from sscjax.training.class_weights import class_weights, mask_weights
from sscjax.training.network import Network, Weights

_LOG = logging.getLogger(__name__)

_CALIBRATION_BATCHES = 4


def build_network(
    config: ConfigDict, images: Images, *, earlier_fallback: bool, created: Network | None = None
) -> Network:
    """Build the model with its starting weights.

    Args:
      config: the run's config.
      images: the run's images; random weights are calibrated on the training images.
      earlier_fallback: the run that is resumed could not get ImageNet's weights and started from
        what replaces them: it resumes with the same, without looking for them again.
      created: what `create_network` gave for this config, where the caller has it.
    """
    classes = len(images.originals.classes)
    outputs = output_count(config, classes)
    objective = dataclasses.replace(
        make_objective(config, outputs),
        class_weights=class_weights(config.loss.class_weights, images.training.labels, classes),
    )
    if objective.segmentation:
        training = images.originals.take(np.flatnonzero(images.splits == "train"))
        assert training.masks is not None
        objective = dataclasses.replace(
            objective,
            mask_weights=mask_weights(
                config.loss.mask_weights, training.masks, len(images.originals.mask_classes)
            ),
        )
    if created is None:
        masks = len(images.originals.mask_classes)
        created = create_network(config, classes, masks, earlier_fallback=earlier_fallback)
    model, weights = created.model, created.weights
    params, batch_stats = created.params, created.batch_stats
    # What has averages and no weights from a file: all of it, or what is new behind the backbone.
    first = model.head_start if weights.kind == "file" else 0
    if isinstance(model, (MobileNetV2, FDUNet)) and set(model.layer_names[first:]) & set(
        batch_stats
    ):
        batches = _calibration_batches(images.training.images, config, weights)
        measuring = model.clone(bn_momentum=0.0)
        batch_stats = frozen_features.calibrate_batch_norm(
            measuring, params, batch_stats, batches, first
        )
    return Network(model, params, batch_stats, objective, weights)


def create_network(
    config: ConfigDict, classes: int, mask_classes: int, *, earlier_fallback: bool
) -> Network:
    """The model with its starting weights, before it has seen an image.

    Running averages that come from no file are 0 and 1; classes have no weights.

    Args:
      config: of a run; its blocks model, loss and scratch, its size of images and its seed.
      classes: how many there are.
      mask_classes: classes of the masks.
      earlier_fallback: see `build_network`.

    Raises:
      UserError: fields that make no sense, or weights that are not available or do not fit.
    """
    outputs = output_count(config, classes)
    objective = make_objective(config, outputs)
    model = build_model(config, outputs, mask_classes)
    size = config.data.image_size
    variables = jax.tree.map(jnp.asarray, initial_variables(model, size, config.seed))
    params, batch_stats = dict(variables["params"]), dict(variables.get("batch_stats", {}))
    trees = params, batch_stats
    path, weights = _find_weights(config, earlier_fallback)
    if path is not None:
        # What the file cannot hold is left out: the new layers behind the backbone.
        new = set(model.layer_names[model.head_start :])
        loaded = load.load_backbone(
            path, *({name: one[name] for name in one if name not in new} for one in trees)
        )
        own = Path(path).parent == Path(bundled.__file__).parent
        name = f"bundled {Path(path).name}" if own else Path(path).name
        weights = Weights("file", name, loaded.sha256, loaded.convention, weights.fallback)
        params, batch_stats = {**params, **loaded.params}, {**batch_stats, **loaded.batch_stats}
    else:
        # So that a run is not resumed from other random weights.
        weights = dataclasses.replace(weights, sha256=checkpoint.tree_sha256(params))
    if isinstance(model, (MobileNetV2, MobileNetUNet)):
        assumed = weights.convention
        momentum = assumed.bn_momentum if weights.kind == "file" else config.scratch.momentum
        model = model.clone(
            padding=assumed.padding, bn_epsilon=assumed.bn_epsilon, bn_momentum=momentum
        )
    elif isinstance(model, FDUNet):
        model = model.clone(bn_momentum=config.scratch.momentum)
    return Network(model, params, batch_stats, objective, weights)


def output_count(config: ConfigDict, classes: int) -> int:
    """How many logits the network has for so many classes."""
    outputs = int(config.model.outputs or classes)
    if outputs != 1 and outputs < classes:
        raise UserError(f"config.model.outputs={outputs}: expected at least {classes}, the classes")
    if outputs == 1 and classes != 2:
        raise UserError(f"config.model.outputs=1 is for two classes; the set has {classes}")
    return outputs


def make_objective(config: ConfigDict, outputs: int) -> losses.Objective:
    """Loss and probabilities, but for the weights of classes, which depend on the images."""
    if not 0 <= config.loss.label_smoothing < 1:
        raise UserError(
            f"config.loss.label_smoothing={config.loss.label_smoothing}: expected 0 to less than 1"
        )
    classes, masks = config.loss.classification, config.loss.segmentation
    if classes < 0 or (classes == 0 and masks == 0):
        raise UserError(
            f"config.loss.classification={classes}: expected above 0, or 0 with loss.segmentation "
            "above 0, to train masks alone"
        )
    if config.loss.dice < 0:
        raise UserError(f"config.loss.dice={config.loss.dice}: expected 0 or more")
    if classes == 0:
        _LOG.warning(
            "CLASSES ARE NOT TRAINED (config.loss.classification=0): predicted classes are random"
        )
    return losses.Objective(
        kind="sigmoid" if outputs == 1 else "softmax",
        label_smoothing=config.loss.label_smoothing,
        classification=classes,
        segmentation=config.loss.segmentation,
        dice=config.loss.dice,
    )


def build_model(config: ConfigDict, outputs: int, mask_classes: int) -> MobileNetV2 | CNN | FDUNet:
    """The Linen module that a config names, with Keras' conventions where weights have none.

    Args:
      config: of the run.
      outputs: number of logits.
      mask_classes: classes of the masks; without a weight for them in the loss there is no head.
    """
    spec = config.model
    if config.loss.segmentation and spec.name not in ("fd_unet", "mobilenet_unet"):
        raise UserError(
            f"config.loss.segmentation={config.loss.segmentation}: model.name={spec.name!r} has no "
            "head for masks; set model.name=fd_unet or mobilenet_unet, or 0"
        )
    if not 0 <= spec.dropout < 1:
        raise UserError(f"config.model.dropout={spec.dropout}: expected 0 to less than 1")
    if spec.alpha <= 0:
        raise UserError(f"config.model.alpha={spec.alpha}: expected a width above 0")
    if spec.name == "mobilenet_v2":
        layers = tuple(spec.feature_layers)
        network = MobileNetV2(outputs, alpha=spec.alpha, dropout_rate=spec.dropout)
        check_feature_layers(network, layers)
        return network.clone(feature_layers=layers)
    if spec.name == "cnn":
        for field in ("cnn_widths", "cnn_dense"):
            if min(spec[field], default=1) < 1:
                raise UserError(f"config.model.{field}={tuple(spec[field])}: expected 1 or more")
        model = CNN(outputs, tuple(spec.cnn_widths), tuple(spec.cnn_dense), spec.dropout)
        if config.data.image_size < model.smallest_input():
            raise UserError(
                f"config.data.image_size={config.data.image_size}: {len(model.widths)} blocks of "
                f"the CNN need at least {model.smallest_input()} pixels; shorten model.cnn_widths"
            )
        return model
    if spec.name in ("fd_unet", "mobilenet_unet"):
        return _build_unet(config, outputs, mask_classes if config.loss.segmentation else 0)
    raise UserError(f"config.model.name={spec.name!r}: expected one of {', '.join(MODELS)}")


def _build_unet(config: ConfigDict, outputs: int, mask_classes: int) -> FDUNet:
    """The UNet that a config describes."""
    spec, size = config.model, config.data.image_size
    for field in ("unet_depth", "unet_width", "unet_growth", "unet_layers"):
        if spec[field] < 1:
            raise UserError(f"config.model.{field}={spec[field]}: expected 1 or more")
    if spec.unet_block not in get_args(UNetBlock):
        known = " or ".join(map(repr, get_args(UNetBlock)))
        raise UserError(f"config.model.unet_block={spec.unet_block!r}: expected {known}")
    shape: dict[str, Any] = {"depth": spec.unet_depth}
    kind: type[FDUNet] = FDUNet
    if spec.name == "mobilenet_unet":
        if not mask_classes:
            raise UserError(
                "model.name='mobilenet_unet' trains masks, and config.loss.segmentation=0: set it "
                "above 0, or model.name=mobilenet_v2, which is the same network without masks"
            )
        kind, shape = MobileNetUNet, {"alpha": spec.alpha}
    model = kind(
        outputs,
        **shape,
        width=spec.unet_width,
        growth=spec.unet_growth,
        layers_per_block=spec.unet_layers,
        block=spec.unet_block,
        mask_classes=mask_classes,
        dropout_rate=spec.dropout,
    )
    if size % model.multiple:
        below = max(size // model.multiple, 1) * model.multiple
        raise UserError(
            f"config.data.image_size={size}: the UNet halves images {model.depth} times, so that "
            f"the size must be divisible by {model.multiple}, such as {below} or "
            f"{below + model.multiple}"
            + ("; or lower model.unet_depth" if spec.name == "fd_unet" else "")
        )
    return model


def check_feature_layers(model: MobileNetV2, layers: tuple[str, ...]) -> None:
    """Raise a UserError unless a classifier can use the outputs of these layers."""
    # A convolution's own output is never seen: BatchNorm is folded into its kernel.
    known = [
        layer.name
        for layer in model.layers[: model.head_start]
        if layer.kind not in ("conv", "depthwise", "pad")
    ]
    for name in layers:
        if name not in known or layers.count(name) > 1:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"config.model.feature_layers={layers}: {name!r} is not the output of a BatchNorm, "
                f"an activation or an addition of the backbone, or is there twice{hint}"
            )


def _find_weights(config: ConfigDict, earlier_fallback: bool) -> tuple[Path | None, Weights]:
    """The weight file to load, or None with the reason why the weights stay random."""
    random = Weights("random", "config.pretrained is 'none'", "", preprocessing.KERAS)
    if config.pretrained == "none":
        return None, random
    if config.model.name not in ("mobilenet_v2", "mobilenet_unet"):
        raise UserError(
            f"config.pretrained={config.pretrained!r}: there are no weights for "
            f"model.name={config.model.name!r}; set pretrained=none"
        )
    if config.pretrained == "bundled":
        return bundled.bundled_weights(config.model.alpha), random
    if config.pretrained != "imagenet":
        return Path(config.pretrained).expanduser(), random
    instead = config.pretrained_fallback
    if instead not in ("bundled", "random", "error"):
        raise UserError(
            f"config.pretrained_fallback={instead!r}: expected 'bundled', 'random' or 'error'"
        )
    missing = dataclasses.replace(random, name="no ImageNet weights to be had", fallback=True)

    def stand_in() -> Path | None:
        # Read only where it is needed: a damaged file must not stop runs that have ImageNet's.
        fits = instead == "bundled" and config.model.alpha == bundled.ALPHA
        return bundled.bundled_weights(bundled.ALPHA) if fits else None

    if earlier_fallback:
        return stand_in(), missing
    try:
        return download.imagenet_weights(config.data.image_size, config.model.alpha), random
    except download.WeightsUnavailableError as error:
        if instead == "error":
            raise
        _LOG.warning("%s", error)
        path = stand_in()
        if instead == "bundled" and path is None:
            _LOG.warning("the bundled backbone exists for alpha %g only", bundled.ALPHA)
        return path, missing


def _calibration_batches(images: Rows, config: ConfigDict, weights: Weights) -> list[jax.Array]:
    rng = np.random.default_rng(config.seed)
    size = min(len(images), 2 * config.batch_size)
    return [
        jnp.asarray(
            preprocessing.preprocess(
                images[rng.choice(len(images), size, replace=False)], weights.convention.scaling
            )
        )
        for _ in range(_CALIBRATION_BATCHES)
    ]


def make_inputs(
    config: ConfigDict, scaling: preprocessing.Scaling, *, online: bool
) -> programs.Inputs:
    """How stored uint8 images become the network's input, with `online` augmented in training.

    Masks may be a fourth channel behind the colours: they are moved with their image, and else
    stay as they are.
    """
    # Without augmentation the block is not read: records of earlier runs may lack its newer fields.
    how = changes(config) if online else None

    def inputs(stored: jax.Array, key: jax.Array | None) -> jax.Array:
        pixels, maps = stored[..., :3].astype(jnp.float32), stored[..., 3:]
        if how is not None and key is not None:
            pixels, maps = augment.augment_with_masks(key, pixels, maps, how)
        pixels = preprocessing.preprocess(pixels, scaling)
        if not maps.shape[-1]:
            return pixels
        return jnp.concatenate([pixels, maps.astype(jnp.float32)], axis=-1)

    return inputs
