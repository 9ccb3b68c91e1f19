"""Families of general textures: patterns, spectra, fractals and shapes, as `tissue` has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import fields
from .fields import Draws, between, scaled, soft
from .tissue import Pigments

_TAU = 6.2831853

# Steps of the pattern-forming equation, and of z -> z^2 + c: few show the same kinds of pattern.
_REACTIONS = 5
_ITERATIONS = 14


def voronoi(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Tessellations: crackle, cobbles and mosaics.

    Parameters: spacing (4 to 36 pixels), disorder, stretch (1 to 3), width of the joints, how much
    the cells differ, shading within a cell.
    """
    angle = draws.angle()
    x, y = fields.turned(*fields.grid(size), angle)
    spacing, stretch = scaled(p[:, 0], 4.0, 36.0), scaled(p[:, 2], 1.0, 1.8)
    x = x / spacing / stretch + draws.number(0, 999)
    y = y / spacing * stretch + draws.number(0, 999)
    found = fields.cells(x, y, draws.seed(), between(p[:, 1], 0.0, 1.0))
    joint = 1 - soft(found.wall - between(p[:, 3], 0.0, 0.2), 1.0 / spacing)
    own = fields.unit(found.bits, 0) * between(p[:, 4], 0.0, 1.0)
    shade = between(p[:, 5], -0.8, 0.8) * found.first
    return (
        joint,
        jnp.maximum(0.3 + own + shade, 0.0) * (1 - joint),
        own * fields.unit(found.bits, 1),
    )


