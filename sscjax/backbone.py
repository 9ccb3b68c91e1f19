"""Training a backbone on drawn textures: one step, its state, and its test on fresh draws.

The network is told which recipe made a picture and with which parameters, by one dense layer;
beside that, or instead, it may be made to see two looks of one texture alike (VICReg; Bardes,
Ponce and LeCun 2022, ICLR). Each step draws its own pictures: no picture is seen twice.
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
from sscjax.textures import draw
from sscjax.training import freezing, train_step

HEAD, PROJECTOR = "predictions", "projector"
_POOLED = "global_average_pooling2d"
# VICReg's own factors of invariance and of the deviations, its epsilon, and the weight of the
# covariances relative to them (section 4.2 there); the projector is narrower, as is our batch.
_INVARIANCE, _VARIANCE, _COVARIANCE, _EPSILON = 25.0, 25.0, 1.0, 1e-4
_PROJECTED = 256


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, and how.

    Attributes:
      recipes: what is drawn.
      alpha: width of the network.
      groups: BatchNorm takes its statistics over one of so many equal parts of a batch (ghost
        batches; Hoffer et al. 2017, NeurIPS), which fit a processor's cache; every family is in
        each.
      each: pictures of a family in a group.
      looks: of each texture in a group, 1 or 2.
      classes: weight of the cross-entropy of recipes.
      families: weight of the cross-entropy of families, whose probabilities are the sums of their
        recipes'.
      parameters: weight of the squared error of parameters.
      similarity: weight of VICReg; above 0 it needs two looks.
      smoothing: of the classes' targets.
      bn_momentum: share of the old running averages kept at each group.
      average: share of the old averaged weights kept at each step; 0 keeps no average.
    """

    recipes: draw.Recipes
    alpha: float = 1.0
    groups: int = 4
    each: int = 1
    looks: int = 1
    classes: float = 1.0
    families: float = 1.0
    parameters: float = 1.0
    similarity: float = 0.0
    smoothing: float = 0.1
    bn_momentum: float = 0.99
    average: float = 0.999

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return len(self.recipes.families) * self.groups * self.each * self.looks

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
    kernel = jnp.zeros_like(params[HEAD]["kernel"])
    params[HEAD] = {"kernel": kernel, "bias": jnp.asarray(bias)}
    if plan.similarity:
        rng = np.random.default_rng([seed, 1])
        for name, inputs in (("hidden", len(kernel)), ("out", _PROJECTED)):
            drawn = rng.normal(0, np.sqrt(2 / inputs), (inputs, _PROJECTED))
            params[f"{PROJECTOR}_{name}"] = {"kernel": jnp.asarray(drawn, jnp.float32)}
    # Copies: a step takes over what it is given.
    return {
        "step": jnp.int32(0),
        "params": params,
        "batch_stats": variables["batch_stats"],
        "opt_state": optimizer.init(params),
        "average": jax.tree.map(jnp.copy, (params, variables["batch_stats"])),
    }


def make_draw(plan: Plan, size: int) -> Callable[[jax.Array], draw.Batch]:
    """A jitted f(key) -> `Batch` of arrays [groups,G,...], each group with every family.

    Args:
      plan: what is drawn.
      size: height and width in pixels.
    """

    @train_step.jit
    def one(key: jax.Array) -> draw.Batch:
        count = plan.groups * plan.each
        found = draw.batch(key, plan.recipes, count, size, looks=plan.looks)

        def grouped(leaf: jax.Array) -> jax.Array:
            families = len(plan.recipes.families)
            shape = (plan.looks, families, plan.groups, plan.each, *leaf.shape[1:])
            turned = jnp.moveaxis(leaf.reshape(shape), 2, 0)
            return turned.reshape(plan.groups, -1, *leaf.shape[1:])

        return jax.tree.map(grouped, found)

    return one


