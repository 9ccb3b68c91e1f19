"""What a reader of a run must know before any figure: of its images, weights and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.data import dataset
from sscjax.data.dataset import ImageSet
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import tables
from sscjax.system import formatting
from sscjax.training.settings import Settings

# Share of the test images of one subject above which figures per image are warned of.
_LARGE_SHARE = 0.2

# Files that cannot be read which the report's first lines name.
_NAMED = 3


def left_out_warning(image_set: ImageSet) -> str:
    """How many images could not be read, and which."""
    names = [formatting.clean_file(name, 60) for name in image_set.skipped]
    count, more = len(names), ""
    if count > _NAMED:
        names, more = names[:_NAMED], f" and {count - _NAMED:,} more (the record has all)"
    return (
        f"{count:,} OF {count + len(image_set):,} IMAGES LEFT OUT, for they cannot be read:\n"
        f"{', '.join(names)}{more}."
    )


def names_classes(settings: Settings, synthetic: bool) -> bool:
    """Whether the order of the classes is known: the first is taken for healthy."""
    return bool(synthetic or settings.data.classes)


def stand_in(weights: Mapping[str, Any]) -> str:
    """What a run started from in place of ImageNet's weights: 'bundled', 'random', or ''.

    Args:
      weights: of the run's record.
    """
    if not weights.get("fallback"):
        return ""
    return "bundled" if weights["kind"] == "file" else "random"


def of_images(
    images: dataset.Images, *, fallback: str, named: bool = True, leaks: Sequence[str] = ()
) -> list[str]:
    """What a reader must know before any figure.

    Args:
      images: the run's images.
      fallback: what stands in for ImageNet's weights, see `stand_in`.
      named: whether the config names the classes in their order.
      leaks: what leaks by the audit, where the config allows it.
    """
    parts = []
    if leaks:
        parts.append(f"LEAKAGE ALLOWED BY THE CONFIG: {'; '.join(leaks)}.")
    if images.synthetic:
        parts.append(
            "SYNTHETIC IMAGES, drawn by a program: no figure here says anything about patients."
        )
    if fallback:
        parts.append(f"{tables.STAND_INS[fallback]}: no ImageNet weights could be had.")
    if images.by == "subject" and not images.has_subjects:
        parts.append(
            "NO SUBJECTS: every image counts as a subject of its own, so images of one patient\n"
            "may stand in training and test alike, and the figures are too good."
        )
    if images.originals.skipped:
        parts.append(left_out_warning(images.originals))
    unnamed, total = images.unnamed, len(images.originals)
    if images.by == "subject" and 0 < unnamed < total:
        parts.append(
            f"{unnamed} OF {total} IMAGES NAME NO SUBJECT: each of them counts as a subject of\n"
            "its own, so the figures are too good where patients have several."
        )
    if images.by == "subject" and images.one_image_each:
        parts.append(
            "ONE IMAGE PER SUBJECT: sound if each is another patient. If the subjects are but\n"
            "numbers of images, the figures are too good."
        )
    if images.by == "image":
        parts.append("SPLIT BY IMAGE: images of one subject stand in training and test alike.")
    if len(set(images.originals.subjects[images.splits == "test"].tolist())) == 1:
        parts.append(
            "ONE SUBJECT IS TESTED: figures of all classes need those of the other subjects, too."
        )
    if not named:
        healthy = formatting.clean_name(images.originals.classes[0])
        parts.append(
            f"CLASSES IN THE ORDER OF THEIR NAMES: {healthy} counts as healthy. If another does,\n"
            "give --classes in their order: else sensitivity and specificity are exchanged."
        )
    return parts


def of_one_subject(tested: Predictions) -> list[str]:
    """A warning where one subject has many of the test images, so that it decides their figures."""
    subject, share = tested.largest_share
    if share <= _LARGE_SHARE or len(tested) == len(set(tested.subjects.tolist())):
        return []
    return [
        f"ONE SUBJECT HAS {formatting.percent(share)} OF THE TEST IMAGES "
        f"({formatting.clean_name(subject, 40)}):\nread the figures per subject; those per image "
        "are mostly its own."
    ]
