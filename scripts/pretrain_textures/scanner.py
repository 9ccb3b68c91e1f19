"""What a scanner does to a picture of a texture: light, blur, JPEG.

All functions take images as planes [B,3,H,W] float32, 0 to 255, and one number for each of them,
and return planes of the same shape and range. Everything is written as sums of whole
planes or rows: XLA on CPU takes ten times as long for a matrix product with so small a matrix, and
is slow at gathers and general convolutions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

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
