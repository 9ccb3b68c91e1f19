"""Families that look like tissue: what is where, as amounts of three pigments.

A family takes random draws, its parameters [B,P] in [0, 1] and the side S, and gives three fields
[B,S,S] of 0 or more, optical densities before staining: what a nuclear stain takes, what the
counterstain takes, and a third, rarer one. Sizes are in pixels of about 1 to 2 micrometres.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import fields
from .fields import Draws, between, scaled, soft

Pigments = tuple[jax.Array, jax.Array, jax.Array]


def _places(draws: Draws, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A random part of a turned plane in pixels, and the angle."""
    angle = draws.angle()
    x, y = fields.turned(*fields.grid(size), angle)
    return x + draws.number(0, 4096), y + draws.number(0, 4096), angle


def _chromatin(found: fields.Nuclei, grain: jax.Array, texture: jax.Array | float) -> jax.Array:
    """Density of nuclei: each its own, with a rim and grains by `texture`, 0 to 1."""
    own = 0.6 + 0.4 * fields.unit(found.bits, 3)
    rim = jnp.exp(-jnp.square((found.depth - 0.15) * 5))
    inner = 1 + texture * (0.5 * rim - 0.45 + 0.35 * grain)
    return found.cover * own * jnp.maximum(inner, 0.1)


def fibres(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Felt to parallel fibres with spindle-shaped nuclei between them.

    Parameters: thickness (1.5 to 6 pixels), spread of directions, share covered, softness, share of
    places with a nucleus, amount of ground substance.
    """
    angle = draws.angle()
    along, across = fields.frequencies(size, angle)
    thick = scaled(p[:, 0], 1.5, 6.0)
    radius = jnp.sqrt(jnp.square(along) + jnp.square(across)) + 1e-6
    spread = scaled(p[:, 1], 0.06, 1.5)
    # 1 - cos^2 of the angle between a frequency and the one across the fibres.
    off = jnp.square(along / radius)
    band = jnp.exp(-jnp.square(jnp.log(radius * 2 * thick) / 0.55))
    one, two = fields.waves(draws.seed(), band * jnp.exp(-off / jnp.square(spread)))
    cover = soft(one - fields.threshold(between(p[:, 2], 0.25, 0.8)), scaled(p[:, 3], 0.25, 1.5))
    x, y, turn = _places(draws, size)
    found = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=draws.number(9, 14),
        radius=draws.number(0.2, 0.3),
        stretch=0.5,
        along=angle - turn,
        present=between(p[:, 4], 0.0, 0.6),
    )
    ground = between(p[:, 5], 0.0, 0.5)
    fibre = cover * (0.8 + 0.12 * two) + ground * (1 - cover)
    return _chromatin(found, two, 0.3), fibre * (1 - 0.6 * found.cover), 0.25 * cover * soft(two)


def bundles(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Bundles of fibrils cut along or across, with gaps between them: dermis and tendon.

    Parameters: width (6 to 26 pixels), length over width (1 to 5), gap, order of the bundles,
    fibrils seen within, share cut across.
    """
    x, y, angle = _places(draws, size)
    wide = scaled(p[:, 0], 6.0, 26.0)
    one, two = fields.smooth(draws.seed(), size, 1.3 * wide)
    bend = draws.number(0.1, 0.5)
    u, v = x / (wide * scaled(p[:, 1], 1.0, 5.0)) + bend * one, y / wide + bend * two
    found = fields.cells(u, v, draws.seed(), between(p[:, 3], 0.35, 1.0))
    body = soft(found.wall - between(p[:, 2], 0.015, 0.16), 1.2 / wide)
    across = fields.unit(found.bits, 0) < between(p[:, 5], 0.0, 0.8)
    turn = (fields.unit(found.bits, 1) - 0.5) * 0.8
    period = draws.number(2.5, 5.0) / wide
    line = jnp.sin(6.2832 * (found.dy * jnp.cos(turn) + found.dx * jnp.sin(turn)) / period + one)
    dots = line * jnp.sin(6.2832 * (found.dx * jnp.cos(turn) - found.dy * jnp.sin(turn)) / period)
    fibril = between(p[:, 4], 0.0, 0.35) * jnp.where(across, dots, line)
    own = 0.55 + 0.45 * fields.unit(found.bits, 2)
    cells = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=draws.number(9, 16),
        radius=draws.number(0.16, 0.26),
        stretch=0.45,
        along=jnp.zeros((1, 1, 1)),
        present=draws.number(0.0, 0.5) * (1.2 - body),
    )
    return _chromatin(cells, one, 0.2), body * jnp.maximum(own + fibril, 0.05), 0.3 * body * across


