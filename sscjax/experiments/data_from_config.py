"""From a config to the images of a run: loaded, split, augmented."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import get_args

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import anonymize, lazy, loading, offline_augment, prepared, recipes, splits, tfds
from sscjax.data.augment import changes
from sscjax.data.dataset import Images, ImageSet, with_masks
from sscjax.data.masks import IGNORE
from sscjax.data.synthetic import TISSUES
from sscjax.errors import UserError
from sscjax.evaluation.metrics import MASK_METRIC
from sscjax.system import cache_dir

_LOG = logging.getLogger(__name__)


def parse_pairs(text: str, separator: str, field: str) -> dict[str, str]:
    """`a=x,b=y` as a dict, for config fields whose keys the user chooses.

    Raises:
      UserError: a part without the separator, or a name twice.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = (piece.strip() for piece in part.rpartition(separator))
        if not sign or not name or not value or name in pairs:
            raise UserError(
                f"config.{field}: found {part!r}, expected distinct NAME{separator}VALUE parts "
                "with commas between them"
            )
        pairs[name] = value
    return pairs


def _parse_counts(text: str, field: str) -> dict[str, tuple[int, ...]]:
    try:
        return {
            name: tuple(int(number) for number in value.split("/"))
            for name, value in parse_pairs(text, ":", field).items()
        }
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"config.{field}: found {text!r}, expected whole numbers") from error


def load_images(config: ConfigDict) -> tuple[ImageSet, bool]:
    """The image set that a config names, and whether it is the synthetic one."""
    data = config.data
    if data.path and data.tfds:
        raise UserError("config.data.path and config.data.tfds are both set; empty one of them")
    if data.storage not in ("direct", "array_record"):
        raise UserError(
            f"config.data.storage={data.storage!r}: expected 'direct' or 'array_record'"
        )
    # Records of runs that were made before there was such a field are read, too.
    corrupt, private = data.get("corrupt", "error"), bool(config.get("private", False))
    if private and data.storage == "array_record":
        raise UserError(
            "config.private=True and config.data.storage='array_record': a prepared set in the "
            "cache folder holds the names of files and subjects; set data.storage=direct"
        )
    if corrupt not in get_args(loading.Policy):
        raise UserError(f"config.data.corrupt={corrupt!r}: expected 'error' or 'skip'")
    if data.image_size < 32:
        raise UserError(f"config.data.image_size={data.image_size}: expected 32 pixels or more")
    classes = tuple(data.classes)
    merge = parse_pairs(data.merge, "=", "data.merge")
    # The order of the merged classes is applied after merging.
    listed = () if merge else classes
    if data.tfds:
        image_set = tfds.load_tfds(data.tfds, data.image_size, classes=listed)
    else:
        recipe = _recipe(config, listed)
        load = prepared.make if data.storage == "direct" else prepared.load
        image_set = load(recipe, cache_dir.cache_dir() / "prepared", _max_bytes(config))
    if merge:
        image_set = _merged(image_set, merge)
        if classes:
            image_set = _reorder(image_set, classes)
    synthetic = not (data.path or data.tfds)
    image_set = _with_mask_classes(config, image_set, synthetic)
    return anonymize.image_set(image_set) if private else image_set, synthetic


def _merged(image_set: ImageSet, merge: dict[str, str]) -> ImageSet:
    """The set with those of its classes merged that the config names and that it has.

    A config names the merges of its own labels; other people's folders may hold other labels, or
    the merged classes already.
    """
    present = {old: new for old, new in merge.items() if old in image_set.classes}
    missing, has = sorted(set(merge) - set(present)), ", ".join(image_set.classes)
    if not present and len(image_set.classes) == 2:
        _LOG.info("config.data.merge does not apply: the set has two classes already (%s)", has)
    elif missing:
        _LOG.warning(
            "config.data.merge names %s, and the set has %s: %s; set --config.data.merge to merge "
            "others",
            ", ".join(missing),
            has,
            f"only {', '.join(present)} are merged" if present else "nothing is merged",
        )
    return loading.merge_classes(image_set, present)


def _with_mask_classes(config: ConfigDict, image_set: ImageSet, synthetic: bool) -> ImageSet:
    """The set with names for the values of its masks; every value that occurs has one."""
    weight, named = config.loss.segmentation, tuple(config.data.mask_classes)
    if weight < 0:
        raise UserError(f"config.loss.segmentation={weight}: expected 0 or more")
    if image_set.masks is None:
        if weight:
            raise UserError(
                f"config.loss.segmentation={weight}, and no image has a mask: put name_mask.png "
                "beside the images, or name masks in the manifest's column mask, or set 0"
            )
        return image_set
    names = named or (TISSUES if synthetic else ())
    if not names:
        if weight:
            raise UserError(
                f"config.loss.segmentation={weight}, and config.data.mask_classes=(): name what "
                "the values of the masks mean, in their order from 0"
            )
        return image_set
    for part in lazy.chunks(image_set.masks):
        maps = image_set.masks[part]
        unknown = (maps >= len(names)) & (maps != IGNORE)
        if unknown.any():
            first = int(np.flatnonzero(unknown.any(axis=(1, 2)))[0])
            raise UserError(
                f"{image_set.files[part.start + first]}: its mask has the value "
                f"{maps[first][unknown[first]][0]}, and config.data.mask_classes names "
                f"{len(names)} (0 to {len(names) - 1}; {IGNORE} is ignored); correct one of them"
            )
    return dataclasses.replace(image_set, mask_classes=names)


