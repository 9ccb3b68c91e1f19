"""Image sets from tensorflow-datasets, read without TensorFlow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.data.image_io import resize_pixels
from sscjax.data.layout import SPLIT_NAMES
from sscjax.data.listing import ordered_classes
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)


def load_tfds(
    name: str,
    image_size: int,
    data_dir: Path | str | None = None,
    classes: Sequence[str] = (),
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
    total = sum(builder.info.splits[split].num_examples for split in chosen)
    images = np.empty((total, image_size, image_size, 3), np.uint8)
    labels: list[int] = []
    subjects, files, split_of = [], [], []
    for split in chosen:
        for index, example in enumerate(builder.as_data_source(split=split)):
            file = f"{split}/{index}"
            images[len(labels)] = resize_pixels(np.asarray(example["image"]), image_size)
            labels.append(ordered.index(names[int(example["label"])]))
            subjects.append(_text(example["subject"]) if "subject" in features else file)
            files.append(file)
            split_of.append(SPLIT_NAMES[split] if named else "")
    if not named and len(splits) > 1:
        _LOG.warning(
            "tensorflow-datasets %s has the splits %s, without one of train, validation and test: "
            "they are joined and split again, so the test images are not its own",
            name,
            ", ".join(splits),
        )
    if "subject" not in features:
        _LOG.warning(
            "tensorflow-datasets %s names no subjects, so each image counts as its own: the split "
            "cannot be by patient and the figures are optimistic",
            name,
        )
    return ImageSet(
        images=images,
        labels=np.array(labels, np.int32),
        subjects=np.array(subjects, dtype=np.str_),
        files=np.array(files, dtype=np.str_),
        classes=ordered,
        splits=np.array(split_of, dtype=np.str_) if named else None,
        source=f"tensorflow-datasets {builder.info.full_name}",
    )


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
    folder = None if data_dir is None else str(data_dir)
    try:
        builder = tfds.builder(name, data_dir=folder, try_gcs=False, file_format="array_record")
    except ValueError as error:  # its 'not found' goes on to list every set there is
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"tensorflow-datasets has no set {name!r} ({reason}); correct the name (the catalogue "
            "at tensorflow.org/datasets lists them) or the folder of prepared sets"
        ) from error
    try:
        builder.download_and_prepare()
        builder.as_data_source(split=next(iter(builder.info.splits)))
    # All that it raises for another file format, a missing reader or no way to download.
    except (AssertionError, ImportError, NotImplementedError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"tensorflow-datasets {name!r} cannot be served as ArrayRecord here ({reason}); "
            "prepare it with file_format='array_record' on a machine that can, or give a folder"
        ) from error
    return builder


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