def cells(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Cells with nuclei, loose to packed.

    Parameters: spacing (5 to 16 pixels), nucleus over cell, stretch of the nuclei, share of places
    taken, texture of the chromatin, cell borders seen.
    """
    x, y, _ = _places(draws, size)
    spacing = scaled(p[:, 0], 5.0, 16.0)
    one, two = fields.smooth(draws.seed(), size, 1.5 * spacing)
    x, y = x + 0.2 * spacing * one, y + 0.2 * spacing * two
    seed, present = draws.seed(), between(p[:, 3], 0.25, 1.0)
    found = fields.nuclei(
        *(x, y, seed),
        spacing=spacing,
        radius=between(p[:, 1], 0.2, 0.5),
        stretch=between(p[:, 2], 0.0, 0.55),
        present=present,
    )
    grain, fine = fields.smooth(draws.seed(), size, draws.number(0.5, 1.2))
    # The same points, so that a border runs half way between two nuclei.
    walls = fields.cells(x / spacing, y / spacing, seed, 0.7)
    border = soft(0.06 + 0.6 / spacing - walls.wall, 0.6 / spacing) * between(p[:, 5], 0.0, 0.9)
    body = draws.number(0.1, 0.6) * (1 + 0.15 * fine) + border * 0.6
    dark = _chromatin(found, grain, between(p[:, 4], 0.0, 1.0))
    nucleolus = found.cover * soft(found.depth - 0.72, 0.2) * between(p[:, 4], 0.0, 0.8)
    return dark, jnp.maximum(body, 0) * (1 - 0.7 * found.cover), nucleolus + 0.2 * border


def glands(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Glands with lumina in stroma, single, crowded, fused or solid.

    Parameters: spacing (18 to 60 pixels), height of the epithelium (4 to 14), width of the stroma
    (1.5 to 14), holes within the epithelium, spacing of its nuclei (4 to 8), irregularity.
    """
    x, y, _ = _places(draws, size)
    spacing = scaled(p[:, 0], 18.0, 60.0)
    one, two = fields.smooth(draws.seed(), size, 0.3 * spacing)
    bend = spacing * between(p[:, 5], 0.02, 0.22)
    u, v = (x + bend * one) / spacing, (y + bend * two) / spacing
    found = fields.cells(u, v, draws.seed(), 0.75)
    # Pixels from the gland's border inwards.
    deep = found.wall * spacing - 0.5 * scaled(p[:, 2], 1.5, 14.0)
    height = scaled(p[:, 1], 4.0, 14.0) * (0.8 + 0.4 * fields.unit(found.bits, 1))
    pitch = scaled(p[:, 4], 4.0, 8.0)
    holes = fields.cells(x / (2.6 * pitch), y / (2.6 * pitch), draws.seed(), 0.8)
    hole = soft(0.34 - holes.first, 0.08)
    hole *= fields.unit(holes.bits, 0) < between(p[:, 3], -0.4, 0.9)
    inside = soft(deep, 1.0)
    lumen = jnp.maximum(soft(deep - height, 1.0), hole * soft(deep - 3.0, 1.0))
    wall = inside * (1 - lumen)
    # Nuclei stand at the base of the epithelium; a few lie in the stroma.
    basal = jnp.exp(-jnp.square((deep - 0.35 * height) / (0.33 * height)))
    share = jnp.where(deep > 0, 0.25 + 0.75 * basal, draws.number(0.05, 0.3))
    dots = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=pitch,
        radius=draws.number(0.32, 0.46),
        stretch=draws.number(0.0, 0.3),
        present=share * (1 - lumen),
    )
    dark = _chromatin(dots, one, draws.number(0.0, 0.6)) * (1 - 0.9 * lumen)
    fibre, grain = fields.smooth(draws.seed(), size, draws.number(0.8, 2.0))
    stroma = (1 - inside) * jnp.maximum(0.6 + 0.25 * fibre, 0)
    body = wall * draws.number(0.25, 0.7) * (1 + 0.1 * grain) + stroma
    secret = lumen * draws.number(-0.3, 0.35)
    return dark, body * (1 - 0.6 * dots.cover), jnp.maximum(secret, 0) + 0.2 * wall


