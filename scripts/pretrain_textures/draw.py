"""Batches of pictures with the labels that their making gives.

    python -m scripts.pretrain_textures.draw    docs/textures.jpg: every family, a line each

A recipe is a family and a point in the space of its parameters. Each picture of a recipe is a new
draw: other places and directions, parameters near the recipe's, other colours. So a network that
recognises recipes must see structure, as with the fractal classes of Kataoka et al. (2020, ACCV);
it learns the parameters themselves, too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sscjax.system import terminal
from sscjax.training import programs

from . import fields, general, scanner, tissue
from .tissue import Pigments

PARAMETERS = 6
"""Of each family."""

Family = Callable[[fields.Draws, jax.Array, int], Pigments]

FAMILIES: dict[str, Family] = {
    "fibres": tissue.fibres,
    "bundles": tissue.bundles,
    "cells": tissue.cells,
    "glands": tissue.glands,
    "epithelium": tissue.epithelium,
    "fat": tissue.fat,
    "vessels": tissue.vessels,
    "infiltrate": tissue.infiltrate,
    "voronoi": general.voronoi,
    "reaction": general.reaction,
    "spectra": general.spectra,
    "fractal": general.fractal,
    "leaves": general.leaves,
    "weave": general.weave,
    "branches": general.branches,
    "marble": general.marble,
}

SPREAD = 0.06
"""How far a draw's parameters lie from its recipe's, at most, in [0, 1]."""


@flax.struct.dataclass
class Batch:
    """Pictures and what is known of them.

    Attributes:
      images: [B,S,S,3] float32, 0 to 1.
      classes: [B] int32, the recipe, family after family.
      families: [B] int32, index in the families drawn.
      parameters: [B,PARAMETERS] float32 in [0, 1], as drawn.
    """

    images: jax.Array
    classes: jax.Array
    families: jax.Array
    parameters: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipes:
    """What is drawn.

    Attributes:
      families: names in `FAMILIES`, each once.
      each: recipes of every family.
    """

    families: tuple[str, ...]
    each: int

    @property
    def classes(self) -> int:
        """All recipes."""
        return len(self.families) * self.each

    def points(self) -> np.ndarray:
        """[each,PARAMETERS] float32: the parameters of a family's recipes, evenly spread.

        The additive sequence of the generalised golden ratio (Roberts 2018, 'The unreasonable
        effectiveness of quasirandom sequences'); the same for all families and on all machines.
        """
        ratio = 2.0
        for _ in range(60):  # the root of x^(d+1) = x + 1
            ratio = (1 + ratio) ** (1 / (PARAMETERS + 1))
        steps = ratio ** -np.arange(1, PARAMETERS + 1)
        return ((0.5 + np.arange(1, self.each + 1)[:, None] * steps[None]) % 1).astype(np.float32)


def pigments(name: str, key: jax.Array, parameters: jax.Array, size: int) -> Pigments:
    """Three fields [B,S,S] of a family before staining.

    Args:
      name: in `FAMILIES`.
      key: a JAX random key.
      parameters: [B,PARAMETERS] in [0, 1].
      size: S, pixels.
    """
    return FAMILIES[name](fields.Draws(key, len(parameters)), parameters, size)


def batch(key: jax.Array, recipes: Recipes, count: int, size: int) -> Batch:
    """Draw the same number of pictures of every family; may be called inside `jax.jit`.

    Args:
      key: a JAX random key.
      recipes: what is drawn.
      count: pictures of each family.
      size: height and width in pixels.

    Returns:
      len(families) * count pictures, family after family.
    """
    points = jnp.asarray(recipes.points())
    drawn, classes, parameters = [], [], []
    for index, name in enumerate(recipes.families):
        # By name, so that a family's pictures do not depend on which others are drawn.
        own = jax.random.fold_in(key, list(FAMILIES).index(name))
        which = jax.random.randint(jax.random.fold_in(own, 0), (count,), 0, recipes.each)
        shift = jax.random.uniform(
            jax.random.fold_in(own, 1), (count, PARAMETERS), minval=-SPREAD, maxval=SPREAD
        )
        chosen = jnp.clip(points[which] + shift, 0.0, 1.0)
        drawn.append(pigments(name, jax.random.fold_in(own, 2), chosen, size))
        classes.append(which + index * recipes.each)
        parameters.append(chosen)
    every: Pigments = tuple(map(jnp.concatenate, zip(*drawn, strict=True)))  # type: ignore[assignment]
    stain, camera = jax.random.split(jax.random.fold_in(key, 1_000_000))
    planes = scanner.photographed(camera, scanner.coloured(stain, every))
    return Batch(
        planes.transpose(0, 2, 3, 1) / 255.0,
        jnp.concatenate(classes).astype(jnp.int32),
        jnp.repeat(jnp.arange(len(recipes.families)), count).astype(jnp.int32),
        jnp.concatenate(parameters),
    )


def main() -> int:
    """Draw docs/textures.jpg as the training draws, from keys that it does not use."""
    columns, each, size = 14, 2, 64
    terminal.set_up_jax()
    recipes, key = Recipes(tuple(FAMILIES), 48), jax.random.key(1)
    draws = programs.jit(lambda key: batch(key, recipes, each, size))
    batches = [
        np.asarray(draws(jax.random.fold_in(key, k)).images).reshape(-1, each, size, size, 3)
        for k in range(columns // each)
    ]
    lines = np.concatenate(batches, axis=1).transpose(0, 2, 1, 3, 4)
    picture = lines.reshape(len(FAMILIES) * size, columns * size, 3)
    target = Path(__file__).resolve().parents[2] / "docs" / "textures.jpg"
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(target, quality=80)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
