"""Whether an exported file predicts as its run does, by its own runtime on real images.

A file that does not is deleted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.inputs import InputImage
from sscjax.errors import UserError
from sscjax.export import metadata, reference_images
from sscjax.export.reference_images import Sample
from sscjax.inference import classifier, predict
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs

# The largest difference of a probability, and of a distance (relative from 1 on), that float32 in
# another order of additions may make.
TOLERANCE = 1e-4

# The largest share of pixels whose mask class may change by it, where two are equally probable.
MASK_TOLERANCE = 1e-3

MOST_IMAGES = 200

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Runs an exported file: uint8 [N,S,S,3] to its outputs by their names in `metadata`."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Settings of an export beside the format.

    Attributes:
      data: where the run's images are now; None: where they were.
      ort_web: where onnxruntime-web is, of a page; None: fetched.
      intended_use: whom the file is meant for; None: as the run's config says.
    """

    data: str | None = None
    ort_web: Path | None = None
    intended_use: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """How far a file's predictions are from the run's.

    Attributes:
      images: how many were compared.
      split: of the run that they are from.
      probabilities: the largest difference.
      distances: the largest difference, relative where the distance is above 1.
      changed: images with another decision, by the rules of `decisions.decide`.
      pixels: share of the pixels of masks that differ; None without masks.
      accuracy: shares of right classes, (the run's, the file's).
      speed: images per second, (the file's, the run's), in batches of `classifier.BATCH` after a
        first one, which compiles and allocates; None where that is the only one.
    """

    images: int
    split: str
    probabilities: float
    distances: float
    changed: int
    pixels: float | None
    accuracy: tuple[float, float]
    speed: tuple[float | None, float | None]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "images": self.images,
            "split": self.split,
            "largest_difference": {
                metadata.PROBABILITIES: self.probabilities,
                metadata.DISTANCE: self.distances,
            },
            "decisions_changed": self.changed,
            **({} if self.pixels is None else {"mask_pixels_changed": self.pixels}),
            "accuracy": {"run": self.accuracy[0], "file": self.accuracy[1]},
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a format's `write` returns.

    Attributes:
      metadata: as in the file.
      agreement: with the run.
      notes: further lines for people.
    """

    metadata: Mapping[str, Any]
    agreement: Agreement
    notes: tuple[str, ...] = ()


def missing(error: ImportError) -> UserError:
    """What to raise where a package of the extra is not installed."""
    return UserError(
        f"the package {error.name} is not installed, and this format needs it: "
        "pip install 'sscjax[export]'"
    )


def sample(opened: Classifier, data: str | None) -> Sample:
    """Test images of the run to compare by, or what it has.

    Raises:
      UserError: see `reference_images.find`.
    """
    return reference_images.find(opened, data, ("test", "val", "train"), MOST_IMAGES)


def compare(opened: Classifier, run: Run, reference: Sample) -> Agreement:
    """Predict the same images by the run and by the file.

    The last batch is mostly smaller than the others: a file has to take any number of images.
    """
    batches = list(_batches(reference.images))
    expected, own_speed = _timed(iter(opened.outputs(batches)))
    exported, speed = _timed(_as_outputs(run(batch)) for batch in batches)
    gap = np.abs(exported.distances - expected.distances) / np.maximum(expected.distances, 1.0)
    by_run, by_file = _outcomes(opened, expected), _outcomes(opened, exported)
    return Agreement(
        images=len(reference),
        split=reference.split,
        probabilities=float(np.abs(exported.probabilities - expected.probabilities).max()),
        distances=float(gap.max()),
        changed=sum(before != after for before, after in zip(by_run, by_file, strict=True)),
        pixels=_mask_difference(expected.masks, exported.masks),
        accuracy=(_accuracy(expected, reference), _accuracy(exported, reference)),
        speed=(speed, own_speed),
    )


def demand(agreement: Agreement, name: str) -> None:
    """Raise a UserError unless the file agrees with its run.

    Args:
      agreement: by `compare`.
      name: of the file.
    """
    # Written so that a difference that is not a number fails, too.
    if not (agreement.probabilities <= TOLERANCE and agreement.distances <= TOLERANCE):
        raise UserError(
            f"{name} does not predict as the run does: on {agreement.images} images probabilities "
            f"differ by up to {agreement.probabilities:.2g} and distances by "
            f"{agreement.distances:.2g}, more than {TOLERANCE:g}; the file was deleted: try "
            "another version of its packages"
        )
    if not (agreement.pixels is None or agreement.pixels <= MASK_TOLERANCE):
        raise UserError(
            f"{name} does not predict as the run does: {100 * agreement.pixels:.3g} % of the "
            f"pixels of masks differ, more than {100 * MASK_TOLERANCE:g} %; the file was deleted: "
            "try another version of its packages"
        )


def _mask_difference(expected: np.ndarray | None, exported: np.ndarray | None) -> float | None:
    """Share of pixels that differ; 1 where shapes differ, or one is None; None where both are."""
    if expected is None and exported is None:
        return None
    if expected is None or exported is None or expected.shape != exported.shape:
        return 1.0
    return float((expected != exported).mean())


def _batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), classifier.BATCH):
        yield pixels[start : start + classifier.BATCH]


def _as_outputs(outputs: Mapping[str, np.ndarray]) -> Outputs:
    return Outputs(
        outputs[metadata.PROBABILITIES].astype(np.float64),
        outputs[metadata.DISTANCE].astype(np.float64),
        outputs.get(metadata.MASKS),
    )


def _timed(parts: Iterator[Outputs]) -> tuple[Outputs, float | None]:
    """Joined outputs, and images per second in the median of full batches after the first."""
    outputs, seconds = [next(parts)], []
    started = time.perf_counter()
    for part in parts:
        outputs.append(part)
        ended = time.perf_counter()
        if len(part.distances) == classifier.BATCH:
            seconds.append(ended - started)
        started = ended
    return Outputs.join(outputs), classifier.BATCH / float(np.median(seconds)) if seconds else None


def _outcomes(opened: Classifier, outputs: Outputs) -> list[str]:
    count = len(outputs.distances)
    images = [InputImage(Path(), str(number), str(number)) for number in range(count)]
    return predict.decide(opened, images, outputs).outcomes(opened.columns)


def _accuracy(outputs: Outputs, reference: Sample) -> float:
    return float((outputs.probabilities.argmax(axis=1) == reference.labels).mean())
