"""The amounts of the stains in an image, changed: HED jitter.

Written as sums of whole planes: XLA on CPU takes ten times as long for a matrix product with so
small a matrix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Optical densities in red, green and blue of haematoxylin, eosin and DAB, each of length 1
# (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)


def stained(planes: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Other amounts of the three stains: densities times `scale` [B,3], plus `shift` [B,3].

    Args:
      planes: [B,3,H,W] float32, 0 to 255.
      scale: [B,3] float32, factors of the amounts of haematoxylin, eosin and DAB.
      shift: [B,3] float32, added to them, in natural units of optical density.

    Returns:
      [B,3,H,W] float32, 0 to 255.
    """
    stains = jnp.asarray(_STAINS, jnp.float32)
    unmix = jnp.asarray(np.linalg.inv(_STAINS), jnp.float32)
    # From density to amounts, changed, and back: one matrix and one shift for each image.
    matrix = _matmul(unmix[None] * scale[:, None, :], stains)
    density = -jnp.log((planes + 1.0) / 256.0)
    changed = _mixed(density, matrix) + _matmul(shift, stains)[:, :, None, None]
    return jnp.clip(256.0 * jnp.exp(-changed) - 1.0, 0.0, 255.0)


def _mixed(planes: jax.Array, matrix: jax.Array) -> jax.Array:
    """The three planes [B,3,H,W] times `matrix` [B,3,3]."""
    parts = [sum(planes[:, k] * matrix[:, k, j, None, None] for k in range(3)) for j in range(3)]
    return jnp.stack(parts, axis=1)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    # Full float32 also where an accelerator would by default round the factors first.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
