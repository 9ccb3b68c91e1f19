"""How layers train: learning rate schedules, and the optimizer of the layers that train."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sscjax.errors import UserError


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
    schedule = schedules[kind]
    if warmup_steps > 0:
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    # Optax divides the whole number of the step, which JAX refuses without implicit promotion.
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def make_optimizer(
    name: Literal["adam", "adamw", "sgd", "lbfgs"],
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Optimizer of the trained layers; `freeze_mask` makes it one of the whole network.

    Adam is Keras', which the paper trained with (`scale_by_keras_adam`): it differs from Optax's
    where gradients are small. 'lbfgs' takes no steps of its own (see `linear`): it has nothing to
    keep.

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
        "adam": scale_by_keras_adam(),
        "adamw": scale_by_keras_adam(),
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


def scale_by_keras_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Adam as `keras.optimizers.Adam` computes it, to be scaled by the learning rate.

    With m and v the averages of the gradients and of their squares after step t:

        Keras:  sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
        Optax:  m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    Keras' is the efficient form of Kingma and Ba 2015 (arXiv:1412.6980, end of section 2), whose
    epsilon acts like eps / sqrt(1 - b2^t) in the other form: at the first step 32 times as much. A
    first gradient of 1e-6 gives 0.24 here and 0.91 in Optax; large gradients give the same.

    Args:
      b1: decay of the average of the gradients.
      b2: decay of the average of their squares.
      eps: added to the root of the uncorrected average of the squares.

    Returns:
      a transform with Optax's own `ScaleByAdamState`.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        # Operation by operation as in Keras: in float32 even 1 - 0.999^t depends on the form.
        mu = jax.tree.map(lambda g, m: m + (g - m) * (1 - b1), updates, state.mu)
        nu = jax.tree.map(lambda g, v: v + (g * g - v) * (1 - b2), updates, state.nu)
        step = count.astype(jnp.float32)
        alpha = jnp.sqrt(1 - jnp.float32(b2) ** step) / (1 - jnp.float32(b1) ** step)
        scaled = jax.tree.map(lambda m, v: m * alpha / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def kernel_mask(params: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """True for kernels, False for biases and BatchNorm, in the shape of `params`."""
    # Layers that `freeze_mask` hides have no leaves here, and keep their place.
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
