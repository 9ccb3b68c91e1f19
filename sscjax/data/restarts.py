"""Numbers of patients that start again in each class, so that several people have one name."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from sscjax.data import folder_names, names

RESTART_OPTIONS = (
    "--config.data.shared_subjects=different if they are other patients in each class, or "
    "--config.data.shared_subjects=same if a patient has images in several classes"
)
"""What to give where the same names stand in several classes."""


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
    alike = sorted((sets[0][name] for name in common), key=folder_names.by_number)
    return [] if folder_names.are_ids(alike) else alike
