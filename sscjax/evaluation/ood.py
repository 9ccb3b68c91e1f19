"""A flag for out-of-distribution images: unlike those that the network was trained on.

A network gives probabilities for any image, a photograph of a cat as well. The flag looks at the
features that the network hands to its classifier, and only at their direction, because blank or
blurred images have weak features and would seem near. Their distance is Mahalanobis', under a
covariance of as many principal components as the training images allow, and an equal variance in
all other directions (Tipping and Bishop 1999, J. R. Statist. Soc. B 61: 611-622): a shrunk
covariance that has an inverse however few the images are, and that is kept in a small file without
any features of single patients.

Measured on features of MobileNetV2 (ImageNet) of prostate tiles, with a threshold that 5 % of the
validation tiles pass: all of noise, blank, text, photographs, blurred and inverted tiles are found,
as with the distance to the fifth nearest training image (Sun et al. 2022, ICML), which has to keep
the features of them all. By the features themselves in place of their direction, the first finds
39 % and the second 15 %.

It can be no better than the features: those of a network from random weights may find nothing. So
every run tries its flag on a few images that are clearly none of its own kind (`made_up`); one that
misses most of them is not used (`usable`). The rate is a target: with few held-out images, or
images of few patients, the real share of flagged images can be several times as high.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sscjax.errors import UserError
from sscjax.system.files import read_npz, write_bytes

# With fewer held-out images or subjects than these the rate of flagged images is not known.
FEWEST_IMAGES, FEWEST_SUBJECTS = 50, 10

# Share of the made-up images that a flag has to find.
_LEAST_FOUND = 0.5

METHOD = "Mahalanobis distance of the features' direction, principal components and noise"

# More components separated no better (16, 64 and 256 were tried).
MOST_COMPONENTS = 64

# Training images that each component needs.
_IMAGES_PER_COMPONENT = 5

# Below this share of the largest variance a direction holds nothing but rounding.
_SMALLEST_VARIANCE = 1e-6

# What a detector may have: that of the widest network here has a tenth of it.
_MOST_BYTES = 2**27

_ARRAYS = ("mean", "components", "variances", "noise", "threshold")


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """What a later program needs to flag images.

    Attributes:
      mean: [D] float32, of the training features' directions.
      components: [K,D] float32, orthonormal.
      variances: [K] float32 along the components, falling.
      noise: variance along every other direction.
      threshold: distances above it are flagged.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float
    threshold: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """[N] float64, 0 or more; about 1 for images like those of the training.

        The root of the mean squared distance over the D directions, each by its own deviation.

        Args:
          features: [N,D] as of the training.
        """
        offset = _directions(features) - self.mean
        along = offset @ self.components.T.astype(np.float64)
        rest = np.maximum((offset**2).sum(1) - (along**2).sum(1), 0.0)
        squared = (along**2 / self.variances).sum(1) + rest / self.noise
        return np.sqrt(squared / len(self.mean))

    def flag(self, features: np.ndarray) -> np.ndarray:
        """[N] bool, whether each image is unlike the training images."""
        return self.distances(features) > self.threshold

    def with_rate(self, held_out: np.ndarray, rate: float) -> Detector:
        """The same detector with its threshold set by images that it was not fitted on.

        Args:
          held_out: [N] distances of such images, one or more.
          rate: target share, in (0, 1), of images like these to be flagged. With few of them a
            small rate cannot be met: their largest distance is then the threshold.

        Raises:
          ValueError: there are none.
        """
        if not len(held_out):
            raise ValueError("a threshold needs the distance of one image or more")
        return dataclasses.replace(self, threshold=_quantile(held_out, rate))

    def save(self, path: Path | str) -> None:
        """Write the arrays as .npz, atomically; no pickle, and equal detectors give equal files."""
        memory = io.BytesIO()
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        np.savez(memory, allow_pickle=False, **arrays)
        write_bytes(path, memory.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Detector:
        """Read what `save` wrote.

        Raises:
          UserError: the file is missing or is not such a file.
        """
        try:
            arrays = read_npz(Path(path), _MOST_BYTES)
            mean, components, variances, noise, threshold = (arrays[name] for name in _ARRAYS)
            if components.shape != (len(variances), len(mean)):
                raise ValueError(f"components have shape {components.shape}")
            return cls(mean, components, variances, float(noise), float(threshold))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): it is written at the end of a run; give the "
                "run's command again"
            ) from error


