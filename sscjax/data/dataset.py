"""The one form of an image set that everything after loading works with."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import numpy as np

from sscjax import rows
from sscjax.rows import Rows


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
      left_out: why, by file, images of the source are not among these: they cannot be read.
      origins: [N] str, what `files` would be if they were not numbers in place of names; '' for
        what is no file; None where `files` are the names. Never written anywhere.
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
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origins: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` ([K] int), in that order; pixels are not copied."""
        return dataclasses.replace(
            self,
            images=rows.View(self.images, indices),
            labels=self.labels[indices],
            subjects=self.subjects[indices],
            files=self.files[indices],
            splits=None if self.splits is None else self.splits[indices],
            masks=None if self.masks is None else rows.View(self.masks, indices),
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
        digest.update(rows.fingerprint(self.images).encode())
        digest.update(self.labels.astype("<i4").tobytes())
        for names in (self.subjects, self.files, self.splits):
            digest.update("\0".join([] if names is None else names.tolist()).encode())
        if self.masks is not None:
            digest.update(rows.fingerprint(self.masks).encode())
        return digest.hexdigest()
