"""What each family of textures brings: a short pretraining without it, beside trainings with all.

    python scripts/families.py --out=RUNS --data=FOLDER --slide=FILE --classes A B C

Each training is that of configs/pretrain_textures.py but for its length (`--images` pictures of 32
pixels, every training as many), its families and its seed. With all families it is done for
several seeds: what these differ by, no family can be said to bring. Trainings that are finished in
RUNS are not done again. Of each the frozen features are asked what scripts/backbone.py asks them:
of tiles of a slide, and by a linear classifier of labelled images of subjects never seen. The
table is Markdown; after it, the range of the seeds and how many families fall outside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import backbone
import numpy as np
from ml_collections import ConfigDict

from configs import pretrain_textures
from sscjax import cli, metrics, pretrain
from sscjax.textures.draw import FAMILIES

SIZE = 32
# Textures of a family in a batch, so 64 pictures of all families.
EACH = 4


def main() -> int:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--data", type=Path, required=True, help="labelled images with subjects")
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", required=True, help="names in their order")
    parser.add_argument("--images", type=int, default=20_000, help="pictures of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings with all families")
    args = parser.parse_args()
    cli.set_up_log()
    cli.set_up_jax()
    places, tiles = backbone.cut(args.slide)
    found: dict[str, np.ndarray] = {}
    for name, config in trainings(args.images, args.seeds).items():
        folder = args.out / name.replace(" ", "_")
        pretrain.run(config, folder)
        weights = str(folder / pretrain.WEIGHTS)
        probe = backbone.probe_config(weights, args.classes, 1)
        probe.data.path = str(args.data)
        area, again = backbone.slide_figures(weights, places, tiles)
        figures = metrics.figures(backbone.probed(probe), True)
        found[name] = np.array([figures["balanced_accuracy"], figures["macro_auroc"], area, again])
        print(f"{name}: {found[name].round(3).tolist()}", file=sys.stderr, flush=True)
    for line in table(found):
        print(line)
    return 0


def trainings(images: int, seeds: int) -> dict[str, ConfigDict]:
    """Each training's config by its name."""
    found = {}
    for seed in range(seeds):
        found[f"all, seed {seed}"] = training(tuple(FAMILIES), images, seed)
    for name in FAMILIES:
        rest = tuple(other for other in FAMILIES if other != name)
        found[f"without {name}"] = training(rest, images, 0)
    return found


def training(families: tuple[str, ...], images: int, seed: int) -> ConfigDict:
    """A short training on these families."""
    config = pretrain_textures.get_config()
    config.families, config.seed = families, seed
    config.sizes, config.images, config.each = (SIZE,), (images,), (EACH,)
    # As large a share of it as of the published training, or the averages lag behind.
    config.warmup = min(config.warmup, images // 10)
    config.average = 0.98
    config.test_every, config.keep_every = images, 0
    return config


def table(found: dict[str, np.ndarray]) -> list[str]:
    """Figures [4] of each training as lines of Markdown, then what the seeds alone do."""
    lines = [
        "| trained on | balanced accuracy | macro AUROC | neighbours' AUROC | found again |",
        "|---|---|---|---|---|",
    ]
    for name, (accuracy, area, near, again) in found.items():
        lines.append(f"| {name} | {accuracy:.3f} | {area:.3f} | {near:.3f} | {again:.1%} |")
    whole = np.array([row for name, row in found.items() if name.startswith("all")])
    rest = np.array([row for name, row in found.items() if not name.startswith("all")])
    low, high = whole.min(0), whole.max(0)
    names = ("balanced accuracy", "macro AUROC", "neighbours' AUROC", "found again")
    lines.append("")
    for index, name in enumerate(names):
        below, above = (rest[:, index] < low[index]).sum(), (rest[:, index] > high[index]).sum()
        lines.append(
            f"{name}: {low[index]:.3f} to {high[index]:.3f} with all families by the seed alone; "
            f"of {len(rest)} trainings without one, {below} below and {above} above that"
        )
    return lines


if __name__ == "__main__":
    sys.exit(cli.call(main))
