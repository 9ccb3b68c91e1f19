"""Batches for a network from images of any number, size and kind.

Arrays, image sets, files and folders are preprocessed as in training: the central square, reduced
to the network's input size.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import inputs
from sscjax.data.dataset import ImageSet
from sscjax.data.image_io import MIN_SIDE, resize_pixels
from sscjax.data.inputs import InputImage
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError

_PLAIN = Decoding()

Images = Any
"""uint8 [N,H,W,3] (an array, or what reads as one), a list of uint8 [H,W,3] of different sizes, an
`ImageSet`, a path of an image, folder or manifest, or a list of such paths."""

_EXPECTED = (
    "expected uint8 arrays [N,H,W,3], a list of arrays [H,W,3], an ImageSet, or paths of images or "
    "folders"
)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Named images in batches, decoded when they are needed.

    Attributes:
      named: each image's name, subject and label; for arrays the names are numbers.
      source: the pixels, or None where they are read from the files of `named`.
      size: side in pixels that the images are reduced to.
      batch: images at a time.
      decoding: how files are read where there is a choice.
    """

    named: Sequence[InputImage]
    source: Any
    size: int
    batch: int
    decoding: Decoding = Decoding()

    def __len__(self) -> int:
        return len(self.named)

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 [n,size,size,3] with n of 1 to `batch`.

        Raises:
          UserError: an image that cannot be read or has another form; the message names it.
        """
        if self.source is None:
            for decoded in inputs.decode(self.named, self.size, self.batch, self.decoding):
                if decoded.failed:
                    raise UserError(decoded.failed[0][1])
                yield decoded.images
            return
        for start in range(0, len(self.named), self.batch):
            stop = min(start + self.batch, len(self.named))
            images = self.source[start:stop]
            pixels = images if isinstance(images, list) else np.asarray(images)
            if isinstance(pixels, np.ndarray) and pixels.shape[1:3] == (self.size, self.size):
                yield pixels
            else:
                yield np.stack([resize_pixels(image, self.size) for image in pixels])


def of(
    images: Images, size: int, batch: int, classes: Sequence[str], decoding: Decoding = _PLAIN
) -> Batches:
    """Make batches of images of any accepted kind.

    Args:
      images: see `Images`; may be empty.
      size: side in pixels that they are reduced to.
      batch: images at a time.
      classes: the network's class names; a folder that contains only folders with these names is
        labelled.
      decoding: how files are read where there is a choice.

    Raises:
      UserError: `images` is of another kind, or a path leads to no image.
    """
    if isinstance(images, ImageSet):
        names = (images.files, images.subjects, images.labels)
        named = [
            InputImage(Path(file), file, subject, images.classes[label])
            for file, subject, label in zip(*(column.tolist() for column in names), strict=True)
        ]
        return Batches(named, images.images, size, batch)
    if isinstance(images, str | os.PathLike):
        images = [images]
    if _is_array(images):
        _check(images, "images")
        return Batches(_numbered(len(images)), images, size, batch)
    if not isinstance(images, Sequence):
        raise UserError(f"images are a {type(images).__name__}: {_EXPECTED}")
    if images and all(isinstance(item, str | os.PathLike) for item in images):
        paths = [Path(item).expanduser() for item in images]
        lists = [inputs.find(path, classes) for path in paths]
        return Batches(list(itertools.chain.from_iterable(lists)), None, size, batch, decoding)
    arrays = []
    for number, item in enumerate(images):
        if not _is_array(item):
            raise UserError(f"images[{number}] is a {type(item).__name__}: {_EXPECTED}")
        arrays.append(np.asarray(item))
        _check(arrays[-1][None] if arrays[-1].ndim == 3 else arrays[-1], f"images[{number}]", 1)
    return Batches(_numbered(len(arrays)), arrays, size, batch)


def _is_array(value: Any) -> bool:
    """Whether it is a NumPy or JAX array, or rows that are read when they are needed."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


def _check(array: Any, what: str, axis: int = 0) -> None:
    """Raise a UserError unless it is uint8 [N,H,W,3] of enough pixels."""
    shape = tuple(array.shape)
    if len(shape) != 4 or shape[-1] != 3:
        hint = "; of one image give images[None]" if len(shape) == 3 and not axis else ""
        wanted = "[H,W,3]" if axis else "[N,H,W,3]"
        raise UserError(f"{what}: an array of shape {shape[axis:]}, expected {wanted}{hint}")
    if np.dtype(array.dtype) != np.uint8:
        raise UserError(
            f"{what}: an array of {np.dtype(array.dtype)}, expected uint8 from 0 to 255; "
            "convert it, for example by (255 * images).round().astype('uint8') where it reaches "
            "from 0 to 1"
        )
    if min(shape[1:3]) < MIN_SIDE:
        raise UserError(
            f"{what}: {shape[2]}x{shape[1]} pixels, expected at least {MIN_SIDE}x{MIN_SIDE}"
        )


def _numbered(count: int) -> list[InputImage]:
    """Numbers as names for unnamed images; each is its own subject."""
    return [InputImage(Path(), name, name) for name in map(str, range(count))]
