"""What the levels of a folder mean where nobody says so: certain, or refused with the options.

Only names and numbers of folders are looked at. What would be wrong without anybody noticing, such
as magnifications taken for patients, is refused with the likely meaning and the exact option.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from sscjax.data import folder_names, names
from sscjax.data.layout import Layout, found, option, path_option, split_of
from sscjax.errors import UserError

Folders = Collection[tuple[str, ...]]
"""Folders that hold images, each as the names from the set's folder down."""

_CONTAINERS = frozenset(
    "image images img imgs picture pictures photo photos tile tiles patch patches data dataset "
    "mask masks label labels annotation annotations groundtruth gt segmentation segmentations "
    "trainimages testimages".split()
)
"""Names of folders that hold files of a kind and are no classes; as `names.key` without signs."""

_MAGNIFICATION = re.compile(r"(x?\d+([.,]\d+)?x?|\d+([.,]\d+)?(mpp|um|µm))", re.IGNORECASE)
_TIMES = re.compile(r"x|mpp|um|µm", re.IGNORECASE)
_PATIENT = re.compile(r"(patient|pat|case|subject|subj|participant|proband|fall)", re.IGNORECASE)

# From so many folders at the top on, all numbered, they are patients rather than classes.
_MANY = 11

RESTART_OPTIONS = (
    "--config.data.shared_subjects=different if they are other patients in each class, or "
    "--config.data.shared_subjects=same if a patient has images in several classes"
)
"""What to give where the same names stand in every class."""

# Levels between class and patient have few names.
_FEW = 12


class NoClassesError(UserError):
    """The folders hold no level of classes: what they hold has to be listed in a table."""


@dataclasses.dataclass(frozen=True)
class _View:
    """Folders below one level of splits, or below the top.

    Attributes:
      folder: the set's folder, for messages.
      prefix: of the layout that was found so far: '' or 'split/'.
      dirs: the folders with images, from the first level that is no split down.
    """

    folder: str
    prefix: str
    dirs: Folders

    @property
    def tops(self) -> list[str]:
        return sorted({parts[0] for parts in self.dirs})

    def kids(self) -> dict[str, set[str]]:
        """For each name at the top those below it."""
        kids: dict[str, set[str]] = {top: set() for top in self.tops}
        for parts in self.dirs:
            if len(parts) > 1:
                kids[parts[0]].add(parts[1])
        return kids

    def level(self, number: int) -> list[str]:
        """Distinct names at a level, 0 the top."""
        return sorted({parts[number] for parts in self.dirs if len(parts) > number})

    def option(self, text: str) -> str:
        return option(self.prefix + text)

    def refusal(self, what: str, options: Sequence[str]) -> UserError:
        return UserError(f"{self.folder}: {what}; {' or '.join(options)}")


def guess(
    folder: str, dirs: Iterable[tuple[str, ...]], classes: Sequence[str] = (), shared: str = ""
) -> Layout:
    """Find out what the levels of a folder mean.

    Args:
      folder: for messages.
      dirs: the folders that hold images, as names from `folder` down; none is `folder` itself.
      classes: names of the classes where the config gives them.
      shared: `Reading.shared_subjects`; not '' says that the second level holds subjects.

    Raises:
      NoClassesError: no level can be one of classes.
      UserError: the levels can be read in several ways; the line gives the exact options.
    """
    view = _View(folder, "", set(dirs))
    if {names.key(name) for name in classes} >= {names.key(top) for top in view.tops}:
        _refuse_splits_inside(view)
        return _with_patients(view, shared)
    if len(view.tops) > 1:
        inside = _below_splits(view)
    else:
        inside = None
    return _classes_first(inside or view, shared, classes)


# --- splits ---------------------------------------------------------------------------------------


