"""Numbers of patients that start again in each class, so that several people have one name."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sscjax.data import folder_names, names

OPTIONS = (
    "--config.data.shared_subjects=different if they are other patients in each class, or "
    "--config.data.shared_subjects=same if a patient has images in several classes"
)
"""What to give where the same names stand in several classes."""


class Restart(NamedTuple):
    """Names of subjects that stand in several classes.

    Attributes:
      alike: the names that these classes have in common.
      classes: the classes.
      every: whether these are all classes of more than one subject.
    """

    alike: list[str]
    classes: tuple[str, ...]
    every: bool

    @property
    def where(self) -> str:
        """The classes, for messages: 'every class', or their names."""
        return "every class" if self.every else f"the classes {' and '.join(self.classes)}"


def find(of_class: Mapping[str, Collection[str]]) -> Restart | None:
    """Whether names stand in several classes as numbers that start again do.

    In all classes any names may; in some of them only numbers, as people have names of their own.

    Args:
      of_class: the subjects of each class.

    Example:
      >>> find({"ill": ["1", "2", "3"], "well": ["1", "2"], "rare": ["7", "8"]})
      Restart(alike=['1', '2'], classes=('ill', 'well'), every=False)
    """
    # One subject alone in its class says nothing of how the others are numbered.
    named = {
        label: {names.key(name): name for name in subjects}
        for label, subjects in of_class.items()
        if len(subjects) > 1
    }
    pairs = [pair for pair in itertools.combinations(named, 2) if _overlap(named, pair)]
    number = len(named) * (len(named) - 1) // 2
    if pairs and len(pairs) == number:
        alike = _common(named, tuple(named))
        return Restart(alike, tuple(named), True) if alike else None
    found = [Restart(_common(named, pair), pair, False) for pair in pairs]
    found = [one for one in found if one.alike and all(map(folder_names.has_digits, one.alike))]
    return max(found, key=lambda one: len(one.alike), default=None)


def _overlap(named: Mapping[str, Mapping[str, str]], pair: tuple[str, str]) -> bool:
    one, other = (named[label] for label in pair)
    common = one.keys() & other.keys()
    return len(common) >= 2 and 2 * len(common) >= min(len(one), len(other))


def _common(named: Mapping[str, Mapping[str, str]], classes: tuple[str, ...]) -> list[str]:
    """The names that classes have in common, [] where these are too long to be given twice."""
    common = set.intersection(*(set(named[label]) for label in classes))
    first = named[classes[0]]
    alike = sorted((first[name] for name in common), key=folder_names.by_number)
    return [] if folder_names.are_ids(alike) else alike
