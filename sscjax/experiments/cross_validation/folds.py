"""The folds of a cross-validation: a config for each, every split checked before any training.

A fold is an ordinary run: its config alone gives the same images, the same split and the same
seeds, so that it can be trained again apart from the others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import dataset, sites
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.experiments import data_from_config
from sscjax.training import settings as run_settings
from sscjax.training.settings import Settings

# Kinds of several runs, each with its name in a report.
TITLES = {
    "repeated": "repeated hold-out",
    "kfold": "cross-validation",
    "nested": "nested cross-validation",
    "loso": "leave-one-subject-out cross-validation",
    "leave_one_site_out": "leave-one-site-out cross-validation",
}
# Kinds that test each image exactly once in each repeat.
EXHAUSTIVE = ("kfold", "nested", "loso", "leave_one_site_out")
# Kinds whose folds leave out one thing each, with the field that names it.
_LEFT_OUT = {"loso": "test_subject", "leave_one_site_out": "test_site"}

_DEFAULT_HOLDOUTS = 5

# What a seed is for: part of what it is derived from.
_SPLIT, _TRAINING, _INNER = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Fold:
    """One run of a cross-validation.

    Attributes:
      name: of its folder.
      repeat: which repeat of the whole it belongs to, from 0.
      config: of the run.
      tested: [K] int, indices of the tested images in the set.
      inner: the runs among which 'nested' chooses, made of the images that this fold does not test.
    """

    name: str
    repeat: int
    config: ConfigDict
    tested: np.ndarray
    inner: tuple[Fold, ...] = ()

    @property
    def settings(self) -> Settings:
        """Those of its config."""
        return run_settings.read(self.config)


def derived_seed(seed: int, *place: int) -> int:
    """A seed of its own for each place, 0 to 2**31 - 1, the same for the same arguments."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0] >> 1)


def plan(config: ConfigDict, image_set: ImageSet) -> list[Fold]:
    """All runs of `config.protocol`, in the order in which they are made.

    Args:
      config: whose `protocol` is one of `TITLES`.
      image_set: N images as they are split, copies that are made before the split among them.

    Raises:
      UserError: these images cannot be split so, or fields contradict it.
    """
    settings = run_settings.read(config)
    _check_fields(settings, image_set)
    # Splits depend on everything but the pixels, and the inner ones would copy these.
    light = dataclasses.replace(image_set, images=np.empty((len(image_set), 0)), masks=None)
    _check_holders(settings, light)
    if config.protocol in _LEFT_OUT:
        planned = _one_for_each(config, light, _LEFT_OUT[config.protocol])
    else:
        repeats = config.cv.repeats or (_DEFAULT_HOLDOUTS if config.protocol == "repeated" else 1)
        planned = [
            fold
            for repeat in range(repeats)
            for fold in _one_repeat(config, light, repeat, repeats)
        ]
    if config.protocol in EXHAUSTIVE:
        _check_each_once(planned, len(image_set))
    return planned


def _one_repeat(config: ConfigDict, image_set: ImageSet, repeat: int, repeats: int) -> list[Fold]:
    """The folds of one partition; of 'repeated', one hold-out."""
    seed = run_settings.read(config).split_seed
    # The first repeat has the folds that split.folds and split.fold give by hand.
    seed = derived_seed(seed, _SPLIT, repeat) if repeat else seed
    prefix = f"repeat_{_padded(repeat, repeats)}" if repeats > 1 else ""
    if config.protocol == "repeated":
        return [_fold(config, image_set, prefix or "repeat_0", repeat, 0, {"seed": seed})]
    count, partition = config.cv.folds, []
    for number in range(count):
        name = "-".join(filter(None, (prefix, f"fold_{_padded(number, count)}")))
        split = {"seed": seed, "folds": count, "fold": number}
        fold = _fold(config, image_set, name, repeat, number, split)
        if config.protocol == "nested":
            inner = _inner(config, image_set, fold, number)
            fold = dataclasses.replace(fold, inner=inner)
        partition.append(fold)
    return partition


def _one_for_each(config: ConfigDict, image_set: ImageSet, field: str) -> list[Fold]:
    """A fold for each subject or site, which `config.split.FIELD` names."""
    column = image_set.sites if field == "test_site" else image_set.subjects
    assert column is not None  # see `_check_sites`
    names, seed = np.unique(column).tolist(), run_settings.read(config).split_seed
    return [
        _fold(
            config,
            image_set,
            f"fold_{_padded(number, len(names))}",
            0,
            number,
            {"seed": seed, field: name},
        )
        for number, name in enumerate(names)
    ]


def _inner(config: ConfigDict, image_set: ImageSet, outer: Fold, number: int) -> tuple[Fold, ...]:
    """The folds of the images that `outer` does not test."""
    count, outer_split = config.cv.inner_folds, outer.config.split
    inner_folds = []
    for inner in range(count):
        split = {
            "seed": outer_split.seed,
            "outer_folds": outer_split.folds,
            "outer_fold": outer_split.fold,
            "folds": count,
            "fold": inner,
        }
        name = f"inner_{_padded(inner, count)}"
        where = f"{outer.name}, {name}"
        adapted = _adapted(config, split, _INNER, outer.repeat, number, inner)
        inner_folds.append(Fold(name, outer.repeat, adapted, _tested(adapted, image_set, where)))
    return tuple(inner_folds)