def _below_splits(view: _View) -> _View | None:
    """What lies below folders train, val and test; None where these are none."""
    split_like = [top for top in view.tops if split_of(top)]
    others = [top for top in view.tops if not split_of(top)]
    if len({split_of(top) for top in split_like}) < 2:
        if all(map(folder_names.is_part, view.tops)):
            likely = f"level/class{'/patient' if view.level(2) else ''}"
            raise view.refusal(
                f"the folders {_some(view.tops)} are splits or folds by their names; rename them "
                "train, val or test to read these",
                [f"{option(likely)} reads all without them"] * bool(view.level(1))
                + [f"{option('class')} if they are classes"],
            )
        _refuse_splits_inside(view)
        return None
    shown = ", ".join(split_like)
    if others:
        raise view.refusal(
            f"the folders {shown} are splits by their names, beside {_some(others)}; move these "
            "away to read the splits",
            [f"{option('class/patient')} takes all of them for classes"],
        )
    kids = view.kids()
    bare = [top for top in split_like if not kids[top] or (top,) in view.dirs]
    if not any(kids.values()):
        raise NoClassesError(
            f"{view.folder}: the folders {shown} are splits by their names and hold no class "
            "folders; expected split/class/image.png, or a table with a column for the image and "
            "one for the label"
        )
    if bare:
        raise view.refusal(
            f"the folders {shown} are splits by their names, and {_some(bare)} has images without "
            "a class folder",
            [
                "move those without a class away",
                path_option(f"{view.folder}/{_train(sorted(set(split_like) - set(bare)))}"),
            ],
        )
    inner = _View(view.folder, "split/", {parts[1:] for parts in view.dirs})
    common = set.intersection(*({names.key(name) for name in kids[top]} for top in split_like))
    if len(inner.tops) == 1 or (len(common) == 1 and _containers(inner.tops) == inner.tops):
        deeper = inner.level(1)
        if not deeper:
            raise NoClassesError(
                f"{view.folder}: the folders {shown} are splits by their names, and hold "
                f"{_some(inner.tops)} but no class folders; expected split/class/image.png, or a "
                "table with a column for the image and one for the label"
            )
        raise view.refusal(
            f"the folders {shown} are splits by their names, and {_some(inner.tops)} in them is no "
            f"class; the classes are probably {_some(deeper)}",
            [option("split/level/class")],
        )
    if len(common) < 2 and not _patients_first(inner):
        raise view.refusal(
            f"the folders {shown} are splits by their names, and have other folders in them "
            f"({'; '.join(f'{top}: {_some(kids[top])}' for top in split_like)}), expected the same "
            "classes in each",
            [
                path_option(f"{view.folder}/{_train(split_like)}") + " reads one of them",
                f"{option('split/class')} takes all names for classes",
            ],
        )
    return inner


def _refuse_splits_inside(view: _View) -> None:
    """Refuse train, val and test below the classes, which no patient is called."""
    below = view.level(1)
    if len({split_of(name) for name in below}) > 1 and all(split_of(name) for name in below):
        raise view.refusal(
            f"the folders {_some(below)} below the classes are splits by their names",
            [option("class/split")],
        )


# --- classes and patients -------------------------------------------------------------------------


def _classes_first(view: _View, shared: str, classes: Sequence[str] = ()) -> Layout:
    """class/patient or class, after looking for everything else that it could be."""
    below = view.level(1)
    wanted = {names.key(name) for name in classes}
    if wanted and {names.key(name) for name in below} <= wanted and below:
        if not {names.key(top) for top in view.tops} & wanted:
            return found(f"{view.prefix}patient/class")
    _refuse_no_classes(view)
    if _patients_first(view):
        raise view.refusal(
            f"found {len(view.tops)} folders ({_some(view.tops)}) with the same few names in them "
            f"({_some(below)}), which are probably the classes of {len(view.tops)} patients",
            [view.option("patient/class"), f"{view.option('class/patient')} if not"],
        )
    return _with_patients(view, shared)


