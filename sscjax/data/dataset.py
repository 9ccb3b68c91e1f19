"""The one in-memory form of an image set that everything after loading works with."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images of subjects.

    Attributes:
      images: [N,H,W,3] uint8, RGB, 0..255.
      labels: [N] int32, index into `classes`.
      subjects: [N] str (numpy unicode), the patient or biopsy an image comes from.
      files: [N] str, path relative to the set's folder with forward slashes, or an id for images
        that were never files.
      classes: names in label order (for ordered classes: in their order).
      splits: [N] str of 'train', 'val', 'test', or None where the set prescribes no split.
      masks: [N,H,W] uint8 class indices of a segmentation map, or None.
      source: one line for people, for example `synthetic (seed 0)` or `folder /data/skin`.
    """

    images: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    files: np.ndarray
    classes: tuple[str, ...]
    splits: np.ndarray | None = None
    masks: np.ndarray | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` ([K] int), in that order."""
        return dataclasses.replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            subjects=self.subjects[indices],
            files=self.files[indices],
            splits=None if self.splits is None else self.splits[indices],
            masks=None if self.masks is None else self.masks[indices],
        )

    def join(self, other: ImageSet) -> ImageSet:
        """This set followed by `other`, of the same classes and image size."""
        if self.classes != other.classes:
            raise ValueError(f"classes {self.classes} and {other.classes} differ")
        found = dataclasses.replace(
            self,
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels]),
            subjects=np.concatenate([self.subjects, other.subjects]),
            files=np.concatenate([self.files, other.files]),
            splits=None,
            masks=None,
        )
        if self.splits is not None and other.splits is not None:
            found = dataclasses.replace(found, splits=np.concatenate([self.splits, other.splits]))
        if self.masks is not None and other.masks is not None:
            found = dataclasses.replace(found, masks=np.concatenate([self.masks, other.masks]))
        return found

    def fingerprint(self) -> str:
        """SHA-256 over all that training can see: pixels, labels, subjects, names, splits."""
        digest = hashlib.sha256()
        digest.update(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.astype("<i4").tobytes())
        for names in (self.subjects, self.files, self.splits):
            digest.update("\0".join([] if names is None else names.tolist()).encode())
        if self.masks is not None:
            digest.update(np.ascontiguousarray(self.masks).tobytes())
        return digest.hexdigest()
