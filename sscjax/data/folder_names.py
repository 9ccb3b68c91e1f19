"""What a folder can be by its name alone: a part of a set, a patient, a level that is neither."""

from __future__ import annotations

import re
from collections.abc import Collection

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