def _with_patients(view: _View, shared: str) -> Layout:
    """class/patient or class, where the first level is that of the classes."""
    below = view.level(1)
    if below and _containers(below) == below and not view.level(2):
        return _with_containers(view, below)
    if shared:
        return found(f"{view.prefix}class/patient")
    _refuse_level_between(view, below)
    alike = alike_in_every_class(view.kids())
    if alike:
        raise _refuse_alike(view, alike)
    return found(f"{view.prefix}class/patient" if below else f"{view.prefix}class")


def _with_containers(view: _View, below: Sequence[str]) -> Layout:
    """class, where the folders in the classes hold files of a kind and are no patients."""
    if len(below) == 1 and all(len(parts) > 1 for parts in view.dirs):
        return found(f"{view.prefix}class")
    start = "{split}/{label}" if view.prefix else "{label}"
    raise view.refusal(
        f"the folders in the classes ({_some(below)}) hold files of a kind by their names and are "
        "no patients; move away what are no images",
        [option(f"{start}/**/*") + " then reads the images without patients"],
    )


def _patients_first(view: _View) -> bool:
    """Whether many folders hold the same few names, as in patient/class/image.png."""
    kids = view.kids()
    below = {names.key(name) for inner in kids.values() for name in inner}
    pairs = sum(len(inner) for inner in kids.values())
    repeated = 2 <= len(below) < len(kids) and pairs >= 2 * len(below) and all(kids.values())
    named = folder_names.are_patients(view.tops) and 0 < len(below) < len(kids)
    return (repeated or named) and not _ids(view.level(1))


def _refuse_no_classes(view: _View) -> None:
    tops, below = view.tops, view.level(1)
    containers = _containers(tops)
    if len(tops) == 1:
        inner = f"{view.folder}/{tops[0]}"
        if len(below) > 1:
            raise NoClassesError(
                f"{view.folder}: found only one class ({tops[0]!r}), and folders in it "
                f"({_some(below)}); {path_option(inner)} if these are the classes"
            )
        raise NoClassesError(
            f"{view.folder}: found only one class ({tops[0]!r}), expected at least two; add images "
            "of another class, or a table with a column for the image and one for the label"
        )
    if containers:
        deeper = [name for name in below if len(below) > 1]
        hint = (
            f"{path_option(view.folder + '/' + containers[0])} if {_some(deeper)} are the classes"
            if deeper
            else "give a table with a column for the image and one for the label"
        )
        message = (
            f"{view.folder}: {_some(containers)} names files and no class; {hint}, or "
            f"{view.option('class')} if it is a class all the same"
        )
        raise UserError(message) if deeper else NoClassesError(message)
    patients = all(_PATIENT.match(top) for top in tops) or folder_names.are_patients(tops)
    if not below and (patients or (len(tops) >= _MANY and _numbered(tops))):
        raise NoClassesError(
            f"{view.folder}: the {len(tops)} folders ({_some(tops)}) are probably patients, and "
            "nothing names their classes; expected class/patient/image.png or a table with "
            f"columns for image, label and patient, or {view.option('class')} if they are classes"
        )


def _refuse_level_between(view: _View, below: Sequence[str]) -> None:
    """Refuse what stands where the patients do and is none: magnifications, subtypes, a wrapper."""
    deeper = view.level(2)
    every = all(len(inner) == len(below) for inner in view.kids().values())
    scales = bool(below) and all(_MAGNIFICATION.fullmatch(name) for name in below)
    scales = scales and all(_TIMES.search(name) for name in below)
    scales = scales or folder_names.are_levels(below)
    single = len(below) == 1 and every and bool(deeper)
    few = len(below) <= _FEW and len(deeper) >= max(3 * len(below), 4)
    wordy = not any(map(_digits, below)) and sum(map(_digits, deeper)) * 2 > len(deeper)
    repeated = every and len(below) <= _FEW and len(deeper) > len(below) and len(view.tops) > 1
    if not below or not (scales or single or (few and wordy) or (repeated and not _ids(below))):
        return
    if not deeper:
        raise view.refusal(
            f"the folders in the classes ({_some(below)}) are no patients by their names, but "
            "magnifications, years or sites",
            [f"{view.option('{label}/{zoom}/*')} reads the images without patients"]
            if not view.prefix
            else [f"{view.option('class')} reads the images without patients"],
        )
    # The patients are where the most names are.
    depth = max(range(2, _depth(view)), key=lambda number: len(view.level(number)))
    likely = "/".join(["class", *["level"] * (depth - 1), "patient"])
    raise view.refusal(
        f"between class and patient stands another level ({_some(below)}); the patients are "
        f"probably {_some(view.level(depth))}, {depth - 1} level(s) deeper",
        [view.option(likely), f"{view.option('class/patient')} if {below[0]!r} is a patient"],
    )


