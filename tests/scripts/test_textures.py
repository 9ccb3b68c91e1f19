"""Drawn textures: ranges and repeatability, and labels that the pictures bear out.

Each family's parameters are measured in its fields by figures that know nothing of the generator:
power spectra, counted components, covered shares, structure tensors.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from pretrain_textures import draw, fields, scanner  # noqa: E402

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("quick_compiler")]

SIZE, COUNT = 48, 24

Figure = Callable[[np.ndarray], float]


@functools.cache
def fields_of(name: str, index: int, value: float) -> tuple[np.ndarray, ...]:
    """Three pigments [COUNT,S,S], all parameters at one half but one."""
    parameters = jnp.full((COUNT, draw.PARAMETERS), 0.5).at[:, index].set(value)
    pigments = draw.pigments(name, jax.random.key(index), parameters, SIZE)
    return tuple(np.asarray(field) for field in pigments)


# --- figures of one field [S,S] -------------------------------------------------------------------


def frequency(field: np.ndarray) -> float:
    """Mean frequency by power, cycles per pixel."""
    power = np.abs(np.fft.fft2(field - field.mean())) ** 2
    line = np.fft.fftfreq(SIZE)
    return float((power * np.hypot(line[:, None], line[None])).sum() / power.sum())


def slope(field: np.ndarray) -> float:
    """Of the power spectrum over the logarithm of frequency."""
    power = np.abs(np.fft.fft2(field - field.mean())) ** 2
    line = np.fft.fftfreq(SIZE)
    radius = np.hypot(line[:, None], line[None])
    middle = (radius > 0.04) & (radius < 0.25)
    return float(np.polyfit(np.log(radius[middle]), np.log(power[middle] + 1e-9), 1)[0])


def coherence(field: np.ndarray) -> float:
    """Of the structure tensor over the whole field: 0 without a direction, 1 with one alone."""
    down, across = np.gradient(field)
    xx, yy, xy = (across**2).mean(), (down**2).mean(), (across * down).mean()
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def components(field: np.ndarray) -> float:
    """Number of connected places above a half."""
    return float(ndimage.label(field > 0.5)[1])


def holes(field: np.ndarray) -> float:
    """Number of connected places of more than nine pixels that are nearly empty."""
    labels, count = ndimage.label(field < 0.1)
    return float((np.bincount(labels.ravel(), minlength=count + 1)[1:] > 9).sum())


def share(field: np.ndarray) -> float:
    """Of the pixels above 0.35."""
    return float((field > 0.35).mean())


def empty(field: np.ndarray) -> float:
    """Share of the pixels that are nearly 0."""
    return float((field < 0.1).mean())


def crossings(field: np.ndarray) -> float:
    """How often rows cross the middle between the field's extremes."""
    above = field > (field.min() + field.max()) / 2
    return float((above[:, 1:] != above[:, :-1]).mean())


def roughness(field: np.ndarray) -> float:
    """Mean change between neighbours over the deviation."""
    return float(np.abs(np.diff(field)).mean() / (field.std() + 1e-6))


def body(fields_: tuple[np.ndarray, ...]) -> np.ndarray:
    return fields_[0] + fields_[1]


def first(fields_: tuple[np.ndarray, ...]) -> np.ndarray:
    return fields_[0]


def second(fields_: tuple[np.ndarray, ...]) -> np.ndarray:
    return fields_[1]


def third(fields_: tuple[np.ndarray, ...]) -> np.ndarray:
    return fields_[2]


# Family, index of the parameter, of which field, which figure, and whether it grows with it.
CLAIMS: list[tuple[str, int, Callable[..., np.ndarray], Figure, bool]] = [
    ("fibres", 0, second, frequency, False),
    ("fibres", 1, second, coherence, False),
    ("fibres", 2, second, share, True),
    ("bundles", 0, second, frequency, False),
    ("bundles", 2, second, empty, True),
    ("cells", 0, first, components, False),
    ("cells", 1, first, share, True),
    ("cells", 3, first, share, True),
    ("glands", 0, body, frequency, False),
    ("glands", 1, body, empty, False),
    ("glands", 3, body, empty, True),
    ("epithelium", 3, first, components, False),
    ("epithelium", 5, third, share, True),
    ("fat", 0, body, holes, False),
    ("fat", 1, body, empty, False),
    ("vessels", 2, second, empty, False),
    ("vessels", 5, third, share, True),
    ("infiltrate", 1, first, share, True),
    ("infiltrate", 5, second, share, True),
    ("voronoi", 0, first, frequency, False),
    ("voronoi", 3, first, share, True),
    ("reaction", 0, first, frequency, False),
    ("reaction", 2, first, coherence, True),
    ("reaction", 5, first, share, False),
    ("spectra", 0, first, slope, False),
    ("spectra", 2, first, coherence, True),
    ("fractal", 3, first, crossings, True),
    ("fractal", 2, first, frequency, False),
    ("leaves", 0, body, frequency, False),
    ("leaves", 4, body, empty, False),
    ("weave", 0, first, frequency, False),
    ("weave", 3, first, share, True),
    ("branches", 0, first, frequency, False),
    ("branches", 1, first, share, True),
    ("marble", 0, first, frequency, False),
    ("marble", 1, first, crossings, True),
    ("marble", 2, first, share, False),
]


