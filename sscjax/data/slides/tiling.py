"""How a slide is cut into tiles, and the tiles, one after the other.

`Settings` are stored beside training tiles, so that new slides are cut alike.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from sscjax.data import resolution
from sscjax.data.slides import stain, tissue
from sscjax.data.slides.reader import Slide
from sscjax.errors import UserError

# Longer side of the thumbnail that tissue is looked for in, in pixels.
THUMBNAIL = 2048

MOST_FIELDS = 10_000_000
"""Of one slide, those without tissue among them."""

MOST_TILES = 100_000
"""Of one slide where no cap is given: more are rather a mistake of scale."""

LEAST_FIELD = 32
"""Pixels of level 0 along the side of a field; fewer show no structure."""

# Gaps in the tissue up to this share of a field belong to it.
_GAP = 1 / 16

NO_TISSUE, PEN, BLUR, BEYOND = "little tissue", "pen", "blur", "beyond the cap"
REASONS = (NO_TISSUE, PEN, BLUR, BEYOND)


# What may be done about a slide's stains.
STAINS = ("none", "macenko")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What tiles are cut by.

    Attributes:
      field_um: side of a tile's field of view in micrometres; 0: `field_px` counts.
      field_px: the same in pixels of level 0. The paper's is 512.
      tile_size: side of the tile that is written, in pixels.
      min_tissue: least share of a field that is tissue, 0 to 1.
      overlap: share of a field's side that its neighbour repeats, 0 to below 1.
      max_tiles: of one slide; 0: all. More are drawn at random from all over its tissue.
      reject: whether tiles with pen or blur are left out.
      mpp: micrometres per pixel of level 0, in place of what slides say; 0: what they say counts.
      stain: 'none', or 'macenko': tiles are given the stains of a reference, see `stain`.
      seed: of the tiles that are drawn.
      mpp_for_all: whether `mpp` counts for slides that say another one as well. New slides are cut
        without that, because they may come from another scanner.
    """

    field_um: float = 0.0
    field_px: int = 512
    tile_size: int = 128
    min_tissue: float = 0.5
    overlap: float = 0.0
    max_tiles: int = 0
    reject: bool = True
    mpp: float = 0.0
    stain: str = "none"
    seed: int = 0
    mpp_for_all: bool = True

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("field_um", self.field_um >= 0, "0 or more micrometres"),
            ("field_px", self.field_px >= LEAST_FIELD, f"{LEAST_FIELD} pixels or more"),
            ("tile_size", 8 <= self.tile_size <= 4096, "8 to 4096 pixels"),
            ("min_tissue", 0 <= self.min_tissue <= 1, "a share, 0 to 1"),
            ("overlap", 0 <= self.overlap <= 0.9, "a share, 0 to 0.9"),
            ("max_tiles", self.max_tiles >= 0, "0 (no cap) or more"),
            (
                "mpp",
                self.mpp == 0 or resolution.believable(self.mpp),
                f"{resolution.LOWEST:g} to {resolution.HIGHEST:g} micrometres per pixel, or 0 "
                "(what the slide says)",
            ),
        ):
            if not fits:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}={getattr(self, name):g}: expected {wanted}")
        if self.stain not in STAINS:
            raise UserError(f"--stain={self.stain}: expected one of {', '.join(STAINS)}")

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """What `as_json` gave.

        Raises:
          TypeError: it has other fields.
        """
        return cls(**values)


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """A tile of a slide.

    Attributes:
      x, y: its left and upper edge in pixels of level 0.
      pixels: uint8 [S,S,3].
      tissue: share of its field that is tissue, 0 to 1.
    """

    x: int
    y: int
    pixels: np.ndarray
    tissue: float


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Where the tissue and the fields of a slide are, before any tile is read.

    Attributes:
      field: side of a field in pixels of level 0.
      mpp: micrometres per pixel of a TILE; None where the slide's resolution is not known.
      thumbnail: uint8 [h,w,3].
      scale: pixels of the thumbnail per pixel of level 0.
      level: saturation, 0 to 255, above which a pixel is tissue.
      places: x, y and tissue share of every field of the grid, row after row.
      tissue: share of the slide that is tissue, 0 to 1.
      stains: of that tissue; None where they stay as they are.
    """

    field: int
    mpp: float | None
    thumbnail: np.ndarray
    scale: float
    level: int
    places: tuple[tuple[int, int, float], ...]
    tissue: float
    stains: stain.Stains | None


def plan(slide: Slide, settings: Settings) -> Plan:
    """Find the tissue of a slide and lay the grid of fields over it.

    Raises:
      UserError: the field is in micrometres and the resolution not known, the slide is smaller
        than one field, or its stains cannot be estimated. The message names no file.
    """
    mpp = level_mpp(slide, settings)
    field = settings.field_px
    if settings.field_um:
        if mpp is None:
            said = (
                "does not say its micrometres per pixel"
                if slide.said_mpp is None
                else f"says {slide.said_mpp:g} micrometres per pixel, which no microscope has"
            )
            raise UserError(f"the slide {said}; give --mpp, or the field in pixels by --field-px")
        field = round(settings.field_um / mpp)
        if field < LEAST_FIELD:
            raise UserError(
                f"a field of {settings.field_um:g} micrometres has {field} pixel(s) at {mpp:g} "
                f"micrometres per pixel, expected {LEAST_FIELD} or more: give a larger --field-um, "
                "or the right --mpp"
            )
    if field > min(slide.width, slide.height):
        raise UserError(
            f"the slide has {slide.width}x{slide.height} pixels, and a field {field}x{field}: "
            "give a smaller field"
        )
    step = max(1, round(field * (1 - settings.overlap)))
    rows, columns = (_edges(side, field, step) for side in (slide.height, slide.width))
    if len(rows) * len(columns) > MOST_FIELDS:
        raise UserError(
            f"the slide has {slide.width}x{slide.height} pixels, and with that "
            f"{len(rows) * len(columns):,} fields of {field}x{field}, over the limit of "
            f"{MOST_FIELDS:,}: give a larger field, or less overlap"
        )
    thumbnail = slide.thumbnail(THUMBNAIL)
    level = tissue.threshold(thumbnail)
    scale = thumbnail.shape[1] / slide.width
    stained = tissue.mask(thumbnail, level, max(1, round(field * scale * _GAP)))
    # A summed-area table: the share of any rectangle by four look-ups.
    sums = np.pad(stained.cumsum(0, np.int32).cumsum(1, np.int32), ((1, 0), (1, 0)))
    places = [(x, y, _share(sums, x, y, field, scale)) for y in rows for x in columns]
    reduced = None if mpp is None else mpp * field / settings.tile_size
    stains = stain.find(thumbnail[stained]) if settings.stain == "macenko" else None
    share = float(stained.mean())
    return Plan(field, reduced, thumbnail, scale, level, tuple(places), share, stains)


def level_mpp(slide: Slide, settings: Settings) -> float | None:
    """Micrometres per pixel of level 0, from the settings or the slide; None: unknown."""
    if settings.mpp and (settings.mpp_for_all or not slide.mpp):
        return settings.mpp
    return slide.mpp


def _edges(side: int, field: int, step: int) -> range:
    """Where fields begin along an axis: as many as there is room for, in the middle of it."""
    rest = (side - field) % step
    return range(rest // 2, side - field + 1, step)


def _share(sums: np.ndarray, x: int, y: int, field: int, scale: float) -> float:
    """Mean of the mask over a field; of at least one pixel of the thumbnail."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    left, top = (min(round(edge * scale), side - 1) for edge, side in ((x, width), (y, height)))
    right = min(max(left + 1, round((x + field) * scale)), width)
    low = min(max(top + 1, round((y + field) * scale)), height)
    total = sums[low, right] - sums[top, right] - sums[low, left] + sums[top, left]
    return float(total / ((right - left) * (low - top)))


