"""The paper's augmentation: flip, crop, enlarge; on line inside a jitted step, or off line.

One random transform serves both ways. It is drawn per image as `AugmentParams`, so that a
segmentation map can be moved with its image, and applied as two matrix products.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sscjax import rows
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.rows import Rows

DRAWS = 5  # random numbers per image: side, top, left, flip top-bottom, flip left-right
_BATCH = 32  # off line: one shape, so one compilation, for any number of images
# Crops lie on these grids, and pixels are mixed in steps of 1/256. Every product of such a weight
# with an 8-bit value is exact in float32, so uint8 results are the same on every machine.
_SHARE_STEPS = 2.0**14
_PIXEL_STEPS = 2.0**10
_WEIGHT_STEPS = 2.0**8


class AugmentParams(NamedTuple):
    """What is done to each of B images, in units that do not depend on the image size.

    Attributes:
      share: [B] float32, side of the crop over side of the image, in (0, 1].
      top: [B] float32, where the crop starts as a share of the room left for it, in [0, 1).
      left: [B] float32, the same from the left.
      flip_rows: [B] bool, top and bottom change places.
      flip_columns: [B] bool, left and right change places.
    """

    share: jax.Array
    top: jax.Array
    left: jax.Array
    flip_rows: jax.Array
    flip_columns: jax.Array


def augment_batch(
    key: jax.Array, images: jax.Array, *, flip: bool = True, crop: float = 0.8
) -> jax.Array:
    """Flips, crops and enlarges each image at random; may be called inside `jax.jit`.

    Each image is cut to a square share of itself (side uniform in [`crop`, 1], any position),
    enlarged back by bilinear interpolation (pixel centres as in Pillow's `resize(box=...)`), and
    turned over along each axis with probability 1/2. XLA on CPU is slow at gathers and general
    convolutions, so all of it is two batched matrix products, one with a [B,H,H] and one with a
    [B,W,W] matrix; a flip is the same matrix with its rows reversed. Rows hold two weights that
    are multiples of 1/256 and sum to exactly 1, so a result never leaves the range of its image
    (for range limits of up to 16 significant bits such as -1, 0, 1, 255; else by one rounding).

    Args:
      key: a JAX random key. Image i depends on `fold_in(key, i)` alone, not on its neighbours.
      images: [B,H,W,C] floating point, any scale.
      flip: whether to flip at all.
      crop: the smallest share of the side that a crop may have, in (0, 1]; 1 crops nothing.

    Returns:
      [B,H,W,C] of the same dtype; with flip=False and crop=1 the input exactly.

    Raises:
      UserError: `crop` is outside (0, 1].
      TypeError: `images` are not floating point.

    Source: Akay et al. 2021 (flipping, cropping, enlarging; it gives no sizes).
    """
    return apply(augment_params(key, images.shape[0], flip=flip, crop=crop), images)


def augment_params(
    key: jax.Array, batch: int, *, flip: bool = True, crop: float = 0.8
) -> AugmentParams:
    """Draws the transforms of `batch` images; see `augment_batch` for the arguments."""

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, index), (DRAWS,), jnp.float32)

    return _params(jax.vmap(draw)(jnp.arange(batch)), flip=flip, crop=crop)


def apply(params: AugmentParams, images: jax.Array) -> jax.Array:
    """The transformed images by bilinear interpolation: [B,H,W,C] floating point, same dtype."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images are {images.dtype}, augmentation works on floating point")
    batch, height, width, channels = images.shape
    lines_to = _bilinear(_positions(params.share, params.top, params.flip_rows, height))
    columns = _bilinear(_positions(params.share, params.left, params.flip_columns, width))
    lines = images.astype(jnp.float32).swapaxes(2, 3).reshape(batch, height * channels, width)
    mixed = _matmul(lines, columns.swapaxes(1, 2)).reshape(batch, height, channels, width)
    mixed = mixed.swapaxes(2, 3).reshape(batch, height, width * channels)
    mixed = _matmul(lines_to, mixed).reshape(batch, height, width, channels)
    return mixed.astype(images.dtype)


