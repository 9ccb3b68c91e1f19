"""Image sets from tensorflow-datasets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from sscjax.data import image_io, lazy, loading
from sscjax.data.dataset import ImageSet
from sscjax.data.image_io import resize_pixels
from sscjax.data.layout import SPLIT_NAMES
from sscjax.data.lazy import Rows
from sscjax.data.listing import ordered_classes
from sscjax.errors import UserError
from sscjax.system import cache_dir, machine

_LOG = logging.getLogger(__name__)

# The file format that is read without TensorFlow.
_FORMAT = "array_record"

# Of a download; the pauses between them double.
_RETRIES = 3


def load_tfds(
    name: str,
    image_size: int,
    data_dir: Path | str | None = None,
    classes: Sequence[str] = (),
    max_bytes: float = math.inf,
) -> ImageSet:
    """Loads an image-classification set of tensorflow-datasets, without TensorFlow.

    The set is prepared as ArrayRecord if necessary (this may download it). Splits named
    train, validation and test are used when all three exist; otherwise all are joined and the
    split is left to the run. A text or integer feature `subject` names the subjects; without one
    every image is its own subject.

    Args:
      name: a name such as `colorectal_histology` or `set/config:1.0.0`.
      image_size: side of the square images in pixels.
      data_dir: where prepared sets lie; None: the library's default folder.
      classes: class names in label order, the same names as the set's; empty: the set's order.
      max_bytes: larger sets are not held in memory, but in a file of the cache folder.

    Returns:
      An `ImageSet`; `files` are ids of the form `split/number`.

    Raises:
      UserError: tensorflow-datasets or a suitable build of the set is missing, the name is
        unknown, or the set has no `image` and `label`.
    """
    builder = _prepared_builder(name, data_dir)
    features = _checked_features(name, builder)
    names = tuple(features["label"].names)
    ordered = ordered_classes(f"tensorflow-datasets {name}", names, classes or names)
    splits = list(builder.info.splits)
    named = {"train", "validation", "test"} <= set(splits)
    chosen = ["train", "validation", "test"] if named else splits
    rows = _Rows(ordered, names, SPLIT_NAMES if named else {}, "subject" in features)
    images = _decoded(builder, chosen, image_size, max_bytes, rows)
    if not named and len(splits) > 1:
        _LOG.warning(
            "tensorflow-datasets %s has the splits %s, without one of train, validation and test: "
            "they are joined and split again, so the test images are not its own",
            name,
            ", ".join(splits),
        )
    if not rows.with_subject:
        _LOG.warning(
            "tensorflow-datasets %s names no subjects, so each image counts as its own: the split "
            "cannot be by patient and the figures are optimistic",
            name,
        )
    return ImageSet(
        images=images,
        labels=np.array(rows.labels, np.int32),
        subjects=np.array(rows.subjects, dtype=np.str_),
        files=np.array(rows.files, dtype=np.str_),
        classes=ordered,
        splits=np.array(rows.splits, dtype=np.str_) if named else None,
        source=f"tensorflow-datasets {builder.info.full_name}",
    )


@dataclasses.dataclass
class _Rows:
    """What is known of each image besides its pixels; the first four fields say how it is read."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    split_names: Mapping[str, str]
    with_subject: bool
    labels: list[int] = dataclasses.field(default_factory=list)
    subjects: list[str] = dataclasses.field(default_factory=list)
    files: list[str] = dataclasses.field(default_factory=list)
    splits: list[str] = dataclasses.field(default_factory=list)

    def add(self, example: Mapping[str, Any], split: str, index: int) -> None:
        file = f"{split}/{index}"
        self.labels.append(self.classes.index(self.names[int(example["label"])]))
        self.subjects.append(_text(example["subject"]) if self.with_subject else file)
        self.files.append(file)
        self.splits.append(self.split_names.get(split, ""))