def _max_bytes(config: ConfigDict) -> float:
    """Images of more than this are not held in memory."""
    if config.data.max_megabytes < 0:
        raise UserError(
            f"config.data.max_megabytes={config.data.max_megabytes}: expected 0 or more"
        )
    return float(config.data.max_megabytes) * 2**20


def _reorder(image_set: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    if set(classes) != set(image_set.classes):
        raise UserError(
            f"config.data.classes={classes}: the merged set has {image_set.classes}; name these"
        )
    new = np.array([classes.index(name) for name in image_set.classes], np.int32)
    return dataclasses.replace(image_set, labels=new[image_set.labels], classes=classes)


def _recipe(config: ConfigDict, classes: tuple[str, ...]) -> recipes.Recipe:
    data = config.data
    if data.path:
        path = Path(data.path).expanduser()
        corrupt, private = data.get("corrupt", "error"), bool(config.get("private", False))
        return recipes.from_path(path, data.image_size, classes, corrupt, private=private)
    names = ("normal", "early", "late")
    return recipes.from_synthetic(
        image_size=data.image_size,
        seed=data_seed(config),
        tiles={name: data.synthetic[name] for name in names},
        subjects={name: data.synthetic[f"{name}_subjects"] for name in names},
    )


def data_seed(config: ConfigDict) -> int:
    """Of images that are made before any split."""
    return config.seed if config.data.seed < 0 else config.data.seed


def split_seed(config: ConfigDict) -> int:
    """Of the split, which may differ from that of all else."""
    return config.seed if config.split.seed < 0 else config.split.seed


def split_images(
    config: ConfigDict, image_set: ImageSet, synthetic: bool, made: np.ndarray | None = None
) -> Images:
    """Split the set and add the augmented copies, in the order that the config sets.

    Args:
      config: of a run.
      image_set: its N images.
      synthetic: whether they are the embedded synthetic set.
      made: [N] str, their splits, where the caller has made them; without test images there are no
        figures of any.
    """
    assigned = made
    if assigned is None:
        image_set = without_outer_fold(config, copies_before_split(config, image_set))
        assigned = make_splits(config, image_set)
    refuse_unmasked(config, image_set, assigned)
    training = image_set.take(np.flatnonzero(assigned == "train"))
    how = changes(config)
    training = offline_augment.augmented_copies(training, config.augment.copies, config.seed, how)
    for images in (image_set, training):
        offline_augment.hold_copies(images, _max_bytes(config))
    ordered = is_ordered(config, image_set, synthetic)
    return Images(image_set, assigned, training, synthetic, config.split.by, ordered)


def refuse_unmasked(config: ConfigDict, image_set: ImageSet, assigned: np.ndarray) -> None:
    """Raise a UserError where validation masks are to choose the epoch, and there are none.

    Args:
      config: of the run.
      image_set: its images.
      assigned: [N] the split of each.
    """
    if config.select.metric != MASK_METRIC or not config.loss.segmentation:
        return
    if not len(with_masks(image_set, np.flatnonzero(assigned == "val"))):
        raise UserError(
            f"config.select.metric={MASK_METRIC}, and no validation image has a mask: set another "
            "metric, or enlarge the validation split"
        )


def copies_before_split(config: ConfigDict, image_set: ImageSet) -> ImageSet:
    """The images that are split: with augmented copies among them where the config sets these."""
    before = _parse_counts(config.augment.counts_before_split, "augment.counts_before_split")
    if not before:
        return image_set
    if config.split.by != "image":
        raise UserError(
            "config.augment.counts_before_split puts copies of one image into several splits; "
            "set config.split.by=image to repeat the paper's design, or empty the field"
        )
    single = {name: numbers[0] for name, numbers in before.items()}
    return offline_augment.augment_to_counts(image_set, single, data_seed(config), changes(config))


def without_outer_fold(config: ConfigDict, image_set: ImageSet) -> ImageSet:
    """The images that an inner fold of nested cross-validation may see; else all."""
    split = config.split
    if not split.outer_folds:
        return image_set
    assigned = splits.make_splits(
        image_set,
        by=split.by,
        fractions=(split.train, split.val, split.test),
        seed=split_seed(config),
        folds=split.outer_folds,
        fold=split.outer_fold,
    )
    return image_set.take(np.flatnonzero(assigned != "test"))


def make_splits(config: ConfigDict, image_set: ImageSet) -> np.ndarray:
    """[N] str of 'train', 'val', 'test', as the config sets them."""
    split = config.split
    return splits.make_splits(
        image_set,
        by=split.by,
        fractions=(split.train, split.val, split.test),
        seed=split_seed(config),
        counts=_parse_counts(split.counts, "split.counts") or None,
        folds=split.folds,
        fold=split.fold,
        test_subject=split.test_subject,
    )


def is_ordered(config: ConfigDict, image_set: ImageSet, synthetic: bool) -> bool:
    """Whether the classes are in order of severity; warns where the config does not name them."""
    ordered = bool(config.data.ordered) and len(image_set.classes) > 2
    if ordered and not (synthetic or config.data.classes):
        ordered = False
        _LOG.warning(
            "the classes are in the order of their names (%s): no kappa is given; name them in "
            "their order with --config.data.classes to have it",
            ", ".join(image_set.classes),
        )
    return ordered
