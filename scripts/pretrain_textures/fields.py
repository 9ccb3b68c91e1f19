"""Random fields and cells, of which the families are made.

A field is [B,S,S] float32. All randomness inside an image comes from an integer hash of pixel or
cell numbers with a seed of the image: it needs no table and no gather, which XLA is slow at on a
CPU, and costs the same however dense the cells are. These numbers are the same on every device; the
image, computed from them in float32, may differ there in the last bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TAU = 2 * np.pi


def between(share: jax.Array, low: float, high: float) -> jax.Array:
    """From a share [B] in [0, 1] to `low` to `high`, evenly; [B,1,1] to go with fields."""
    return (low + (high - low) * share)[:, None, None]


def scaled(share: jax.Array, low: float, high: float) -> jax.Array:
    """As `between`, evenly in the logarithm, for sizes."""
    return (low * (high / low) ** share)[:, None, None]


def soft(x: jax.Array, width: float | jax.Array = 1.0) -> jax.Array:
    """1 where `x` is far above 0, 0 far below, smooth within about `width`."""
    return jnp.clip(0.5 + 0.5 * x / width, 0.0, 1.0)


def hashed(x: jax.Array) -> jax.Array:
    """Scramble uint32 (the 'lowbias32' of Wellons 2018, 'Prospecting for hash functions')."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def unit(bits: jax.Array, byte: int) -> jax.Array:
    """The byte of that number (0 to 3) of uint32 as float32 in [0, 1)."""
    return ((bits >> (8 * byte)) & 0xFF).astype(jnp.float32) * (1 / 256)