def epithelium(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """A layered epithelium between what lies under it and the open surface.

    Parameters: thickness (8 to 40 pixels), height of the ridges, their length, spacing of the
    nuclei (4 to 8), how flat they become upwards, horn layer.
    """
    turn = draws.angle()
    u, v = fields.turned(*fields.grid(size), turn)
    v = v + draws.number(-0.25, 0.25) * size
    x, y = u + draws.number(0, 4096), v + draws.number(0, 4096)
    length = scaled(p[:, 2], 8.0, 40.0)
    thick = scaled(p[:, 0], 8.0, 40.0)
    one, two = fields.smooth(draws.seed(), size, 0.35 * length)
    wave = jnp.sin(6.2832 * u / length + 1.2 * one)
    deep = v + thick * (0.5 * between(p[:, 1], 0.0, 0.9) * wave) + 0.1 * length * one
    level = deep / thick + 0.5  # 0 at the base, 1 at the surface
    inside = soft(level * thick, 1.5) * soft((1 - level) * thick, 1.5)
    above = soft((level - 1) * thick, 1.5)
    horn = above * soft(1 + 0.45 * p[:, 5][:, None, None] - level, 0.05)
    flat = between(p[:, 4], 0.0, 0.55) * jnp.clip(level, 0, 1)
    dots = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=scaled(p[:, 3], 4.0, 8.0),
        radius=draws.number(0.3, 0.45),
        stretch=flat,
        along=jnp.zeros((1, 1, 1)),
        present=jnp.where(level < 0, draws.number(0.05, 0.4), 1.0 - 0.65 * jnp.clip(level, 0, 1)),
    )
    dots = dots._replace(cover=dots.cover * (1 - above))
    layers = 0.6 + 0.4 * jnp.sin(deep * draws.number(1.0, 2.2) + two)
    under = soft(-level * thick, 1.5) * jnp.maximum(0.55 + 0.3 * two, 0)
    body = inside * draws.number(0.3, 0.8) + under + horn * layers
    return _chromatin(dots, two, 0.3), body * (1 - 0.6 * dots.cover), 0.5 * horn


