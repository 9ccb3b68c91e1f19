"""From a run's settings to its images: loaded, split, augmented."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from sscjax.data import anonymize, lazy, loading, offline_augment, sources, splits, tfds, understood
from sscjax.data.dataset import Images, ImageSet, with_masks
from sscjax.data.masks import IGNORE
from sscjax.data.synthetic import TISSUES, SkinBiopsies
from sscjax.errors import UserError
from sscjax.evaluation.metrics import MASK_METRIC
from sscjax.system import cache_dir
from sscjax.training.settings import Settings

_LOG = logging.getLogger(__name__)


def load_images(settings: Settings, *, say: bool = True) -> tuple[ImageSet, bool]:
    """The image set that the settings name, and whether it is the synthetic one.

    Args:
      settings: of the run.
      say: whether the log says what was read; not where the same set is read once more.

    Raises:
      UserError: images that cannot be read, or that do not have what the settings name.
    """
    data, classes = settings.data, settings.data.classes
    merge = data.merged_classes
    # The order of the merged classes is applied after merging.
    listed = () if merge else classes
    if data.tfds:
        image_set = tfds.load_tfds(
            data.tfds, data.image_size, classes=listed, max_bytes=data.max_bytes
        )
    else:
        source, folder = _source(settings, listed, say), cache_dir.cache_dir() / "prepared"
        # Before anything is decoded, which may take hours.
        _check_merged(source.listing.classes, merge, classes)
        image_set = loading.from_source(source, folder, data.storage, data.max_bytes)
    if merge:
        image_set = _merged(image_set, merge)
        if classes:
            image_set = _reorder(image_set, classes)
    image_set = _with_mask_classes(settings, image_set)
    loaded = anonymize.image_set(image_set) if settings.private else image_set
    return loaded, data.is_synthetic


def _check_merged(
    present: tuple[str, ...], merge: dict[str, str], classes: tuple[str, ...]
) -> None:
    """Raise a UserError where merging leaves one class, or others than the settings name."""
    if merge:
        applies = {old: new for old, new in merge.items() if old in present}
        merged = loading.merged_names(present, applies)
        if classes:
            _require_named(classes, merged)


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


def _with_mask_classes(settings: Settings, image_set: ImageSet) -> ImageSet:
    """The set with names for the values of its masks; every value that occurs has one."""
    weight, named = settings.loss.segmentation, settings.data.mask_classes
    if image_set.masks is None:
        if weight:
            raise UserError(
                f"config.loss.segmentation={weight}, and no image has a mask: put name_mask.png "
                "beside the images, or name masks in the manifest's column mask, or set 0"
            )
        return image_set
    names = named or (TISSUES if settings.data.is_synthetic else ())
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


def _reorder(image_set: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    _require_named(classes, image_set.classes)
    new = np.array([classes.index(name) for name in image_set.classes], np.int32)
    return dataclasses.replace(image_set, labels=new[image_set.labels], classes=classes)


def _require_named(classes: tuple[str, ...], merged: tuple[str, ...]) -> None:
    if set(classes) != set(merged):
        raise UserError(f"config.data.classes={classes}: the merged set has {merged}; name these")


def _source(settings: Settings, classes: tuple[str, ...], say: bool) -> sources.Source:
    """The images of a folder or a manifest, or the synthetic ones."""
    data = settings.data
    if data.path:
        path = Path(data.path).expanduser()
        source = sources.from_path(
            path,
            data.image_size,
            classes,
            data.corrupt,
            private=settings.private,
            reading=data.reading,
            # Nothing else looks at masks, and they may be of any kind.
            decoding=dataclasses.replace(
                data.decoding, masks=bool(settings.loss.segmentation or data.mask_classes)
            ),
        )
        source = sources.with_headers(source)
        for line in understood.text(source.listing.understood).splitlines() if say else ():
            _LOG.info("%s", line)
        return source
    counts = data.synthetic
    return SkinBiopsies(
        image_size=data.image_size,
        seed=settings.data_seed,
        tiles={"normal": counts.normal, "early": counts.early, "late": counts.late},
        subjects={
            "normal": counts.normal_subjects,
            "early": counts.early_subjects,
            "late": counts.late_subjects,
        },
    )


def split_images(
    settings: Settings, image_set: ImageSet, synthetic: bool, made: np.ndarray | None = None
) -> Images:
    """Split the set and add the augmented copies, in the order that the settings give.

    Args:
      settings: of a run.
      image_set: its N images.
      synthetic: whether they are the embedded synthetic set.
      made: [N] str, their splits, where the caller has made them; without test images there are no
        figures of any. Validation images that the run does not need are trained on, here as well.
    """
    augmentation = settings.augment
    if made is None:
        image_set = without_outer_fold(settings, copies_before_split(settings, image_set))
        assigned = make_splits(settings, image_set)
    else:
        assigned = made if settings.validates else splits.without_validation(made)
    refuse_unmasked(settings, image_set, assigned)
    training = offline_augment.augmented_copies(
        image_set.take(np.flatnonzero(assigned == "train")),
        augmentation.copies,
        settings.seed,
        augmentation.changes,
    )
    for images in (image_set, training):
        offline_augment.hold_copies(images, settings.data.max_bytes)
    ordered = is_ordered(settings, image_set, synthetic)
    return Images(image_set, assigned, training, synthetic, settings.split.by, ordered)


def refuse_unmasked(settings: Settings, image_set: ImageSet, assigned: np.ndarray) -> None:
    """Raise a UserError where validation masks are to choose the epoch, and there are none.

    Args:
      settings: of the run.
      image_set: its images.
      assigned: [N] the split of each.
    """
    if settings.select.metric != MASK_METRIC or not settings.loss.segmentation:
        return
    if not settings.validates:  # the stages themselves refuse the metric
        return
    if not len(with_masks(image_set, np.flatnonzero(assigned == "val"))):
        raise UserError(
            f"config.select.metric={MASK_METRIC}, and no validation image has a mask: set another "
            "metric, or enlarge the validation split"
        )


def copies_before_split(settings: Settings, image_set: ImageSet) -> ImageSet:
    """The images that are split: with augmented copies among them where the settings say so."""
    counts = settings.augment.images_before_split
    if not counts:
        return image_set
    changes = settings.augment.changes
    return offline_augment.augment_to_counts(image_set, counts, settings.data_seed, changes)


def without_outer_fold(settings: Settings, image_set: ImageSet) -> ImageSet:
    """The images that an inner fold of nested cross-validation may see; else all."""
    split = settings.split
    if not split.outer_folds:
        return image_set
    assigned = splits.make_splits(
        image_set,
        by=split.by,
        fractions=split.fractions,
        seed=settings.split_seed,
        folds=split.outer_folds,
        fold=split.outer_fold,
        keep_sites=split.sites,
    )
    return image_set.take(np.flatnonzero(assigned != "test"))


def make_splits(settings: Settings, image_set: ImageSet) -> np.ndarray:
    """[N] str of 'train', 'test' and, where the run validates, 'val', as the settings give them."""
    split = settings.split
    return splits.make_splits(
        image_set,
        by=split.by,
        fractions=split.fractions,
        seed=settings.split_seed,
        counts=split.exact_counts,
        folds=split.folds,
        fold=split.fold,
        test_subject=split.test_subject,
        keep_sites=split.sites,
        test_site=split.test_site,
        validation=settings.validates,
    )


def is_ordered(settings: Settings, image_set: ImageSet, synthetic: bool) -> bool:
    """Whether the classes are in order of severity; warns where the settings do not name them."""
    ordered = bool(settings.data.ordered) and len(image_set.classes) > 2
    if ordered and not (synthetic or settings.data.classes):
        ordered = False
        _LOG.warning(
            "classes in the order of their names (%s): no quadratic kappa; give --classes in order",
            ", ".join(image_set.classes),
        )
    return ordered
