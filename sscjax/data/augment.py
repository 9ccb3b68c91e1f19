"""Augmentation: geometry and stain of an image changed, online in a jitted step or offline.

One random transform serves both ways. It is drawn per image as `AugmentParams`, so that a
segmentation map can be moved with its image (flip, turn, crop, enlarge), and applied as two matrix
products. The change of the stains, which moves nothing, is in `stain_jitter`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sscjax.data import stain_jitter
from sscjax.errors import UserError

# Random numbers per image: side, top, left, flip top-bottom, flip left-right ...
POSITION_DRAWS = 5
# ... drawn apart from these, the quarter turn and a factor and a shift for each stain ...
STAIN_DRAWS = 7
DRAWS = POSITION_DRAWS + STAIN_DRAWS
# Crops lie on these grids, and pixels are mixed in steps of 1/256. Every product of such a weight
# with an 8-bit value is exact in float32, so uint8 results are the same on every machine; of stains
# logarithms may differ in the last bit.
_SHARE_STEPS = 2.0**14
_PIXEL_STEPS = 2.0**10
_WEIGHT_STEPS = 2.0**8

# A stain's amount is shifted by up to this share of `Changes.stain`, in natural units of optical
# density: what a slide's background or a scanner's white adds.
_SHIFT_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Changes:
    """What augmentation may do to an image.

    Attributes:
      flip: turn it over, along each axis with probability 1/2.
      rot90: turn it by a multiple of 90 degrees, all four alike; images must be square.
      crop: the smallest share of the side that a crop may have, in (0, 1]; 1 crops nothing.
      stain: how far the amount of each of three stains may change: its optical density is
        multiplied by 1 +- `stain`, in [0, 1), and shifted by up to a tenth of that (HED jitter;
        Tellez et al. 2018, IEEE TMI 37:2126). 0 changes no colour.
    """

    flip: bool = True
    rot90: bool = False
    crop: float = 0.8
    stain: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise UserError(
                f"crop is {self.crop}, expected the smallest side share, above 0 and up to 1"
            )
        if not 0.0 <= self.stain < 1.0:
            raise UserError(f"stain is {self.stain}, expected 0 to less than 1")


PAPER = Changes()
"""Flipping, cropping and enlarging, as Akay et al. 2021 say; the sizes are ours."""


class AugmentParams(NamedTuple):
    """What is done to each of B images, in units that do not depend on the image size.

    Attributes:
      share: [B] float32, side of the crop over side of the image, in (0, 1].
      top: [B] float32, where the crop starts as a share of the room left for it, in [0, 1).
      left: [B] float32, the same from the left.
      flip_rows: [B] bool, top and bottom change places.
      flip_columns: [B] bool, left and right change places.
      transpose: [B] bool, rows and columns change places, before all else.
      scale: [B,3] float32, factor of the optical density of each stain.
      shift: [B,3] float32, added to it.
    """

    share: jax.Array
    top: jax.Array
    left: jax.Array
    flip_rows: jax.Array
    flip_columns: jax.Array
    transpose: jax.Array
    scale: jax.Array
    shift: jax.Array


def augment_batch(key: jax.Array, images: jax.Array, how: Changes = PAPER) -> jax.Array:
    """Changes each image at random; may be called inside `jax.jit`, with `how` static.

    Each image is cut to a square share of itself (side uniform in [`crop`, 1], any position),
    enlarged back by bilinear interpolation (pixel centres as in Pillow's `resize(box=...)`),
    turned and turned over. XLA on CPU is slow at gathers and general convolutions, so all of it is
    two batched matrix products, one with a [B,H,H] and one with a [B,W,W] matrix; a flip is the
    same matrix with its rows reversed. Rows hold two weights that are multiples of 1/256 and sum
    to exactly 1, so a result never leaves the range of its image (for range limits of up to 16
    significant bits such as -1, 0, 1, 255; else by one rounding).

    Args:
      key: a JAX random key. Image i depends on `fold_in(key, i)` alone, not on its neighbours.
      images: [B,H,W,C] floating point; any scale, but 0 to 255 and three colours where their look
        may change.
      how: what may be done.

    Returns:
      [B,H,W,C] of the same dtype; where nothing may be done the input exactly.

    Raises:
      TypeError: `images` are not floating point.
      ValueError: images that are not square shall be turned.
    """
    return augment_with_masks(key, images, jnp.zeros((*images.shape[:3], 0), jnp.uint8), how)[0]


def augment_with_masks(
    key: jax.Array, images: jax.Array, masks: jax.Array, how: Changes = PAPER
) -> tuple[jax.Array, jax.Array]:
    """Images as `augment_batch` changes them, and their masks moved with them.

    Args:
      key: a JAX random key.
      images: [B,H,W,C] floating point.
      masks: [B,H,W,M] of integers, M maps for each image, or none (M = 0).
      how: what may be done.
    """
    params = augment_params(key, images.shape[0], how)
    moved = apply(params, images, rot90=how.rot90)
    maps = [apply_masks(params, masks[..., m], rot90=how.rot90) for m in range(masks.shape[-1])]
    return look(params, moved, how), jnp.stack(maps, axis=-1) if maps else masks


def augment_params(key: jax.Array, batch: int, how: Changes = PAPER) -> AugmentParams:
    """Draws the transforms of `batch` images; see `augment_batch` for the arguments."""

    def draw(index: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, index)
        place = jax.random.uniform(own, (POSITION_DRAWS,), jnp.float32)
        colour = jax.random.uniform(jax.random.fold_in(own, 1), (STAIN_DRAWS,), jnp.float32)
        return jnp.concatenate([place, colour])

    return params_from_draws(jax.vmap(draw)(jnp.arange(batch)), how)


def apply(params: AugmentParams, images: jax.Array, *, rot90: bool = False) -> jax.Array:
    """The moved images by bilinear interpolation: [B,H,W,C] floating point, same dtype.

    Args:
      params: of each image.
      images: [B,H,W,C] floating point.
      rot90: whether any may be transposed; they are square then.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images are {images.dtype}, augmentation works on floating point")
    if rot90:
        images = _transposed(params, images)
    batch, height, width, channels = images.shape
    lines_to = _bilinear(_positions(params.share, params.top, params.flip_rows, height))
    columns = _bilinear(_positions(params.share, params.left, params.flip_columns, width))
    lines = images.astype(jnp.float32).swapaxes(2, 3).reshape(batch, height * channels, width)
    mixed = _matmul(lines, columns.swapaxes(1, 2)).reshape(batch, height, channels, width)
    mixed = mixed.swapaxes(2, 3).reshape(batch, height, width * channels)
    mixed = _matmul(lines_to, mixed).reshape(batch, height, width, channels)
    return mixed.astype(images.dtype)


def look(params: AugmentParams, images: jax.Array, how: Changes) -> jax.Array:
    """The images [B,H,W,3], 0 to 255, stained as in another laboratory; same dtype and range.

    Where `how` changes no stain nothing is computed.
    """
    if not how.stain:
        return images
    planes = images.astype(jnp.float32).transpose(0, 3, 1, 2)
    stained = stain_jitter.stained(planes, params.scale, params.shift)
    return stained.transpose(0, 2, 3, 1).astype(images.dtype)


def _transposed(params: AugmentParams, images: jax.Array) -> jax.Array:
    """Rows and columns exchanged where drawn, of images or maps [B,S,S,...]."""
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"images are {images.shape[1:3]}: only square ones can be turned")
    chosen = params.transpose.reshape(-1, *(1 for _ in images.shape[1:]))
    return jnp.where(chosen, images.swapaxes(1, 2), images)


