"""How often 95 % intervals of Dice, IoU and distance hold the true value, in small designs.

    python scripts/evidence/mask_coverage.py --every 2 --repeats 100 --again 600

Pixels of two classes are drawn for images of subjects: sizes are log-normal, the shares of pixels
that are found logit-normal, pixels predicted beside them log-normal in proportion, distances
log-normal. Of each, a part is common to the images of a subject. The second class is rarer and in
two of three images only. The true value is that of the sums over a population of 40,000 subjects,
or, where subjects have unequally many images, of as many images each, as sums are over images.
A table without an interval counts neither as held nor as missed; the share that has one is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from coverage_population import sizes_of
from scipy import special

from sscjax.evaluation import segmentation
from sscjax.system import formatting

SUBJECTS = (4, 8, 20, 56)
IMAGES = ("1", "10", "2-60", "80 among 5")
CORRELATIONS = (0.1, 0.5, 0.8)
FOUND = (0.6, 0.9, 0.98)  # of a class's pixels, in the median image
CLASSES = ("tissue", "gland")
_POPULATION = 40_000
_HELD = 0.93


@dataclasses.dataclass(frozen=True)
class Design:
    """What tables are drawn."""

    subjects: int
    images: str
    correlation: float
    found: float

    def __str__(self) -> str:
        return (
            f"{self.subjects} subjects; {self.images} images; correlation {self.correlation:g}; "
            f"{self.found:.0%} found"
        )


def grid() -> list[Design]:
    """All designs; of one image by subject there is one correlation."""
    return [
        Design(subjects, images, correlation, found)
        for subjects, images, correlation, found in itertools.product(
            SUBJECTS, IMAGES, CORRELATIONS, FOUND
        )
        if images != "1" or correlation == CORRELATIONS[1]
    ]


def draw(design: Design, owner: np.ndarray, rng: np.random.Generator) -> segmentation.Table:
    """A table of one row per image; `owner` [N] int is the subject of each."""
    shape = (len(owner), len(CLASSES))

    def normal() -> np.ndarray:
        shared = rng.normal(size=(int(owner.max()) + 1, len(CLASSES)))[owner]
        own = rng.normal(size=shape)
        return np.sqrt(design.correlation) * shared + np.sqrt(1 - design.correlation) * own

    present = rng.random(shape) < [1.0, 2 / 3]
    true = np.where(present, np.exp([8.0, 6.0] + 0.8 * normal()), 0.0)
    both = true * special.expit(special.logit(design.found) + normal())
    beside = (1 - design.found) * np.exp(0.5 * normal()) * np.where(present, true, 20.0)
    counts = np.stack([both, both + beside, true], axis=-1).round().astype(np.int64)
    distances = np.where(present, np.exp(1.0 + 0.7 * normal()), np.nan)
    names = np.array([f"s{number:05d}" for number in owner])
    files = np.arange(len(owner)).astype(str)
    splits = np.full(len(owner), "test")
    return segmentation.Table(files, names, splits, CLASSES, counts, distances)


def truth(design: Design) -> dict[str, float]:
    """The figures of the population."""
    rng = np.random.default_rng(5)
    return dict(_values(segmentation.figures(draw(design, np.arange(_POPULATION), rng))))


def _values(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for kind in ("dice", "iou", segmentation.DISTANCE):
        yield f"mean {kind}", figures[f"mean_{kind}"]
        for entry in figures["per_class"]:
            yield f"{kind} of {entry['name']}", entry[kind]


def measure(
    design: Design, repeats: int, seed: int = 0
) -> dict[str, tuple[int, int, float, float]]:
    """Of each figure the tables with an interval, how often it held, width, and share given."""
    known = truth(design)
    held: dict[str, list[bool]] = {name: [] for name in known}
    widths: dict[str, list[float]] = {name: [] for name in known}
    for number in range(repeats):
        rng = np.random.default_rng([seed, number])
        sizes = sizes_of(design.images, design.subjects, rng, design.subjects)
        table = draw(design, np.repeat(np.arange(design.subjects), sizes), rng)
        for name, ends in _values(segmentation.interval_figures(table)):
            if ends is not None:
                held[name].append(ends[0] <= known[name] <= ends[1])
                widths[name].append(ends[1] - ends[0])
    return {
        name: (
            *(len(held[name]), sum(held[name]), float(np.median(widths[name] or [np.nan]))),
            len(held[name]) / repeats,
        )
        for name in known
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300, help="tables of each design")
    parser.add_argument("--every", type=int, default=1, help="take every n-th design only")
    parser.add_argument(
        "--again", type=int, default=0, help="new tables where a figure was held too rarely"
    )
    args = parser.parse_args()
    designs = grid()[:: args.every]
    results = []
    for design in designs:
        found = measure(design, args.repeats)
        rarely = [name for name, (n, held, *_) in found.items() if n and held / n < _HELD]
        if rarely and args.again:
            again = measure(design, args.again, seed=1)
            found |= {name: again[name] for name in rarely}
        results.append((design, found))
    lines = [["figure", "worst", "of", "under 93 %", "mean", "given", "width"]]
    for name in results[0][1]:
        shares = [
            (one[name][1] / one[name][0], str(design), one[name][2])
            for design, one in results
            if one[name][0] >= args.repeats / 10
        ]
        given = float(np.mean([one[name][3] for _, one in results]))
        if not shares:
            lines.append([name, "-", "-", "-", "-", formatting.percent(given), "-"])
            continue
        worst = min(shares)
        low = sum(share < _HELD for share, _, _ in shares)
        lines.append(
            [
                *(name, formatting.percent(worst[0]), worst[1], f"{low} of {len(shares)}"),
                formatting.percent(float(np.mean([share for share, _, _ in shares]))),
                *(formatting.percent(given), f"{np.mean([width for _, _, width in shares]):.3f}"),
            ]
        )
    print(f"{len(designs)} designs, {args.repeats} tables each\n")
    print(formatting.align(lines, left=1))


if __name__ == "__main__":
    main()
