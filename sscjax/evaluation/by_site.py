"""Figures of each site (hospital, scanner) on its own, with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.predictions import Predictions

MOST = 40
"""Sites with figures, those with the most subjects; of hundreds of sites no table can be read."""


def figures(
    images: Predictions, subjects: Predictions, ordered: bool, apart: bool
) -> dict[str, Any]:
    """Figures of the test rows of each site; {} where no site is known.

    Args:
      images: a row per image, of all splits or the test split alone.
      subjects: a row per subject.
      ordered: whether quadratic kappa has a meaning.
      apart: whether each site was tested by models that saw none of its images.

    Returns:
      apart; sites, by falling number of subjects: name, subjects, images, classes (that occur
      there), splits {'test': {'subject': ..., 'image': ...}} as of `metrics.figures_by_split`, and
      test_intervals as of `intervals.test_figures`; and left_out, the number of sites beyond
      `MOST`.

    Example:
      >>> import numpy as np
      >>> table = Predictions(
      ...     files=np.array(["1", "2", "3"]), subjects=np.array(["a", "b", "c"]),
      ...     splits=np.array(["test"] * 3), labels=np.array([0, 1, 1]),
      ...     probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), classes=("x", "y"),
      ...     sites=np.array(["A", "A", "B"]),
      ... )
      >>> found = figures(table, table.by_subject(), ordered=False, apart=True)["sites"]
      >>> [(one["name"], one["splits"]["test"]["subject"]["accuracy"]) for one in found]
      [('A', 1.0), ('B', 0.0)]
    """
    images, subjects = images.where("test"), subjects.where("test")
    if images.sites is None or subjects.sites is None or not len(images):
        return {}
    names = np.unique(images.sites).tolist()
    counts = {name: len(set(images.subjects[images.sites == name].tolist())) for name in names}
    names.sort(key=lambda name: (-counts[name], name))
    entries = []
    for name in names[:MOST]:
        here, of_subjects = images.take(images.sites == name), subjects.take(subjects.sites == name)
        entries.append(
            {
                "name": name,
                "subjects": counts[name],
                "images": len(here),
                "classes": [images.classes[label] for label in np.unique(here.labels)],
                "splits": metrics.figures_by_split(here, ordered, of_subjects),
                "test_intervals": intervals.test_figures(here, ordered, subjects=of_subjects),
            }
        )
    return {"apart": apart, "sites": entries, "left_out": len(names) - len(entries)}
