"""`config.protocol='auto'`: how a set is tested, by the number of its patients."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from sscjax.data.dataset import ImageSet
from sscjax.training import settings as run_settings
from sscjax.training.settings import Settings

# From so many subjects on a single split leaves enough of them for the test.
HOLDOUT_FROM = 200

# Partitions into folds: how few patients are divided is a matter of luck.
REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a set is tested.

    Attributes:
      protocol: 'kfold' or 'holdout'.
      folds: of 'kfold'; else as the config says.
      repeats: likewise.
      reason: in a sentence or two, for people.
    """

    protocol: str
    folds: int
    repeats: int
    reason: str


def choose(settings: Settings, subjects: int, fewest: int) -> Choice:
    """The rule.

    Fewer than 200 subjects: cross-validation by subject, in `config.cv.folds` folds, or as many as
    the smallest class has subjects if these are fewer, `config.cv.repeats` times or 3 times.
    Otherwise one split.

    Args:
      settings: of the run, for `config.cv`.
      subjects: how many the set has.
      fewest: subjects of the class that has the fewest.

    Example:
      >>> choose(Settings(), 40, 10).reason
      '40 patients, fewer than 200: cross-validation by patient, 5 folds, 3 times'
    """
    folds, repeats = settings.cv.folds, settings.cv.repeats
    if subjects >= HOLDOUT_FROM:
        reason = f"{subjects} patients, {HOLDOUT_FROM} or more: one split by patient"
        return Choice("holdout", folds, repeats, reason)
    # A class with a single subject is refused later, with a message of its own.
    folds = max(2, min(folds, fewest))
    repeats = repeats or REPEATS
    times = "once" if repeats == 1 else f"{repeats} times"
    few = f" (a class has {fewest} patients)" if folds < settings.cv.folds else ""
    return Choice(
        "kfold",
        folds,
        repeats,
        f"{subjects} patients, fewer than {HOLDOUT_FROM}: cross-validation by patient, "
        f"{folds} folds{few}, {times}",
    )


def resolved(config: ConfigDict, image_set: ImageSet) -> tuple[ConfigDict, str]:
    """A config that says how it is tested, in place of 'auto', and why.

    Args:
      config: any; one with another protocol is returned as it is, with ''.
      image_set: its images. One that prescribes its splits is tested by these.
    """
    settings = run_settings.read(config)
    if settings.protocol != "auto":
        return config, ""
    changed = config.copy_and_resolve_references()
    if image_set.splits is not None:
        changed.protocol = "holdout"
        return changed, "the manifest prescribes the test images: these are tested"
    subjects = image_set.subjects
    of_classes = [
        len(set(subjects[image_set.labels == label].tolist()))
        for label in range(len(image_set.classes))
    ]
    choice = choose(settings, len(set(subjects.tolist())), min(of_classes))
    changed.protocol = choice.protocol
    changed.cv.folds, changed.cv.repeats = choice.folds, choice.repeats
    return changed, choice.reason
