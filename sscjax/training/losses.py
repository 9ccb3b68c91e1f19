"""What training minimises: cross-entropy of the classes, cross-entropy and Dice of the masks."""

from __future__ import annotations

import dataclasses
import logging
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from sscjax.data.masks import IGNORE
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

ClassWeights = Literal["balanced", "none"]
MaskWeights = Literal["root", "none"]


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The block `config.loss`; `configs/default.py` says what each field means.

    Raises:
      UserError: a field is out of its range, or nothing would be trained.
    """

    label_smoothing: float = 0.0
    class_weights: ClassWeights = "balanced"
    classification: float = 1.0
    segmentation: float = 0.0
    dice: float = 0.0
    mask_weights: MaskWeights = "root"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"config.loss.label_smoothing={self.label_smoothing}: expected 0 to less than 1"
            )
        for field in ("segmentation", "dice"):
            if getattr(self, field) < 0:
                raise UserError(f"config.loss.{field}={getattr(self, field)}: expected 0 or more")
        if self.classification < 0 or (self.classification == 0 and self.segmentation == 0):
            raise UserError(
                f"config.loss.classification={self.classification}: expected above 0, or 0 with "
                "loss.segmentation above 0, to train masks alone"
            )
        for field, known in (
            ("class_weights", get_args(ClassWeights)),
            ("mask_weights", get_args(MaskWeights)),
        ):
            if getattr(self, field) not in known:
                expected = " or ".join(map(repr, known))
                raise UserError(
                    f"config.loss.{field}={getattr(self, field)!r}: expected {expected}"
                )

    def objective(self, outputs: int) -> Objective:
        """What a network with so many logits minimises, before the weights of classes are known."""
        if self.classification == 0:
            _LOG.warning(
                "CLASSES ARE NOT TRAINED (config.loss.classification=0): predicted classes are "
                "random"
            )
        return Objective(
            kind="sigmoid" if outputs == 1 else "softmax",
            label_smoothing=self.label_smoothing,
            classification=self.classification,
            segmentation=self.segmentation,
            dice=self.dice,
        )


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a network's logits are trained to be.

    Attributes:
      kind: 'softmax' over the logits, or 'sigmoid' of a single logit for two classes.
      label_smoothing: share of the target spread evenly over the outputs, in [0, 1).
      class_weights: factor of the loss of each class; () weighs all alike.
      classification: factor of the loss of the classes; 0 trains the masks alone.
      segmentation: factor of the masks' loss; 0 leaves them out. That is their cross-entropy, a
        mean over pixels, and `dice` times their soft Dice loss, a mean over images.
      dice: see `segmentation` and `dice_losses`.
      mask_weights: factor of the loss of each mask class's pixels; () weighs all alike.
    """

    kind: Literal["softmax", "sigmoid"]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    classification: float = 1.0
    segmentation: float = 0.0
    dice: float = 0.0
    mask_weights: tuple[float, ...] = ()

    def losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Cross-entropy of each image, without class weights: [B]."""
        smooth = self.label_smoothing
        if self.kind == "sigmoid":
            target = labels.astype(logits.dtype)[:, None] * (1 - smooth) + smooth / 2
            return optax.sigmoid_binary_cross_entropy(logits, target)[:, 0]
        target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, smooth))

    def mask_losses(self, logits: jax.Array, masks: jax.Array) -> jax.Array:
        """Weighted cross-entropy of each pixel [B,H,W], 0 where the mask says nothing of it.

        Args:
          logits: [B,H,W,M].
          masks: [B,H,W] class indices or `IGNORE`.
        """
        known = masks != IGNORE
        target = jax.nn.one_hot(jnp.where(known, masks, 0), logits.shape[-1], dtype=logits.dtype)
        losses = optax.softmax_cross_entropy(logits, target) * known.astype(logits.dtype)
        if self.mask_weights:
            losses *= target @ jnp.asarray(self.mask_weights, jnp.float32)
        return losses

    def dice_losses(self, logits: jax.Array, masks: jax.Array) -> jax.Array:
        """Soft Dice loss of each image [B], a mean over the mask classes.

        One minus the Dice coefficient with probabilities for the predicted pixels (Milletari et al.
        2016, 3DV, arXiv:1606.04797, here without the squares). To both sides of the fraction a
        pixel is added: a class that an image does not have costs what is predicted of it.

        Args:
          logits: [B,H,W,M].
          masks: [B,H,W] class indices or `IGNORE`.
        """
        known = (masks != IGNORE)[..., None].astype(logits.dtype)
        predicted = jax.nn.softmax(logits, axis=-1) * known
        true = jax.nn.one_hot(masks, logits.shape[-1], dtype=logits.dtype) * known
        both, either = ((part).sum(axis=(1, 2)) for part in (predicted * true, predicted + true))
        return 1 - ((2 * both + 1) / (either + 1)).mean(axis=-1)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Class probabilities [B,max(2,outputs)]."""
        if self.kind == "sigmoid":
            # Not 1 - sigmoid: that is 0 from logits of 17 on, and could not be calibrated.
            return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))
        return jax.nn.softmax(logits, axis=-1)

    def weights(self, labels: jax.Array) -> jax.Array:
        """Weight of each image in the loss by its class: [B]."""
        if not self.class_weights:
            return jnp.ones(labels.shape, jnp.float32)
        return jnp.asarray(self.class_weights, jnp.float32)[labels]
