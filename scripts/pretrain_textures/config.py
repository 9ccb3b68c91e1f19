"""The config of the bundled backbone, MobileNetV2 1.0 on drawn textures, and what follows from it.

docs/bundled_backbone.md has the reasons for the values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from sscjax.errors import UserError

from . import draw, objective
from .draw import FAMILIES
from .objective import HEAD

# Of the dense layer, as a share of the others'.
_HEAD_RATE = 0.1
# Share of the old value that the average of squared gradients keeps: for a training of few steps.
_B2 = 0.99


def get_config() -> ConfigDict:
    """What `train` reads; any field can be set as --config.FIELD=VALUE."""
    config = ConfigDict()
    config.name = "pretrain_textures"
    # Of the initial weights and of every picture.
    config.seed = 0
    # Width multiplier of MobileNetV2.
    config.alpha = 1.0

    # What is drawn: names of families, and how many recipes, which are the classes, of each.
    config.families = tuple(FAMILIES)
    config.recipes = 48

    # Sides in pixels of the pictures, one after the other, and how many are seen of each size.
    # Small ones cost less; structures have the same size in pixels.
    config.sizes = (32, 64)
    config.images = (199_680, 240_000)
    # Textures of every family in a batch, of each size.
    config.each = (4, 2)

    # Of the targets of the recipes.
    config.smoothing = 0.1

    # AdamW (Loshchilov and Hutter 2019). The rate rises over so many pictures, and falls to 0 over
    # the last share of all.
    config.learning_rate = 1.5e-3
    config.warmup = 12_800
    config.cooldown = 0.3
    config.weight_decay = 0.05
    # Gradients are scaled down to this norm.
    config.clip = 1.0
    # Shares of the old kept: of BatchNorm's running averages, and of the averaged weights, which
    # are the result.
    config.bn_momentum = 0.99
    config.average = 0.998

    # Pictures of fresh draws that the averaged weights are tested on, and after how many pictures
    # of training that is done, a checkpoint saved, and the backbone written beside it (0: never).
    config.test_images = 512
    config.test_size = 64
    config.test_every = 20_000
    config.save_every = 20_000
    config.keep_every = 20_000
    return config


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a training takes: phases, one after the other, with pictures of growing size.

    Attributes:
      sizes: sides of the pictures in pixels.
      batches: pictures of a step.
      ends: the step at which each phase ends.
    """

    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.ends[-1]

    def phase(self, step: int) -> int:
        """The phase of a step, counted from 0."""
        return next(k for k, end in enumerate(self.ends) if step < end)

    def pictures(self, steps: int) -> int:
        """Pictures seen in that many steps."""
        starts = (0, *self.ends[:-1])
        return sum(
            batch * max(0, min(steps, end) - start)
            for batch, start, end in zip(self.batches, starts, self.ends, strict=True)
        )

    def passes(self, steps: int, every: int) -> bool:
        """Whether the last of that many steps reaches a multiple of `every` pictures (0: never)."""
        before, now = self.pictures(steps - 1), self.pictures(steps)
        return bool(every) and before // every < now // every


def make_plan(config: ConfigDict) -> objective.Plan:
    """The plan of a config; a `UserError` names a field without meaning."""
    families = tuple(config.families)
    unknown = [name for name in families if name not in draw.FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        raise UserError(
            f"config.families={families}: expected some of {', '.join(draw.FAMILIES)}, each once"
        )
    for field in ("recipes", "test_images", "test_every"):
        if config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 1 or more")
    for field in ("seed", "save_every", "keep_every", "warmup"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]}: expected 0 or more")
    for field in ("bn_momentum", "average", "cooldown", "smoothing"):
        if not 0 <= config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 0 to less than 1")
    return objective.Plan(
        draw.Recipes(families, config.recipes),
        alpha=config.alpha,
        smoothing=config.smoothing,
        bn_momentum=config.bn_momentum,
        average=config.average,
    )


def make_schedule(config: ConfigDict) -> Schedule:
    """The schedule of a config; errors as of `make_plan`."""
    sizes, images, each = tuple(config.sizes), tuple(config.images), tuple(config.each)
    alike = len(sizes) == len(images) == len(each) > 0
    integers = all(isinstance(value, int) for value in (*sizes, *images, *each))
    if not alike or not integers or min(*images, *each) < 1 or min(*sizes, config.test_size) < 32:
        raise UserError(
            f"config.sizes={sizes}, images={images}, each={each}, test_size={config.test_size}: "
            "expected as many whole numbers of pictures and of textures of a family, 1 or more, "
            "as sizes, and these of 32 pixels or more"
        )
    batches = tuple(len(config.families) * count for count in each)
    steps = [max(1, round(n / batch)) for n, batch in zip(images, batches, strict=True)]
    return Schedule(sizes, batches, tuple(np.cumsum(steps).tolist()))


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW with a rate of 1; only kernels decay."""
    above = all(0 < value < math.inf for value in (config.learning_rate, config.clip))
    if not above or not 0 <= config.weight_decay < math.inf:
        raise UserError(
            f"config.learning_rate={config.learning_rate}, clip={config.clip}, weight_decay="
            f"{config.weight_decay}: expected above 0, above 0, and 0 or more"
        )

    def kernels(params: Any) -> Any:
        return {
            layer: {name: name == "kernel" for name in leaves} for layer, leaves in params.items()
        }

    def head(params: Any) -> Any:
        return {layer: layer == HEAD for layer in params}

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(1.0, b2=_B2, weight_decay=config.weight_decay, mask=kernels),
        # Adam moves every weight by as much, whatever its gradient: the sum of 1280 features, none
        # of them negative, would leap.
        optax.masked(optax.scale(_HEAD_RATE), head),
    )


def make_rate(config: ConfigDict, schedule: Schedule) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: it rises, stays, and falls to 0 at the end."""
    warm = max(1, round(config.warmup / schedule.batches[0]))
    fall = max(1, round(config.cooldown * schedule.steps))

    def rate(step: int) -> float:
        share = min((step + 1) / warm, (schedule.steps - step) / fall, 1.0)
        return float(config.learning_rate) * share

    return rate
