"""Plant copies among real tiles and see how many the audit finds.

    python scripts/audit_recall.py --data=FOLDER [--plant=150] [--time=5000]

FOLDER is an image set of at least 128x128 pixels. Of each kind, `--plant` copies of random tiles
are added to the set as images of other subjects would be. Printed, as Markdown: the share of each
kind that is found and the least agreement among nine in ten of them, and how many pairs of
different tiles are taken for copies; the likest of these are written as pictures to `--pictures`,
for tiles of one biopsy may truly overlap. `--time` measures the search on so many quarters of the
tiles; where tiles were cut with an overlap of one half, many of their quarters are the same place.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sscjax.data import loading
from sscjax.data.audit import duplicates

Plant = Callable[[Image.Image, np.random.Generator], Image.Image]


def encoded(quality: int) -> Plant:
    def plant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=quality)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    return plant


def transposed(how: Image.Transpose) -> Plant:
    return lambda image, rng: image.transpose(how)


def cropped(share: float = 0.8) -> Plant:
    def plant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = round(share * image.width)
        left, top = rng.integers(0, image.width - side + 1, 2).tolist()
        cut = image.crop((left, top, left + side, top + side))
        return cut.resize(image.size, Image.Resampling.BILINEAR)

    return plant


def in_turn(*plants: Plant) -> Plant:
    def plant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for one in plants:
            image = one(image, rng)
        return image

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
    "crop of 80 %": cropped(),
    "crop of 80 %, flipped": in_turn(cropped(), transposed(Image.Transpose.FLIP_LEFT_RIGHT)),
    "crop of 80 %, turned, JPEG quality 60": in_turn(
        cropped(), transposed(Image.Transpose.ROTATE_90), encoded(60)
    ),
    "crop of 90 %": cropped(0.9),
    "crop of 70 %": cropped(0.7),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--plant", type=int, default=150, help="copies of each kind")
    parser.add_argument("--time", type=int, default=0, help="quarters of tiles to be searched")
    parser.add_argument("--pictures", type=Path, help="folder for the likest different tiles")
    args = parser.parse_args()
    images = np.asarray(loading.load(args.data, 128).images)
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
    print("| planted | copies | found | agreement |", "|---|---|---|---|", sep="\n")
    for kind in KINDS:
        rows = [k for k, name in enumerate(kinds) if name == kind]
        hits = [(owners[k], count + k) for k in rows if (owners[k], count + k) in pairs]
        least = np.quantile([pairs[hit].likeness for hit in hits], 0.1) if hits else 0
        print(f"| {kind} | {len(rows)} | {len(hits) / len(rows):.1%} | {least:.2f} |")
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
    if args.time:
        measure(args.data, args.time)


def measure(data: Path, count: int) -> None:
    """How long the search of `count` quarters of tiles takes."""
    images = np.asarray(loading.load(data, 256).images)
    quarters = [images[:, y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    tiles = np.concatenate(quarters)[:count]
    started, cpu = time.perf_counter(), time.process_time()
    found = duplicates.find(tiles)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        f"\n{len(tiles)} quarters of tiles took {seconds:.0f} s ({cpu:.0f} s of processor time); "
        f"{len(found.pairs)} pairs of them show the same place."
    )


if __name__ == "__main__":
    main()