def apply_masks(params: AugmentParams, masks: jax.Array, *, rot90: bool = False) -> jax.Array:
    """Masks [B,H,W] of integers below 2**24, moved with their images, by nearest neighbour."""
    if rot90:
        masks = _transposed(params, masks)
    _, height, width = masks.shape
    lines = _nearest(_positions(params.share, params.top, params.flip_rows, height))
    columns = _nearest(_positions(params.share, params.left, params.flip_columns, width))
    moved = _matmul(_matmul(lines, masks.astype(jnp.float32)), columns.swapaxes(1, 2))
    return moved.astype(masks.dtype)


def params_from_draws(draws: jax.Array, how: Changes) -> AugmentParams:
    """Turns [B,DRAWS] uniform numbers in [0, 1) into transforms."""
    cut = jnp.floor(draws[:, 0] * jnp.float32((1.0 - how.crop) * _SHARE_STEPS)) / _SHARE_STEPS
    rows, columns = ((draws[:, index] < 0.5) & how.flip for index in (3, 4))
    # As numpy.rot90: a quarter turn is a transposition, and then a flip of the rows.
    quarters = jnp.floor(draws[:, 5] * 4).astype(jnp.int32) * int(how.rot90)
    amounts = 2.0 * draws[:, 6:DRAWS] - 1.0
    return AugmentParams(
        share=1.0 - cut,
        top=draws[:, 1],
        left=draws[:, 2],
        flip_rows=rows ^ ((quarters == 1) | (quarters == 2)),
        flip_columns=columns ^ ((quarters == 2) | (quarters == 3)),
        transpose=quarters % 2 == 1,
        scale=1.0 + how.stain * amounts[:, :3],
        shift=how.stain * _SHIFT_SHARE * amounts[:, 3:],
    )


def _positions(share: jax.Array, start: jax.Array, flipped: jax.Array, size: int) -> jax.Array:
    """[B,size] float32: where, in pixel indices of the source, each output pixel's centre lies."""
    room = (1.0 - share) * size
    first = jnp.floor(start * room * _PIXEL_STEPS) / _PIXEL_STEPS
    centres = jnp.arange(size, dtype=jnp.float32) + 0.5
    centres = jnp.where(flipped[:, None], size - centres[None, :], centres[None, :])
    return first[:, None] + centres * share[:, None] - 0.5


def _bilinear(positions: jax.Array) -> jax.Array:
    """[B,size,size] float32 interpolation matrices: two weights a row, multiples of 1/256."""
    size = positions.shape[1]
    positions = jnp.clip(jnp.round(positions * _WEIGHT_STEPS) / _WEIGHT_STEPS, 0, size - 1)
    sources = jnp.arange(size, dtype=jnp.float32)
    return jnp.maximum(0.0, 1.0 - jnp.abs(positions[:, :, None] - sources[None, None, :]))


def _nearest(positions: jax.Array) -> jax.Array:
    """[B,size,size] float32 selection matrices: a single one a row."""
    size = positions.shape[1]
    chosen = jnp.clip(jnp.floor(positions + 0.5), 0, size - 1)
    sources = jnp.arange(size, dtype=jnp.float32)
    return (chosen[:, :, None] == sources[None, None, :]).astype(jnp.float32)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    # Full float32 also where an accelerator would by default round the factors first.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
