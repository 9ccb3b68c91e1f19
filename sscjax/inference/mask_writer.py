"""The masks that a run predicts for new images: a file for each, and the share of each class.

A mask has the size of its upright image, like the masks for training: what the network did not see,
because images are cropped to their central square, is marked as unlabelled.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import masks as maps
from sscjax.data import resolution
from sscjax.data.image_io import read_upright_size
from sscjax.data.inputs import InputImage
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError
from sscjax.reports import figures
from sscjax.system import files, formatting, run_dir

# In the folder of the results: the files, and the table that says whose they are; and where the
# files are until all else is known to be well.
FOLDER, TABLE = "masks", run_dir.MASKS
PARTIAL = ".masks.partial"

_PLAIN = Decoding()


class MaskFiles:
    """Writes masks as they come, so that no more than a batch of them is in memory."""

    def __init__(
        self,
        out: Path,
        images: Sequence[InputImage],
        classes: Sequence[str],
        decoding: Decoding = _PLAIN,
    ) -> None:
        """Nothing is written yet.

        Args:
          out: folder of the results.
          images: the images that masks may come for.
          classes: names of the mask classes.
          decoding: how the images are read.
        """
        self._out, self._images, self._classes = out, images, tuple(classes)
        self._reading = decoding
        self._entries: dict[int, dict[str, Any]] = {}
        self.discard()

    def add(self, rows: Sequence[int], masks: np.ndarray) -> None:
        """Write the masks of some images.

        Args:
          rows: their rows in `images`.
          masks: [n,S,S] uint8 class indices.
        """
        palette = figures.mask_palette(len(self._classes))
        for row, mask in zip(rows, masks, strict=True):
            name = f"{row + 1:06d}.png"
            image = self._images[row]
            side = resolution.side(image.mpp, self._reading, len(mask), image.path)
            enlarged = maps.enlarge(mask, *read_upright_size(image.path), side)
            files.write_bytes(self._out / PARTIAL / name, maps.png(enlarged, palette))
            counts = np.bincount(mask.ravel(), minlength=len(self._classes))
            shares = (counts / mask.size).tolist()
            self._entries[row] = {
                "file": self._images[row].file,
                "subject": self._images[row].subject,
                "mask": f"{FOLDER}/{name}",
                "shares": dict(zip(self._classes, shares, strict=True)),
            }

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Of each image: file, subject, mask (its place in the folder), and shares by class."""
        return [self._entries[row] for row in sorted(self._entries)]

    def finish(self) -> None:
        """Put the files under their names, in the place of earlier ones, and write the table."""
        remove(self._out)
        (self._out / PARTIAL).rename(self._out / FOLDER)
        lines = [["file", "subject", "mask", *(f"share {name}" for name in self._classes)]]
        for entry in self.entries:
            shares = [f"{share:.6f}" for share in entry["shares"].values()]
            lines.append([entry["file"], entry["subject"], entry["mask"], *shares])
        files.write_text(self._out / TABLE, files.csv_text(lines))

    def discard(self) -> None:
        """Remove what is not finished."""
        shutil.rmtree(self._out / PARTIAL, ignore_errors=True)

    def text(self) -> str:
        """What the terminal shows."""
        every = np.array([list(entry["shares"].values()) for entry in self.entries])
        said = ", ".join(
            f"{formatting.clean_name(name, 24)} {formatting.percent(float(share))}"
            for name, share in zip(self._classes, every.mean(axis=0), strict=True)
        )
        return (
            f"Masks: {self._out / FOLDER}, a file for each image; {TABLE} says whose, and what "
            f"share each class has.\nOn average: {said}."
        )


def remove(out: Path) -> None:
    """Remove the masks of earlier results, which are known by their table."""
    if (out / TABLE).is_file():
        shutil.rmtree(out / FOLDER, ignore_errors=True)
        (out / TABLE).unlink()


def refuse_folder(out: Path) -> None:
    """Raise a UserError where masks would replace a folder that is none of these results."""
    if (out / FOLDER).exists() and not (out / TABLE).is_file():
        raise UserError(
            f"--out={out} holds a folder {FOLDER} of something else: name another folder"
        )
