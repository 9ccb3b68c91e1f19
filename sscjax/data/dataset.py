"""`ImageSet`, the representation of labelled images that everything after loading works with."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.data import lazy
from sscjax.data.lazy import Rows
from sscjax.data.masks import IGNORE
from sscjax.system.formatting import clean_name


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of subjects.

    Attributes:
      images: [N,H,W,3] uint8, RGB, 0..255, read in parts: `images[indices]`.
      labels: [N] int32, index into `classes`.
      subjects: [N] str (NumPy unicode), the patient or biopsy an image comes from.
      files: [N] str, path relative to the set's folder with forward slashes, or an id for images
        that are no files.
      classes: names in label order (ordinal classes: in increasing order).
      splits: [N] str of 'train', 'val', 'test', or None if the set prescribes no split.
      masks: [N,H,W] uint8 class indices of a segmentation map, `data.masks.IGNORE` where the class
        is unknown, or None.
      mask_classes: names of the masks' classes; () if unknown.
      source: one line for reports, for example `synthetic (seed 0)` or `folder /data/skin`.
      skipped: reason by file, for images of the source that cannot be read.
      pixel_bits: bits that 16-bit files of the source use; 0: it has none.
      origins: [N] str, the real file names of a private set, whose `files` are numbers ('' for
        what is no file); None if `files` are the real names. Never written.
      sites: [N] str, the hospital or scanner of each image, one for each subject; None if unknown.
      loaded_by: fields of a config, such as `data.path`, that load these images again; {} if
        unknown, as for arrays.
      understood: how a folder or table was read, see `understood.describe`; {} for other sources.
    """

    images: Rows
    labels: np.ndarray
    subjects: np.ndarray
    files: np.ndarray
    classes: tuple[str, ...]
    splits: np.ndarray | None = None
    masks: Rows | None = None
    mask_classes: tuple[str, ...] = ()
    source: str = ""
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pixel_bits: int = 0
    origins: np.ndarray | None = None
    sites: np.ndarray | None = None
    loaded_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    understood: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        names = [clean_name(name) for name in self.classes]
        shown = ", ".join(f"{n} {name}" for n, name in zip(counts, names, strict=True))
        shown = shown if len(shown) <= 200 else f"{len(names)} classes"
        size = "x".join(map(str, self.images.shape[1:3]))
        subjects = len(set(self.subjects.tolist()))
        return f"ImageSet({len(self)} images of {subjects} subjects, {size} pixels: {shown})"

    def split(
        self,
        by: str = "subject",
        seed: int = 0,
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
    ) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Split into train, validation and test sets, stratified by class; pixels are not copied.

        Args:
          by: 'subject' keeps all images of a subject together; 'image' ignores subjects.
          seed: the same seed gives the same sets, whatever the order of the images.
          fractions: shares of the images of (train, val, test), each above 0, sum 1.

        Returns:
          three sets, their images in the order of this one. Prescribed splits are returned as they
          are.

        Raises:
          UserError: a class has too few subjects or images, or an argument is out of its range.

        Example:
          >>> import sscjax
          >>> data = sscjax.load_images(image_size=32)
          >>> train, val, test = data.split(by="subject", seed=0)
          >>> set(train.subjects) & set(test.subjects)
          set()
        """
        # Imported here because `splits` imports this module.
        from sscjax.data import splits

        names = splits.make_splits(self, by=by, fractions=fractions, seed=seed)
        assigned = dataclasses.replace(self, splits=names)
        train, val, test = (assigned.take(np.flatnonzero(names == name)) for name in splits.SPLITS)
        return train, val, test

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` ([K] int), in that order; pixels are not copied."""
        return dataclasses.replace(
            self,
            images=lazy.View(self.images, indices),
            labels=self.labels[indices],
            subjects=self.subjects[indices],
            files=self.files[indices],
            splits=None if self.splits is None else self.splits[indices],
            masks=None if self.masks is None else lazy.View(self.masks, indices),
            origins=None if self.origins is None else self.origins[indices],
            sites=None if self.sites is None else self.sites[indices],
        )

    @property
    def paths(self) -> list[str]:
        """Paths of the images relative to the set's folder."""
        paths: list[str] = (self.files if self.origins is None else self.origins).tolist()
        return paths

    def fingerprint(self) -> str:
        """SHA-256 over all inputs of training: pixels, labels, names, splits, masks, sites."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        digest.update(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(lazy.fingerprint(self.images).encode())
        digest.update(self.labels.astype("<i4").tobytes())
        for names in (self.subjects, self.files, self.splits):
            digest.update("\0".join([] if names is None else names.tolist()).encode())
        if self.sites is not None:
            digest.update("\0".join(self.sites.tolist()).encode())
        if self.masks is not None:
            digest.update(lazy.fingerprint(self.masks).encode())
        return digest.hexdigest()


def unnamed(image_set: ImageSet) -> int:
    """Number of images without a subject: each is its own subject, together with its copies."""
    pairs = zip(image_set.subjects.tolist(), image_set.files.tolist(), strict=True)
    return sum(subject == re.sub(r"#\d+$", "", file) for subject, file in pairs)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
      originals: the N images that are split and evaluated.
      splits: [N] str of 'train', 'val', 'test'.
      training: the M images of training: the originals of the training split, then their augmented
        copies.
      synthetic: whether they are the built-in synthetic set.
      by: 'subject' or 'image', the unit of the split.
      ordered: whether the classes are in order of severity, so that weighted kappa is meaningful.
    """

    originals: ImageSet
    splits: np.ndarray
    training: ImageSet
    synthetic: bool
    by: str
    ordered: bool

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{(self.splits == name).sum()} {name}" for name in ("train", "val", "test")
        )
        return f"Images({counts}; {len(self.training)} trained on, split by {self.by})"

    @property
    def unnamed(self) -> int:
        """Number of images without a subject."""
        return unnamed(self.originals)

    @property
    def has_subjects(self) -> bool:
        """Whether any image has a subject."""
        return self.unnamed < len(self.originals)

    @property
    def one_image_each(self) -> bool:
        """Whether every image has a subject and no subject has two images."""
        return self.unnamed == 0 and len(set(self.originals.subjects)) == len(self.originals)

    def training_for(self, *, online: bool) -> ImageSet:
        """The images that a stage trains on; without the copies if it augments `online`."""
        if not online:
            return self.training
        return self.training.take(np.arange(int((self.splits == "train").sum())))


def with_masks(image_set: ImageSet, chosen: np.ndarray) -> np.ndarray:
    """Those of the indices `chosen` [K] whose mask labels at least one pixel."""
    masks = image_set.masks
    if masks is None:
        return chosen[:0]
    has = [bool((masks[row] != IGNORE).any()) for row in chosen.tolist()]
    return chosen[np.array(has, bool)]