def apply_masks(params: AugmentParams, masks: jax.Array) -> jax.Array:
    """The maps [B,H,W] of integers below 2**24, moved like their images, by nearest neighbour."""
    _, height, width = masks.shape
    lines = _nearest(_positions(params.share, params.top, params.flip_rows, height))
    columns = _nearest(_positions(params.share, params.left, params.flip_columns, width))
    moved = _matmul(_matmul(lines, masks.astype(jnp.float32)), columns.swapaxes(1, 2))
    return moved.astype(masks.dtype)


def _params(draws: jax.Array, *, flip: bool, crop: float) -> AugmentParams:
    """Turns [B,DRAWS] uniform numbers in [0, 1) into transforms."""
    if not 0.0 < crop <= 1.0:
        raise UserError(f"crop is {crop}, expected the smallest side share, above 0 and up to 1")
    cut = jnp.floor(draws[:, 0] * jnp.float32((1.0 - crop) * _SHARE_STEPS)) / _SHARE_STEPS
    turned = (draws[:, 3:] < 0.5) & flip
    return AugmentParams(1.0 - cut, draws[:, 1], draws[:, 2], turned[:, 0], turned[:, 1])


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


def augmented_copies(
    image_set: ImageSet, copies: int, seed: int, *, flip: bool = True, crop: float = 0.8
) -> ImageSet:
    """The set followed by `copies` augmented copies of every image.

    Args:
      image_set: N images with unique names in `files`.
      copies: how many, 0 or more.
      seed: copy k of an image depends on (seed, file, k) alone, whatever else is in the set.
      flip: see `augment_batch`.
      crop: see `augment_batch`.

    Returns:
      N * (1 + copies) images: the originals, then all first copies, then all second copies ...;
      copies are made when they are read (see `hold_copies`).
      A copy of `a.png` is called `a.png#1`, `a.png#2`, ...; label, subject, split are kept, a mask
      is moved with its image.

    Raises:
      UserError: `copies` is negative, or `crop` outside (0, 1].
    """
    if copies < 0:
        raise UserError(f"{copies} augmented copies asked for, expected 0 or more")
    count = len(image_set)
    indices = np.tile(np.arange(count), copies)
    numbers = np.repeat(np.arange(1, copies + 1), count)
    return _with_copies(image_set, indices, numbers, seed, flip=flip, crop=crop)


