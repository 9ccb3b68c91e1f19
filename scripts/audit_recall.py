"""Plant copies among real tiles and see how many the audit finds.

    python scripts/audit_recall.py --data=FOLDER [--plant=150]

FOLDER is an image set of at least 128x128 pixels. Of each kind, `--plant` copies of random tiles
are added to the set as images of other subjects would be. Printed, as Markdown: the share of each
kind that is found, and how many pairs of different tiles are taken for copies; the likest of these
are written as pictures to `--pictures`, for tiles of one biopsy may truly overlap.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sscjax.data import duplicates, sources

Plant = Callable[[Image.Image, np.random.Generator], Image.Image]


def encoded(quality: int) -> Plant:
    def plant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=quality)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    return plant


def transposed(how: Image.Transpose) -> Plant:
    return lambda image, rng: image.transpose(how)


def cropped(flip: bool) -> Plant:
    def plant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = round(0.8 * image.width)
        left, top = rng.integers(0, image.width - side + 1, 2).tolist()
        cut = image.crop((left, top, left + side, top + side))
        if flip:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return cut.resize(image.size, Image.Resampling.BILINEAR)

    return plant


KINDS: dict[str, Plant] = {
    "exact copy": lambda image, rng: image,
    "flipped left to right": transposed(Image.Transpose.FLIP_LEFT_RIGHT),
    "flipped top to bottom": transposed(Image.Transpose.FLIP_TOP_BOTTOM),
    "a quarter turn": transposed(Image.Transpose.ROTATE_90),
    "half a turn": transposed(Image.Transpose.ROTATE_180),
    "three quarter turns": transposed(Image.Transpose.ROTATE_270),
    "JPEG quality 90": encoded(90),
    "JPEG quality 60": encoded(60),
    "crop of 80 %": cropped(flip=False),
    "crop of 80 %, flipped": cropped(flip=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--plant", type=int, default=150, help="copies of each kind")
    parser.add_argument("--pictures", type=Path, help="folder for the likest different tiles")
    args = parser.parse_args()
    images = np.asarray(sources.load(args.data, 128).images)
    rng = np.random.default_rng(0)
    planted, owners, kinds = [], [], []
    for kind, plant in KINDS.items():
        for owner in rng.choice(len(images), min(args.plant, len(images)), replace=False).tolist():
            planted.append(np.asarray(plant(Image.fromarray(images[owner]), rng)))
            owners.append(owner)
            kinds.append(kind)
    started, cpu = time.perf_counter(), time.process_time()
    found = duplicates.find(np.concatenate([images, np.stack(planted)]))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    count = len(images)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    print("| planted | copies | found |", "|---|---|---|", sep="\n")
    for kind in KINDS:
        rows = [k for k, name in enumerate(kinds) if name == kind]
        hits = sum((owners[k], count + k) in pairs for k in rows)
        print(f"| {kind} | {len(rows)} | {hits / len(rows):.1%} |")
    false = sorted(
        (pair for pair in found.pairs if pair.second < count), key=lambda pair: -pair.likeness
    )
    with_one = len({k for pair in false for k in (pair.first, pair.second)})
    print(
        f"\nAmong {count} tiles themselves: {len(false)} pairs, {with_one / count:.2%} of the "
        f"tiles in one; {found.blank[:count].sum()} too blank to tell. "
        f"{count + len(planted)} images took {seconds:.0f} s ({cpu:.0f} s of processor time)."
    )
    for number, pair in enumerate(false[:40] if args.pictures else []):
        args.pictures.mkdir(parents=True, exist_ok=True)
        both = np.concatenate([images[pair.first], images[pair.second]], axis=1)
        name = f"{number:02d}-{pair.relation.replace(' ', '-')}-{pair.likeness:.2f}.png"
        Image.fromarray(both).save(args.pictures / name)


if __name__ == "__main__":
    main()
