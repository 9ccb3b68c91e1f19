"""Drawing of one synthetic tile: layers of the skin, collagen, adnexa, vessels, stain and scan.

All lengths are in units of 1/128 of a tile's side, about 2 micrometres, whatever the image size;
angles are in radians; amounts of stain are optical densities of the pure dye.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from sscjax.data.synthetic_canvas import (
    SIDE,
    Tile,
    blur,
    draw_nuclei,
    jpeg,
    limit,
    noise,
    smooth_step,
)

CLASSES = ("normal", "early", "late")
BACKGROUND, EPIDERMIS, DERMIS, ADNEXA = range(4)

_Fields = tuple[ndarray, ndarray]
_DRAWN = 96  # smaller tiles are drawn at least this large and averaged: nuclei are 3 units wide
# Mean and spread between subjects of how far the disease has gone, and of the inflammation.
_SEVERITY = {"normal": (0.0, 0.15), "early": (0.55, 0.15), "late": (1.15, 0.17)}
_INFLAMMATION = {"normal": (0.1, 0.12), "early": (0.8, 0.2), "late": (0.3, 0.2)}


@dataclasses.dataclass(frozen=True)
class _Biopsy:
    """What all tiles of a subject have in common."""

    severity: float
    inflammation: float
    thickness: float  # of collagen bundles
    epidermis: float  # thickness between rete ridges
    angle: float  # of the tissue in its tiles
    dyes: ndarray  # [2,3] density of haematoxylin and eosin in R, G, B
    strength: ndarray  # [2] how much of each dye the section took
    white: ndarray  # [3] the empty slide, 0..1
    gamma: float
    blur: float  # standard deviation
    noise: float  # standard deviation, 0..1
    quality: float  # step of the JPEG quantiser; 1 is coarse


def draw(seed: int, name: str, subject: int, number: int, size: int) -> tuple[ndarray, ndarray]:
    """Draw a tile; the result depends only on the arguments.

    Args:
      seed: of the set.
      name: of the class, one of CLASSES.
      subject: number of the subject in its class, from 1.
      number: of the tile of the subject, from 1.
      size: side S in pixels.

    Returns:
      image [S,S,3] uint8; mask [S,S] uint8 of BACKGROUND, EPIDERMIS, DERMIS and ADNEXA.
    """
    origin = [seed, 1 + CLASSES.index(name), subject]
    biopsy = _draw_biopsy(np.random.default_rng(origin), name)
    return _draw_tile(np.random.default_rng([*origin, number]), biopsy, size)


def _draw_biopsy(rng: Generator, name: str) -> _Biopsy:
    severity = rng.normal(*_SEVERITY[name])
    inflammation = max(0.0, rng.normal(*_INFLAMMATION[name]))
    dyes = np.array([[0.62, 0.72, 0.32], [0.12, 0.80, 0.38]]) + rng.normal(0, 0.04, (2, 3))
    dyes[1, 0] = max(dyes[1, 0], 0.04)
    return _Biopsy(
        severity=severity,
        inflammation=inflammation,
        thickness=6.0 * math.exp(0.5 * severity + rng.normal(0, 0.12)),
        epidermis=24.0 * (1 - 0.4 * limit(severity, 0, 1.4)) * math.exp(rng.normal(0, 0.15)),
        angle=rng.uniform(0, 2 * np.pi),
        dyes=dyes.astype(np.float32),
        strength=np.exp(rng.normal(0, (0.2, 0.22))),
        white=np.clip(rng.normal(0.945, 0.018) + rng.normal(0, 0.01, 3), 0.86, 1.0).astype(
            np.float32
        ),
        gamma=math.exp(rng.normal(0, 0.1)),
        blur=rng.uniform(0.3, 0.75),
        noise=rng.uniform(0.004, 0.016),
        quality=rng.uniform(0.1, 0.6),
    )


def _draw_tile(rng: Generator, biopsy: _Biopsy, size: int) -> tuple[ndarray, ndarray]:
    """One tile: image [size,size,3] uint8 and mask [size,size] uint8."""
    times = -(-_DRAWN // size)
    tile = _empty_tile(rng, biopsy, size * times)
    severity = limit(biopsy.severity + rng.normal(0, 0.1), -0.2, 1.5)
    border = _draw_layers(rng, tile, biopsy, severity)
    _draw_collagen(rng, tile, biopsy, severity, tile.depth - border)
    if rng.random() < limit(0.62 - 0.5 * severity, 0.06, 0.7):
        _draw_adnexa(rng, tile)
    _draw_vessels(rng, tile, biopsy.inflammation, severity)
    _draw_keratinocytes(rng, tile, border)
    image = _photograph(rng, tile, biopsy, size)
    return image, np.ascontiguousarray(tile.regions[times // 2 :: times, times // 2 :: times])


def _empty_tile(rng: Generator, biopsy: _Biopsy, size: int) -> Tile:
    """Places the tile on the biopsy: at the surface, or deeper in the dermis."""
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32) * np.float32(SIDE)
    x, y = np.meshgrid(axis, axis)
    angle = biopsy.angle + rng.normal(0, 0.15)
    place = rng.uniform(0, 50) if rng.random() < 0.7 else rng.uniform(100, 200)
    along = x * math.cos(angle) + y * math.sin(angle)
    depth = y * math.cos(angle) - x * math.sin(angle) + place
    depth += 10 * (noise(rng, along / 60, 0 * along) - 0.5)
    blank = np.zeros((size, size), np.float32)
    regions = np.full((size, size), DERMIS, np.uint8)
    return Tile(x, y, along, depth.astype(np.float32), angle, regions, blank, blank.copy())


def _draw_layers(rng: Generator, tile: Tile, biopsy: _Biopsy, severity: float) -> ndarray:
    """Slide and epidermis with its horny layer; returns the depth [S,S] where the dermis starts."""
    ridges = limit(17 * (1 - 0.85 * severity), 1.5, 20) * rng.uniform(0.8, 1.2)
    wave = noise(rng, tile.along / rng.uniform(11, 17), tile.depth / 90)
    thickness = biopsy.epidermis * rng.uniform(0.9, 1.1)
    border = np.maximum(thickness + ridges * (smooth_step(wave - 0.5, 0.45) - 0.35), 5.0)
    tile.regions[tile.depth < border] = EPIDERMIS
    tile.regions[tile.depth < 0] = BACKGROUND
    near = (tile.depth < border + 1) & (tile.depth > -1)
    along, depth, left = tile.along[near], tile.depth[near], (border - tile.depth)[near]
    horn = rng.uniform(3, 6) + 3 * noise(rng, along / 25, 0 * along)
    inside = smooth_step(left, 0.8) * smooth_step(depth, 0.7)
    basal = smooth_step(5 - left, 2.5)
    lamellae = noise(rng, along / 16, depth / 1.1)
    horny = smooth_step(horn - depth, 0.8)
    cells = noise(rng, along / 3, depth / 3)
    tile.blue[near] = inside * ((0.17 + 0.2 * basal + 0.08 * cells) * (1 - horny))
    tile.pink[near] = inside * ((0.42 + 0.1 * cells) * (1 - horny) + horny * (0.4 + 0.6 * lamellae))
    return border


def _bundles(
    rng: Generator, places: _Fields, angle: float, thickness: float, filled: float, wavy: float
) -> _Fields:
    """One family of wavy collagen bundles at places (along, depth): cover 0..1, and eosin.

    The plane is warped and cut into staggered bricks; each brick is a bundle with its own width
    and tone, tapering to its ends, with fibrils along it and clefts around it.
    """
    along = places[0] * math.cos(angle) + places[1] * math.sin(angle)
    across = places[1] * math.cos(angle) - places[0] * math.sin(angle)
    warp = noise(rng, along / 34, across / 30)
    across = across + wavy * (9 * warp + 1.5 * np.sin(along / 4.5 + 9 * warp))
    fibrils = noise(rng, along / 14, across / 1.3)
    across = across / thickness + 100.0
    row = across.astype(np.int64)
    offsets = rng.random(256, np.float32).take(row & 255)
    cell = along / (thickness * 9) + 50.0 + offsets
    column = cell.astype(np.int64)
    brick = ((row & 63) << 6) + (column & 63)
    width = rng.random(4096, np.float32).take(brick)
    tone = rng.random(4096, np.float32).take(brick)
    end = np.abs(2 * (cell - column.astype(np.float32)) - 1)
    side = np.abs(2 * (across - row.astype(np.float32)) - 1)
    half = (filled + 0.3 * (width - 0.6)) * (1 - 0.95 * (end * end * end) ** 2)
    cover = smooth_step((half - side) * thickness / 2, 0.7) * (width > 0.55 * (1 - filled))
    eosin = (0.62 + 0.3 * (tone - 0.5)) * (1 - 0.25 * side**2) + 0.34 * (fibrils - 0.5)
    return cover, eosin


def _draw_collagen(
    rng: Generator, tile: Tile, biopsy: _Biopsy, severity: float, below: ndarray
) -> None:
    """Two families of bundles that cross each other; `below` [S,S] is the depth in the dermis."""
    inside = below > 0
    places = tile.along[inside], tile.depth[inside]
    papillary = smooth_step(limit(15 * (1 - 0.8 * severity), 1, 18) - below[inside], 5)
    thickness = biopsy.thickness * math.exp(rng.normal(0, 0.1))
    filled = limit(0.66 + 0.24 * severity + rng.normal(0, 0.04), 0.5, 0.97)
    wavy = limit(1 - 0.5 * severity, 0.3, 1.2)
    crossing = limit(0.55 - 0.4 * severity, 0.06, 0.7) * rng.uniform(0.8, 1.2)
    tilt = rng.normal(0, limit(0.3 - 0.2 * severity, 0.06, 0.4))
    cover, eosin = _bundles(rng, places, tilt + crossing, thickness, filled, wavy)
    # Fine bundles are mixed in: a thickness that changed with the place would shear the bricks.
    near = papillary > 0
    share, close = papillary[near], (places[0][near], places[1][near])
    fine = _bundles(rng, close, tilt + crossing, 0.45 * thickness, filled, wavy)
    cover[near] += share * (fine[0] - cover[near])
    eosin[near] += share * (fine[1] - eosin[near])
    other = _bundles(rng, places, tilt - crossing, 0.9 * thickness, filled, wavy)
    cover *= smooth_step(noise(rng, places[0] / 24, places[1] / 14) - 0.5, 0.08)
    lower = other[0] * (1 - cover)
    tile.pink[inside] += (0.07 + cover * eosin + lower * other[1]) * (1 - 0.3 * papillary)
    tile.blue[inside] += 0.03 + 0.05 * papillary
    covered = np.ones_like(tile.x)
    covered[inside] = cover + lower
    _draw_fibroblasts(rng, tile, covered, tilt, crossing)


def _draw_fibroblasts(
    rng: Generator, tile: Tile, covered: ndarray, tilt: float, crossing: float
) -> None:
    """Spindle-shaped nuclei along the bundles, most of them in the clefts between."""
    count = rng.poisson(26)
    points = rng.uniform(-64, 64, (count, 2))
    clefts = (tile.at(points, covered) < 0.9) | (rng.random(count) < 0.4)
    points = points[clefts & (tile.at(points, tile.regions) == DERMIS)]
    angles = tile.angle + tilt + rng.choice([-1, 1], len(points)) * crossing
    draw_nuclei(rng, tile, points, angles + rng.normal(0, 0.25, len(points)), (3.0, 0.95), 0.9)


def _draw_keratinocytes(rng: Generator, tile: Tile, border: ndarray) -> None:
    """Nuclei of the epidermis: on a shaken hexagonal grid, and a dense row at its lower border."""
    spacing = 6.0
    rows = np.arange(-66, 66, spacing * 0.87)
    y, x = np.meshgrid(rows, np.arange(-66, 66, spacing), indexing="ij")
    x = x + spacing / 2 * (np.arange(len(rows)) % 2)[:, None]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points = points + rng.normal(0, 0.8, points.shape)
    height = tile.at(points, border - tile.depth)
    inside = (tile.at(points, tile.regions) == EPIDERMIS) & (tile.at(points, tile.depth) > 7)
    inner = points[inside & (height > 4)]
    draw_nuclei(rng, tile, inner, tile.angle + rng.normal(0, 0.5, len(inner)), (1.9, 1.5), 0.85)
    points = rng.uniform(-64, 64, (900, 2))
    height = tile.at(points, border - tile.depth)
    inside = (tile.at(points, tile.regions) == EPIDERMIS) & (np.abs(height - 2.2) < 1.2)
    basal = points[inside]
    upright = tile.angle + np.pi / 2 + rng.normal(0, 0.4, len(basal))
    draw_nuclei(rng, tile, basal, upright, (1.9, 1.1), 1.0)


def _find_place(rng: Generator, tile: Tile, radius: float) -> ndarray | None:
    """A point (x, y) with dermis all around at `radius`, or None where no try finds one."""
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for point in rng.uniform(-58, 58, (24, 2)):
        if np.all(tile.at(np.vstack([circle + point, point]), tile.regions) == DERMIS):
            return point
    return None


def _draw_adnexa(rng: Generator, tile: Tile) -> None:
    """A hair follicle, or a coil of sweat glands."""
    radius = rng.uniform(13, 18)
    place = _find_place(rng, tile, radius)
    if place is None:
        return
    if rng.random() < 0.5:
        _draw_tube(rng, tile, place, radius * rng.uniform(0.6, 0.8), 0.3, hair=True)
        return
    turns = rng.uniform(0, 2 * np.pi) + np.arange(6) * np.pi / 3
    ring = 0.66 * radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for shift in [np.zeros(2), *ring[: rng.integers(4, 7)]]:
        centre = place + shift + rng.normal(0, 0.6, 2)
        _draw_tube(rng, tile, centre, radius * rng.uniform(0.27, 0.34), 0.3, hair=False)


def _draw_tube(
    rng: Generator, tile: Tile, centre: ndarray, radius: float, core: float, *, hair: bool
) -> None:
    """A cross-section of cells around a core (share `core` of the radius): hair or open lumen."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
    part = tile.around(centre, 1.4 * radius + 3)
    x, y = part.x - centre[0], part.y - centre[1]
    long = (x * math.cos(turn) + y * math.sin(turn)) / stretch
    wide = (y * math.cos(turn) - x * math.sin(turn)) * stretch**0.5
    distance = np.hypot(long, wide)
    wall = smooth_step(radius - distance, 0.5)
    inner = smooth_step(core * radius - distance, 0.6)
    halo = smooth_step(radius + 1.6 - distance, 0.6) - wall
    blue, pink = (0.3, 0.9) if hair else (0.0, 0.03)  # of the core
    part.blue[...] = part.blue * (1 - wall) + wall * (0.36 + (blue - 0.36) * inner)
    part.pink *= 1 - np.clip(wall + 0.55 * halo, 0, 1)
    part.pink += wall * (0.4 + (pink - 0.4) * inner)
    part.regions[distance < radius] = ADNEXA
    for share in (0.85, 0.58) if hair else (0.68,):
        count = max(5, round(2 * np.pi * radius * share / 3.6))
        turns = np.arange(count) * 2 * np.pi / count + rng.normal(0, 0.12, count)
        u = radius * share * stretch * np.cos(turns)
        v = radius * share / stretch**0.5 * np.sin(turns)
        turned = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
        draw_nuclei(rng, tile, np.stack(turned, axis=1) + centre, turns + turn, (1.6, 1.3), 1.0)