def tiles(
    slide: Slide,
    planned: Plan,
    settings: Settings,
    name: str,
    skipped: dict[tuple[int, int], str] | None = None,
) -> Iterator[Tile]:
    """The tiles of a slide, one at a time; the same for the same name and settings.

    Args:
      slide: open.
      planned: of this slide.
      settings: as for the plan.
      name: of the slide; with the seed it decides which tiles a cap leaves.
      skipped: is filled with one of `REASONS` for every field left out, by its x and y.
    """
    skipped = {} if skipped is None else skipped
    chosen = []
    for place in planned.places:
        if place[2] >= settings.min_tissue and place[2] > 0:
            chosen.append(place)
        else:
            skipped[place[:2]] = NO_TISSUE
    if not settings.max_tiles and len(chosen) > MOST_TILES:
        raise UserError(
            f"the slide has {len(chosen):,} fields of {planned.field}x{planned.field} pixels with "
            f"tissue, over the limit of {MOST_TILES:,}: give a larger field, or --max-tiles"
        )
    if settings.max_tiles:
        rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode("utf-8", "replace"))])
        chosen = [chosen[index] for index in rng.permutation(len(chosen))]
    level = _level(slide, planned.field, settings.tile_size)
    taken = 0
    for x, y, share in chosen:
        if settings.max_tiles and taken >= settings.max_tiles:
            skipped[x, y] = BEYOND
            continue
        pixels = _cut(slide, x, y, planned.field, level, settings.tile_size)
        if settings.reject and tissue.pen_share(pixels) > tissue.PEN_SHARE:
            skipped[x, y] = PEN
        elif settings.reject and tissue.sharpness(pixels) < tissue.SHARPNESS:
            skipped[x, y] = BLUR
        else:
            taken += 1
            if planned.stains is not None:
                pixels = stain.normalised(pixels, planned.stains, stain.reference())
            yield Tile(x, y, pixels, share)


def _level(slide: Slide, field: int, size: int) -> int:
    """The coarsest level that still has as many pixels in a field as the tile."""
    fine = [k for k, factor in enumerate(slide.downsamples) if field / factor >= size - 0.5]
    return fine[-1] if fine else 0


def _cut(slide: Slide, x: int, y: int, field: int, level: int, size: int) -> np.ndarray:
    side = max(1, round(field / slide.downsamples[level]))
    pixels = slide.read(x, y, level, side, side)
    if side == size:
        return pixels
    # As `image_io` reduces images, so that a tile cut here and one cut by others are alike.
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))
