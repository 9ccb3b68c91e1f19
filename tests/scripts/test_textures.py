"""Drawn textures: shapes, ranges and repeatability; labels that the pictures bear out.

Each family's parameters are looked for in its fields by figures that know nothing of the
generator: power spectra, counted components, covered shares, structure tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sscjax.textures import colour, draw, fields

pytestmark = pytest.mark.usefixtures("quick_compiler")

SIZE, COUNT = 48, 24

Figure = Callable[[np.ndarray], float]


@functools.cache
def fields_of(name: str, index: int, value: float) -> tuple[np.ndarray, ...]:
    """Three pigments [COUNT,S,S], all parameters at one half but one."""
    parameters = jnp.full((COUNT, draw.PARAMETERS), 0.5).at[:, index].set(value)
    found = draw.pigments(name, jax.random.key(index), parameters, SIZE)
    return tuple(np.asarray(field) for field in found)


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
        np.array([figure(one) for one in field(fields_of(name, index, value))])
        for value in (0.1, 0.9)
    )
    error = np.sqrt((low.var() + high.var()) / COUNT)
    found = (high.mean() - low.mean()) * (1 if grows else -1)
    assert found > 3 * error, (low.mean(), high.mean(), error)


def test_every_family_has_a_claim() -> None:
    assert {name for name, *_ in CLAIMS} == set(draw.FAMILIES)


def test_fields_are_densities() -> None:
    for name in draw.FAMILIES:
        index = next(index for family, index, *_ in CLAIMS if family == name)
        for value in (0.1, 0.9):
            found = np.stack(fields_of(name, index, value))
            assert found.shape == (3, COUNT, SIZE, SIZE) and found.dtype == np.float32
            assert np.isfinite(found).all() and found.min() > -0.1 and found.max() < 4
            # No two are alike, and none is flat.
            assert (found.sum(0).std((1, 2)) > 1e-3).all()
            assert len(np.unique(found.sum(0).mean((1, 2)))) == COUNT


RECIPES = draw.Recipes(("voronoi", "weave"), 5)


# One program for all tests: it takes seconds to compile.
program = jax.jit(lambda key: draw.batch(key, RECIPES, 6, 32, looks=2))


@functools.cache
def drawn(seed: int) -> draw.Batch:
    """Twelve textures in two looks."""
    return program(jax.random.key(seed))


def test_batch() -> None:
    found = drawn(0)
    assert found.images.shape == (24, 32, 32, 3) and found.images.dtype == jnp.float32
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    np.testing.assert_array_equal(found.families, ([0] * 6 + [1] * 6) * 2)
    np.testing.assert_array_equal(found.classes // RECIPES.each, found.families)
    # Near the recipe's point, and within the space.
    points = RECIPES.points()[np.asarray(found.classes) % RECIPES.each]
    assert np.abs(np.asarray(found.parameters) - points).max() <= draw.SPREAD + 1e-6
    assert float(found.parameters.min()) >= 0 and float(found.parameters.max()) <= 1


def test_same_key_same_pictures_whatever_else_is_drawn() -> None:
    again = program(jax.random.key(0))
    np.testing.assert_array_equal(again.images, drawn(0).images)
    assert np.abs(np.asarray(drawn(1).images - drawn(0).images)).mean() > 0.05
    # A family alone has the labels that it has in company; colours are drawn for the batch.
    weave = draw.Recipes(("weave",), 5)

    @jax.jit
    def labels(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = draw.batch(key, weave, 6, 32)
        return found.parameters, found.classes

    parameters, classes = labels(jax.random.key(0))
    np.testing.assert_array_equal(parameters, drawn(0).parameters[6:12])
    np.testing.assert_array_equal(classes, drawn(0).classes[6:12] - 5)


def test_two_looks_show_one_texture_in_other_colours() -> None:
    found = drawn(0)
    np.testing.assert_array_equal(found.classes[:12], found.classes[12:])
    one, two = np.split(np.asarray(found.images).mean(3).reshape(24, -1), 2)
    alike = np.abs(np.corrcoef(one, two)[:12, 12:])
    # Its own other look is the most alike; blur and an unlucky palette may hide a few.
    assert (alike.argmax(1) == np.arange(12)).mean() > 0.7
    colours = np.asarray(found.images).mean((1, 2))
    assert np.abs(colours[:12] - colours[12:]).max(1).min() > 0.005


@pytest.mark.parametrize(("batch", "size"), [(1, 33), (2, 65), (2, 32)])
def test_pictures_of_any_size(batch: int, size: int) -> None:
    """One random word gives the noise of four pixels, whose number need not be even."""
    planes = jax.eval_shape(
        colour.photographed, jax.random.key(0), jnp.zeros((batch, 3, size, size))
    )
    assert planes.shape == (batch, 3, size, size)


def test_colours_tell_nothing_of_the_label() -> None:
    """The same key stains any fields alike, by Beer and Lambert: density grows with amount."""

    def stained(amount: float) -> np.ndarray:
        flat = (jnp.full((500, 1, 1), amount),) * 3
        found = np.asarray(colour.coloured(jax.random.key(0), flat))[:, :, 0, 0]
        assert found.min() >= 0 and found.max() <= 255
        return found

    none, once, twice = (stained(amount) for amount in (0.0, 0.2, 0.4))
    bright = none.min(1) > 128  # the others are on a dark ground
    assert 0.85 < bright.mean() < 1
    one, two = (np.log(none[bright] / found[bright]) for found in (once, twice))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-4)
    # Of every hue: no colour channel follows another.
    assert np.abs(np.corrcoef(one.T) - np.eye(3)).max() < 0.9


def test_recipes_are_spread_evenly() -> None:
    points = draw.Recipes(("cells",), 64).points()
    assert points.shape == (64, draw.PARAMETERS)
    for column in points.T:  # as many in each quarter, give or take three
        assert np.abs(np.bincount((column * 4).astype(int), minlength=4) - 16).max() <= 3
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(64)
    assert apart.min() > 0.2


def test_hash_is_even_and_uncorrelated() -> None:
    bits = fields.hashed(jnp.arange(1 << 16, dtype=jnp.uint32))
    shares = np.stack([np.asarray(fields.unit(bits, byte)) for byte in range(4)])
    np.testing.assert_allclose(shares.mean(1), 0.498, atol=0.006)
    assert np.abs(np.corrcoef(shares) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(shares[0][1:], shares[0][:-1])[0, 1]) < 0.02


def test_waves_have_the_spectrum_asked_for() -> None:
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    amplitude = jnp.asarray(np.exp(-(((radius - 0.2) / 0.02) ** 2)), jnp.float32)
    seed = jnp.arange(8, dtype=jnp.uint32).reshape(8, 1, 1)
    one, two = fields.waves(seed, jnp.broadcast_to(amplitude[None], (8, 64, 64)))
    for field in (one, two):
        found = np.asarray(field)
        np.testing.assert_allclose(found.mean((1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(found.std((1, 2)), 1, atol=0.15)
        power = (np.abs(np.fft.fft2(found)) ** 2).mean(0)
        assert power[np.abs(radius - 0.2) > 0.06].sum() < 1e-3 * power.sum()
    assert abs(np.corrcoef(np.asarray(one).ravel(), np.asarray(two).ravel())[0, 1]) < 0.1
