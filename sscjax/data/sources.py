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

from sscjax.data import (
    dicom,
    image_folder,
    image_formats,
    image_io,
    image_pages,
    masks,
    pixel_range,
    resolution,
    tiff_kinds,
    understood,
)
from sscjax.data.image_io import read_image
from sscjax.data.layout import FIND_OUT, Reading
from sscjax.data.listing import ImageRecord, Listing
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError
from sscjax.system import machine

_PLAIN = Decoding()

Policy = Literal["few", "error", "skip"]
"""What happens when images cannot be read: 'few' leaves out up to `FEW` of them and stops at more,
'error' stops at any, 'skip' leaves out all."""

FEW = 0.01
"""Share of a set that may be unreadable or tiny by the policy 'few'."""


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
      observed: what was seen while images were read.
      pixel_bits: bits that 16-bit files of the set use; 0: there is none, or not known yet.
    """

    modules: tuple[ModuleType, ...]

    def __init__(
        self, listing: Listing, image_size: int, corrupt: Policy = "few", *, with_masks: bool
    ):
        self.observed = Observed()
        self.pixel_bits = 0
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

    def settle(self) -> list[int]:
        """Decide what white is after all images were read; the images to be read again."""
        return []

    def adopt(self, pixel_bits: int) -> None:
        """Take what white is from an earlier reading of the same images."""
        self.pixel_bits = pixel_bits

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

    modules = (
        *(image_io, image_formats, image_pages, tiff_kinds, pixel_range, dicom, masks, resolution),
    )

    def __init__(
        self,
        listing: Listing,
        image_size: int,
        corrupt: Policy = "few",
        *,
        decoding: Decoding = _PLAIN,
    ):
        """Use `from_path` to list a folder or manifest first."""
        with_masks = decoding.masks and any(record.masks for record in listing.records)
        super().__init__(listing, image_size, corrupt, with_masks=with_masks)
        self.decoding = self._asked = decoding
        self.pixel_bits = decoding.bits

    def __getitem__(self, index: int) -> Example:
        record = self.listing.records[index]
        image = read_image(
            record.path,
            self.image_size,
            decoding=self.decoding,
            observed=self.observed,
            side=self._side(record),
        )
        return Example(image, self.mask(index))

    def mask(self, index: int) -> np.ndarray | None:
        """The masks of an image, joined: [S,S] uint8, or None."""
        record = self.listing.records[index]
        if not record.masks or not self.with_masks:
            return None
        side = self._side(record)
        return masks.read_masks(
            record.masks, record.path, self.image_size, observed=self.observed, side=side
        )

    def settle(self) -> list[int]:
        """Decide what white is, unless the settings do; 16-bit files are then read again."""
        bits = self.observed.bits
        if self._asked.bits or not bits:
            self.adopt(self._asked.bits)
            return []
        self.adopt(bits)
        if bits == 16:
            return []
        deep = self.observed.largest
        return [k for k, record in enumerate(self.listing.records) if record.path in deep]

    def adopt(self, pixel_bits: int) -> None:
        """Take what white is from an earlier reading; 0: it is to be found out."""
        self.pixel_bits = pixel_bits
        self.decoding = dataclasses.replace(self._asked, bits=pixel_bits)

    def _side(self, record: ImageRecord) -> int:
        return resolution.side(record.mpp, self.decoding, self.image_size, record.path)

    def _arguments(self) -> Any:
        """Names, sizes and modification times; not the folder's path, so it can be moved."""
        records = []
        for record in self.listing.records:
            paths = [record.path, *((record.masks or ()) if self.with_masks else ())]
            stamps = [number for path in paths for number in self._stamp(path)]
            named = (record.file, record.label, record.subject, record.split, record.mpp)
            records.append((*named, *stamps))
        return {
            "classes": self.listing.classes,
            "size": self.image_size,
            "records": records,
            "corrupt": self.corrupt,
            "decoding": dataclasses.asdict(self._asked),
            "masks": self.with_masks,
        }

    def _stamp(self, path: Path) -> tuple[int | None, int | None]:
        """Size and modification time; None for a broken link that is skipped."""
        try:
            status = path.stat()
        except OSError as error:
            if self.corrupt != "error":
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
    corrupt: Policy = "few",
    *,
    private: bool = False,
    reading: Reading = FIND_OUT,
    decoding: Decoding = _PLAIN,
) -> Files:
    """The images of a folder or manifest, listed by `image_folder.list_images`.

    Args:
      path: the folder or csv file.
      image_size: side of the square images in pixels.
      classes: class names in label order; empty: the names in the set, sorted.
      corrupt: what happens when an image cannot be read.
      private: name the folder only in errors.
      reading: how layout, columns and names are read.
      decoding: how files are decoded where there is a choice.

    Raises:
      UserError: the folder or the manifest has a mistake, or images of several resolutions.
    """
    listing = image_folder.list_images(path, classes, private=private, reading=reading)
    # Raises for a subject at two sites, before any image is decoded.
    listing.sites()
    known = [(record.path, record.mpp) for record in listing.records if record.mpp]
    resolution.check(str(path), known, decoding, image_size)
    return Files(listing, image_size, corrupt, decoding=decoding)


def with_headers(source: Files) -> Files:
    """The same source, whose listing says what the headers of the files say; decodes nothing."""
    listing = source.listing
    paths = [record.path for record in listing.records]
    described = understood.with_files(listing.understood, paths)
    listing = dataclasses.replace(listing, understood=described)
    return Files(listing, source.image_size, source.corrupt, decoding=source.decoding)
