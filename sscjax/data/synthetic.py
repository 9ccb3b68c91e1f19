"""Synthetic skin biopsies: H&E-like tiles by subject, each with its map of tissues.

The set stands in for images that may not leave a clinic: it lets everything run end to end, and
it has what makes such images hard. A subject has a disease that shows in architecture (collagen,
epidermis, adnexa, inflammation), overlapping between classes, and a stain, scanner and orientation
that have nothing to do with the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import loading, synthetic_canvas, synthetic_tissue
from sscjax.data.dataset import ImageSet
from sscjax.data.listing import ImageRecord, Listing
from sscjax.data.sources import Example, Source
from sscjax.data.synthetic_tissue import CLASSES
from sscjax.errors import UserError

TISSUES = ("background", "epidermis", "dermis collagen", "adnexa")
SUBJECTS = {"normal": 20, "early": 10, "late": 10}
# With two augmented copies each: the 1041, 423 and 423 images of the paper's second study.
TILES = {"normal": 347, "early": 141, "late": 141}
# With one augmented copy each: the 1042 normal and 846 SSc images of its first study.
TILES_TWO_CLASS = {"normal": 521, "early": 212, "late": 211}

_SMALLEST = 32


class SkinBiopsies(Source):
    """Haematoxylin-and-eosin-like skin biopsy tiles with tissue maps, drawn one by one.

    As systemic sclerosis progresses, collagen bundles become thicker, denser, more alike and
    parallel to the surface, the fine papillary dermis, the rete ridges and the adnexa go, the
    epidermis thins; early on, lymphocytes surround the vessels. The stain's strength is set per
    tile without regard to the class, so that mean colours say next to nothing about it.

    Tile t of a subject depends only on (seed, class, subject, t), not on the number of threads;
    on another machine rounding changes a few pixels. The order is class, subject, tile; subjects
    are named like `normal_03`, files like `normal/subject_03/tile_007.png`.
    """

    modules = (synthetic_tissue, synthetic_canvas)

    def __init__(
        self,
        *,
        image_size: int = 128,
        seed: int = 0,
        tiles: Mapping[str, int] = TILES,
        subjects: Mapping[str, int] = SUBJECTS,
    ):
        """Check the arguments and list the tiles.

        Args:
          image_size: side of the tiles in pixels, at least 32.
          seed: not negative.
          tiles: tiles per class, keys out of CLASSES; subjects get equal numbers, or one more.
          subjects: subjects per class, same keys, no more than tiles.

        Raises:
          UserError: an argument is out of its range.
        """
        _check(image_size, seed, tiles, subjects)
        self._seed = seed
        self._tiles = [
            (name, subject, number)
            for name in CLASSES
            for subject in range(1, subjects.get(name, 0) + 1)
            for number in range(1, _tiles_of(subject, tiles[name], subjects[name]) + 1)
        ]
        files = [f"{name}/subject_{of:02d}/tile_{k:03d}.png" for name, of, k in self._tiles]
        records = [
            ImageRecord(Path(file), file, name, f"{name}_{subject:02d}")
            for file, (name, subject, _) in zip(files, self._tiles, strict=True)
        ]
        text = f"synthetic skin biopsies (seed {seed}): drawn by a program, no patient data"
        classes = tuple(name for name in CLASSES if name in tiles)
        listing = Listing(Path(), classes, tuple(records), text, "synthetic")
        super().__init__(listing, image_size, with_masks=True)

    def __getitem__(self, index: int) -> Example:
        return Example(*synthetic_tissue.draw(self._seed, *self._tiles[index], self.image_size))

    def mask(self, index: int) -> np.ndarray:
        """The tissue map [S,S] uint8 of indices into TISSUES; draws the whole tile."""
        mask = self[index].mask
        assert mask is not None
        return mask

    def _arguments(self) -> Any:
        return {"seed": self._seed, "size": self.image_size, "tiles": self._tiles}


def skin_biopsies(**arguments: Any) -> ImageSet:
    """All tiles of `SkinBiopsies` with these arguments, drawn into memory."""
    return loading.in_memory(SkinBiopsies(**arguments))


def _tiles_of(subject: int, tiles: int, subjects: int) -> int:
    """Number of tiles of a subject, of those of its class; the first subjects get one more."""
    share, extra = divmod(tiles, subjects)
    return share + (subject <= extra)


def _check(
    image_size: int, seed: int, tiles: Mapping[str, int], subjects: Mapping[str, int]
) -> None:
    if image_size < _SMALLEST:
        raise UserError(f"synthetic image size is {image_size}, expected {_SMALLEST} or more")
    if seed < 0:
        raise UserError(f"synthetic seed is {seed}, expected 0 or more")
    if not tiles or set(tiles) != set(subjects) or not set(tiles) <= set(CLASSES):
        raise UserError(
            f"synthetic tiles are given for {sorted(tiles)} and subjects for {sorted(subjects)}, "
            f"expected the same classes for both, out of {list(CLASSES)}"
        )
    for name in tiles:
        if not 1 <= subjects[name] <= tiles[name]:
            raise UserError(
                f"synthetic class {name} has {tiles[name]} tiles of {subjects[name]} subjects, "
                "expected at least one subject and one tile for each"
            )
