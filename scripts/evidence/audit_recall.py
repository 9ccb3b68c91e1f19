"""Measure what the audit finds: recall of planted copies, false alarms, seconds and memory.

    python scripts/evidence/audit_recall.py --data=FOLDER [--rounds=2] [--size=128]

FOLDER is an image set with subjects (a manifest.csv). In each round every image is planted once:
image k with transformation k + round, so that an audit sees each image and one copy of it. Two
tiles of one slide are cut from one image at a known overlap and replace it. Images of the set
that are tiles of one slide are found first by comparing their halves and quarters, without the
audit's methods; they count as one more row.

With `--twins` it measures one patient under two names instead: each subject's images are divided
between two names, so that no tiles that overlap stand under both, and once more with 10 or 5
images under the second name. What is named under one name each counts as a false alarm.

Pairs that were neither planted nor are such neighbours count as false alarms and are listed;
`--pictures=FOLDER` writes them, and what was missed, so that one can look.
"""

from __future__ import annotations

import argparse
import collections
import functools
import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from scipy import stats
from scipy.sparse import coo_matrix, csgraph

from sscjax.data import loading
from sscjax.data.audit import appearance, duplicates, patients

BICUBIC = Image.Resampling.BICUBIC
TIMED = 5000
Pictures = tuple[Image.Image, Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Through a JPEG file."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def cropped(image: Image.Image, rng: np.random.Generator, share: float) -> Image.Image:
    """A square window anywhere, at the size of the image."""
    side = image.size[0]
    cut = round(side * share)
    left, top = rng.integers(0, side - cut + 1, 2).tolist()
    return image.crop((left, top, left + cut, top + cut)).resize(image.size, BICUBIC)


def rotated(image: Image.Image, rng: np.random.Generator, degrees: float) -> Image.Image:
    """To either side, with white corners."""
    sign = int(rng.choice([-1, 1]))
    return image.rotate(sign * degrees, BICUBIC, fillcolor=(255, 255, 255))


def stained(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Optical densities of the three channels times 0.7 to 1.3."""
    density = -np.log((np.asarray(image, np.float32) + 1) / 256) * rng.uniform(0.7, 1.3, 3)
    return Image.fromarray(np.clip(256 * np.exp(-density) - 1, 0, 255).astype(np.uint8))


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise of 10 grey levels."""
    pixels = np.asarray(image, np.float32) + rng.normal(0, 10, (*image.size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    """Grey levels to a power."""
    return image.point(lambda value: 255 * (value / 255) ** exponent)


def two_tiles(image: Image.Image, rng: np.random.Generator, overlap: float) -> Pictures:
    """Neighbours in a row or a column that share this part of their area."""
    side = image.size[0]
    cut = round(side / (2 - overlap))
    across = int(rng.integers(0, side - cut + 1))
    places = [(0, across), (side - cut, across)]
    if rng.integers(2):
        places = [(top, left) for left, top in places]
    tiles = [image.crop((x, y, x + cut, y + cut)).resize(image.size, BICUBIC) for x, y in places]
    return tiles[0], tiles[1]


def corner_tiles(image: Image.Image, overlap: float, rng: np.random.Generator) -> Pictures:
    """Diagonal neighbours that share this part of their area."""
    side = image.size[0]
    cut = round(side / (2 - overlap**0.5))
    flip = bool(rng.integers(2))
    places = [(0, side - cut if flip else 0), (side - cut, 0 if flip else side - cut)]
    tiles = [image.crop((x, y, x + cut, y + cut)).resize(image.size, BICUBIC) for x, y in places]
    return tiles[0], tiles[1]


Plant = Callable[[Image.Image, np.random.Generator], Pictures]


def _copy(change: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Plant:
    return lambda image, rng: (image, change(image, rng))


PLANTS: dict[str, Plant] = {
    "exact copy": _copy(lambda image, rng: image.copy()),
    "flipped": _copy(lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "rotated by 90 degrees": _copy(lambda image, rng: image.transpose(Image.Transpose.ROTATE_90)),
    "JPEG quality 10": _copy(lambda image, rng: encoded(image, 10)),
    "brightness 0.6": _copy(lambda image, rng: ImageEnhance.Brightness(image).enhance(0.6)),
    "contrast 0.6": _copy(lambda image, rng: ImageEnhance.Contrast(image).enhance(0.6)),
    "gamma 0.6": _copy(lambda image, rng: gamma(image, 0.6)),
    "other stain": _copy(stained),
    "grey": _copy(lambda image, rng: image.convert("L").convert("RGB")),
    "blur of 2 pixels": _copy(lambda image, rng: image.filter(ImageFilter.GaussianBlur(2))),
    "noise of 10 grey levels": _copy(noisy),
    **{
        f"rotated by {degrees} degrees": _copy(functools.partial(rotated, degrees=degrees))
        for degrees in (3, 5, 10, 25, 45)
    },
    "rotated by 10 degrees, flipped, JPEG quality 60": _copy(
        lambda image, rng: encoded(
            rotated(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), rng, 10), 60
        )
    ),
    **{
        f"crop of {share:.0%} of the side": _copy(functools.partial(cropped, share=share))
        for share in (0.8, 0.7, 0.6, 0.5)
    },
    "crop of 80 %, other stain, JPEG quality 60": _copy(
        lambda image, rng: encoded(stained(cropped(image, rng, 0.8), rng), 60)
    ),
    **{
        f"neighbours, {share:.0%} of the area in common": functools.partial(
            two_tiles, overlap=share
        )
        for share in (0.9, 0.8, 0.5, 0.35, 0.25)
    },
    "diagonal neighbours, 25% of the area in common": (
        lambda image, rng: corner_tiles(image, 0.25, rng)
    ),
}


def neighbours(images: np.ndarray, subjects: np.ndarray) -> dict[tuple[int, int], float]:
    """Pairs within subjects that share a half or a quarter, by correlation: share of the area."""
    half = images.shape[1] // 2
    grey = images.mean(3, dtype=np.float32)
    bottom, top, left, right = slice(half, None), slice(0, half), slice(0, half), slice(half, None)
    every = slice(None)
    cuts = (
        ((every, right), (every, left), 0.5),
        ((bottom, every), (top, every), 0.5),
        ((bottom, right), (top, left), 0.25),
        ((bottom, left), (top, right), 0.25),
    )
    pairs = {}
    for subject in np.unique(subjects):
        index = np.flatnonzero(subjects == subject)
        for one, other, share in cuts:
            parts = []
            for rows, columns in (one, other):
                part = grey[index][:, rows, columns].reshape(len(index), -1)
                part = part - part.mean(1, keepdims=True)
                deviation = part.std(1, keepdims=True)
                parts.append(np.where(deviation > 4, part / np.maximum(deviation, 1e-6), 0))
            table = parts[0] @ parts[1].T / parts[0].shape[1]
            for a, b in np.argwhere(table > 0.9):
                if a != b:
                    pair = (int(min(index[a], index[b])), int(max(index[a], index[b])))
                    pairs[pair] = share
    return pairs


def divided(
    subjects: np.ndarray, overlapping: dict[tuple[int, int], float], most: int, seed: int
) -> tuple[np.ndarray, set[tuple[str, str]]]:
    """Subjects under two names each, and which pairs of names are one subject.

    Args:
      subjects: [N].
      overlapping: pairs of images that must keep one name, see `neighbours`.
      most: images that may get the second name.
      seed: of the division.
    """
    one, other = np.array(list(overlapping), np.int64).reshape(-1, 2).T
    links = coo_matrix((np.ones(len(one)), (one, other)), shape=[len(subjects)] * 2)
    _, area = csgraph.connected_components(links, directed=False)
    rng = np.random.default_rng(seed)
    names, pairs = np.char.add(subjects.astype(np.str_), "-1"), set()
    for subject in np.unique(subjects):
        own = np.flatnonzero(subjects == subject)
        second: list[int] = []
        for part in rng.permutation(np.unique(area[own])):
            inside = own[area[own] == part].tolist()
            if len(second) + len(inside) <= min(most, len(own) // 2):
                second += inside
        if min(len(second), len(own) - len(second)) >= min(most, patients.FEWEST_IMAGES):
            names[second] = f"{subject}-2"
            pairs.add((f"{subject}-1", f"{subject}-2"))
    return names, pairs


def twins(images: np.ndarray, subjects: np.ndarray, size: int, rounds: int) -> str:
    """Markdown: how many subjects under two names are named, and how many others."""
    reduced_images = reduced([Image.fromarray(image) for image in images], size)
    features = np.concatenate([appearance.describe(part) for part in chunks(reduced_images)])
    overlapping = neighbours(images, subjects)
    lines = [
        "| images under the second name | pairs | named | other pairs named |",
        "|---|---|---|---|",
    ]
    for most in (10**6, 10, 5):
        planted = found = false = possible = 0
        for seed in range(rounds):
            names, pairs = divided(subjects, overlapping, most, seed)
            named = {(pair.first, pair.second) for pair in patients.find(features, names)}
            planted, found = planted + len(pairs), found + len(named & pairs)
            false, number = false + len(named - pairs), len(np.unique(names))
            possible += number * (number - 1) // 2
        title = "half of them" if most == 10**6 else f"up to {most}"
        lines.append(f"| {title} | {planted} | {found} | {false} of {possible:,} |")
    alone = patients.find(features, subjects)
    shown = [f"{pair.first[:8]} and {pair.second[:8]} ({pair.odds:,.0f} to 1)" for pair in alone]
    lines.append(f"\nUnder one name each, {len(alone)} pairs are named: {', '.join(shown)}")
    return "\n".join(lines)


def chunks(images: np.ndarray) -> list[np.ndarray]:
    """Parts of some images each, to save memory."""
    return np.array_split(images, max(1, len(images) // 256))


def interval(successes: int, trials: int) -> str:
    """Clopper and Pearson's 95 % interval in percent."""
    if not trials:
        return "-"
    bounds = stats.binomtest(successes, trials).proportion_ci(method="exact")
    return f"{bounds.low:.1%} to {bounds.high:.1%}"


def table(rows: list[tuple[str, int, int]]) -> str:
    """Markdown: transformation, pairs, pairs found, recall with its interval."""
    lines = ["| pair | n | found | recall | 95 % interval |", "|---|---|---|---|---|"]
    for name, trials, successes in rows:
        recall = f"{successes / trials:.1%}" if trials else "-"
        lines.append(
            f"| {name} | {trials} | {successes} | {recall} | {interval(successes, trials)} |"
        )
    return "\n".join(lines)


def reduced(images: list[Image.Image], size: int) -> np.ndarray:
    """[N,size,size,3] uint8."""
    resized = [image.resize((size, size), Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.asarray(image) for image in resized])


def timed(images: np.ndarray, size: int) -> str:
    """Seconds and memory for TIMED tiles: quarters of the images, which do not overlap."""
    half = images.shape[1] // 2
    quarters = [images[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    tiles = np.concatenate(quarters)[:TIMED]
    tiles = reduced([Image.fromarray(tile) for tile in tiles], size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.monotonic(), time.process_time()
    pairs = duplicates.find(tiles).pairs
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (
        f"{len(tiles):,} tiles of {size} pixels: {time.monotonic() - start:.0f} s "
        f"({time.process_time() - processor:.0f} s of the processor), {len(pairs):,} pairs; "
        f"memory rose by {(after - before) / unit:,.0f} MiB to {after / unit:,.0f} MiB"
    )


def save(folder: Path, name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Both images of a pair side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pair, axis=1)).save(folder / f"{name}.png")


def main() -> None:
    """Plant, search, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest.csv")
    parser.add_argument("--rounds", type=int, default=2, help="audits, each of all images")
    parser.add_argument("--size", type=int, default=128, help="side that images are compared at")
    parser.add_argument("--limit", type=int, help="use the first images only")
    parser.add_argument(
        "--pictures", type=Path, help="folder for pictures of missed and false pairs"
    )
    parser.add_argument("--untimed", action="store_true", help="no measurement of 5,000 tiles")
    parser.add_argument("--twins", action="store_true", help="one patient under two names")
    args = parser.parse_args()
    image_set = loading.load(args.data, 256)
    images = np.asarray(image_set.images[: args.limit])
    subjects = image_set.subjects[: args.limit]
    if args.twins:
        print(twins(images, subjects, args.size, args.rounds))
        return
    if not args.untimed:
        print(timed(images, args.size), flush=True)
    planted: collections.Counter[str] = collections.Counter()
    detected: collections.Counter[str] = collections.Counter()
    false_alarms, audited = 0, 0
    real = neighbours(images, subjects)
    for round_number in range(args.rounds):
        rng = np.random.default_rng(round_number)
        firsts, seconds, names = [], [], []
        for k, pixels in enumerate(images):
            name = list(PLANTS)[(k + round_number) % len(PLANTS)]
            original, copy = PLANTS[name](Image.fromarray(pixels), rng)
            firsts.append(original)
            seconds.append(copy)
            names.append(name)
        tiles = reduced(firsts + seconds, args.size)
        result = duplicates.find(tiles)
        pairs = {(pair.first, pair.second): pair for pair in result.pairs}
        count = len(images)
        audited += 2 * count
        for k, name in enumerate(names):
            if result.blank[k]:
                continue
            planted[name] += 1
            detected[name] += (k, count + k) in pairs
            if (k, count + k) not in pairs and args.pictures:
                title = f"missed_{round_number}_{k}_{name.replace(' ', '_').replace('%', '')}"
                save(args.pictures, title, (tiles[k], tiles[count + k]))
        moved = {k for k, name in enumerate(names) if "neighbours" in name}
        for (first, second), share in real.items():
            if not {first, second} & moved and not result.blank[[first, second]].any():
                title = f"real neighbours, {share:.0%} of the area in common"
                planted[title] += 1
                detected[title] += (first, second) in pairs
        for (first, second), pair in pairs.items():
            one, other = first % count, second % count
            if one == other or (min(one, other), max(one, other)) in real:
                continue
            same = "same subject" if subjects[one] == subjects[other] else "OTHER SUBJECT"
            false_alarms += 1
            print(
                f"round {round_number}: {image_set.files[one]} and {image_set.files[other]}, "
                f"{same}: {pair.relation}, {pair.likeness:.2f}"
            )
            if args.pictures:
                title = f"false_{round_number}_{first}_{second}"
                save(args.pictures, title, (tiles[first], tiles[second]))
        print(f"round {round_number}: {result.implied_found} of {result.implied} implied pairs")
    if not audited:
        return
    order = [*PLANTS, *sorted(set(planted) - set(PLANTS))]
    print(table([(name, planted[name], detected[name]) for name in order if planted[name]]))
    print(
        f"pairs that are neither planted nor neighbours: {false_alarms} in audits of {audited:,} "
        f"images ({false_alarms / audited:.2%}; {interval(false_alarms, audited)})"
    )


if __name__ == "__main__":
    main()
