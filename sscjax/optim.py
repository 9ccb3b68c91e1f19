"""Which layers train, and how: labels by layer, schedules, the optimizer masked by the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sscjax.errors import UserError

Params = dict[str, Any]
"""Parameters (or running averages) by layer name, then by variable name."""

TRAIN, FREEZE = "train", "freeze"


def label_layers(
    layer_names: Sequence[str],
    head_start: int,
    params: Mapping[str, Any],
    *,
    trainable: Literal["head", "all"],
    freeze_first: int = 0,
) -> dict[str, str]:
    """Say of every layer with parameters whether it trains.

    Args:
      layer_names: all layers after the input, in order (activations included, as Keras counts).
      head_start: index of the classifier's first layer.
      params: parameters by layer name.
      trainable: 'head' for the classifier alone, 'all' for every layer but the first ones.
      freeze_first: with 'all', the number of layers from the input that stay frozen.

    Returns:
      'train' or 'freeze' by layer name, in the network's order.

    Raises:
      UserError: nothing would train, or `freeze_first` is not a number of layers.
      ValueError: a parameter belongs to no layer.
    """
    unknown = sorted(set(params) - set(layer_names))
    if unknown:
        raise ValueError(f"parameters of no known layer: {', '.join(unknown)}")
    if trainable not in ("head", "all"):
        raise UserError(f"stage trainable={trainable!r}: expected 'head' or 'all'")
    if not 0 <= freeze_first <= len(layer_names):
        raise UserError(
            f"stage freeze_first={freeze_first}: expected 0 to {len(layer_names)}, the number of "
            "layers"
        )
    first = head_start if trainable == "head" else freeze_first
    labels = {
        name: TRAIN if index >= first else FREEZE
        for index, name in enumerate(layer_names)
        if name in params
    }
    if TRAIN not in labels.values():
        raise UserError(f"stage freeze_first={freeze_first} freezes every layer; lower it")
    return labels


def partition(params: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[Params, Params]:
    """Split parameters by layer into (trained, frozen).

    Raises:
      ValueError: a layer without a label, a label of no layer or an unknown label.
    """
    _check_labels(labels, params)
    trained = {name: leaf for name, leaf in params.items() if labels[name] == TRAIN}
    frozen = {name: leaf for name, leaf in params.items() if labels[name] == FREEZE}
    return trained, frozen


def _check_labels(labels: Mapping[str, str], params: Mapping[str, Any]) -> None:
    unmatched = sorted(set(labels) ^ set(params))
    if unmatched:
        raise ValueError(f"labels and parameters differ in the layers {', '.join(unmatched)}")
    if not set(labels.values()) <= {TRAIN, FREEZE}:
        raise ValueError(f"unknown label among {', '.join(sorted(set(labels.values())))}")


def combine(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """The inverse of `partition`."""
    both = set(trained) & set(frozen)
    if both:
        raise ValueError(f"layers both trained and frozen: {', '.join(sorted(both))}")
    return {**frozen, **trained}


def count(tree: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters as Keras, and so the paper, counts them: running averages never train."""

    total: int
    trained: int

    @property
    def frozen(self) -> int:
        """Parameters that stay as they are, BatchNorm running averages among them."""
        return self.total - self.trained


def count_parameters(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any], labels: Mapping[str, str]
) -> Counts:
    """Count all parameters with the running averages, and those that train."""
    trained, _ = partition(params, labels)
    return Counts(total=count(params) + count(batch_stats), trained=count(trained))


def make_schedule(
    kind: Literal["constant", "cosine", "linear"],
    peak: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """Learning rate by step: an optional linear warm-up from 0, then the named decay.

    Args:
      kind: 'constant', 'cosine' or 'linear' after the warm-up.
      peak: learning rate at the end of the warm-up.
      steps: steps of the whole stage.
      warmup_steps: steps of the warm-up, fewer than `steps`.
      end_factor: the last learning rate as a share of `peak`; not used by 'constant'.
    """
    rest = max(1, steps - warmup_steps)
    schedules: dict[str, optax.Schedule] = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=end_factor),
        "linear": optax.linear_schedule(peak, peak * end_factor, rest),
    }
    if kind not in schedules:
        raise UserError(f"schedule {kind!r}: expected one of {', '.join(schedules)}")
    if warmup_steps <= 0:
        return schedules[kind]
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, schedules[kind]], [warmup_steps])


def make_optimizer(
    name: Literal["adam", "adamw", "sgd", "lbfgs"],
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Optimizer of the trained layers; `freeze_mask` makes it one of the whole network.

    Adam has Keras' epsilon 1e-7. 'lbfgs' takes no steps of its own (see `linear`): it has nothing
    to keep.

    Args:
      name: of the rule.
      learning_rate: by step.
      weight_decay: AdamW's, decoupled; for 'adamw' and 'sgd'. It acts on kernels alone: biases and
        BatchNorm are masked out.
      clip_norm: largest global norm of the gradients; 0 does not clip.
    """
    if name == "lbfgs":
        return optax.identity()
    base: dict[str, optax.GradientTransformation] = {
        "adam": optax.scale_by_adam(eps=1e-7),
        "adamw": optax.scale_by_adam(eps=1e-7),
        "sgd": optax.trace(decay=0.9, nesterov=True),
    }
    if name not in base:
        raise UserError(f"optimizer {name!r}: expected one of {', '.join((*base, 'lbfgs'))}")
    if name == "adam" and weight_decay:
        raise UserError("optimizer 'adam' has no weight decay; use 'adamw'")
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts.append(base[name])
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=kernel_mask))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*parts)


def kernel_mask(params: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """True for kernels, False for biases and BatchNorm, in the shape of `params`."""
    # Layers that `freeze_mask` hides have no leaves here, and keep their place.
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def freeze_mask(
    optimizer: optax.GradientTransformation, labels: Mapping[str, str]
) -> optax.GradientTransformation:
    """The optimizer for the whole tree: `optimizer` where a layer trains, zero where it is frozen.

    Frozen layers get no optimizer state, and a clipped global norm is that of the trained layers.
    What stands for the gradients of frozen layers is not read; see `with_frozen`.

    Args:
      optimizer: sees the trained layers alone.
      labels: 'train' or 'freeze' by layer name.

    Returns:
      a transform over parameters by layer; its `init` and `update` raise a ValueError unless every
      layer has a label and every label a layer.
    """

    def by_layer(params: Mapping[str, Any]) -> dict[str, str]:
        _check_labels(labels, params)
        return dict(labels)

    return optax.multi_transform({TRAIN: optimizer, FREEZE: optax.set_to_zero()}, by_layer)


def with_frozen(gradients: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Gradients of the trained layers, and zeros for the `frozen` ones, which XLA removes."""
    return combine(gradients, jax.tree.map(jnp.zeros_like, dict(frozen)))