def fat(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Thin-walled empty cells: fat, alveoli, foam.

    Parameters: spacing (7 to 40 pixels), wall (0.8 to 4), regularity, stretch, share of the cells
    that are full, roundness of the holes.
    """
    x, y, _ = _places(draws, size)
    spacing = scaled(p[:, 0], 7.0, 40.0)
    one, two = fields.smooth(draws.seed(), size, 0.6 * spacing)
    x, y = x + 0.12 * spacing * one, y + 0.12 * spacing * two
    stretch = scaled(p[:, 3], 1.0, 2.2)
    found = fields.cells(
        *(x / spacing / stretch, y / spacing * stretch), draws.seed(), between(p[:, 2], 0.3, 1.0)
    )
    thick = 0.5 * scaled(p[:, 1], 0.8, 4.0)
    round_ = between(p[:, 5], 0.0, 1.0)
    hole = soft(found.wall * spacing - thick, 0.8)
    hole = (1 - round_) * hole + round_ * hole * soft((0.52 - found.first) * spacing, 0.8)
    full = fields.unit(found.bits, 0) < between(p[:, 4], -0.3, 0.5)
    dots = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=draws.number(6, 11),
        radius=draws.number(0.2, 0.35),
        stretch=0.3,
        present=0.55 * (1 - hole),
    )
    ground = (1 - hole) + hole * full * (0.6 + 0.15 * two)
    return _chromatin(dots, one, 0.2) * (1 - hole), jnp.maximum(ground, 0) * 0.8, 0.5 * full * hole


def vessels(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Rings with a lumen and a layered wall in loose ground: vessels, ducts, whorls.

    Parameters: spacing (18 to 60 pixels), outer radius, wall over radius, distance of the layers
    (3 to 10), share of places taken, blood in the lumen.
    """
    x, y, _ = _places(draws, size)
    spacing = scaled(p[:, 0], 18.0, 60.0)
    one, two = fields.smooth(draws.seed(), size, 0.3 * spacing)
    bend = draws.number(0.02, 0.12)
    found = fields.cells(x / spacing + bend * one, y / spacing + bend * two, draws.seed(), 0.6)
    outer = between(p[:, 1], 0.25, 0.55) * (0.8 + 0.4 * fields.unit(found.bits, 1))
    there = fields.unit(found.bits, 0) < between(p[:, 4], 0.35, 1.1)
    inner = outer * (1 - between(p[:, 2], 0.12, 0.9))
    ring = there * soft((outer - found.first) * spacing, 1.0)
    lumen = there * soft((inner - found.first) * spacing, 1.0)
    wall = ring - lumen
    layer = jnp.sin(6.2832 * found.first * spacing / scaled(p[:, 3], 3.0, 10.0) + 0.7 * two)
    tissue = jnp.maximum(0.35 + 0.25 * one, 0.0) * draws.number(0.3, 1.2)
    dots = fields.nuclei(
        *(x, y, draws.seed()),
        spacing=draws.number(5, 9),
        radius=draws.number(0.2, 0.38),
        stretch=0.3,
        present=jnp.where(wall > 0.5, 0.5, 0.12) * (1 - lumen),
    )
    blood = fields.cells(x / 5.5, y / 5.5, draws.seed(), 0.8)
    red = lumen * soft(0.42 - blood.first, 0.15)
    red *= fields.unit(blood.bits, 0) < between(p[:, 5], -0.2, 1.0)
    body = wall * (0.65 + 0.3 * layer) + (1 - ring) * tissue
    return _chromatin(dots, one, 0.3) * (1 - lumen), body * (1 - 0.5 * dots.cover), red


def infiltrate(draws: Draws, p: jax.Array, size: int) -> Pigments:
    """Small round cells in clusters over fibrous ground.

    Parameters: size of the clusters (6 to 40 pixels), share covered, spacing of the cells (3.5 to
    7), sharpness of the clusters, grain of the ground (1 to 6), its density.
    """
    x, y, _ = _places(draws, size)
    one, two = fields.smooth(draws.seed(), size, scaled(p[:, 0], 3.0, 20.0))
    share = between(p[:, 1], 0.05, 0.75)
    dense = soft(one - fields.threshold(share), scaled(p[:, 3], 0.1, 1.5))
    found = fields.nuclei(
        *(x + two, y + one, draws.seed()),
        spacing=scaled(p[:, 2], 3.5, 7.0),
        radius=draws.number(0.35, 0.48),
        stretch=draws.number(0.0, 0.2),
        present=0.03 + 0.95 * dense,
    )
    grain, other = fields.smooth(draws.seed(), size, scaled(p[:, 4], 0.6, 3.5))
    ground = between(p[:, 5], 0.15, 0.8) * jnp.maximum(1 + 0.6 * grain, 0.0)
    return _chromatin(found, other, 0.3), ground * (1 - 0.6 * found.cover), 0.15 * soft(other)