class Draws:
    """Random numbers of B images, one after the other, from one key.

    Args:
      key: a JAX random key.
      batch: B.
    """

    def __init__(self, key: jax.Array, batch: int) -> None:
        self._key, self._count, self.batch = key, 0, batch

    def _next(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def share(self) -> jax.Array:
        """[B] float32, even in [0, 1)."""
        return jax.random.uniform(self._next(), (self.batch,))

    def number(self, low: float, high: float) -> jax.Array:
        """[B,1,1] float32, even between the two."""
        return between(self.share(), low, high)

    def angle(self) -> jax.Array:
        """[B,1,1], 0 to 2 pi."""
        return self.number(0.0, _TAU)

    def seed(self) -> jax.Array:
        """[B,1,1] uint32."""
        return jax.random.bits(self._next(), (self.batch, 1, 1), jnp.uint32)


def grid(size: int) -> tuple[jax.Array, jax.Array]:
    """Columns and rows in pixels from the image's middle, each [1,S,S]."""
    line = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    x = jnp.broadcast_to(line[None, None, :], (1, size, size))
    return x, x.swapaxes(1, 2)


def turned(x: jax.Array, y: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places in axes turned by `angle` [B,1,1]."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


# --- spectra --------------------------------------------------------------------------------------


def frequencies(size: int, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cycles per pixel along and across `angle` [B,1,1], each [B,S,S]."""
    line = jnp.asarray(np.fft.fftfreq(size), jnp.float32)
    fx = jnp.broadcast_to(line[None, None, :], (1, size, size))
    return turned(fx, fx.swapaxes(1, 2), angle)


def waves(seed: jax.Array, amplitude: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent fields of mean 0 and deviation 1 with the same spectrum.

    Args:
      seed: [B,1,1] uint32.
      amplitude: [B,S,S], of each frequency in the order of `jnp.fft.fftfreq`; that of 0 is not
        used.
    """
    size = amplitude.shape[-1]
    place = jnp.arange(size * size, dtype=jnp.uint32).reshape(1, size, size)
    bits = hashed(place * jnp.uint32(0x9E3779B1) + seed)
    phase = _TAU * ((bits & 0xFFFF).astype(jnp.float32) * 2.0**-16)
    # Rayleigh, so that the field is Gaussian.
    height = jnp.sqrt(-2 * jnp.log1p(-(bits >> 16).astype(jnp.float32) * 2.0**-16 * 0.99999))
    height = (height * amplitude).at[:, 0, 0].set(0.0)
    found = jnp.fft.ifft2(jax.lax.complex(height * jnp.cos(phase), height * jnp.sin(phase)))
    # By what was drawn, not by what is expected: low frequencies are few.
    total = jnp.square(height).sum((1, 2), keepdims=True)
    factor = jnp.sqrt(2.0) * size**2 * jax.lax.rsqrt(total + 1e-12)
    return found.real * factor, found.imag * factor


def smooth(seed: jax.Array, size: int, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two fields with details of about `scale` [B,1,1] pixels (a Gaussian spectrum)."""
    along, across = frequencies(size, jnp.zeros((1, 1, 1)))
    squared = jnp.square(along) + jnp.square(across)
    return waves(seed, jnp.exp(-squared * jnp.square(2.0 * scale)))


def threshold(share: jax.Array) -> jax.Array:
    """The value that a standard normal variable exceeds with probability `share`."""
    return -jax.scipy.special.ndtri(jnp.clip(share, 0.01, 0.99))


# --- cells ----------------------------------------------------------------------------------------


class Neighbour(NamedTuple):
    """The point of one cell near each pixel: where it is seen from there, and its random bits."""

    dx: jax.Array
    dy: jax.Array
    bits: jax.Array


def neighbours(
    x: jax.Array, y: jax.Array, seed: jax.Array, jitter: float | jax.Array = 0.8
) -> list[Neighbour]:
    """The points of the 3x3 unit cells around each place.

    Args:
      x: [B,S,S] places in units of a cell.
      y: [B,S,S].
      seed: [B,1,1] uint32.
      jitter: how far a point may lie from its cell's middle: 0 is a lattice, 1 anywhere within.
    """
    left, top = jnp.floor(x), jnp.floor(y)
    found = []
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            column, row = left + j, top + i
            number = column.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
            number += row.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
            bits = hashed(number ^ seed)
            px = column + 0.5 + jitter * (unit(bits, 0) - 0.5)
            py = row + 0.5 + jitter * (unit(bits, 1) - 0.5)
            # Bytes 2 and 3 are free; more come from a second round.
            found.append(Neighbour(x - px, y - py, bits * jnp.uint32(0xC2B2AE3D) + jnp.uint32(1)))
    return found


@dataclasses.dataclass(frozen=True)
class Cells:
    """A tessellation, seen from each pixel.

    Attributes:
      first: [B,S,S] distance to the nearest point, in cells.
      second: [B,S,S] to the second nearest.
      dx: [B,S,S] from the nearest point, in cells.
      dy: [B,S,S].
      bits: [B,S,S] uint32, random, of the nearest point.
    """

    first: jax.Array
    second: jax.Array
    dx: jax.Array
    dy: jax.Array
    bits: jax.Array

    @property
    def wall(self) -> jax.Array:
        """Half the difference of both distances: 0 on the border between two cells."""
        return 0.5 * (self.second - self.first)


Metric = Callable[[Neighbour], jax.Array]


def _squared(one: Neighbour) -> jax.Array:
    return jnp.square(one.dx) + jnp.square(one.dy)


def cells(
    x: jax.Array,
    y: jax.Array,
    seed: jax.Array,
    jitter: float | jax.Array = 0.8,
    metric: Metric = _squared,
) -> Cells:
    """The nearest of the random points, one in each unit cell (Worley 1996, SIGGRAPH 291).

    Args:
      x: [B,S,S] places in cells.
      y: [B,S,S].
      seed: [B,1,1] uint32.
      jitter: see `neighbours`.
      metric: squared distance of a neighbour.
    """
    near, *others = neighbours(x, y, seed, jitter)
    first, second = metric(near), jnp.full_like(x, 9.0)
    dx, dy, bits = near
    for one in others:
        found = metric(one)
        closer = found < first
        second = jnp.where(closer, first, jnp.minimum(second, found))
        first = jnp.where(closer, found, first)
        dx, dy = jnp.where(closer, one.dx, dx), jnp.where(closer, one.dy, dy)
        bits = jnp.where(closer, one.bits, bits)
    return Cells(jnp.sqrt(first), jnp.sqrt(second), dx, dy, hashed(bits))


class Nuclei(NamedTuple):
    """Nuclei as fields.

    Attributes:
      cover: [B,S,S] 1 inside a nucleus, 0 outside.
      depth: [B,S,S] 1 at a nucleus' middle, 0 at its border, below 0 outside.
      bits: [B,S,S] uint32, random, of the nearest nucleus.
    """

    cover: jax.Array
    depth: jax.Array
    bits: jax.Array


# Eight parameters: place, seed, and five independent properties of nuclei, which families name.
def nuclei(
    x: jax.Array,
    y: jax.Array,
    seed: jax.Array,
    *,
    spacing: jax.Array,
    radius: jax.Array,
    stretch: jax.Array | float = 0.0,
    along: jax.Array | None = None,
    present: jax.Array | float = 1.0,
) -> Nuclei:
    """Ellipses around random points, of sizes and directions of their own.

    Args:
      x: [B,S,S] places in pixels.
      y: [B,S,S].
      seed: [B,1,1] uint32.
      spacing: [B,1,1] pixels between neighbours.
      radius: [B,1,1] share of the spacing, up to about a half.
      stretch: 0 is round, 0.5 is three times as long as wide.
      along: [B,1,1] or [B,S,S] direction of all; None gives each its own.
      present: probability that there is a nucleus: a number or a field.
    """
    best, bits = jnp.full_like(x, 9.0), jnp.zeros(x.shape, jnp.uint32)
    common = None if along is None else (jnp.cos(2 * along), jnp.sin(2 * along))
    for one in neighbours(x / spacing, y / spacing, seed, 0.7):
        own = hashed(one.bits)
        if common is None:
            turn = _TAU * unit(own, 0)
            cosine, sine = jnp.cos(turn), jnp.sin(turn)
        else:
            cosine, sine = common
        # An ellipse of unchanged area: q = |d|^2 + stretch * (second harmonic), scaled.
        plain = jnp.square(one.dx) + jnp.square(one.dy)
        other = (jnp.square(one.dx) - jnp.square(one.dy)) * cosine + 2 * one.dx * one.dy * sine
        size = radius * (0.75 + 0.5 * unit(own, 1))
        distance = (plain - 1.6 * stretch * other) / jnp.square(size)
        distance = jnp.where(unit(own, 2) < present, distance, 9.0)
        closer = distance < best
        best = jnp.where(closer, distance, best)
        bits = jnp.where(closer, own, bits)
    depth = 1 - jnp.sqrt(best)
    return Nuclei(soft(depth * radius * spacing, 0.8), depth, bits)
