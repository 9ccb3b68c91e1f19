"""The images that speak the most for each subject's answer, small, with their maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sscjax.data.inputs import InputImage, decode
from sscjax.inference import saliency
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble
from sscjax.reports import overlays
from sscjax.reports.html.predictions import Picture
from sscjax.system.progress import Progress

MOST, EACH = 500, 6
"""Images of a page, and of one subject in it: with so many, and their maps, it has some 17 MB."""

# Side in pixels that is enough to see what the network saw.
_SIDE = 192


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images to show.

    Attributes:
      rows: of each subject those of its images, the most decisive first.
      explained: of each row the class that its map is of, the subject's most probable one.
    """

    rows: list[list[int]]
    explained: dict[int, int]


def choose(images: Decisions, subjects: Decisions, most: int = MOST, each: int = EACH) -> Chosen:
    """The images of each subject with the highest probability of its most probable class.

    Args:
      images: a row per image.
      subjects: a row per subject.
      most: images in all. With many subjects each has fewer; beyond `most` subjects those that come
        later have none.
      each: images of one subject at most.
    """
    each = max(1, min(each, most // max(1, len(subjects))))
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(images.subjects.tolist()):
        rows_of.setdefault(name, []).append(row)
    rows, explained = [], dict[int, int]()
    for number, name in enumerate(subjects.names.tolist()):
        best = int(subjects.predicted[number])
        own = np.array(rows_of[name])
        order = np.argsort(-images.probabilities[own, best], kind="stable")
        shown = own[order][: each if number < most else 0].tolist()
        rows.append(shown)
        explained |= dict.fromkeys(shown, best)
    return Chosen(rows, explained)


def pictures(
    opened: Classifier | Ensemble, inputs: Sequence[InputImage], chosen: Chosen, drawn: bool
) -> dict[int, Picture]:
    """Small pictures of the chosen images by row, as the network sees them.

    Args:
      opened: the run.
      inputs: all images that were predicted.
      chosen: which of them are shown, by `choose`.
      drawn: whether with their maps.
    """
    rows = list(chosen.explained)
    made: dict[int, Picture] = {}
    batches = decode(
        [inputs[row] for row in rows], opened.image_size, saliency.BATCH, opened.decoding
    )
    with Progress("pictures", len(rows)) as progress:
        for batch in batches:
            of_batch = [rows[place] for place in batch.rows]
            if of_batch and drawn:
                classes = np.array([chosen.explained[row] for row in of_batch])
                heat = opened.heat(batch.images, classes)
                maps = [
                    overlays.jpeg_uri(overlays.overlay(*pair), _SIDE)
                    for pair in zip(batch.images, heat, strict=True)
                ]
            else:
                maps = [""] * len(of_batch)
            for row, pixels, uri in zip(of_batch, batch.images, maps, strict=True):
                made[row] = Picture(
                    overlays.jpeg_uri(pixels, _SIDE), uri, opened.columns[chosen.explained[row]]
                )
            progress.advance(len(batch.rows) + len(batch.failed))
    return made
