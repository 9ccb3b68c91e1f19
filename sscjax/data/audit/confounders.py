"""Whether something else than the tissue predicts the label: file size, format, colour, scale.

A scanner or a clinic that saw one class only leaves such a trace, and a network finds it. Each
property is averaged over the images of a subject, for subjects and not images are independent, and
each class is set against the others: an area under the ROC curve, and how often labels dealt to the
subjects at random would give one as far from 1/2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import special

from sscjax.data.csv_table import read_rows
from sscjax.data.image_folder import MANIFEST
from sscjax.data.image_io import read_header
from sscjax.errors import UserError

SHUFFLES = 10_000
LEAST_AREA = 0.75
"""Areas nearer to 1/2 than this are no confound that matters, however sure they are."""

LEVEL = 0.05
"""For all properties and classes together (Bonferroni): a warning should not be chance."""

_DEALS = 500  # at a time


@dataclasses.dataclass(frozen=True)
class Confound:
    """A property that separates a class from the others.

    Attributes:
      name: of the property.
      label: index of the class.
      area: ROC area of the property for the class, by subject, 0.5 to 1.
      higher: whether the class has more of it.
      p: share of random deals of the labels whose area is as far from 1/2, times the number of
        properties and classes looked at, at most 1.
    """

    name: str
    label: int
    area: float
    higher: bool
    p: float


def file_properties(paths: list[Path]) -> dict[str, np.ndarray]:
    """Properties of image files, by name: [N] float64 each; {} where a file cannot be read.

    Args:
      paths: [N], where the images lie.
    """
    sizes, widths, heights, formats = [], [], [], []
    try:
        for path in paths:
            kind, width, height = read_header(path)
            sizes.append(path.stat().st_size)
            widths.append(width)
            heights.append(height)
            formats.append(kind)
    except (OSError, UserError):
        return {}
    found = {
        "file size": np.array(sizes, float),
        "image width": np.array(widths, float),
        "image height": np.array(heights, float),
    }
    for kind in sorted(set(formats)):
        found[f"format {kind}"] = np.array([other == kind for other in formats], float)
    return found


def scales(root: Path, files: Sequence[str]) -> dict[str, np.ndarray]:
    """Resolution and magnification of images by the manifest beside them: [N] float64 each.

    Where some images have none, whether they have one is a property of its own.

    Args:
      root: folder that the files' names are relative to; `sscjax slides` writes its manifest there.
      files: [N] names of the images.
    """
    manifest = root / MANIFEST
    if not manifest.is_file():
        return {}
    found: dict[str, np.ndarray] = {}
    try:
        rows = {row["file"].replace("\\", "/"): row for _, row in read_rows(manifest, ("file",))}
    except UserError:
        return {}  # other tables than a manifest have other columns
    for column, name in (("mpp", "micrometres per pixel"), ("magnification", "magnification")):
        values = np.array([_number(rows.get(file, {}).get(column, "")) for file in files])
        known = ~np.isnan(values)
        if not known.any():
            continue
        found[name] = np.where(known, values, np.median(values[known]))
        if not known.all():
            found[f"known {name}"] = known.astype(float)
    return found


def _number(text: str) -> float:
    """A number such as `0.25` or `40x`; NaN for anything else."""
    try:
        return float(text.strip().rstrip("xX"))
    except ValueError:
        return float("nan")


def find(
    properties: Mapping[str, np.ndarray],
    labels: np.ndarray,
    subjects: np.ndarray,
    classes: int,
    seed: int = 0,
) -> list[Confound]:
    """Properties that separate a class from the others, the clearest first.

    Args:
      properties: by name, [N] float of each image.
      labels: [N] int; a subject counts for the class that most of its images have.
      subjects: [N].
      classes: how many there are.
      seed: of the random deals.
    """
    if not len(labels):
        return []
    of_subject, count, group = _labels_of_subjects(labels, subjects, classes)
    varying = {
        name: np.bincount(group, values) / count
        for name, values in properties.items()
        if np.ptp(values) > 0
    }
    present = [label for label in range(classes) if 0 < (of_subject == label).sum() < len(count)]
    if not varying or not present:
        return []
    ranks = np.stack([_midranks(means) for means in varying.values()], axis=1)
    area = _areas(of_subject[None], ranks, present)[0]
    rng = np.random.default_rng(seed)
    as_far = np.ones_like(area)  # the true deal is one of them
    for _ in range(SHUFFLES // _DEALS):
        deals = rng.permuted(np.tile(of_subject, (_DEALS, 1)), axis=1)
        as_far += (_areas(deals, ranks, present) >= area - 1e-12).sum(0)
    p = np.minimum(1.0, as_far / (SHUFFLES + 1) * area.size)
    found = [
        Confound(
            name,
            label,
            float(area[k, m]),
            bool(_is_higher(ranks[:, m], of_subject == label)),
            float(p[k, m]),
        )
        for k, label in enumerate(present)
        for m, name in enumerate(varying)
        if area[k, m] >= LEAST_AREA and p[k, m] <= LEVEL
    ]
    return sorted(found, key=lambda one: -one.area)


def can_find(labels: np.ndarray, subjects: np.ndarray, classes: int) -> bool:
    """Whether any property could be sure enough: with few subjects every deal of labels is likely.

    Args:
      labels: as in `find`.
      subjects: as in `find`.
      classes: as in `find`.
    """
    of_subject = _labels_of_subjects(labels, subjects, classes)[0]
    counts = np.bincount(of_subject, minlength=classes)
    present = counts[(counts > 0) & (counts < len(of_subject))]
    # Of one property the largest area has at least one deal in so many, and its mirror image.
    deals = special.comb(len(of_subject), present)
    return bool((2 / deals * len(present) <= LEVEL).any()) if len(present) else False


def _labels_of_subjects(
    labels: np.ndarray, subjects: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[S] the label that most images of a subject have, [S] its images, and [N] the subject."""
    _, group = np.unique(subjects, return_inverse=True)
    count = np.bincount(group)
    votes = np.zeros((len(count), classes))
    np.add.at(votes, (group, labels), 1)
    return votes.argmax(1), count, group


def _areas(deals: np.ndarray, ranks: np.ndarray, present: list[int]) -> np.ndarray:
    """Deals [R,S] of labels, ranks [S,M] of subjects: areas [R,L,M], each the larger side's."""
    found = []
    for label in present:
        chosen = (deals == label).astype(np.float64)
        ours = chosen[0].sum()
        others = chosen.shape[1] - ours
        found.append((chosen @ ranks - ours * (ours + 1) / 2) / (ours * others))
    areas = np.stack(found, axis=1)
    return np.maximum(areas, 1 - areas)


def _is_higher(ranks: np.ndarray, chosen: np.ndarray) -> bool:
    return bool(ranks[chosen].mean() > ranks[~chosen].mean())


def _midranks(values: np.ndarray) -> np.ndarray:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]
