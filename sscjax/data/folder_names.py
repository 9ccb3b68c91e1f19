"""What a folder can be by its name alone: a part of a set, a patient, a level that is neither."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from sscjax.data import names
from sscjax.data.layout import split_of

_PART = re.compile(
    r"(dev|development|eval|evaluation|validate|hold[ _-]?out|held[ _-]?out|fold|"
    r"(trainings?|test|validierungs?)daten)[ _-]?\d*",
    re.IGNORECASE,
)
_NUMBER_AROUND = re.compile(r"^\d+[ ._-]+|[ ._-]?\d+$")
_PATIENT = re.compile(r"(patient|pat|p|case|subject|subj|participant|proband)[ _-]?\d+", re.I)
_LEVEL = re.compile(
    r"(19|20)\d\d|(year|site|cent(er|re)|scanner|hospital|clinic|batch|cohort|fold)[ _-]?\w{1,3}",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(19|20)\d\d")

_CONTAINERS = frozenset(
    "image images img imgs picture pictures photo photos tile tiles patch patches data dataset "
    "mask masks label labels annotation annotations groundtruth gt segmentation segmentations "
    "trainimages testimages".split()
)
"""Names of folders that hold files of a kind and are no classes; as `names.key` without signs."""

# What file managers make of `late` where it is copied: Windows, macOS and GNOME, in four languages.
_COPY_WORD = r"(copy|kopie|copie|copia)"
_COPIES = (
    re.compile(rf"(?P<of>.+?)(?: -)? {_COPY_WORD}(?: ?\(?\d+\)?)?", re.IGNORECASE),
    re.compile(rf"(?P<of>.+?) \((?:another |\d+\w* )?{_COPY_WORD}(?: ?\d+)?\)", re.IGNORECASE),
    re.compile(r"(?P<of>.+?) ?\(\d+\)"),
    re.compile(rf"{_COPY_WORD}(?: \(?\d+\)?)? (?:of|von|de|di) (?P<of>.+)", re.IGNORECASE),
)


def is_part(name: str) -> bool:
    """Whether a folder is a part of a set, such as a split or a fold, in words of many kinds.

    Example:
      >>> is_part("01_train"), is_part("dev"), is_part("fold3"), is_part("tested")
      (True, True, True, False)
    """
    return bool(split_of(_NUMBER_AROUND.sub("", name)) or _PART.fullmatch(name.strip()))


def are_patients(names: Collection[str]) -> bool:
    """Whether all are numbered patients by their names, such as `p1` and `patient 07`."""
    return all(_PATIENT.fullmatch(name) for name in names)


def are_levels(names: Collection[str]) -> bool:
    """Whether all are years, sites, batches and the like, which are no patients."""
    return bool(names) and all(_LEVEL.fullmatch(name) for name in names)


def are_years(names: Collection[str]) -> bool:
    """Whether all may be years, and not numbers of patients."""
    return all(_YEAR.fullmatch(name) for name in names)


def copies(siblings: Collection[str]) -> dict[str, str]:
    """Folders that are copies of another beside them by their names, and that other.

    Args:
      siblings: names of folders beside each other.

    Example:
      >>> copies(["late", "late - Copy", "late (2)", "stage (1)"])
      {'late (2)': 'late', 'late - Copy': 'late'}
    """
    known = {names.key(name): name for name in siblings}
    found = {}
    for name in sorted(siblings):
        for pattern in _COPIES:
            match = pattern.fullmatch(name)
            original = known.get(names.key(match["of"])) if match else None
            if original is not None and original != name:
                found[name] = original
                break
    return found


def containers(siblings: Sequence[str]) -> list[str]:
    """Those that hold files of a kind by their name, or are numbered parts of one such folder."""
    if len({re.sub(r"\d", "", names.key(name)) for name in siblings}) == 1 < len(siblings):
        if _CONTAINERS & set(re.split(r"[^a-z]+", names.key(siblings[0]))):
            return list(siblings)
    found = [name for name in siblings if re.sub(r"[^a-z]", "", names.key(name)) in _CONTAINERS]
    if any("mask" in names.key(name) for name in siblings if name not in found):
        return [name for name in found if "mask" not in names.key(name)]  # over the face: a class
    return found


def has_digits(name: str) -> bool:
    """Whether a name holds a number."""
    return any(letter.isdigit() for letter in name)


def differ_in_a_number(siblings: Sequence[str]) -> bool:
    """Whether names differ in a number alone."""
    return len({re.sub(r"\d+", "0", one) for one in siblings}) == 1 and has_digits(siblings[0])


def are_ids(alike: Sequence[str]) -> bool:
    """Whether names are too long to be given twice by chance: four digits, no padding, no year."""
    return not are_years(alike) and all(
        len(re.sub(r"\D", "", name).lstrip("0")) >= 4 for name in alike
    )


def by_number(name: str) -> tuple[int, str]:
    """A key that sorts `p2` before `p10`."""
    digits = re.sub(r"\D", "", name)
    return (int(digits) if digits else 0, name)


def some(found: Iterable[str], most: int = 4) -> str:
    """The first few names, for messages."""
    ordered = sorted(found, key=by_number)
    more = f", ... ({len(ordered)})" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