def fit(training: np.ndarray) -> Detector:
    """A detector of training features, which flags nothing before it has a threshold.

    Args:
      training: [M,D] features of the training images.

    Raises:
      ValueError: there are none.
    """
    if not len(training):
        raise ValueError("a detector cannot be fitted without training images")
    directions = _directions(training)
    mean = directions.mean(axis=0)
    offset = directions - mean
    # Through the smaller of the two matrices of products.
    size, width = offset.shape
    if size <= width:
        values, vectors = np.linalg.eigh(offset @ offset.T)
        vectors = offset.T @ vectors
    else:
        values, vectors = np.linalg.eigh(offset.T @ offset)
    variances = np.maximum(values[::-1], 0.0) / max(size - 1, 1)
    vectors = vectors[:, ::-1]
    wanted = min(MOST_COMPONENTS, size // _IMAGES_PER_COMPONENT, width - 1)
    count = int((variances[:wanted] > _SMALLEST_VARIANCE * max(variances[0], 1e-12)).sum())
    components = (vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=0)).T
    noise = variances[count:].sum() / (width - count)
    noise = max(noise, _SMALLEST_VARIANCE * variances[0], 1e-12)
    return Detector(
        mean=mean.astype(np.float32),
        components=components.astype(np.float32),
        variances=variances[:count].astype(np.float32),
        noise=float(noise),
        threshold=np.inf,
    )


def out_of_fold_distances(features: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Distances of images, each from a detector fitted on the other folds: [N] float64.

    For features of one and the same frozen network. Where a network is trained in each fold, each
    fold's own detector and features give the distances of its held-out images.

    Args:
      features: [N,D] of the development images.
      folds: [N], the fold of each; all images of a subject are in one. Two folds or more.
    """
    distances = np.zeros(len(features))
    for fold in np.unique(folds):
        inside = folds == fold
        distances[inside] = fit(features[~inside]).distances(features[inside])
    return distances


def made_up(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Images that the flag should find, [N,H,W,3] uint8 by kind.

    Args:
      images: [N,H,W,3] uint8 of the run, which are inverted and set the size.
      seed: of the noise and the colours.
    """
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (len(images), 1, 1, 3), np.uint8)
    return {
        "noise": rng.integers(0, 256, images.shape, np.uint8),
        "one colour": np.broadcast_to(colours, images.shape),
        "stripes": _stripes(images.shape, rng),
        "inverted": 255 - images,
    }


def _stripes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Two colours in waves of any direction, 4 to 32 pixels long: uint8 of the shape."""
    count, height, width, _ = shape
    angle, period = rng.uniform(0, np.pi, count), rng.uniform(4, 32, count)
    first, second = rng.integers(0, 256, (2, count, 1, 1, 3))
    down, right = np.mgrid[:height, :width]
    along = np.cos(angle)[:, None, None] * right + np.sin(angle)[:, None, None] * down
    share = (1 + np.sin(2 * np.pi * along / period[:, None, None]))[..., None] / 2
    stripes: np.ndarray = (share * first + (1 - share) * second).round().astype(np.uint8)
    return stripes


def usable(made_up_flagged: Mapping[str, float]) -> bool:
    """Whether a flag finds most of the images that are made up to try it.

    Args:
      made_up_flagged: share flagged, 0 to 1, by kind.
    """
    shares = list(made_up_flagged.values())
    return not shares or sum(shares) / len(shares) >= _LEAST_FOUND


def warnings(images: int, subjects: int, made_up_flagged: Mapping[str, float]) -> list[str]:
    """What a reader of the flag must know, a line each.

    Args:
      images: held-out images that set its threshold.
      subjects: how many subjects these are of.
      made_up_flagged: see `usable`.
    """
    lines = []
    if not usable(made_up_flagged):
        shares = list(made_up_flagged.values())
        lines.append(
            f"The flag is not usable and is not applied: it finds only "
            f"{100 * sum(shares) / len(shares):.0f} % of the images made up to try it."
        )
    if images < FEWEST_IMAGES or subjects < FEWEST_SUBJECTS:
        lines.append(
            f"Its limit rests on {images} held-out images of {subjects} subjects "
            f"({FEWEST_IMAGES} of {FEWEST_SUBJECTS} or more are better): new patients may be "
            "flagged several times as often as the target says, or hardly ever."
        )
    return lines


def _quantile(distances: np.ndarray, rate: float) -> float:
    """The smallest of the distances that a new one of their kind exceeds at most at the rate.

    The (1 - rate)(n + 1)-th, as in conformal prediction (Vovk et al. 2005); the largest where
    there are too few.
    """
    rank = int(np.ceil((1 - rate) * (len(distances) + 1)))
    return float(np.sort(distances)[min(rank, len(distances)) - 1])


def _directions(features: np.ndarray) -> np.ndarray:
    """Features [N,D] float64 of length 1; those that are all 0 stay so."""
    wide = np.asarray(features, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
