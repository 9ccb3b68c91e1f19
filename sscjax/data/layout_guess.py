"""What the levels of a folder mean where nobody says so: certain, or refused with the options.

Only names and numbers of folders are looked at. What would be wrong without anybody noticing, such
as magnifications taken for patients, is refused with the likely meaning and the exact option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sscjax.data import folder_names, names, restarts
from sscjax.data.folder_names import some
from sscjax.data.folder_view import NoClassesError, View
from sscjax.data.layout import Layout, found, option, path_option
from sscjax.data.layout_splits import below_splits, refuse_splits_inside
from sscjax.data.restarts import Restart
from sscjax.errors import UserError

_MAGNIFICATION = re.compile(r"(x?\d+([.,]\d+)?x?|\d+([.,]\d+)?(mpp|um|µm))", re.IGNORECASE)
_TIMES = re.compile(r"x|mpp|um|µm", re.IGNORECASE)
_PATIENT = re.compile(r"(patient|pat|case|subject|subj|participant|proband|fall)", re.IGNORECASE)

# From so many folders at the top on, all numbered, they are patients rather than classes.
_MANY = 11

# Levels between class and patient have few names.
_FEW = 12


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
    view = View(folder, "", set(dirs))
    if {names.key(name) for name in classes} >= {names.key(top) for top in view.tops}:
        refuse_splits_inside(view)
        return _with_patients(view, shared)
    if len(view.tops) > 1:
        inside = below_splits(view)
    else:
        inside = None
    return _classes_first(inside or view, shared, classes)


# --- classes and patients -------------------------------------------------------------------------


def _classes_first(view: View, shared: str, classes: Sequence[str] = ()) -> Layout:
    """class/patient or class, after looking for everything else that it could be."""
    below = view.level(1)
    wanted = {names.key(name) for name in classes}
    if wanted and {names.key(name) for name in below} <= wanted and below:
        if len(view.tops) > 1 and not {names.key(top) for top in view.tops} & wanted:
            return found(f"{view.prefix}patient/class")
    _refuse_no_classes(view)
    if view.patients_first():
        raise view.refusal(
            f"found {len(view.tops)} folders ({some(view.tops)}) with the same few names in them "
            f"({some(below)}), which are probably the classes of {len(view.tops)} patients",
            [view.option("patient/class"), f"{view.option('class/patient')} if not"],
        )
    return _with_patients(view, shared)


def _with_patients(view: View, shared: str) -> Layout:
    """class/patient or class, where the first level is that of the classes."""
    below = view.level(1)
    if below and folder_names.containers(below) == below and not view.level(2):
        return _with_containers(view, below)
    if shared:
        return found(f"{view.prefix}class/patient")
    _refuse_level_between(view, below)
    restart = restarts.find(view.kids())
    if restart is not None:
        raise _refuse_restart(view, restart)
    return found(f"{view.prefix}class/patient" if below else f"{view.prefix}class")


def _with_containers(view: View, below: Sequence[str]) -> Layout:
    """class, where the folders in the classes hold files of a kind and are no patients."""
    if len(below) == 1 and all(len(parts) > 1 for parts in view.dirs):
        return found(f"{view.prefix}class")
    start = "{split}/{label}" if view.prefix else "{label}"
    raise view.refusal(
        f"the folders in the classes ({some(below)}) hold files of a kind by their names and are "
        "no patients; move away what are no images",
        [option(f"{start}/**/*") + " then reads the images without patients"],
    )


def _refuse_no_classes(view: View) -> None:
    tops, below = view.tops, view.level(1)
    containers = folder_names.containers(tops)
    if len(tops) == 1:
        inner = f"{view.folder}/{tops[0]}"
        if len(below) > 1:
            raise NoClassesError(
                f"{view.folder}: found only one class ({tops[0]!r}), and folders in it "
                f"({some(below)}); {path_option(inner)} if these are the classes"
            )
        raise NoClassesError(
            f"{view.folder}: found only one class ({tops[0]!r}), expected at least two; add images "
            "of another class, or a table with a column for the image and one for the label"
        )
    if containers:
        deeper = [name for name in below if len(below) > 1]
        hint = (
            f"{path_option(view.folder + '/' + containers[0])} if {some(deeper)} are the classes"
            if deeper
            else "give a table with a column for the image and one for the label"
        )
        message = (
            f"{view.folder}: {some(containers)} names files and no class; {hint}, or "
            f"{view.option('class')} if it is a class all the same"
        )
        raise UserError(message) if deeper else NoClassesError(message)
    patients = all(_PATIENT.match(top) for top in tops) or folder_names.are_patients(tops)
    if not below and (patients or (len(tops) >= _MANY and folder_names.differ_in_a_number(tops))):
        raise NoClassesError(
            f"{view.folder}: the {len(tops)} folders ({some(tops)}) are probably patients, and "
            "nothing names their classes; expected class/patient/image.png or a table with "
            f"columns for image, label and patient, or {view.option('class')} if they are classes"
        )


def _refuse_level_between(view: View, below: Sequence[str]) -> None:
    """Refuse what stands where the patients do and is none: magnifications, subtypes, a wrapper."""
    deeper = view.level(2)
    every = all(len(inner) == len(below) for inner in view.kids().values())
    scales = bool(below) and all(_MAGNIFICATION.fullmatch(name) for name in below)
    scales = scales and all(_TIMES.search(name) for name in below)
    scales = scales or folder_names.are_levels(below)
    single = len(below) == 1 and every and bool(deeper)
    few = len(below) <= _FEW and len(deeper) >= max(3 * len(below), 4)
    wordy = not any(map(folder_names.has_digits, below)) and sum(
        map(folder_names.has_digits, deeper)
    ) * 2 > len(deeper)
    repeated = every and len(below) <= _FEW and len(deeper) > len(below) and len(view.tops) > 1
    if not below or not (
        scales or single or (few and wordy) or (repeated and not folder_names.are_ids(below))
    ):
        return
    if not deeper:
        raise view.refusal(
            f"the folders in the classes ({some(below)}) are no patients by their names, but "
            "magnifications, years or sites",
            [f"{view.option('{label}/{zoom}/*')} reads the images without patients"]
            if not view.prefix
            else [f"{view.option('class')} reads the images without patients"],
        )
    # The patients are where the most names are.
    depth = max(range(2, view.depth), key=lambda number: len(view.level(number)))
    likely = "/".join(["class", *["level"] * (depth - 1), "patient"])
    raise view.refusal(
        f"between class and patient stands another level ({some(below)}); the patients are "
        f"probably {some(view.level(depth))}, {depth - 1} level(s) deeper",
        [view.option(likely), f"{view.option('class/patient')} if {below[0]!r} is a patient"],
    )


def _refuse_restart(view: View, restart: Restart) -> UserError:
    if not any(map(folder_names.has_digits, restart.alike)):
        return view.refusal(
            f"the same names stand in every class folder ({some(restart.alike)}): are they the "
            "classes, patients or something else",
            [
                f"{view.option('patient/class')} if they are the classes",
                "--config.data.shared_subjects=same if they are patients",
                f"{view.option('class')} if they are something else",
            ],
        )
    return view.refusal(
        f"the same names stand in {restart.where} ({some(restart.alike)}): the numbers of "
        f"patients probably start again in each class, and {sum(map(len, view.kids().values()))} "
        f"patients would count as {len(view.level(1))}",
        [restarts.OPTIONS],
    )
