"""The one form of an image set that everything after loading works with."""

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
      images: [N,H,W,3] uint8, RGB, 0..255, read some rows at a time: `images[numbers]`.
      labels: [N] int32, index into `classes`.
      subjects: [N] str (numpy unicode), the patient or biopsy an image comes from.
      files: [N] str, path relative to the set's folder with forward slashes, or an id for images
        that were never files.
      classes: names in label order (for ordered classes: in their order).
      splits: [N] str of 'train', 'val', 'test', or None where the set prescribes no split.
      masks: [N,H,W] uint8 class indices of a segmentation map, `data.masks.IGNORE` where nothing is
        known, or None.
      mask_classes: what the indices of the masks mean; () where nobody named them.
      source: one line for people, for example `synthetic (seed 0)` or `folder /data/skin`.
      skipped: why, by file, images of the source are not among these: they cannot be read.
      origins: [N] str, what `files` would be if they were not numbers in place of names; '' for
        what is no file; None where `files` are the names. Never written anywhere.
      loaded_by: fields of a config, such as `data.path`, that load these images again; {} where
        nobody knows, as of arrays.
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
    origins: np.ndarray | None = None
    loaded_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        """Train, validation and test sets, stratified by class; pixels are not copied.

        Args:
          by: 'subject' keeps all images of a subject together; 'image' ignores subjects.
          seed: the same seed gives the same sets, whatever the order of the images.
          fractions: shares of the images of (train, val, test), each above 0, sum 1.

        Returns:
          three sets, their images in the order of this one; where the set prescribes its splits,
          these.

        Raises:
          UserError: a class has too few subjects or images, or an argument makes no sense.

        Example:
          >>> import sscjax
          >>> data = sscjax.load_images(image_size=32)
          >>> train, val, test = data.split(by="subject", seed=0)
          >>> set(train.subjects) & set(test.subjects)
          set()
        """
        # `splits` is made of image sets.
        from sscjax.data import splits

        names = splits.make_splits(self, by=by, fractions=fractions, seed=seed)
        whole = dataclasses.replace(self, splits=names)
        train, val, test = (whole.take(np.flatnonzero(names == name)) for name in splits.SPLITS)
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
        )

    @property
    def paths(self) -> list[str]:
        """Where the images lie, relative to the set's folder."""
        found: list[str] = (self.files if self.origins is None else self.origins).tolist()
        return found

    def fingerprint(self) -> str:
        """SHA-256 over all that training can see: pixels, labels, subjects, names, splits."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        digest.update(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(lazy.fingerprint(self.images).encode())
        digest.update(self.labels.astype("<i4").tobytes())
        for names in (self.subjects, self.files, self.splits):
            digest.update("\0".join([] if names is None else names.tolist()).encode())
        if self.masks is not None:
            digest.update(lazy.fingerprint(self.masks).encode())
        return digest.hexdigest()


def unnamed(image_set: ImageSet) -> int:
    """Images that name no subject: each stands for itself, and for its copies."""
    pairs = zip(image_set.subjects.tolist(), image_set.files.tolist(), strict=True)
    return sum(subject == re.sub(r"#\d+$", "", file) for subject, file in pairs)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
      originals: N images that are split and evaluated.
      splits: [N] str of 'train', 'val', 'test'.
      training: M images that are trained on: the originals of the training split, then their
        augmented copies.
      synthetic: whether they are the embedded synthetic set.
      by: 'subject' or 'image', what the split keeps together.
      ordered: whether the classes stand in their order of severity, so that kappa has a meaning.
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
        """Images that name no subject."""
        return unnamed(self.originals)

    @property
    def has_subjects(self) -> bool:
        """Whether any image names its subject."""
        return self.unnamed < len(self.originals)

    @property
    def one_image_each(self) -> bool:
        """Whether all subjects are named and none has two images."""
        return self.unnamed == 0 and len(set(self.originals.subjects)) == len(self.originals)

    def training_for(self, *, online: bool) -> ImageSet:
        """What a stage trains on: a stage that augments on line needs no copies."""
        if not online:
            return self.training
        return self.training.take(np.arange(int((self.splits == "train").sum())))


def with_masks(image_set: ImageSet, chosen: np.ndarray) -> np.ndarray:
    """Those of the chosen rows [K] of which the mask says anything."""
    masks = image_set.masks
    if masks is None:
        return chosen[:0]
    has = [bool((masks[row] != IGNORE).any()) for row in chosen.tolist()]
    return chosen[np.array(has, bool)]
