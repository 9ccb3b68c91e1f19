"""Numbers that describe how an image was stained and scanned, and its texture.

Images of one slide have them in common, more than images of one diagnosis do. Light that passes
tissue is dimmed exponentially, so that stains add up as optical densities, minus the logarithm of
the share of light that passes (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23: 291-299).
"""

from __future__ import annotations

import numpy as np

# Of each of the 256 values of a pixel.
_DENSITIES = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)

_PIXELS = 32  # along each axis of an image, for its stain
_TISSUE = 0.1  # mean optical density: background lies below
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVELS = 4  # of the texture, each half as fine as the one before
_LEAST = 1e-5  # energies below are noise

FEATURES = 21 + 3 * len(_QUANTILES) + 3 * _LEVELS
"""Numbers that describe an image."""


def describe(pixels: np.ndarray) -> np.ndarray:
    """Stain and texture of images: [N,H,W,3] uint8 to [N,FEATURES] float32."""
    if not len(pixels):
        return np.zeros((0, FEATURES), np.float32)
    height, width = pixels.shape[1:3]
    density = _DENSITIES[pixels]
    rows = np.unique(np.linspace(0, height - 1, _PIXELS).astype(int))
    columns = np.unique(np.linspace(0, width - 1, _PIXELS).astype(int))
    few = density[:, rows][:, :, columns].reshape(len(pixels), len(rows) * len(columns), 3)
    tissue = (few.mean(2) > _TISSUE).astype(np.float32)
    tissue[tissue.sum(1) < 16] = 1  # an empty image is described as a whole
    parts = [_moments(few, tissue), _quantiles(few, tissue), _texture(density)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _moments(density: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """[N,21] of pixels [N,P,3], tissue [N,P] of 0 and 1.

    Means and covariances of the densities, their main direction and its variances; means and
    deviations of each channel's share in them.
    """
    weights = (tissue / tissue.sum(1, keepdims=True))[:, :, None]

    def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (values * weights).sum(1)
        centred = values - mean[:, None]
        return mean, (centred * weights).swapaxes(1, 2) @ centred

    mean, covariance = moments(density)
    share_mean, share_covariance = moments(density / np.maximum(density.sum(2), 1e-3)[:, :, None])
    upper = np.triu_indices(3)
    diagonal = np.arange(3)
    spread = np.sqrt(np.maximum(share_covariance[:, diagonal, diagonal], 0))
    values, vectors = np.linalg.eigh(covariance)
    main = vectors[:, :, 2] * np.sign(vectors[:, :1, 2] + 1e-9)
    parts = [
        mean,
        covariance[:, upper[0], upper[1]],
        share_mean,
        spread,
        main,
        np.log(np.maximum(values, _LEAST)),
    ]
    return np.concatenate(parts, axis=1)


def _quantiles(density: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Quantiles of each channel's density over tissue: [N,3 * len(_QUANTILES)]."""
    ordered = np.sort(np.where(tissue[:, :, None] > 0, density, np.inf), axis=1)
    last = tissue.sum(1, keepdims=True) - 1
    places = np.rint(last * np.array(_QUANTILES)).astype(int)
    return np.take_along_axis(ordered, places[:, :, None], axis=1).reshape(len(density), -1)


def _texture(density: np.ndarray) -> np.ndarray:
    """Log energies of what halving the resolution removes, over tissue: [N,3 * _LEVELS].

    Of the mean density, of red less blue, and of green less the mean. Images too small for all
    levels have the least energy there.
    """
    mean = density.mean(3)
    planes = np.stack([mean, density[..., 0] - density[..., 2], density[..., 1] - mean])
    tissue = (mean > _TISSUE).astype(np.float32)
    found = np.full((_LEVELS, 3, len(density)), np.log(_LEAST))
    for level in range(_LEVELS):
        if min(planes.shape[2:]) < 2:
            break
        quarters = _quarters(planes)
        coarse = np.mean(quarters, axis=0)
        tissue = np.prod(_quarters(tissue[None]), axis=0)[0]
        energy = np.mean([(part - coarse) ** 2 for part in quarters], axis=0)
        total = np.maximum(tissue.sum((1, 2)), 1)
        found[level] = np.log((energy * tissue).sum((2, 3)) / total + _LEAST)
        planes = coarse
    return found.reshape(-1, len(density)).T


def _quarters(planes: np.ndarray) -> list[np.ndarray]:
    """The four pixels [...,H/2,W/2] that become one; a last odd row or column is left out."""
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    return [planes[..., y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
