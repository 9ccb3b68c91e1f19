"""The tensorflow-datasets builder: image sets as ArrayRecord, written and read without TensorFlow.

Among the file formats of tensorflow-datasets (4.9.10), TFRecord needs TensorFlow, and Parquet gives
wrong rows for slices.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from sscjax.data.dataset import ImageSet
from sscjax.data.sources import Source
from sscjax.errors import UserError

NAME = "ssc_skin"
FILE_FORMAT = "array_record"
SPLIT = "examples"
"""The one tfds split. Train, val and test are a column, because they are decided later."""

_DESCRIPTION = """
Tiles of skin biopsies, or any other labelled images of subjects: drawn, from a folder per class, or
from a manifest. Each example has an RGB image, its class, the subject (patient or biopsy) and file
it is from, the split its source gives it ('' for none), and for drawn tiles a tissue map.
"""


@dataclasses.dataclass(kw_only=True)
class SscSkinConfig(tfds.core.BuilderConfig):
    """A builder config for one image set; its name contains the key of the source.

    Attributes:
      source: classes, size and key of the set.
      image_set: the decoded images, or None to read a set that was written.
    """

    source: Source
    image_set: ImageSet | None = None


def builder(source: Source, data_dir: Path, image_set: ImageSet | None = None) -> Builder:
    """The builder that writes `image_set` below `data_dir`, or reads what was written there."""
    listing = source.listing
    config = SscSkinConfig(
        name=source.name,
        description=f"{listing.kind}: {', '.join(listing.classes)}",
        source=source,
        image_set=image_set,
    )
    return Builder(config=config, data_dir=data_dir, file_format=FILE_FORMAT)


def folder(source: Source, data_dir: Path) -> Path:
    """Where the files of a set are written."""
    return data_dir / NAME / source.name / str(Builder.VERSION)


class _LocalInfo(tfds.core.DatasetInfo):
    """A `DatasetInfo` that is never looked up in tensorflow-datasets' bucket on the network."""

    def initialize_from_bucket(self) -> None:
        """Do nothing; the original leaves an empty temporary folder behind even when offline."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes an image set as ArrayRecord; `builder` creates it."""

    name = NAME

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "The bits that 16-bit files use.", "1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        if not isinstance(config, SscSkinConfig):
            raise UserError(
                f"{NAME} holds no images of its own: it stores those of a run with "
                "--config.data.storage=array_record; give a folder of images, or another set"
            )
        source = config.source
        side = source.image_size
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(source.listing.classes)),
            "subject": tfds.features.Text(),
            "file": tfds.features.Text(),
            "split": tfds.features.Text(),
        }
        if source.with_masks:
            features["mask"] = tfds.features.Image(shape=(side, side, 1), encoding_format="png")
        return _LocalInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            # Integer keys and no shuffling: the examples keep the set's order.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded.
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        image_set = self.builder_config.image_set
        self.info.metadata.update(
            source=image_set.source,
            skipped=dict(image_set.skipped),
            pixel_bits=image_set.pixel_bits,
        )
        for index in range(len(image_set)):
            example = {
                "image": _png(image_set.images[index]),
                "label": int(image_set.labels[index]),
                "subject": str(image_set.subjects[index]),
                "file": str(image_set.files[index]),
                "split": "" if image_set.splits is None else str(image_set.splits[index]),
            }
            if image_set.masks is not None:
                example["mask"] = _png(image_set.masks[index])
            yield index, example

    def _log_download_bytes(self) -> None:
        """Print nothing, instead of a line about a download of unknown size."""

    def _log_download_done(self) -> None:
        """Print nothing: the caller knows what was written."""


def _png(pixels: np.ndarray) -> io.BytesIO:
    """[H,W,3] or [H,W] uint8 as a PNG file; given an array, tfds would ask TensorFlow for it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file
