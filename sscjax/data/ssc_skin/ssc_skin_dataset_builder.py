"""The tensorflow-datasets builder: image sets as ArrayRecord, written and read without TensorFlow.

Of tensorflow-datasets' file formats (4.9.10) ArrayRecord is the one for this: TFRecord needs
TensorFlow, and Parquet gives wrong rows for slices.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from sscjax.data import lazy
from sscjax.data.recipes import Recipe

NAME = "ssc_skin"
FILE_FORMAT = "array_record"
SPLIT = "examples"
"""The one tfds split. Train, val and test are a column: they are decided after preparation."""

_DESCRIPTION = """
Tiles of skin biopsies, or any other labelled images of subjects: drawn, from a folder per class, or
from a manifest. Each example has an RGB image, its class, the subject (patient or biopsy) and file
it is from, the split its source gives it ('' for none), and for drawn tiles a tissue map.
"""


@dataclasses.dataclass(kw_only=True)
class SscSkinConfig(tfds.core.BuilderConfig):
    """A builder config that carries the recipe of one image set; its name holds the recipe's key.

    Attributes:
      recipe: what the set is made of.
    """

    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe) -> SscSkinConfig:
        """The config that prepares `recipe`."""
        return cls(
            name=recipe.short_key,
            description=f"{recipe.kind}: {', '.join(recipe.classes)}",
            recipe=recipe,
        )


class _LocalInfo(tfds.core.DatasetInfo):
    """A `DatasetInfo` that is never looked up in tensorflow-datasets' bucket on the network."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; the original leaves an empty temporary folder behind even when offline."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Prepares an image set as ArrayRecord: `Builder(config=SscSkinConfig.of(recipe), ...)`."""

    name = NAME

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        recipe = self.builder_config.recipe
        side = recipe.image_size
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(recipe.classes)),
            "subject": tfds.features.Text(),
            "file": tfds.features.Text(),
            "split": tfds.features.Text(),
        }
        if recipe.with_masks:
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
        recipe = self.builder_config.recipe
        image_set = recipe.make(lazy.in_memory)
        if image_set.classes != recipe.classes:
            raise ValueError(f"the recipe names {recipe.classes}, the set {image_set.classes}")
        self.info.metadata.update(
            source=image_set.source,
            with_splits=image_set.splits is not None,
            skipped=dict(image_set.skipped),
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
        """Says nothing, in place of a line about a download of unknown size."""

    def _log_download_done(self) -> None:
        """Says nothing: whoever called knows what was prepared."""


def _png(pixels: np.ndarray) -> io.BytesIO:
    """[H,W,3] or [H,W] uint8 as a PNG file; given an array, tfds would ask TensorFlow for it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file