@pytest.mark.parametrize(
    ("name", "index", "field", "figure", "grows"),
    CLAIMS,
    ids=[f"{name}-{index}-{figure.__name__}" for name, index, _, figure, _ in CLAIMS],
)
def test_parameter_shows(
    name: str, index: int, field: Callable[..., np.ndarray], figure: Figure, grows: bool
) -> None:
    """Low and high values differ by three standard errors, in the direction claimed."""
    low, high = (
        np.array([figure(image) for image in field(fields_of(name, index, value))])
        for value in (0.1, 0.9)
    )
    error = np.sqrt((low.var() + high.var()) / COUNT)
    growth = (high.mean() - low.mean()) * (1 if grows else -1)
    assert growth > 3 * error, (low.mean(), high.mean(), error)


def test_fields_are_densities() -> None:
    assert {name for name, *_ in CLAIMS} == set(draw.FAMILIES)
    for name in draw.FAMILIES:
        index = next(index for family, index, *_ in CLAIMS if family == name)
        for value in (0.1, 0.9):
            amounts = np.stack(fields_of(name, index, value))
            assert amounts.shape == (3, COUNT, SIZE, SIZE) and amounts.dtype == np.float32
            assert np.isfinite(amounts).all() and amounts.min() > -0.1 and amounts.max() < 4
            # No two are alike, and none is flat.
            assert (amounts.sum(0).std((1, 2)) > 1e-3).all()
            assert len(np.unique(amounts.sum(0).mean((1, 2)))) == COUNT


def test_batch_repeats_and_is_labelled() -> None:
    recipes = draw.Recipes(("voronoi", "weave"), 5)
    program = jax.jit(lambda key: draw.batch(key, recipes, 6, 32))
    batch = program(jax.random.key(0))
    assert batch.images.shape == (12, 32, 32, 3) and batch.images.dtype == jnp.float32
    assert float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
    np.testing.assert_array_equal(batch.families, [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(batch.classes // recipes.each, batch.families)
    # Near the recipe's point, and within the space.
    points = recipes.points()[np.asarray(batch.classes) % recipes.each]
    assert np.abs(np.asarray(batch.parameters) - points).max() <= draw.SPREAD + 1e-6
    assert float(batch.parameters.min()) >= 0 and float(batch.parameters.max()) <= 1
    np.testing.assert_array_equal(program(jax.random.key(0)).images, batch.images)
    assert np.abs(np.asarray(program(jax.random.key(1)).images - batch.images)).mean() > 0.05


def test_colours_say_nothing_of_the_label() -> None:
    """The same key stains any fields alike, by Beer and Lambert: density grows with amount."""

    def stained(amount: float) -> np.ndarray:
        flat = (jnp.full((500, 1, 1), amount),) * 3
        light = np.asarray(scanner.coloured(jax.random.key(0), flat))[:, :, 0, 0]
        assert light.min() >= 0 and light.max() <= 255
        return light

    none, single, double = (stained(amount) for amount in (0.0, 0.2, 0.4))
    bright = none.min(1) > 128  # the others are on a dark ground
    assert 0.85 < bright.mean() < 1
    once, twice = (np.log(none[bright] / light[bright]) for light in (single, double))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-4)
    # Of every hue: no colour channel follows another.
    assert np.abs(np.corrcoef(once.T) - np.eye(3)).max() < 0.9


def test_hash_is_even_and_uncorrelated() -> None:
    bits = fields.hashed(jnp.arange(1 << 16, dtype=jnp.uint32))
    shares = np.stack([np.asarray(fields.unit(bits, byte)) for byte in range(4)])
    np.testing.assert_allclose(shares.mean(1), 0.498, atol=0.006)
    assert np.abs(np.corrcoef(shares) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(shares[0][1:], shares[0][:-1])[0, 1]) < 0.02


def test_waves_have_the_given_spectrum() -> None:
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    amplitude = jnp.asarray(np.exp(-(((radius - 0.2) / 0.02) ** 2)), jnp.float32)
    seed = jnp.arange(8, dtype=jnp.uint32).reshape(8, 1, 1)
    pair = fields.waves(seed, jnp.broadcast_to(amplitude[None], (8, 64, 64)))
    for field in map(np.asarray, pair):
        np.testing.assert_allclose(field.mean((1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(field.std((1, 2)), 1, atol=0.15)
        power = (np.abs(np.fft.fft2(field)) ** 2).mean(0)
        assert power[np.abs(radius - 0.2) > 0.06].sum() < 1e-3 * power.sum()
    both = np.stack([np.asarray(field).ravel() for field in pair])
    assert abs(np.corrcoef(both)[0, 1]) < 0.1