def _losses(
    plan: Plan, params: freezing.Params, logits: jax.Array, pooled: jax.Array, batch: draw.Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a group and what it is made of."""
    recipes = plan.recipes
    classes, rest = logits[:, : recipes.classes], logits[:, recipes.classes :]
    target = optax.smooth_labels(jax.nn.one_hot(batch.classes, recipes.classes), plan.smoothing)
    entropy = optax.softmax_cross_entropy(classes, target).mean()
    by_family = classes.reshape(-1, len(recipes.families), recipes.each)
    families = jax.nn.logsumexp(by_family, axis=2)
    kinds = optax.softmax_cross_entropy_with_integer_labels(families, batch.families).mean()
    told = rest.reshape(-1, len(recipes.families), draw.PARAMETERS)
    own = jnp.take_along_axis(told, batch.families[:, None, None], axis=1)[:, 0]
    # In units of the parameters' own deviation, sqrt(1/12).
    error = 12 * jnp.square(own - batch.parameters).mean()
    found = {
        "entropy": entropy,
        "accuracy": (classes.argmax(-1) == batch.classes).mean(),
        "families": (families.argmax(-1) == batch.families).mean(),
        "parameters": error,
    }
    total = plan.classes * entropy + plan.families * kinds + plan.parameters * error
    if plan.similarity:
        hidden = jax.nn.relu(pooled @ params[f"{PROJECTOR}_hidden"]["kernel"])
        found["similarity"] = _vicreg(hidden @ params[f"{PROJECTOR}_out"]["kernel"])
        total += plan.similarity * found["similarity"]
    return total, {"loss": total, **found}


def _vicreg(both: jax.Array) -> jax.Array:
    """Of projections [2N,D], the first looks and then the second."""
    one, two = jnp.split(both, 2)
    found = _INVARIANCE * jnp.square(one - two).mean()
    for part in (one, two):
        centred = part - part.mean(0, keepdims=True)
        deviation = jnp.sqrt(jnp.square(centred).mean(0) + _EPSILON)
        covariance = centred.T @ centred / (len(part) - 1)
        off = jnp.square(covariance).sum() - jnp.square(jnp.diagonal(covariance)).sum()
        found += _VARIANCE * jax.nn.relu(1 - deviation).mean() / 2
        found += _COVARIANCE * off / part.shape[1] / 2
    return found / _INVARIANCE


def make_step(plan: Plan, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """A jitted f(state, batch, rate) -> (state, sums over groups by name); `state` is donated.

    The learning rate is an argument: a constant would compile the step anew for another course.
    """
    model = plan.model

    def gradients(params: freezing.Params, stats: freezing.Params, batch: draw.Batch) -> Any:
        def loss(params: freezing.Params) -> Any:
            (logits, seen), updated = model.apply(
                {"params": {k: v for k, v in params.items() if not k.startswith(PROJECTOR)},
                 "batch_stats": stats},
                batch.images * 2 - 1,
                train=True,
                batch_statistics_from=0,
                capture=(_POOLED,),
                mutable=["batch_stats"],
            )  # fmt: skip
            total, parts = _losses(plan, params, logits, seen[_POOLED], batch)
            return total, (updated["batch_stats"], parts)

        value, pullback, aux = jax.vjp(loss, params, has_aux=True)
        # A branch, so that XLA does not compute activations again for every gradient (`steps`).
        found = jax.lax.cond(
            jnp.isfinite(value),
            lambda pullback: pullback(jnp.ones_like(value))[0],
            lambda pullback: jax.tree.map(jnp.zeros_like, params),
            pullback,
        )
        return found, aux

    @functools.partial(train_step.jit, donate_argnums=0)
    def step(
        state: dict[str, Any], batch: draw.Batch, rate: jax.Array
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        params = state["params"]

        def add(carry: Any, group: draw.Batch) -> Any:
            total, stats = carry
            found, (stats, parts) = gradients(params, stats, group)
            return (jax.tree.map(jnp.add, total, found), stats), parts

        zero = jax.tree.map(jnp.zeros_like, params)
        (total, stats), parts = jax.lax.scan(add, (zero, state["batch_stats"]), batch)
        mean = jax.tree.map(lambda leaf: leaf / plan.groups, total)
        updates, opt_state = optimizer.update(mean, state["opt_state"], params)
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
        return after, jax.tree.map(lambda leaf: leaf.sum(), parts)

    return step


def make_test(plan: Plan) -> Callable[..., dict[str, jax.Array]]:
    """A jitted f(params, batch_stats, batch) -> means over a batch [groups,G,...] by name.

    BatchNorm uses its running averages, as whoever takes the backbone over will.
    """
    model = plan.model

    @train_step.jit
    def test(
        params: freezing.Params, stats: freezing.Params, batch: draw.Batch
    ) -> dict[str, jax.Array]:
        layers = len(model.layer_names)
        own = {k: v for k, v in params.items() if not k.startswith(PROJECTOR)}
        folded = {"params": model.fold(own, stats, layers), "batch_stats": stats}

        def group(batch: draw.Batch) -> dict[str, jax.Array]:
            logits, seen = model.apply(
                folded, batch.images * 2 - 1, train=False, folded=layers, capture=(_POOLED,)
            )
            return _losses(plan, params, logits, seen[_POOLED], batch)[1]

        return jax.tree.map(lambda leaf: leaf.mean(), jax.lax.map(group, batch))

    return test
