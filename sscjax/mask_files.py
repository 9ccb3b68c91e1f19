"""The masks that a run tells of new images: a file for each, and what share each class has.

A mask has the size of its image, upright, as masks to train on have: what the network did not see,
because images are cut to their central square, is marked as not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax import figures, files, report
from sscjax.data import masks as maps
from sscjax.data.asked import Asked
from sscjax.data.decode import read_upright_size

# In the folder of the results: the files, and the table that says whose they are.
FOLDER, TABLE = "masks", "masks.csv"


class MaskFiles:
    """Writes masks as they come, so that no more than a batch of them is in memory."""

    def __init__(self, out: Path, asked: Sequence[Asked], classes: Sequence[str]) -> None:
        """Nothing is written yet.

        Args:
          out: folder of the results.
          asked: the images that masks may come for.
          classes: names of the mask classes.
        """
        self._out, self._asked, self._classes = out, asked, tuple(classes)
        self._entries: dict[int, dict[str, Any]] = {}

    def add(self, rows: Sequence[int], masks: np.ndarray) -> None:
        """Write the masks of some images.

        Args:
          rows: their places in `asked`.
          masks: [n,S,S] uint8 class indices.
        """
        palette = figures.mask_palette(len(self._classes))
        for row, mask in zip(rows, masks, strict=True):
            name = f"{FOLDER}/{row + 1:06d}.png"
            whole = maps.enlarge(mask, *read_upright_size(self._asked[row].path))
            files.write_bytes(self._out / name, maps.png(whole, palette))
            counts = np.bincount(mask.ravel(), minlength=len(self._classes))
            shares = (counts / mask.size).tolist()
            self._entries[row] = {
                "file": self._asked[row].file,
                "subject": self._asked[row].subject,
                "mask": name,
                "shares": dict(zip(self._classes, shares, strict=True)),
            }

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Of each image: file, subject, mask (its place in the folder), and shares by class."""
        return [self._entries[row] for row in sorted(self._entries)]

    def finish(self) -> str:
        """Write the table; returns what the terminal shows."""
        rows = [["file", "subject", "mask", *(f"share {name}" for name in self._classes)]]
        for one in self.entries:
            shares = [f"{share:.6f}" for share in one["shares"].values()]
            rows.append([one["file"], one["subject"], one["mask"], *shares])
        files.write_text(self._out / TABLE, files.csv_text(rows))
        every = np.array([list(one["shares"].values()) for one in self.entries])
        said = ", ".join(
            f"{report.clean_name(name, 24)} {report.percent(float(share))}"
            for name, share in zip(self._classes, every.mean(axis=0), strict=True)
        )
        return (
            f"Masks: {self._out / FOLDER}, a file for each image; {TABLE} says whose, and what "
            f"share each class has.\nOn average: {said}."
        )
