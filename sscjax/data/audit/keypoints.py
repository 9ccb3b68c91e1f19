"""Keypoints of small grey images, described so that neither rotation nor scale matters.

Keypoints are the extrema of differences of Gaussians over place and scale (Lowe 2004, International
Journal of Computer Vision 60: 91-110). A descriptor samples rings around a keypoint, in units of
its scale, and holds the Fourier coefficients of each ring over the angle: a rotation changes their
phases only, and turning all by the phase of the first harmonic (the direction in which the
surroundings get brighter) removes it. Mirroring an image conjugates the coefficients, so that a
mirrored copy is looked for without describing it again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

MOST = 120
"""Keypoints of one image, the strongest."""

# Blurs of the pyramid, in pixels of an image of 128: three to an octave, over two octaves and more,
# so that a crop of half the side, enlarged, has keypoints in common with its source.
_SIGMAS = 1.0 * 2 ** (np.arange(11) / 3)
_OWN_BLUR = 0.5  # of an image as it is read, in pixels
# Least difference of Gaussians, in grey levels: noise and JPEG blocks stay below.
_LEAST_CONTRAST = 0.7
# Largest ratio of the two curvatures: along an edge a keypoint has no place (Lowe's value).
_EDGE = 10.0
# Radii in units of a keypoint's sigma; how many levels blurrier each ring is read; and samples.
_RADII = np.array([1.2, 2.4, 3.8, 5.4, 7.2])
_BLURRIER = np.array([-1, 0, 0, 1, 1])
_ANGLES = 16
_HARMONICS = 6
# Share of samples that must lie within the image.
_LEAST_INSIDE = 0.75

# The imaginary parts, which change their sign in a mirrored image, come last.
MIRROR = np.repeat(
    np.array([1, -1], np.float32), [len(_RADII) * (_HARMONICS + 1), len(_RADII) * _HARMONICS]
)
"""[D] float32: times a descriptor, the descriptor that a mirrored image has there."""


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """K keypoints of all images, ordered by image.

    Attributes:
      image: [K] int32, number of the image.
      position: [K] complex64, column + i row of the centre, in pixels.
      frame: [K] complex64, the scale (modulus, pixels) and the direction (argument).
      descriptor: [K,D] float32 of length 1.
    """

    image: np.ndarray
    position: np.ndarray
    frame: np.ndarray
    descriptor: np.ndarray


def detect(grey: np.ndarray, first_image: int = 0) -> Keypoints:
    """The keypoints of images.

    Args:
      grey: [N,S,S] uint8 or float, S from 32 to about 128.
      first_image: number of the first of them.
    """
    pyramid = _pyramid(grey.astype(np.float32))
    where = _extrema(pyramid)
    image, position, level = _refined(pyramid, *where)
    samples, inside = _samples(pyramid, image, position, level)
    keep = inside >= _LEAST_INSIDE
    image, position, level, samples = image[keep], position[keep], level[keep], samples[keep]
    coefficients = np.fft.rfft(samples, axis=2)[:, :, : _HARMONICS + 1].astype(np.complex64)
    direction = np.angle((coefficients[:, :, 1] * _RADII.astype(np.float32)).sum(1))
    sigma = _SIGMAS[0] * 2 ** (level / 3)
    return Keypoints(
        (image + first_image).astype(np.int32),
        (position[:, 1] + 1j * position[:, 0]).astype(np.complex64),
        (sigma * np.exp(-1j * direction)).astype(np.complex64),
        _descriptors(coefficients, direction),
    )


def join(parts: list[Keypoints]) -> Keypoints:
    """One table of several, at least one."""
    fields = [field.name for field in dataclasses.fields(Keypoints)]
    return Keypoints(*(np.concatenate([getattr(p, name) for p in parts]) for name in fields))


@functools.cache
def blur_matrix(side: int, sigma: float) -> np.ndarray:
    """[side,side] float32: a Gaussian blur along one axis as a matrix, mirrored at the edges."""
    distance = np.arange(-3 * side, 3 * side + 1)
    kernel = np.exp(-0.5 * np.square(distance / sigma))
    kernel /= kernel.sum()
    matrix = np.zeros((side, side))
    source = np.arange(side)[:, None] + distance
    source %= 2 * side
    source = np.minimum(source, 2 * side - 1 - source)
    np.add.at(matrix, (np.arange(side)[:, None], source), kernel)
    return matrix.astype(np.float32)


def _pyramid(grey: np.ndarray) -> np.ndarray:
    """[N,S,S] to [N,L,S,S] float32: blurred by each of the sigmas."""
    side = grey.shape[-1]
    sigmas = np.sqrt(np.square(_SIGMAS) - _OWN_BLUR**2)
    levels = [blur_matrix(side, float(s)) @ grey @ blur_matrix(side, float(s)).T for s in sigmas]
    return np.stack(levels, axis=1)


def _extrema(pyramid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image, level, row and column of the strongest extrema, [K] int each, ordered by image."""
    dog = pyramid[:, 1:] - pyramid[:, :-1]
    inner = dog[:, 1:-1, 1:-1, 1:-1]
    # Most pixels drop out against the six nearest; only the rest are compared with all 26.
    largest = inner >= _LEAST_CONTRAST
    smallest = inner <= -_LEAST_CONTRAST
    for axis in (1, 2, 3):
        for start in (0, 2):
            cut = [slice(1, -1)] * 3
            cut[axis - 1] = slice(start, dog.shape[axis] - 2 + start)
            neighbour = dog[(slice(None), *cut)]
            largest &= inner > neighbour
            smallest &= inner < neighbour
    image, level, row, column = np.nonzero(largest | smallest)
    level, row, column = level + 1, row + 1, column + 1
    value = dog[image, level, row, column]
    strength = np.abs(value)
    extreme = _is_round(dog, image, level, row, column)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if np.abs(offset).sum() > 1:
            other = dog[image, level + offset[0], row + offset[1], column + offset[2]]
            extreme &= other * np.sign(value) < strength
    index = np.flatnonzero(extreme)
    order = index[np.lexsort((-strength[index], image[index]))]
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    chosen = order[rank < MOST]
    return image[chosen], level[chosen], row[chosen], column[chosen]