def _draw_vessels(rng: Generator, tile: Tile, inflammation: float, severity: float) -> None:
    """Small vessels with flat nuclei in their wall and, with inflammation, lymphocytes around."""
    for _ in range(rng.integers(1, 4)):
        place = _find_place(rng, tile, 6.0)
        if place is None:
            continue
        radius = rng.uniform(2.2, 4.0) * (1 - 0.25 * limit(severity, 0, 1))
        part = tile.around(place, 7.0)
        distance = np.hypot(part.x - place[0], (part.y - place[1]) * rng.uniform(1.0, 1.5))
        wall = smooth_step(radius + 1.2 - distance, 0.6)
        lumen = smooth_step(radius - distance, 0.6)
        part.pink += wall * (0.45 - part.pink) * (1 - lumen) + lumen * (0.04 - part.pink)
        part.blue *= 1 - lumen
        turns = rng.uniform(0, 2 * np.pi, 5)
        circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        draw_nuclei(rng, tile, place + (radius + 0.5) * circle, turns + np.pi / 2, (1.8, 0.8), 0.95)
        count = rng.poisson(3 + 34 * inflammation * rng.gamma(2.0, 0.5))
        turns = rng.uniform(0, 2 * np.pi, count)
        far = radius + 1.5 + rng.gamma(1.6, 3.6, count)
        points = place + far[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = points[tile.at(points, tile.regions) == DERMIS]
        draw_nuclei(rng, tile, points, np.zeros(len(points)), (1.45, 1.4), 1.1)


def _photograph(rng: Generator, tile: Tile, biopsy: _Biopsy, size: int) -> ndarray:
    """Stains the section and scans it: [size,size,3] uint8."""
    strength = biopsy.strength * np.exp(rng.normal(0, 0.06, 2))
    # A tile's tissue takes up an amount of each dye that the class does not determine.
    for share, amount, usual in zip(strength, (tile.blue, tile.pink), (0.2, 0.5), strict=True):
        amount *= float(share) * usual / max(0.05, float(amount[tile.regions != BACKGROUND].mean()))
    density = tile.blue[..., None] * biopsy.dyes[0] + tile.pink[..., None] * biopsy.dyes[1]
    light = biopsy.white * np.exp(-biopsy.gamma * density)
    if len(light) > size:
        light = light.reshape(size, len(light) // size, size, -1, 3).mean(axis=(1, 3))
    light = blur(light, biopsy.blur * size / SIDE)
    light += biopsy.noise * rng.standard_normal(light.shape, np.float32)
    return jpeg(255 * light, biopsy.quality)
