"""Sources of images: each lists its images, and decodes or draws the i-th when it is asked for.

Creating a source is cheap: it decodes nothing. `sscjax.data.loading` decodes all images of a source
in threads and stores them.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL

from sscjax.data import image_folder, image_io, masks, understood
from sscjax.data.image_io import read_image
from sscjax.data.layout import FIND_OUT, Reading
from sscjax.data.listing import Listing
from sscjax.errors import UserError
from sscjax.system import machine

Policy = Literal["error", "skip"]
"""What happens when an image cannot be read: 'error' stops loading, 'skip' leaves it out."""


class Example(NamedTuple):
    """One image.

    Attributes:
      image: [S,S,3] uint8, RGB.
      mask: [S,S] uint8 class indices, or None if this image has no mask.
    """

    image: np.ndarray
    mask: np.ndarray | None


class Source(abc.ABC):
    """Images that are read by their index: `source[i]` decodes or draws one.

    Subclasses set `modules`, the modules whose code decides the pixels, for the key.

    Attributes:
      listing: name, label, subject and split of each image.
      image_size: side S of the square images in pixels.
      corrupt: what happens when an image cannot be read.
      with_masks: whether any image has a mask.
    """

    modules: tuple[ModuleType, ...]

    def __init__(
        self, listing: Listing, image_size: int, corrupt: Policy = "error", *, with_masks: bool
    ):
        self.listing, self.image_size, self.corrupt = listing, image_size, corrupt
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.listing.records)

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Decode or draw an image and its mask.

        Raises:
          UserError: it cannot be read.
        """

    @abc.abstractmethod
    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an image alone, for images that were decoded earlier."""

    @abc.abstractmethod
    def _arguments(self) -> Any:
        """What the images depend on besides code, as JSON; it may look at the files."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N,S,S,3]."""
        return len(self), self.image_size, self.image_size, 3

    @functools.cached_property
    def key(self) -> str:
        """64 hexadecimal digits over everything that pixels, labels and names depend on.

        This includes the code that makes the pixels and the versions of Pillow and NumPy, whose
        filters and random numbers may change between releases.

        Raises:
          UserError: a file has disappeared since it was listed.
        """
        versions = machine.modules_sha256(*self.modules), PIL.__version__, np.__version__
        text = json.dumps([versions, self._arguments()], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """For names of files and folders in a cache: short, because Windows limits paths."""
        return f"{self.listing.kind}-{self.key[:20]}"


class Files(Source):
    """The images of a folder or a manifest."""

    modules = (image_io, masks)

    def __init__(self, listing: Listing, image_size: int, corrupt: Policy = "error"):
        """Use `from_path` to list a folder or manifest first."""
        with_masks = any(record.mask for record in listing.records)
        super().__init__(listing, image_size, corrupt, with_masks=with_masks)

    def __getitem__(self, index: int) -> Example:
        image = read_image(self.listing.records[index].path, self.image_size)
        return Example(image, self.mask(index))

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an image: [S,S] uint8, or None."""
        record = self.listing.records[index]
        if record.mask is None:
            return None
        return masks.read_mask(record.mask, record.path, self.image_size)

    def _arguments(self) -> Any:
        """Names, sizes and modification times; not the folder's path, so it can be moved."""
        records = []
        for record in self.listing.records:
            paths = [path for path in (record.path, record.mask) if path]
            stamps = [number for path in paths for number in self._stamp(path)]
            records.append((record.file, record.label, record.subject, record.split, *stamps))
        return {
            "classes": self.listing.classes,
            "size": self.image_size,
            "records": records,
            "corrupt": self.corrupt,
        }

    def _stamp(self, path: Path) -> tuple[int | None, int | None]:
        """Size and modification time; None for a broken link that is skipped."""
        try:
            status = path.stat()
        except OSError as error:
            if self.corrupt == "skip":
                return None, None
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected an image file that stays in "
                "place while the set is read; restore it and run again"
            ) from error
        return status.st_size, status.st_mtime_ns


def from_path(
    path: Path | str,
    image_size: int,
    classes: Sequence[str] = (),
    corrupt: Policy = "error",
    *,
    private: bool = False,
    reading: Reading = FIND_OUT,
) -> Files:
    """The images of a folder or manifest, listed by `image_folder.list_images`.

    Args:
      path: the folder or csv file.
      image_size: side of the square images in pixels.
      classes: class names in label order; empty: the names in the set, sorted.
      corrupt: what happens when an image cannot be read.
      private: name the folder only in errors.
      reading: how layout, columns and names are read.

    Raises:
      UserError: the folder or the manifest has a mistake.
    """
    listing = image_folder.list_images(path, classes, private=private, reading=reading)
    return Files(listing, image_size, corrupt)


def with_headers(source: Files) -> Files:
    """The same source, whose listing says what the headers of the files say; decodes nothing."""
    listing = source.listing
    paths = [record.path for record in listing.records]
    described = understood.with_files(listing.understood, paths)
    listing = dataclasses.replace(listing, understood=described)
    return Files(listing, source.image_size, source.corrupt)