def reaction(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Spots, stripes and labyrinths of reaction and diffusion.

    Waves of one length grow until they saturate, as in the equation of Swift and Hohenberg (1977,
    Phys Rev A 15:319); its quadratic term chooses spots, stripes or holes.

    Parameters: wavelength (4 to 20 pixels), quadratic term, preference for one direction, width of
    the band that grows, hardness of the result, share that is dark.
    """
    along, across = fields.frequencies(size, draws.angle())
    radius = jnp.sqrt(jnp.square(along) + jnp.square(across)) + 1e-6
    length = scaled(p[:, 0], 4.0, 20.0)
    width = between(p[:, 3], 0.1, 0.35)
    band = jnp.exp(-jnp.square(jnp.log(radius * length) / width))
    band *= jnp.exp(-between(p[:, 2], 0.0, 3.0) * jnp.square(along / radius))
    u, other = fields.waves(draws.seed(), band)
    square = between(p[:, 1], -1.0, 1.0)
    for _ in range(_REACTIONS):
        grown = jnp.tanh(1.5 * (u + 0.6 * square * (jnp.square(u) - 1)))
        u = jnp.fft.ifft2(jnp.fft.fft2(grown) * band).real
        u *= jax.lax.rsqrt(jnp.square(u).mean((1, 2), keepdims=True) + 1e-6)
    dark = soft(u - between(p[:, 5], -0.8, 0.8), scaled(p[:, 4], 0.2, 1.6))
    return dark, (1 - dark) * (0.35 + 0.1 * other), dark * soft(other)


def spectra(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Noise of a given spectrum, Gaussian or skewed.

    Parameters: fall of the power law (0 to 3), upper limit of the frequencies, preference for one
    direction, skewness, contrast, share of a second, finer noise.
    """
    along, across = fields.frequencies(size, draws.angle())
    radius = jnp.sqrt(jnp.square(along) + jnp.square(across)) + 1e-6
    slope = radius ** -(between(p[:, 0], 0.0, 3.0) / 2 + 0.01)
    limit = jnp.exp(-jnp.square(radius / scaled(p[:, 1], 0.06, 0.7)))
    line = jnp.exp(-between(p[:, 2], -1.0, 6.0).clip(0) * jnp.square(along / radius))
    one, two = fields.waves(draws.seed(), slope * limit * line)
    fine, _ = fields.smooth(draws.seed(), size, draws.number(0.3, 0.8))
    share = between(p[:, 5], 0.0, 0.6)
    one = one * (1 - share) + fine * share
    skew = between(p[:, 3], -1.0, 1.0)
    value = one + 0.6 * skew * (jnp.square(one) - 1)
    value = 0.5 + scaled(p[:, 4], 0.12, 0.6) * value
    return jnp.clip(value, 0, 2), jnp.clip(1 - value, 0, 1) * 0.6, 0.2 * jnp.clip(two, 0, 2)


def fractal(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Julia sets: how fast z -> z^2 + c runs away, and how near it came to a line.

    Parameters: angle of c, its modulus, magnification, number of bands, share of the line's
    picture, hardness.
    """
    x, y = fields.turned(*fields.grid(size), draws.angle())
    zoom = scaled(p[:, 2], 0.6, 2.6) * 64 / 3.0
    x, y = x / zoom + draws.number(-0.5, 0.5), y / zoom + draws.number(-0.5, 0.5)
    # Around the main cardioid of the Mandelbrot set, where the sets are richest.
    angle, modulus = _TAU * p[:, 0][:, None, None], between(p[:, 1], 0.9, 1.25)
    real = modulus * (0.5 * jnp.cos(angle) - 0.25 * jnp.cos(2 * angle))
    imaginary = modulus * (0.5 * jnp.sin(angle) - 0.25 * jnp.sin(2 * angle))
    count, near = jnp.zeros_like(x), jnp.full_like(x, 9.0)
    for _ in range(_ITERATIONS):
        x, y = x * x - y * y + real, 2 * x * y + imaginary
        squared = x * x + y * y
        # Smooth in the last step; a point far out stays there.
        count += jnp.clip(2.0 - 0.25 * squared, 0.0, 1.0)
        near = jnp.minimum(near, jnp.abs(y) + 0.02 * squared)
        x, y = jnp.clip(x, -6, 6), jnp.clip(y, -6, 6)
    bands = 0.5 + 0.5 * jnp.sin(_TAU * count / _ITERATIONS * between(p[:, 3], 0.5, 5.0))
    trap = jnp.exp(-near * between(p[:, 5], 3.0, 16.0))
    share = between(p[:, 4], 0.0, 1.0)
    return bands * (1 - share) + trap * share, 0.4 * (1 - bands), 0.3 * count / _ITERATIONS


def leaves(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Shapes that cover one another: leaves, petals, stars, pebbles.

    Parameters: size (8 to 40 pixels), lobes (0 to 7), depth of the lobes, stretch, share of places
    taken, shading from middle to rim.
    """
    dark = ground = third = jnp.zeros((draws.batch, size, size))
    lobes = jnp.round(between(p[:, 1], -0.4, 7.4))
    for layer in range(3):  # later ones lie on top
        x, y = fields.turned(*fields.grid(size), draws.angle())
        spacing = scaled(p[:, 0], 10.0, 44.0) * 0.8**layer
        x, y = x / spacing + draws.number(0, 999), y / spacing + draws.number(0, 999)
        found = fields.cells(x, y, draws.seed(), 0.7)
        turn = _TAU * fields.unit(found.bits, 0)
        u, v = fields.turned(found.dx, found.dy, turn)
        stretch = scaled(p[:, 3], 1.0, 1.9)
        u, v = u / stretch, v * stretch
        angle = jnp.arctan2(v, u)
        radius = (0.3 + 0.2 * fields.unit(found.bits, 1)) * (
            1 + between(p[:, 2], 0.0, 0.55) * jnp.cos(lobes * angle)
        )
        length = jnp.sqrt(u * u + v * v)
        cover = soft((radius - length) * spacing, 0.8)
        cover *= fields.unit(found.bits, 2) < between(p[:, 4], 0.3, 1.0)
        own = fields.unit(found.bits, 3)
        shade = 1 + between(p[:, 5], -0.8, 0.8) * (length / (radius + 1e-3) - 0.5)
        dark = dark * (1 - cover) + cover * own * shade
        ground = ground * (1 - cover) + cover * (1 - own) * 0.8 * shade
        third = third * (1 - cover) + cover * fields.unit(fields.hashed(found.bits), 0) * 0.5
    return jnp.maximum(dark, 0), jnp.maximum(ground, 0), third


def weave(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Two gratings crossed, woven or multiplied: cloth, checks, nets, rows of dots.

    Parameters: period (3 to 16 pixels), ratio of both periods (1 to 2.5), angle between them (30 to
    90 degrees), share of a period that is dark, from net to cloth to dots, irregularity.
    """
    x, y = fields.turned(*fields.grid(size), draws.angle())
    one, two = fields.smooth(draws.seed(), size, draws.number(5.0, 14.0))
    period = scaled(p[:, 0], 3.5, 16.0)
    bend = period * between(p[:, 5], 0.0, 0.35)
    x, y = x + bend * one, y + bend * two
    turn = between(p[:, 2], 0.52, 1.5708)
    other = x * jnp.cos(turn) + y * jnp.sin(turn)
    u = _TAU * x / period + draws.angle()
    v = _TAU * other / (period * scaled(p[:, 1], 1.0, 2.5)) + draws.angle()
    edge = jnp.cos(jnp.pi * between(p[:, 3], 0.2, 0.8))
    warp, weft = soft(jnp.cos(u) - edge, 3.0 / period), soft(jnp.cos(v) - edge, 3.0 / period)
    kind = between(p[:, 4], 0.0, 1.0)
    net, dots = jnp.maximum(warp, weft), warp * weft
    cloth = jnp.where(jnp.cos(u / 2) * jnp.cos(v / 2) > 0, warp, weft)
    low, high = jnp.clip(2 * kind, 0, 1), jnp.clip(2 * kind - 1, 0, 1)
    value = (net + low * (cloth - net)) * (1 - high) + high * dots
    return value * (0.8 + 0.1 * one), 0.35 * (1 - value), 0.4 * weft * (1 - warp)


def branches(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Nets of lines, thick ones and finer ones between: vessels, cracks, veins of leaves.

    Parameters: mesh (6 to 30 pixels), width of the lines, second net, roughness, preference for
    one direction, shading of the ground.
    """
    along, across = fields.frequencies(size, draws.angle())
    squared = jnp.square(along) + jnp.square(across) + 1e-7
    mesh = scaled(p[:, 0], 5.0, 26.0)
    rough = between(p[:, 3], 0.0, 1.0)
    # A bump at the mesh's frequency, with a tail towards fine details.
    form = jnp.exp(-squared * jnp.square(1.2 * mesh)) * (1 - 0.8 * rough)
    form += 0.15 * rough / (1 + jnp.square(squared * jnp.square(mesh)))
    form *= jnp.exp(-between(p[:, 4], -1.0, 4.0).clip(0) * jnp.square(along) / squared)
    one, two = fields.waves(draws.seed(), form)
    width = scaled(p[:, 1], 0.05, 0.4)
    line = jnp.exp(-jnp.square(one / width))
    fine, shade = fields.smooth(draws.seed(), size, 0.3 * mesh)
    second = jnp.exp(-jnp.square(fine / (0.7 * width))) * between(p[:, 2], -0.3, 0.9).clip(0)
    ground = jnp.maximum(0.35 + between(p[:, 5], 0.0, 0.3) * (two + 0.3 * shade), 0.0)
    return jnp.maximum(line, second), ground, 0.3 * second


def marble(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Bands along the contours of a landscape: marble, agate, grain of wood, whorls.

    Parameters: size of the landscape (6 to 40 pixels), number of bands, share of a band that is
    dark, stretch, hardness, disorder.
    """
    along, across = fields.frequencies(size, draws.angle())
    scale, stretch = scaled(p[:, 0], 5.0, 26.0), scaled(p[:, 3], 1.0, 2.5)
    squared = jnp.square(along * stretch) + jnp.square(across / stretch)
    one, two = fields.waves(draws.seed(), jnp.exp(-squared * jnp.square(2.0 * scale)))
    fine, _ = fields.smooth(draws.seed(), size, draws.number(1.0, 3.0))
    height = one * between(p[:, 1], 0.6, 3.5) + between(p[:, 5], 0.0, 0.25) * fine
    wave = jnp.cos(_TAU * height + draws.angle()) - between(p[:, 2], -0.8, 0.8)
    dark = soft(wave, scaled(p[:, 4], 0.3, 1.8))
    return dark, (1 - dark) * jnp.maximum(0.4 + 0.15 * two, 0.0), dark * soft(two) * 0.5