def augment_to_counts(
    image_set: ImageSet,
    counts: Mapping[str, int],
    seed: int,
    *,
    flip: bool = True,
    crop: float = 0.8,
) -> ImageSet:
    """The set followed by as many augmented copies as bring each class to its count.

    Copies are spread evenly: no image of a class has two copies more than another. Which images
    get the odd ones is drawn from (seed, file). Names and copies are those of `augmented_copies`.

    Args:
      image_set: images with unique names in `files`.
      counts: for every class of the set, how many images it shall have.
      seed: see `augmented_copies`.
      flip: see `augment_batch`.
      crop: see `augment_batch`.

    Returns:
      The originals, then the copies in the order of their number.

    Raises:
      UserError: `counts` names other classes than the set has, or fewer images than there are, or
        asks for copies of a class that has no image; or `crop` is outside (0, 1].
    """
    if set(counts) != set(image_set.classes):
        raise UserError(
            f"counts are given for {sorted(counts)}, expected one for each class of "
            f"{list(image_set.classes)}"
        )
    indices, numbers = [], []
    for label, name in enumerate(image_set.classes):
        members = np.flatnonzero(image_set.labels == label)
        missing = counts[name] - len(members)
        if missing < 0 or (missing and not len(members)):
            raise UserError(
                f"class {name} has {len(members)} images and shall have {counts[name]}: "
                "augmentation only adds to images that are there; mend the counts"
            )
        ranks = [_digest(seed, str(image_set.files[i]), 0) for i in members]
        ordered = members[sorted(range(len(members)), key=ranks.__getitem__)]
        indices.append(np.resize(ordered, missing))
        numbers.append(1 + np.arange(missing) // max(1, len(members)))
    chosen, copy = np.concatenate(indices), np.concatenate(numbers)
    order = np.lexsort((chosen, copy))
    return _with_copies(image_set, chosen[order], copy[order], seed, flip=flip, crop=crop)


def _digest(seed: int, file: str, copy: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{file}\0{copy}".encode()).digest()


def _draws(seed: int, file: str, copy: int) -> np.ndarray:
    """[DRAWS] float32 in [0, 1), from a hash: no generator whose stream may change is involved."""
    words = np.frombuffer(_digest(seed, file, copy), "<u4", count=DRAWS)
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


def _with_copies(
    image_set: ImageSet,
    indices: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    *,
    flip: bool,
    crop: float,
) -> ImageSet:
    """Appends copy number `numbers[k]` of image `indices[k]` for each k."""
    _params(jnp.zeros((1, DRAWS)), flip=flip, crop=crop)  # a wrong crop is refused without copies
    if not len(indices):
        return image_set
    files = [str(file) for file in image_set.files[indices]]
    pairs = list(zip(files, numbers.tolist(), strict=True))
    draws = np.array([_draws(seed, file, copy) for file, copy in pairs], np.float32)

    def both(pixels: Rows) -> Rows:
        copies = Copies(rows.View(pixels, indices), draws, flip=flip, crop=crop)
        return rows.Joined([pixels, copies])

    again = image_set.take(np.concatenate([np.arange(len(image_set)), indices]))
    return dataclasses.replace(
        again,
        images=both(image_set.images),
        masks=None if image_set.masks is None else both(image_set.masks),
        files=np.array(image_set.files.tolist() + [f"{file}#{copy}" for file, copy in pairs]),
    )


class Copies(rows.Lazy):
    """Augmented copies, made when they are read: as often as that is, or once by `hold`."""

    def __init__(self, originals: Rows, draws: np.ndarray, *, flip: bool, crop: float):
        """Copies [N,...] of as many images or maps, by their random numbers [N,DRAWS]."""
        self._originals, self._draws = originals, draws
        self._flip, self._crop = flip, crop
        self._made: np.ndarray | None = None
        self.shape, self.dtype = originals.shape, np.dtype(originals.dtype)

    def hold(self) -> None:
        """Make all copies now and keep them in memory."""
        if self._made is None:
            self._made = self[:]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Copies [K,...] by their numbers."""
        if self._made is not None:
            return self._made[numbers]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for start in range(0, len(numbers), _BATCH):
            some = numbers[start : start + _BATCH]
            made = _move(self._draws[some], self._originals[some], flip=self._flip, crop=self._crop)
            found[start : start + len(some)] = made
        return found

    def update(self, digest: Any) -> None:
        """Add what the copies are made of."""
        digest.update(rows.fingerprint(self._originals).encode())
        digest.update(self._draws.astype("<f4").tobytes())
        digest.update(repr((self._flip, self._crop)).encode())


def hold_copies(image_set: ImageSet, max_bytes: float) -> None:
    """Make the augmented copies of a set once, if their images take at most `max_bytes`."""
    images = image_set.images
    copies = [part for part in getattr(images, "parts", ()) if isinstance(part, Copies)]
    if sum(map(rows.nbytes, copies)) <= max_bytes:
        for part in copies:
            part.hold()


def _move(draws: np.ndarray, pixels: np.ndarray, *, flip: bool, crop: float) -> np.ndarray:
    """Transforms up to _BATCH images or maps, padded so that the compiled shape is always one."""
    count = len(pixels)
    padded = np.zeros((_BATCH, *pixels.shape[1:]), pixels.dtype)
    padded[:count] = pixels
    numbers = np.zeros((_BATCH, DRAWS), np.float32)
    numbers[:count] = draws
    return np.asarray(_move_batch(numbers, padded, flip=flip, crop=crop))[:count]


@functools.partial(jax.jit, static_argnames=("flip", "crop"))
def _move_batch(draws: jax.Array, pixels: jax.Array, *, flip: bool, crop: float) -> jax.Array:
    params = _params(draws, flip=flip, crop=crop)
    if pixels.ndim == 3:
        return apply_masks(params, pixels)
    moved = apply(params, pixels.astype(jnp.float32))
    return jnp.floor(moved + 0.5).astype(pixels.dtype)
