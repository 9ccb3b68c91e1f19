"""Training a backbone on drawn textures: one step, its state, and its test on fresh draws.

The network learns which recipe made a picture and with which parameters, by one dense layer. Each
step draws its own pictures: no picture is seen twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sscjax.models import MobileNetV2, initial_variables
from sscjax.training import programs

from . import draw

HEAD = "predictions"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, and how.

    Attributes:
      recipes: what is drawn.
      alpha: width of the network.
      smoothing: of the classes' targets.
      bn_momentum: share of the old running averages kept at each step.
      average: share of the old averaged weights kept at each step; 0 keeps no average.
    """

    recipes: draw.Recipes
    alpha: float = 1.0
    smoothing: float = 0.1
    bn_momentum: float = 0.99
    average: float = 0.999

    @property
    def model(self) -> MobileNetV2:
        """The network: its outputs are recipes, then the parameters of each family."""
        outputs = self.recipes.classes + len(self.recipes.families) * draw.PARAMETERS
        return MobileNetV2(outputs, alpha=self.alpha, bn_momentum=self.bn_momentum)


def start(plan: Plan, optimizer: optax.GradientTransformation, seed: int) -> dict[str, Any]:
    """The state before the first step: a tree of arrays.

    Args:
      plan: what is trained.
      optimizer: over all parameters, with a rate of 1.
      seed: of the initial weights.
    """
    variables = jax.tree.map(jnp.asarray, initial_variables(plan.model, 64, seed))
    params = dict(variables["params"])
    # At first every recipe is as likely as any, and every parameter in the middle.
    bias = np.zeros(plan.model.outputs, np.float32)
    bias[plan.recipes.classes :] = 0.5
    params[HEAD] = {
        "kernel": jnp.zeros_like(params[HEAD]["kernel"]),
        "bias": jnp.asarray(bias),
    }
    # Copies: a step takes over what it is given.
    return {
        "step": jnp.int32(0),
        "params": params,
        "batch_stats": variables["batch_stats"],
        "opt_state": optimizer.init(params),
        "average": jax.tree.map(jnp.copy, (params, variables["batch_stats"])),
    }


def make_draw(plan: Plan, each: int, size: int) -> Callable[[jax.Array], draw.Batch]:
    """A jitted f(key) -> `Batch` of `each` pictures of every family.

    Args:
      plan: what is drawn.
      each: pictures of a family.
      size: height and width in pixels.
    """
    return programs.jit(lambda key: draw.batch(key, plan.recipes, each, size))


def _losses(
    plan: Plan, logits: jax.Array, batch: draw.Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch and what it is made of, by logits [B,outputs]."""
    recipes = plan.recipes
    classes, rest = logits[:, : recipes.classes], logits[:, recipes.classes :]
    target = optax.smooth_labels(jax.nn.one_hot(batch.classes, recipes.classes), plan.smoothing)
    entropy = optax.softmax_cross_entropy(classes, target).mean()
    # A family is as likely as its recipes together.
    by_family = classes.reshape(-1, len(recipes.families), recipes.each)
    families = jax.nn.logsumexp(by_family, axis=2)
    kinds = optax.softmax_cross_entropy_with_integer_labels(families, batch.families).mean()
    estimates = rest.reshape(-1, len(recipes.families), draw.PARAMETERS)
    own = jnp.take_along_axis(estimates, batch.families[:, None, None], axis=1)[:, 0]
    # In units of the parameters' own deviation, sqrt(1/12).
    error = 12 * jnp.square(own - batch.parameters).mean()
    total = entropy + kinds + error
    return total, {
        "loss": total,
        "entropy": entropy,
        "accuracy": (classes.argmax(-1) == batch.classes).mean(),
        "families": (families.argmax(-1) == batch.families).mean(),
        "parameters": error,
    }


def make_step(plan: Plan, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """A jitted f(state, batch, rate) -> (state, means by name); `state` is donated.

    The learning rate is an argument: a constant would compile the step again for each.
    """
    model = plan.model

    @functools.partial(programs.jit, donate_argnums=0)
    def step(
        state: dict[str, Any], batch: draw.Batch, rate: jax.Array
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        params = state["params"]

        def loss(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state["batch_stats"]},
                batch.images * 2 - 1,
                train=True,
                batch_statistics_from=0,
                mutable=["batch_stats"],
            )
            total, parts = _losses(plan, logits, batch)
            return total, (updated["batch_stats"], parts)

        value, pullback, (stats, parts) = jax.vjp(loss, params, has_aux=True)
        # A branch, so that XLA does not compute activations again for every gradient (`steps`).
        gradients = jax.lax.cond(
            jnp.isfinite(value),
            lambda pullback: pullback(jnp.ones_like(value))[0],
            lambda pullback: jax.tree.map(jnp.zeros_like, params),
            pullback,
        )
        updates, opt_state = optimizer.update(gradients, state["opt_state"], params)
        params = optax.apply_updates(params, jax.tree.map(lambda leaf: rate * leaf, updates))
        # Shorter at the start, where the weights are far from any average.
        count = state["step"].astype(jnp.float32)
        keep = jnp.minimum(plan.average, (1 + count) / (10 + count))
        average = jax.tree.map(
            lambda old, new: keep * old + (1 - keep) * new, state["average"], (params, stats)
        )
        after = {
            "step": state["step"] + 1,
            "params": params,
            "batch_stats": stats,
            "opt_state": opt_state,
            "average": average,
        }
        return after, parts

    return step


def make_test(plan: Plan) -> Callable[..., dict[str, jax.Array]]:
    """A jitted f(params, batch_stats, batch) -> means over a batch by name.

    BatchNorm uses its running averages, as whoever takes the backbone over will.
    """
    model = plan.model

    @programs.jit
    def test(params: Any, stats: Any, batch: draw.Batch) -> dict[str, jax.Array]:
        layers = len(model.layer_names)
        folded = {"params": model.fold(params, stats, layers), "batch_stats": stats}
        logits: Any = model.apply(folded, batch.images * 2 - 1, train=False, folded=layers)
        return _losses(plan, logits, batch)[1]

    return test