def _decoded(
    builder: Any, chosen: Sequence[str], image_size: int, max_bytes: float, rows: _Rows
) -> Rows:
    """The images of the chosen splits, in memory or in a file; `rows` is told of each of them."""
    from tensorflow_datasets import decode

    total = sum(builder.info.splits[split].num_examples for split in chosen)
    shape = (total, image_size, image_size, 3)

    def read(target: Any) -> None:
        skipped = None if target is not None else {"image": decode.SkipDecoding()}
        for split in chosen:
            source = builder.as_data_source(split=split, decoders=skipped)
            for index, example in enumerate(source):
                if target is not None:
                    pixels = np.asarray(example["image"])
                    target[len(rows.labels)] = resize_pixels(pixels, image_size)
                rows.add(example, split, index)

    if math.prod(shape) <= max_bytes:
        images = np.empty(shape, np.uint8)
        read(images)
        return images
    path = cache_dir.cache_dir() / "prepared" / f"tfds-{_key(builder, chosen, image_size)}.npy"
    stored = lazy.open_file(path, shape, np.uint8)
    if stored is not None:
        read(None)
        return stored
    try:
        with lazy.create(path, shape, np.uint8) as file:
            read(file)
    except OSError as error:
        raise loading.unwritable(path, shape, error) from error
    stored = lazy.open_file(path, shape, np.uint8)
    if stored is None:
        raise UserError(f"{path}: was removed right after it was written; run again")
    return stored


def _key(builder: Any, chosen: Sequence[str], image_size: int) -> str:
    """20 hexadecimal digits over all that the decoded images depend on."""
    files = sorted(Path(builder.data_path).iterdir())
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    code = machine.modules_sha256(image_io), PIL.__version__, np.__version__
    parts = (builder.info.full_name, list(chosen), image_size, stamps, code)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _checked_features(name: str, builder: Any) -> Any:
    """The features of a set, among them an 8-bit image and a class label."""
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise UserError(
            f"tensorflow-datasets {name!r} has the features {', '.join(features)}; expected an "
            "'image' and a class 'label'; choose an image-classification set"
        )
    if np.dtype(features["image"].np_dtype) != np.uint8:
        raise UserError(
            f"tensorflow-datasets {name!r} has images of type {features['image'].np_dtype}, "
            "expected uint8; choose a set of 8-bit images"
        )
    return features


def _prepared_builder(name: str, data_dir: Path | str | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tensorflow-datasets is not usable here ({error}), needed for {name!r}; install it "
            "with pip install tensorflow-datasets, or give a folder of images"
        ) from error
    # Here, because importing it opens a socket; tensorflow-datasets does that in any case.
    import requests

    folder = None if data_dir is None else str(data_dir)
    try:
        builder = tfds.builder(name, data_dir=folder, try_gcs=False, file_format=_FORMAT)
    except tfds.core.DatasetNotFoundError as error:  # it goes on to list every set there is
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"tensorflow-datasets has no set {name!r} ({reason}); correct the name (the catalogue "
            "at tensorflow.org/datasets lists them) or the folder of prepared sets"
        ) from error
    except ValueError as error:
        raise _unservable(name, error) from error
    try:
        with _few_retries():
            builder.download_and_prepare()
        builder.as_data_source(split=next(iter(builder.info.splits)))
    except requests.RequestException as error:
        raise UserError(
            f"tensorflow-datasets {name!r} is not prepared in {builder.data_dir}, and cannot be "
            f"downloaded ({_short(error)}); connect to the network, or prepare it elsewhere with "
            f"file_format='{_FORMAT}' and copy that folder here"
        ) from error
    # All that it raises for another file format or a missing reader.
    except (AssertionError, ImportError, NotImplementedError, OSError) as error:
        raise _unservable(name, error) from error
    return builder


def _unservable(name: str, error: Exception) -> UserError:
    return UserError(
        f"tensorflow-datasets {name!r} cannot be read without TensorFlow ({_short(error)}): "
        f"expected a set prepared as ArrayRecord; prepare it again with file_format='{_FORMAT}', "
        "in another data_dir or after deleting its folder, or give a folder of images"
    )


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Without a network the library tries ten times, which takes minutes."""
    from tensorflow_datasets.core.download import downloader

    before = getattr(downloader, "MAX_RETRIES", None)
    if before is None:  # another version of the library
        yield
        return
    downloader.MAX_RETRIES = min(before, _RETRIES)
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
