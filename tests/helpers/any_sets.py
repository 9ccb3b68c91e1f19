"""Twelve image sets as people have them, from 2 patients and 4 images up to 300 patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

THREE, OWN = ("normal", "early", "late"), ("benign", "malignant")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How a set is drawn.

    Attributes:
      subjects: of each class.
      images: of each subject, or of each in turn.
      classes: their names.
      side: height and width of each image in turn, in pixels.
      subject_column: whether the manifest names subjects.
      alike: whether all images are the same.
      grey: whether they have one channel.
      masks: whether each has a mask of two classes.
    """

    subjects: Sequence[int]
    images: Sequence[int] = (3,)
    classes: Sequence[str] = THREE
    side: Sequence[tuple[int, int]] = ((36, 36),)
    subject_column: bool = True
    alike: bool = False
    grey: bool = False
    masks: bool = False


SETS = {
    "two patients, four images": Drawn((1, 1), (2,), OWN),
    "unbalanced": Drawn((16, 6, 4), (2, 1, 4)),
    "mixed sizes": Drawn((5, 5, 5), side=((40, 32), (200, 90), (33, 64), (128, 128))),
    "one class rare": Drawn((12, 8, 3), (3, 2, 1)),
    "two other classes": Drawn((6, 7), classes=OWN),
    "no column of subjects": Drawn((6, 6, 6), subject_column=False),
    "all images identical": Drawn((4, 4), classes=OWN, alike=True),
    "one image per patient": Drawn((8, 9), (1,), OWN),
    "grey": Drawn((5, 4, 5), grey=True),
    "most images of one patient": Drawn((6, 6), (20, 1, 1, 1), OWN),
    "three hundred patients": Drawn((150, 90, 60), (1,)),
    "with masks": Drawn((5, 5, 5), masks=True),
}


def write(folder: Path, how: Drawn) -> Path:
    """Images and a manifest; the classes differ in brightness, so that something can be learnt."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(how.subjects))
    columns = ["file", "label", *["subject"] * how.subject_column, *["mask"] * how.masks]
    lines = [",".join(columns)]
    number = 0
    for label, count in enumerate(how.subjects):
        for subject in range(count):
            for _ in range(how.images[number % len(how.images)] if count else 0):
                file = f"{len(lines):04d}.png"
                height, width = how.side[len(lines) % len(how.side)]
                pixels = _pixels(np.random.default_rng(0) if how.alike else rng, height, width)
                pixels = pixels if how.alike else pixels // 2 + 40 * label
                Image.fromarray(pixels[..., 0] if how.grey else pixels).save(folder / file)
                row = [file, how.classes[label], *[f"p{label}-{subject}"] * how.subject_column]
                if how.masks:
                    mask = (pixels[..., 0] > pixels[..., 0].mean()).astype(np.uint8)
                    Image.fromarray(mask).save(folder / f"{len(lines):04d}_mask.png")
                    row.append(f"{len(lines):04d}_mask.png")
                lines.append(",".join(row))
            number += 1
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _pixels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blots in colour: enough structure for the audit to tell images from one another."""
    small = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.kron(small, np.ones((4, 4, 1), np.uint8))[:height, :width]
