"""Decoded image sets as ArrayRecord files, written and read through tensorflow-datasets.

Decoding large images (or drawing the synthetic set) takes most of the time before training; a
stored set skips it. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sscjax.data import lazy
from sscjax.data.dataset import ImageSet
from sscjax.data.sources import Source
from sscjax.system import files

_SUMS = "sums.json"


class Images(lazy.Lazy):
    """The images or masks of a stored set, read from disk each time."""

    def __init__(self, records: Any, feature: str, shape: tuple[int, ...]):
        """Read 'image' or 'mask' of the records, PNG files of uint8, as [N,...]."""
        self._records, self._feature = records, feature
        self.shape, self.dtype = shape, np.dtype(np.uint8)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Images [K,S,S,3] or masks [K,S,S] at the indices [K]."""
        images = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        records = self._records.__getitems__(numbers.tolist())
        for index, record in enumerate(records):
            with Image.open(io.BytesIO(record[self._feature])) as image:
                images[index] = np.array(image)
        return images

    def update(self, digest: Any) -> None:
        """Hash the images."""
        lazy.update_rows(self, digest)


@dataclasses.dataclass(frozen=True)
class StoredSet:
    """An image set that `write_set` stored.

    Attributes:
      images: [K,S,S,3] uint8, in the order of the source, without those that were skipped.
      masks: [K,S,S] uint8, or None.
      skipped: reason by file, for images that could not be read.
      pixel_bits: bits that 16-bit files of the source use; 0: it has none.
      folder: with the ArrayRecord files.
    """

    images: Images
    masks: Images | None
    skipped: Mapping[str, str]
    pixel_bits: int
    folder: Path


def is_available() -> bool:
    """Whether ArrayRecord works here; array_record has no wheels for Windows and Intel Macs."""
    return importlib.util.find_spec("array_record") is not None


def open_set(source: Source, data_dir: Path) -> StoredSet | None:
    """The stored images of a source, or None if there are none or they are damaged.

    They are in `data_dir/ssc_skin/<kind>-<key>/<version>`.

    Raises:
      ImportError: array_record is missing; see `is_available`.
    """
    # Importing tensorflow_datasets takes most of a second: not before it is needed.
    import tensorflow_datasets as tfds

    from sscjax.data.ssc_skin import ssc_skin_dataset_builder as ssc_skin

    folder = ssc_skin.folder(source, data_dir.resolve())
    if not _is_intact(folder):
        return None
    with _quiet_absl():
        builder = ssc_skin.builder(source, data_dir.resolve())
    # Images stay encoded: tfds would decode them with OpenCV if that is installed.
    encoded = {"image": tfds.decode.SkipDecoding()}
    if source.with_masks:
        encoded["mask"] = tfds.decode.SkipDecoding()
    records = builder.as_data_source(ssc_skin.SPLIT, decoders=encoded)
    shape = (len(records), *source.shape[1:])
    masks = Images(records, "mask", shape[:3]) if source.with_masks else None
    about = builder.info.metadata
    bits = int(about["pixel_bits"])
    return StoredSet(Images(records, "image", shape), masks, about["skipped"], bits, folder)


def write_set(source: Source, image_set: ImageSet, temporary: Path, data_dir: Path) -> None:
    """Write a set for `open_set`.

    The set is complete when it gets its name, so an interrupted write never looks like a set; a
    damaged set is replaced. Sets of other keys stay; the folder is a cache and may be deleted.

    Args:
      source: of the images.
      image_set: the same, decoded.
      temporary: a folder on the disk of `data_dir`.
      data_dir: the folder of all sets.
    """
    import tensorflow_datasets as tfds

    from sscjax.data.ssc_skin import ssc_skin_dataset_builder as ssc_skin

    tfds.disable_progress_bar()
    with _quiet_absl():
        builder = ssc_skin.builder(source, temporary.resolve(), image_set)
        builder.download_and_prepare()
    _publish(Path(builder.data_path), ssc_skin.folder(source, data_dir.resolve()))


def _publish(written: Path, folder: Path) -> None:
    """Give a complete set its final name, unless another process wrote the same set faster."""
    files.write_json(written / _SUMS, _sums(written))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not _is_intact(folder):
        shutil.rmtree(folder)
    try:
        written.rename(folder)
    except OSError:
        if not _is_intact(folder):
            raise


def _is_intact(folder: Path) -> bool:
    """Whether the folder contains the files that were written, unchanged."""
    try:
        expected = files.read_json(folder / _SUMS)
    except (FileNotFoundError, ValueError):
        return False
    return bool(_sums(folder) == expected)


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a stored set, by name."""
    return {
        path.name: files.sha256(path) for path in sorted(folder.iterdir()) if path.name != _SUMS
    }


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Suppress the warning of tensorflow-datasets that a config is not built in."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)
