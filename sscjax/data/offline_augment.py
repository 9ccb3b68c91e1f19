"""Offline augmentation: an image set followed by augmented copies of its images.

The paper augments this way. Copies are computed when they are read, so that a set may have more of
them than fit in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.data import lazy
from sscjax.data.augment import (
    DRAWS,
    PAPER,
    POSITION_DRAWS,
    STAIN_DRAWS,
    Changes,
    apply,
    apply_masks,
    look,
    params_from_draws,
)
from sscjax.data.dataset import ImageSet
from sscjax.data.lazy import Rows
from sscjax.errors import UserError

_BATCH = 32  # one shape, so one compilation, for any number of images


def augmented_copies(image_set: ImageSet, copies: int, seed: int, how: Changes = PAPER) -> ImageSet:
    """The set followed by `copies` augmented copies of every image.

    Args:
      image_set: N images with unique names in `files`.
      copies: how many, 0 or more.
      seed: copy k of an image depends on (seed, file, k) alone, whatever else is in the set.
      how: what may be done to a copy.

    Returns:
      N * (1 + copies) images: the originals, then all first copies, then all second copies ...;
      copies are made when they are read (see `hold_copies`).
      A copy of `a.png` is called `a.png#1`, `a.png#2`, ...; label, subject and split stay, a
      mask is moved with its image.

    Raises:
      UserError: `copies` is negative.
    """
    if copies < 0:
        raise UserError(f"{copies} augmented copies requested, expected 0 or more")
    count = len(image_set)
    indices = np.tile(np.arange(count), copies)
    numbers = np.repeat(np.arange(1, copies + 1), count)
    return _with_copies(image_set, indices, numbers, seed, how)


def augment_to_counts(
    image_set: ImageSet,
    counts: Mapping[str, int],
    seed: int,
    how: Changes = PAPER,
) -> ImageSet:
    """The set followed by as many augmented copies as bring each class to its count.

    Copies are spread evenly: no image of a class has two copies more than another. Which images
    get the odd ones is drawn from (seed, file). Names and copies are those of `augmented_copies`.

    Args:
      image_set: images with unique names in `files`.
      counts: for every class of the set, how many images it shall have.
      seed: see `augmented_copies`.
      how: what may be done to a copy.

    Returns:
      The originals, then the copies in the order of their number.

    Raises:
      UserError: `counts` names other classes than the set has, or fewer images than there are, or
        asks for copies of a class that has no image.
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
                "augmentation only adds to existing images; correct the counts"
            )
        ranks = [_digest(seed, str(image_set.files[i]), 0) for i in members]
        ordered = members[sorted(range(len(members)), key=ranks.__getitem__)]
        indices.append(np.resize(ordered, missing))
        numbers.append(1 + np.arange(missing) // max(1, len(members)))
    chosen, copy = np.concatenate(indices), np.concatenate(numbers)
    order = np.lexsort((chosen, copy))
    return _with_copies(image_set, chosen[order], copy[order], seed, how)


def _digest(seed: int, file: str, copy: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{file}\0{copy}".encode()).digest()


def _draws(seed: int, file: str, copy: int) -> np.ndarray:
    """[DRAWS] float32 in [0, 1), from hashes: no generator whose stream may change is involved."""
    place = _digest(seed, file, copy)
    colour = hashlib.sha256(place).digest()
    words = [np.frombuffer(place, "<u4", POSITION_DRAWS), np.frombuffer(colour, "<u4", STAIN_DRAWS)]
    return (np.concatenate(words) >> 8).astype(np.float32) * np.float32(2.0**-24)


def _with_copies(
    image_set: ImageSet,
    indices: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    how: Changes,
) -> ImageSet:
    """Appends copy number `numbers[k]` of image `indices[k]` for each k."""
    if not len(indices):
        return image_set
    files = [str(file) for file in image_set.files[indices]]
    pairs = list(zip(files, numbers.tolist(), strict=True))
    draws = np.array([_draws(seed, file, copy) for file, copy in pairs], np.float32)

    def both(pixels: Rows) -> Rows:
        copies = Copies(lazy.View(pixels, indices), draws, how)
        return lazy.Joined([pixels, copies])

    again = image_set.take(np.concatenate([np.arange(len(image_set)), indices]))
    return dataclasses.replace(
        again,
        images=both(image_set.images),
        masks=None if image_set.masks is None else both(image_set.masks),
        files=np.array(image_set.files.tolist() + [f"{file}#{copy}" for file, copy in pairs]),
        origins=(
            None
            if image_set.origins is None
            else np.array(image_set.origins.tolist() + [""] * len(pairs), dtype=np.str_)
        ),
    )


class Copies(lazy.Lazy):
    """Augmented copies, made when they are read: as often as that is, or once by `hold`."""

    def __init__(self, originals: Rows, draws: np.ndarray, how: Changes):
        """Copies [N,...] of as many images or maps, by their random numbers [N,DRAWS]."""
        self._originals, self._draws, self._how = originals, draws, how
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
        copies = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for start in range(0, len(numbers), _BATCH):
            part = numbers[start : start + _BATCH]
            made = _move(self._draws[part], self._originals[part], self._how)
            copies[start : start + len(part)] = made
        return copies

    def update(self, digest: Any) -> None:
        """Add what the copies are made of."""
        digest.update(lazy.fingerprint(self._originals).encode())
        digest.update(self._draws.astype("<f4").tobytes())
        digest.update(repr(self._how).encode())


def hold_copies(image_set: ImageSet, max_bytes: float) -> None:
    """Make the augmented copies of a set once, if their images take at most `max_bytes`."""
    images = image_set.images
    copies = [part for part in getattr(images, "parts", ()) if isinstance(part, Copies)]
    if sum(map(lazy.nbytes, copies)) <= max_bytes:
        for part in copies:
            part.hold()


def _move(draws: np.ndarray, pixels: np.ndarray, how: Changes) -> np.ndarray:
    """Transforms up to _BATCH images or maps, padded so that the compiled shape is always one."""
    count = len(pixels)
    padded = np.zeros((_BATCH, *pixels.shape[1:]), pixels.dtype)
    padded[:count] = pixels
    numbers = np.zeros((_BATCH, DRAWS), np.float32)
    numbers[:count] = draws
    return np.asarray(_move_batch(numbers, padded, how))[:count]


@functools.partial(jax.jit, static_argnames="how")
def _move_batch(draws: jax.Array, pixels: jax.Array, how: Changes) -> jax.Array:
    params = params_from_draws(draws, how)
    if pixels.ndim == 3:
        return apply_masks(params, pixels, rot90=how.rot90)
    moved = look(params, apply(params, pixels.astype(jnp.float32), rot90=how.rot90), how)
    return jnp.floor(moved + 0.5).astype(pixels.dtype)