def _fold(
    config: ConfigDict,
    image_set: ImageSet,
    name: str,
    repeat: int,
    number: int,
    split: dict[str, Any],
) -> Fold:
    adapted = _adapted(config, split, _TRAINING, repeat, number)
    return Fold(name, repeat, adapted, _tested(adapted, image_set, name))


def _adapted(config: ConfigDict, split: dict[str, Any], *place: int) -> ConfigDict:
    """The config of one ordinary run: its part of the split, and seeds of its own."""
    adapted = config.copy_and_resolve_references()
    adapted.protocol = "holdout"
    # The images stay what they are, whatever the seed of the run.
    adapted.data.seed = run_settings.read(config).data_seed
    adapted.seed = derived_seed(config.seed, *place)
    adapted.split.update(split)
    return adapted


def _tested(config: ConfigDict, image_set: ImageSet, name: str) -> np.ndarray:
    """Indices of the tested images among those that the run may see."""
    try:
        settings = run_settings.read(config)
        seen = data_from_config.without_outer_fold(settings, image_set)
        return np.flatnonzero(data_from_config.make_splits(settings, seen) == "test")
    except UserError as error:
        numbers = "; or change config.cv.folds or config.cv.inner_folds"
        fix = numbers if config.split.folds else ""
        raise UserError(f"{name} cannot be split: {error}{fix}") from error


def _padded(number: int, count: int) -> str:
    """Names in the order of their numbers when they are sorted as text."""
    return f"{number:0{len(str(count - 1))}d}"


# --- checks -------------------------------------------------------------------------------------


def _check_fields(settings: Settings, image_set: ImageSet) -> None:
    kind, cv, split = settings.protocol, settings.cv, settings.split
    for name in ("folds", "outer_folds"):
        count = getattr(split, name)
        if count:
            raise UserError(
                f"config.split.{name}={count} is for one run by hand: set it to 0, for "
                f"config.protocol={kind!r} makes its own folds by config.cv.folds"
            )
    for name in _LEFT_OUT.values():
        if getattr(split, name):
            raise UserError(
                f"config.split.{name} is for one run by hand: empty it, for "
                f"config.protocol={kind!r} makes its own test sets"
            )
    if split.counts and kind != "repeated":
        raise UserError(
            f"config.split.counts prescribes one split: empty it for config.protocol={kind!r}"
        )
    if image_set.splits is not None:
        raise UserError(
            f"{image_set.source}: prescribes its splits, so config.protocol={kind!r} has nothing "
            "to split; set config.protocol=holdout or remove the split column"
        )
    if kind in _LEFT_OUT and split.by != "subject":
        raise UserError(
            f"config.protocol={kind!r} leaves out whole subjects, but config.split.by={split.by!r}:"
            " set it to 'subject'"
        )
    if kind in _LEFT_OUT and cv.repeats > 1:
        raise UserError(
            f"config.cv.repeats={cv.repeats}: leaving out each subject or site can be done in one "
            "way only; set it to 0, or take another config.protocol"
        )
    if kind == "leave_one_site_out":
        _check_sites(settings, image_set)


def _check_sites(settings: Settings, image_set: ImageSet) -> None:
    """Check that there are sites to leave out one after the other."""
    names = [] if image_set.sites is None else np.unique(image_set.sites).tolist()
    if len(names) < 2:
        found = f"all images are of the site {names[0]!r}" if names else "no image names its site"
        raise UserError(
            f"config.protocol={settings.protocol!r} leaves out one site after the other, but "
            f"{found}: add a column 'site' to manifest.csv, name the folder level in "
            "config.data.layout, such as {label}/{site}/{subject}/*, or set config.protocol=kfold"
        )
    if settings.split.sites == "mixed":
        raise UserError(
            f"config.split.sites='mixed' contradicts config.protocol={settings.protocol!r}: set it "
            "to 'auto'"
        )


def _check_holders(settings: Settings, image_set: ImageSet) -> None:
    """Check that each class has enough subjects (or images); the error names what would do."""
    kind, by = settings.protocol, settings.split.by
    if kind == "loso" and dataset.unnamed(image_set) == len(image_set):
        raise UserError(
            "config.protocol='loso' leaves out one subject after the other, but no image names "
            "its subject: add a column 'subject' to manifest.csv or a folder for each, or set "
            "config.protocol=kfold"
        )
    # One to test, one to train on, and one to validate, which a hold-out always sets aside first;
    # and of k folds each is to test one.
    roles = 3 if settings.validates or kind == "repeated" else 2
    apart = sites.kept_apart(image_set, settings.split.sites, by, settings.cv.folds)
    in_each = kind in ("kfold", "nested") and not apart
    least = max(roles, settings.cv.folds if in_each else 0)
    for label, name in enumerate(image_set.classes):
        of_class = image_set.labels == label
        groups = image_set.subjects if by == "subject" else image_set.files
        holders = len(set(groups[of_class].tolist()))
        if holders >= least:
            continue
        fix = f"add {by}s of this class, or merge classes (config.data.merge)"
        if holders >= roles:
            fix = f"set config.cv.folds={holders} or fewer, {fix}"
        raise UserError(
            f"class {name!r} has {holders} {by}(s), but config.protocol={kind!r} needs "
            f"{least} or more; {fix}"
        )


def _check_each_once(planned: list[Fold], images: int) -> None:
    for repeat in {fold.repeat for fold in planned}:
        tested = np.concatenate([fold.tested for fold in planned if fold.repeat == repeat])
        if not np.array_equal(np.sort(tested), np.arange(images)):
            raise AssertionError(f"the folds of repeat {repeat} do not test each image once")
