"""Which layers train and which are frozen: labels by layer, and Optax masks made of them."""

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


def freeze_mask(
    optimizer: optax.GradientTransformation, labels: Mapping[str, str]
) -> optax.GradientTransformation:
    """The optimizer for the whole tree: `optimizer` where a layer trains, zero where it is frozen.

    Frozen layers get no optimizer state, and a clipped global norm is that of the trained layers.
    The gradients given for frozen layers are not read; see `with_frozen`.

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