def _is_round(
    dog: np.ndarray, n: np.ndarray, k: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    centre = 2 * dog[n, k, y, x]
    yy = dog[n, k, y + 1, x] + dog[n, k, y - 1, x] - centre
    xx = dog[n, k, y, x + 1] + dog[n, k, y, x - 1] - centre
    xy = dog[n, k, y + 1, x + 1] - dog[n, k, y + 1, x - 1]
    xy = (xy - dog[n, k, y - 1, x + 1] + dog[n, k, y - 1, x - 1]) / 4
    determinant = xx * yy - np.square(xy)
    return (determinant > 0) & (np.square(xx + yy) * _EDGE < np.square(_EDGE + 1) * determinant)


def _refined(
    pyramid: np.ndarray, n: np.ndarray, k: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, [K,2] row and column, and [K] level, to a fraction, by parabolas along each axis."""

    def value(dk: int, dy: int, dx: int) -> np.ndarray:
        return pyramid[n, k + dk + 1, y + dy, x + dx] - pyramid[n, k + dk, y + dy, x + dx]

    centre = value(0, 0, 0)

    def offset(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        curvature = before + after - 2 * centre
        safe = np.where(np.abs(curvature) < 1e-6, 1e-6, curvature)
        return np.clip(0.5 * (before - after) / safe, -0.5, 0.5)

    row = y + offset(value(0, -1, 0), value(0, 1, 0))
    column = x + offset(value(0, 0, -1), value(0, 0, 1))
    level = k + offset(value(-1, 0, 0), value(1, 0, 0))
    return n, np.stack([row, column], axis=1), level


def _samples(
    pyramid: np.ndarray, image: np.ndarray, position: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[K,rings,angles] float32 of mean 0 and length 1, and [K] the share within the image."""
    levels, side = pyramid.shape[1:3]
    sigma = _SIGMAS[0] * 2 ** (level / 3)
    angles = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    reach = sigma[:, None, None] * _RADII[:, None]
    row = (position[:, 0, None, None] + reach * np.sin(angles)).astype(np.float32)
    column = (position[:, 1, None, None] + reach * np.cos(angles)).astype(np.float32)
    inside = ((row >= 0) & (row <= side - 1) & (column >= 0) & (column <= side - 1)).mean((1, 2))
    row, column = np.clip(row, 0, side - 1), np.clip(column, 0, side - 1)
    top = np.minimum(row.astype(np.int32), side - 2)
    left = np.minimum(column.astype(np.int32), side - 2)
    depth = np.clip(np.rint(level)[:, None].astype(np.int32) + _BLURRIER, 0, levels - 1)
    base = (image[:, None] * levels + depth)[:, :, None] * side * side + top * side + left
    flat = pyramid.reshape(-1)
    down, along = row - top, column - left
    upper = flat[base] * (1 - along) + flat[base + 1] * along
    lower = flat[base + side] * (1 - along) + flat[base + side + 1] * along
    samples = upper * (1 - down) + lower * down
    samples -= samples.mean((1, 2), keepdims=True)
    lengths = np.sqrt(np.square(samples).sum((1, 2), keepdims=True))
    return samples / np.maximum(lengths, 1e-6), inside


def _descriptors(coefficients: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """[K,rings,harmonics] complex64, turned by `direction`: [K,D] float32."""
    turns = np.exp(-1j * direction[:, None] * np.arange(_HARMONICS + 1)).astype(np.complex64)
    turned = coefficients * turns[:, None]
    # The sizes by name: NumPy cannot infer a -1 beside a count of 0.
    rings = len(_RADII)
    real = turned.real.reshape(len(turned), rings * (_HARMONICS + 1))
    imaginary = turned.imag[:, :, 1:].reshape(len(turned), rings * _HARMONICS)
    descriptor = np.concatenate([real, imaginary], axis=1)
    return descriptor / np.maximum(np.linalg.norm(descriptor, axis=1, keepdims=True), 1e-6)
