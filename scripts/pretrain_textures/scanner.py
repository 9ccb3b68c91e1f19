"""From amounts of pigments to a picture: stains, light, blur, noise and JPEG, all at random.

Nothing here reads the parameters of a texture: labels are of structure, whatever its colours.
`lit`, `blurred` and `compressed` take images as planes [B,3,H,W] float32, 0 to 255, and one number
for each of them, and return planes of the same shape and range. Everything is written as sums of
complete planes or rows: XLA on CPU takes ten times as long for a matrix product with so small a
matrix, and is slow at gathers and general convolutions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

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

# Tables K.1 and K.2 of ITU-T T.81 (JPEG), for quality 50: steps of the frequencies of 8x8 pixels.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_BLOCK = 8

# RGB to luma and two chromas, by columns (JFIF 1.02; ITU-R BT.601).
_YCC = np.array([[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]])

# Beyond so many deviations a Gaussian is nothing.
_REACH = 3.0
_LEAST_SIGMA = 1e-3


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

    planes = lit(planes, even(0, 0.8, 1.15), even(1, 0.6, 1.3))
    # Half of them sharp.
    planes = blurred(planes, even(2, -MOST_BLUR, MOST_BLUR).clip(0), MOST_BLUR)
    # A last word may give fewer than four pixels.
    bits = jax.random.bits(keys[3], (-(-planes.size // 4),), jnp.uint32)
    # The sum of four bytes is as good as normal; one word gives four pixels by its turned copies.
    parts = [bits, _scrambled(bits, 1), _scrambled(bits, 2), _scrambled(bits, 3)]
    noise = jnp.concatenate([_near_normal(part) for part in parts])
    noise = noise[: planes.size].reshape(planes.shape)
    planes += even(4, -6.0, 7.0).clip(0)[:, None, None, None] * noise
    planes = jnp.clip(planes, 0.0, 255.0)
    return compressed(planes, even(5, 30.0, 100.0)) if jpeg else planes


def _scrambled(bits: jax.Array, times: int) -> jax.Array:
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D + 2 * times)
    return bits ^ (bits >> 12)


def _near_normal(bits: jax.Array) -> jax.Array:
    first, *others = [((bits >> shift) & 0xFF).astype(jnp.float32) for shift in (0, 8, 16, 24)]
    total = sum(others, first)
    # Four even numbers of 0 to 255: mean 510, variance 4 * (256^2 - 1) / 12.
    return (total - 510.0) / 147.8


def lit(planes: jax.Array, brightness: jax.Array, contrast: jax.Array) -> jax.Array:
    """Every value times `brightness` [B], its distance from the image's mean times `contrast`."""
    mean = planes.mean((1, 2, 3), keepdims=True)
    factor = contrast[:, None, None, None]
    return _clipped((planes * factor + mean * (1 - factor)) * brightness[:, None, None, None])


def blurred(planes: jax.Array, sigma: jax.Array, most: float) -> jax.Array:
    """Smoothed by a Gaussian of deviation `sigma` [B] pixels, 0 to `most`; edges are repeated."""
    reach = int(np.ceil(_REACH * most))
    offsets = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    deviation = jnp.maximum(sigma, _LEAST_SIGMA)[:, None]
    weights = jnp.exp(-0.5 * jnp.square(offsets[None] / deviation))
    weights = weights / weights.sum(1, keepdims=True)
    for axis in (2, 3):
        size = planes.shape[axis]
        around = [(reach, reach) if axis == k else (0, 0) for k in range(4)]
        padded = jnp.pad(planes, around, mode="edge")
        parts = [
            weights[:, k, None, None, None] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k in range(2 * reach + 1)
        ]
        planes = sum(parts[1:], parts[0])
    return planes


def compressed(planes: jax.Array, quality: jax.Array) -> jax.Array:
    """What is left after JPEG of `quality` [B], 1 to 100, with chroma of full resolution.

    The frequencies of 8x8 pixels are rounded to multiples of the standard's steps, as libjpeg
    scales them; colours are whole numbers before and after, as there.
    """
    _, _, height, width = planes.shape
    beyond = [(0, -height % _BLOCK), (0, -width % _BLOCK)]
    # Less 128 in each colour is less 128 in luma, and nothing in chroma.
    padded = jnp.pad(planes - 128.0, [(0, 0), (0, 0), *beyond], mode="edge")
    ycc = jnp.round(_mixed(padded, jnp.asarray(_YCC, jnp.float32)[None]))
    cosines = _cosines()
    # The two axes are exchanged in between, and the tables with them.
    found = _by_blocks(_by_blocks(ycc, cosines).swapaxes(2, 3), cosines)
    steps = _steps(quality).swapaxes(2, 3)[:, :, None, :, None, :]
    blocks = found.reshape(*found.shape[:2], -1, _BLOCK, found.shape[3] // _BLOCK, _BLOCK)
    found = (jnp.round(blocks / steps) * steps).reshape(found.shape)
    found = _by_blocks(_by_blocks(found, cosines.T).swapaxes(2, 3), cosines.T)
    rgb = _mixed(jnp.round(found), jnp.asarray(np.linalg.inv(_YCC), jnp.float32)[None])
    return _clipped(jnp.round(rgb[:, :, :height, :width] + 128.0))


def _steps(quality: jax.Array) -> jax.Array:
    """[B,3,8,8], the steps of luma and twice of chroma, as libjpeg's jcparam.c makes them."""
    quality = jnp.clip(quality, 1.0, 100.0)
    percent = jnp.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    tables = jnp.asarray(np.stack([_LUMA, _CHROMA, _CHROMA]), jnp.float32)
    scaled = jnp.floor((tables[None] * percent[:, None, None, None] + 50.0) / 100.0)
    return jnp.clip(scaled, 1.0, 255.0)


def _cosines() -> np.ndarray:
    """[8,8]: the orthonormal cosine transform of eight values."""
    frequency, place = np.mgrid[:_BLOCK, :_BLOCK]
    found = np.sqrt(2 / _BLOCK) * np.cos(np.pi * frequency * (2 * place + 1) / (2 * _BLOCK))
    found[0] /= np.sqrt(2)
    return found.astype(np.float32)


def _by_blocks(planes: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Each eight neighbours along axis 2 of [B,3,H,W] times `matrix` [8,8]."""
    blocks = planes.reshape(*planes.shape[:2], -1, _BLOCK, planes.shape[3])
    rows = [sum(blocks[..., k, :] * row[k] for k in range(_BLOCK)) for row in matrix]
    return jnp.stack(rows, axis=3).reshape(planes.shape)


def _mixed(planes: jax.Array, matrix: jax.Array) -> jax.Array:
    """The three planes [B,3,H,W] times `matrix` [B or 1,3,3]."""
    parts = [sum(planes[:, k] * matrix[:, k, j, None, None] for k in range(3)) for j in range(3)]
    return jnp.stack(parts, axis=1)


def _clipped(planes: jax.Array) -> jax.Array:
    return jnp.clip(planes, 0.0, 255.0)
