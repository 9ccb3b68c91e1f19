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
import logging
import math
import operator
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
from PIL import Image

from sscjax.data import lazy
from sscjax.data.dataset import ImageSet
from sscjax.data.recipes import Recipe
from sscjax.errors import UserError
from sscjax.system import files
from sscjax.system.files import write_json

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
      image_size: side of the images in pixels.
      source: one line for people.
      skipped: as in `ImageSet`.
      folder: where the ArrayRecord files lie.
    """

    def __init__(self, recipe: Recipe, builder: Any, records: Any):
        """Opens what `builder` has prepared; `prepare` is the way to call this."""
        metadata = builder.info.metadata
        self.classes = recipe.classes
        self.image_size = recipe.image_size
        self.folder = Path(builder.data_path)
        self.source: str = metadata["source"] if recipe.source is None else recipe.source
        self.skipped: dict[str, str] = metadata["skipped"]
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

    def images(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Images [H,W,3] by their numbers, nothing else decoded."""
        return [_decode_png(record["image"]) for record in self._records.__getitems__(numbers)]

    def _example(self, record: dict[str, Any]) -> Example:
        return Example(
            image=_decode_png(record["image"]),
            label=int(record["label"]),
            subject=record["subject"].decode("utf-8"),
            file=record["file"].decode("utf-8"),
            split=record["split"].decode("utf-8") if self._with_splits else None,
            mask=_decode_png(record["mask"]) if "mask" in record else None,
        )

    def image_set(self, max_bytes: float = math.inf) -> ImageSet:
        """All examples, equal to what the recipe makes; images over `max_bytes` stay on disk."""
        count, side = len(self), self.image_size
        held = count * side * side * 3 <= max_bytes
        images = np.empty((count if held else 0, side, side, 3), np.uint8)
        masks, splits, labels, subjects, files = [], [], [], [], []
        for part in lazy.chunks(_Images(self)):
            for place, example in enumerate(self[part], part.start):
                if held:
                    images[place] = example.image
                if example.mask is not None:
                    masks.append(example.mask)
                if example.split is not None:
                    splits.append(example.split)
                labels.append(example.label)
                subjects.append(example.subject)
                files.append(example.file)
        return ImageSet(
            images=images if held else _Images(self),
            labels=np.array(labels, np.int32),
            subjects=np.array(subjects, np.str_),
            files=np.array(files, np.str_),
            classes=self.classes,
            splits=np.array(splits, np.str_) if splits else None,
            masks=np.stack(masks) if masks else None,
            source=self.source,
            skipped=self.skipped,
        )


class _Images(lazy.Lazy):
    """The images of a prepared set, read from disk each time."""

    def __init__(self, prepared: PreparedSet):
        self._prepared = prepared
        side = prepared.image_size
        self.shape, self.dtype = (len(prepared), side, side, 3), np.dtype(np.uint8)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Images [K,H,W,3] by their numbers."""
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, image in enumerate(self._prepared.images(numbers.tolist())):
            found[place] = image
        return found

    def update(self, digest: Any) -> None:
        """Add the images themselves."""
        lazy.update_rows(self, digest)


def can_prepare() -> bool:
    """Whether ArrayRecord works here; array_record has no wheels for Windows and Intel Macs."""
    return importlib.util.find_spec("array_record") is not None


def load(recipe: Recipe, data_dir: Path | str, max_bytes: float = math.inf) -> ImageSet:
    """The image set of a recipe: read back from `data_dir`, or made directly where that cannot be.

    Args:
      recipe: what the set is made of.
      data_dir: folder of prepared sets; made where it does not exist.
      max_bytes: images that take more than this together are not held in memory.

    Raises:
      UserError: the recipe's own, from making the set.
    """
    if not can_prepare():
        return make(recipe, data_dir, max_bytes)
    return prepare(recipe, data_dir, max_bytes).image_set(max_bytes)


def make(recipe: Recipe, data_dir: Path | str, max_bytes: float = math.inf) -> ImageSet:
    """The image set of a recipe, made directly.

    Images over `max_bytes` are decoded once into a file `data_dir/<kind>-<key>.npy`, found there at
    later starts.

    Raises:
      UserError: the recipe's own, or the file cannot be written.
    """
    if recipe.nbytes <= max_bytes:
        return recipe.make(lazy.in_memory)
    path = Path(data_dir) / f"{recipe.short_key}.npy"
    try:
        return recipe.make(lazy.in_file(path))
    except OSError as error:
        raise UserError(
            f"{path}: {recipe.nbytes / 2**20:.0f} MB of decoded images cannot be kept there "
            f"({error.strerror}); free the space, set SSCJAX_CACHE to a folder elsewhere, or raise "
            "config.data.max_megabytes to hold them in memory"
        ) from error


def prepare(recipe: Recipe, data_dir: Path | str, max_bytes: float = math.inf) -> PreparedSet:
    """Opens the prepared set of a recipe, making it first where `data_dir` has none.

    The set lies in `data_dir/ssc_skin/<kind>-<key>/<version>`, a name it gets only when complete:
    what an interrupted preparation leaves is never taken for a set, and a damaged set is made
    again. Sets of other keys stay; the folder is a cache and may be deleted.

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
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing-") as temporary:
            # Made here and not by the builder, which would bury a UserError in messages of its own.
            image_set = make(recipe, temporary, max_bytes)
            made = ssc_skin.SscSkinConfig.of(
                dataclasses.replace(recipe, make=lambda keep: image_set)
            )
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
        expected = files.read_json(folder / _SUMS)
    except (FileNotFoundError, ValueError):
        return False
    return bool(_sums(folder) == expected)


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a prepared set, by name."""
    return {path.name: _sum(path) for path in sorted(folder.iterdir()) if path.name != _SUMS}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode_png(data: bytes) -> np.ndarray:
    """[H,W,3] or [H,W] uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keeps tensorflow-datasets from warning that a config made at run time is not built in."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)
