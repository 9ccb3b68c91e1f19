"""Image sets kept as ArrayRecord: made once, then read back by random access.

Decoding large images (or drawing the synthetic set) takes most of the time before training; a
prepared set skips it. What is read back equals what the recipe makes, image for image and in order,
so callers need not know which way a set came. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import logging
import operator
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
from PIL import Image

from sscjax.data.dataset import ImageSet
from sscjax.data.recipes import Recipe
from sscjax.files import write_json

_SUMS = "sums.json"


class Example(NamedTuple):
    """One image of a prepared set.

    Attributes:
      image: [H,W,3] uint8, RGB.
      label: index into the set's classes.
      subject, file: as in `ImageSet`.
      split: 'train', 'val', 'test', or None where the set prescribes no split.
      mask: [H,W] uint8, or None where the set has no masks.
    """

    image: np.ndarray
    label: int
    subject: str
    file: str
    split: str | None
    mask: np.ndarray | None


class PreparedSet(Sequence[Example]):
    """A prepared image set on disk; an index or a slice reads just those examples.

    Attributes:
      classes: class names in label order.
      source: one line for people.
      folder: where the ArrayRecord files lie.
    """

    def __init__(self, recipe: Recipe, builder: Any, records: Any):
        """Opens what `builder` has prepared; `prepare` is the way to call this."""
        metadata = builder.info.metadata
        self.classes = recipe.classes
        self.folder = Path(builder.data_path)
        self.source: str = metadata["source"] if recipe.source is None else recipe.source
        self._with_splits: bool = metadata["with_splits"]
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            wanted = range(len(self))[index]
            return [self._example(record) for record in self._records.__getitems__(list(wanted))]
        # `range` resolves negative indices, and raises IndexError as a sequence should.
        position = range(len(self))[operator.index(index)]
        return self._example(self._records[position])

    def _example(self, record: dict[str, Any]) -> Example:
        return Example(
            image=_decode_png(record["image"]),
            label=int(record["label"]),
            subject=record["subject"].decode("utf-8"),
            file=record["file"].decode("utf-8"),
            split=record["split"].decode("utf-8") if self._with_splits else None,
            mask=_decode_png(record["mask"]) if "mask" in record else None,
        )

    def image_set(self) -> ImageSet:
        """All examples in memory, equal to what the recipe makes."""
        examples = self[:]
        masks = [example.mask for example in examples if example.mask is not None]
        splits = [example.split for example in examples if example.split is not None]
        return ImageSet(
            images=np.stack([example.image for example in examples]),
            labels=np.array([example.label for example in examples], np.int32),
            subjects=np.array([example.subject for example in examples], np.str_),
            files=np.array([example.file for example in examples], np.str_),
            classes=self.classes,
            splits=np.array(splits, np.str_) if splits else None,
            masks=np.stack(masks) if masks else None,
            source=self.source,
        )


def can_prepare() -> bool:
    """Whether ArrayRecord works here; array_record has no wheels for Windows and Intel Macs."""
    return importlib.util.find_spec("array_record") is not None


def load(recipe: Recipe, data_dir: Path | str) -> ImageSet:
    """The image set of a recipe: read back from `data_dir`, or made directly where that cannot be.

    Args:
      recipe: what the set is made of.
      data_dir: folder of prepared sets; made where it does not exist.

    Raises:
      UserError: the recipe's own, from making the set.
    """
    if not can_prepare():
        return recipe.make()
    return prepare(recipe, data_dir).image_set()


def prepare(recipe: Recipe, data_dir: Path | str) -> PreparedSet:
    """Opens the prepared set of a recipe, making it first where `data_dir` has none.

    The set lies in `data_dir/ssc_skin/<kind>-<key>/<version>`, a name it gets only when complete:
    what an interrupted preparation leaves is never taken for a set, and a damaged set is made
    anew. Sets of other keys stay; the folder is a cache and may be deleted.

    Raises:
      UserError: the recipe's own, from making the set.
      ImportError: array_record is missing; see `can_prepare`.
    """
    # Importing tensorflow_datasets takes most of a second: not before it is needed.
    import tensorflow_datasets as tfds

    from sscjax.data.ssc_skin import ssc_skin_dataset_builder as ssc_skin

    tfds.disable_progress_bar()
    data_dir = Path(data_dir).resolve()
    config = ssc_skin.SscSkinConfig.of(recipe)
    folder = data_dir / ssc_skin.NAME / config.name / str(ssc_skin.Builder.VERSION)
    if not _is_intact(folder):
        # Made here and not by the builder, which would bury a UserError in messages of its own.
        image_set = recipe.make()
        made = ssc_skin.SscSkinConfig.of(dataclasses.replace(recipe, make=lambda: image_set))
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing-") as temporary:
            with _quiet_absl():
                builder = ssc_skin.Builder(
                    config=made, data_dir=temporary, file_format=ssc_skin.FILE_FORMAT
                )
                builder.download_and_prepare()
            _publish(Path(builder.data_path), folder)
    with _quiet_absl():
        builder = ssc_skin.Builder(
            config=config, data_dir=data_dir, file_format=ssc_skin.FILE_FORMAT
        )
    # Pictures are left encoded: tfds would decode them with OpenCV where that is installed.
    encoded = {"image": tfds.decode.SkipDecoding()}
    if recipe.with_masks:
        encoded["mask"] = tfds.decode.SkipDecoding()
    records = builder.as_data_source(ssc_skin.SPLIT, decoders=encoded)
    return PreparedSet(recipe, builder, records)


def _publish(made: Path, folder: Path) -> None:
    """Gives a complete set its final name, unless another process was faster with the same set."""
    write_json(made / _SUMS, _sums(made))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not _is_intact(folder):
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if not _is_intact(folder):
            raise


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds the files that were prepared, unchanged."""
    try:
        expected = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(_sums(folder) == expected)


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a prepared set, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != _SUMS
    }


def _decode_png(data: bytes) -> np.ndarray:
    """[H,W,3] or [H,W] uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keeps tensorflow-datasets from warning that a config made at run time is not built in."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