def alike_in_every_class(of_class: Mapping[str, Collection[str]]) -> list[str]:
    """Names of subjects that stand in every class, as numbers that start again do; [] for others.

    Args:
      of_class: the subjects of each class.
    """
    sets = [{names.key(name): name for name in subjects} for subjects in of_class.values()]
    # One subject alone in its class says nothing of how the others are numbered.
    sets = [one for one in sets if len(one) > 1]
    if len(sets) < 2:
        return []
    for one, other in itertools.combinations(sets, 2):
        common = one.keys() & other.keys()
        if len(common) < 2 or 2 * len(common) < min(len(one), len(other)):
            return []
    common = set.intersection(*(set(one) for one in sets))
    alike = sorted((sets[0][name] for name in common), key=_by_number)
    return [] if _ids(alike) else alike


def _refuse_alike(view: _View, alike: Sequence[str]) -> UserError:
    what = f"the same names stand in every class folder ({_some(alike)})"
    if not any(map(_digits, alike)):
        return view.refusal(
            f"{what}: are they the classes, patients or something else",
            [
                f"{view.option('patient/class')} if they are the classes",
                "--config.data.shared_subjects=same if they are patients",
                f"{view.option('class')} if they are something else",
            ],
        )
    return view.refusal(
        f"{what}: the numbers of patients probably start again in each class, and "
        f"{sum(map(len, view.kids().values()))} patients would count as {len(view.level(1))}",
        [RESTART_OPTIONS],
    )


# --- names ----------------------------------------------------------------------------------------


def _depth(view: _View) -> int:
    return max(map(len, view.dirs))


def _containers(tops: Sequence[str]) -> list[str]:
    """Those that hold files of a kind by their name, or are numbered parts of one such folder."""
    if len({re.sub(r"\d", "", names.key(top)) for top in tops}) == 1 < len(tops):
        if _CONTAINERS & set(re.split(r"[^a-z]+", names.key(tops[0]))):
            return list(tops)
    return [top for top in tops if re.sub(r"[^a-z]", "", names.key(top)) in _CONTAINERS]


def _digits(name: str) -> bool:
    return any(letter.isdigit() for letter in name)


def _numbered(tops: Sequence[str]) -> bool:
    """Whether names differ in a number alone."""
    return len({re.sub(r"\d+", "0", top) for top in tops}) == 1 and _digits(tops[0])


def _ids(alike: Sequence[str]) -> bool:
    """Whether names are too long to be given twice by chance: four digits, no padding, no year."""
    return not folder_names.are_years(alike) and all(
        len(re.sub(r"\D", "", name).lstrip("0")) >= 4 for name in alike
    )


def _by_number(name: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", name)
    return (int(digits) if digits else 0, name)


def _train(splits: Sequence[str]) -> str:
    """The folder of the training images, if it is there."""
    return next((top for top in splits if split_of(top) == "train"), splits[0] if splits else "")


def _some(found: Iterable[str], most: int = 4) -> str:
    """The first few names."""
    ordered = sorted(found, key=_by_number)
    more = f", ... ({len(ordered)})" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
