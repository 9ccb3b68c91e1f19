"""From amounts of pigments to a picture: stain, light, blur, noise and compression, all at random.

Nothing here reads the parameters of a texture: labels tell structure, whatever its colours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import scanner
from .tissue import Pigments

# Directions of optical density in red, green and blue: haematoxylin, eosin and DAB (Ruifrok and
# Johnston 2001, Anal Quant Cytol Histol 23:291), then aniline blue, red of picrosirius and fast
# green by the colours they have under the microscope.
_STAINS = np.array(
    [
        [0.65, 0.70, 0.29],
        [0.07, 0.99, 0.11],
        [0.27, 0.57, 0.78],
        [0.85, 0.50, 0.15],
        [0.10, 0.74, 0.66],
        [0.80, 0.25, 0.54],
    ],
    np.float32,
)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)

# What a picture is coloured by, and how often: as haematoxylin and eosin, by another pair of
# stains, by any colours, and by any colours on a dark ground.
SHARES = (0.6, 0.2, 0.13, 0.07)

MOST_BLUR = 1.2
"""Pixels."""


def coloured(key: jax.Array, pigments: Pigments) -> jax.Array:
    """Pictures as planes [B,3,S,S] float32, 0 to 255.

    Args:
      key: a JAX random key.
      pigments: three fields [B,S,S].
    """
    batch = len(pigments[0])
    keys = iter(jax.random.split(key, 10))
    kind = jax.random.choice(next(keys), 4, (batch,), p=jnp.asarray(SHARES))
    stains = jnp.asarray(_STAINS)
    other = stains[jax.random.randint(next(keys), (batch, 3), 0, len(_STAINS))]
    hues = jax.random.uniform(next(keys), (batch, 3, 3), minval=0.02, maxval=1.0)
    hues /= jnp.sqrt(jnp.square(hues).sum(2, keepdims=True))
    usual = jnp.broadcast_to(stains[None, :3], (batch, 3, 3))
    which = kind[:, None, None]
    vectors = jnp.where(which == 0, usual, jnp.where(which == 1, other, hues))
    vectors = jnp.maximum(vectors + 0.07 * jax.random.normal(next(keys), vectors.shape), 0.0)
    # Optical densities at an amount of 1.
    low = jnp.asarray([0.7, 0.25, 0.2], jnp.float32)
    high = jnp.asarray([2.0, 1.1, 1.0], jnp.float32)
    strength = jax.random.uniform(next(keys), (batch, 3))
    strength = low[None] + (high - low)[None] * strength
    # Where colours may be any, the darkest pigment may be any, too.
    turned = jax.random.permutation(next(keys), strength, axis=1, independent=True)
    strength = jnp.where((kind >= 2)[:, None], turned, strength)
    vectors = vectors * strength[:, :, None]
    glass = 0.12 * jax.random.uniform(next(keys), (batch, 3))
    planes = [
        sum(pigments[k] * vectors[:, k, channel, None, None] for k in range(3))
        + glass[:, channel, None, None]
        for channel in range(3)
    ]
    light = 255 * jnp.exp(-jnp.stack(planes, axis=1))
    return jnp.where(kind[:, None, None, None] == 3, 255 - light, light)


def photographed(key: jax.Array, planes: jax.Array, jpeg: bool = True) -> jax.Array:
    """The same pictures by another scanner: light, blur, noise, JPEG; [B,3,S,S], 0 to 255."""
    batch, keys = len(planes), jax.random.split(key, 6)

    def even(k: int, low: float, high: float) -> jax.Array:
        return jax.random.uniform(keys[k], (batch,), minval=low, maxval=high)

    planes = scanner.lit(planes, even(0, 0.8, 1.15), even(1, 0.6, 1.3))
    # Half of them sharp.
    planes = scanner.blurred(planes, even(2, -MOST_BLUR, MOST_BLUR).clip(0), MOST_BLUR)
    # A last word may give fewer than four pixels.
    bits = jax.random.bits(keys[3], (-(-planes.size // 4),), jnp.uint32)
    # The sum of four bytes is as good as normal; one word gives four pixels by its turned copies.
    parts = [bits, _scrambled(bits, 1), _scrambled(bits, 2), _scrambled(bits, 3)]
    noise = jnp.concatenate([_near_normal(part) for part in parts])
    noise = noise[: planes.size].reshape(planes.shape)
    planes += even(4, -6.0, 7.0).clip(0)[:, None, None, None] * noise
    planes = jnp.clip(planes, 0.0, 255.0)
    return scanner.compressed(planes, even(5, 30.0, 100.0)) if jpeg else planes


def _scrambled(bits: jax.Array, times: int) -> jax.Array:
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D + 2 * times)
    return bits ^ (bits >> 12)


def _near_normal(bits: jax.Array) -> jax.Array:
    first, *others = [((bits >> shift) & 0xFF).astype(jnp.float32) for shift in (0, 8, 16, 24)]
    total = sum(others, first)
    # Four even numbers of 0 to 255: mean 510, variance 4 * (256^2 - 1) / 12.
    return (total - 510.0) / 147.8
