"""What each family of textures brings: a short pretraining without it, beside trainings with all.

    python scripts/families.py --out=RUNS --data=FOLDER --slide=FILE --classes A B C

The trainings are those of configs/pretrain_textures.py on `--images` pictures of 32 pixels, with a
warm-up and an averaging of the weights that suit so few. Without a family there are as many
pictures: the others have its share. With all families it is done for several seeds: by their
standard deviation each difference is measured, `z`, and of sixteen z two or three are beyond 1.8 by
chance alone. Trainings that are finished in RUNS are not done again. Of each the frozen features
are asked what scripts/backbone.py asks them: of tiles of a slide, and by a linear classifier of
labelled images of subjects never seen. Two more trainings have another objective: that two looks of
a texture be alike (VICReg), beside the labels or instead of them, on as many pictures in as large
batches. The table is Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import backbone
import clone  # noqa: F401  (the configs)
import numpy as np
from ml_collections import ConfigDict

from sscjax import pretrain
from sscjax.configs import pretrain_textures
from sscjax.errors import UserError
from sscjax.evaluation import metrics
from sscjax.system import files, terminal
from sscjax.textures.draw import FAMILIES

COLUMNS = ("balanced accuracy", "macro AUROC", "neighbours' AUROC", "found again")

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
    parser.add_argument("--images", type=int, default=40_000, help="pictures of each training")
    parser.add_argument("--seeds", type=int, default=6, help="trainings with all, 3 or more")
    args = parser.parse_args()
    if args.seeds < 3:
        raise UserError(f"--seeds={args.seeds}: expected 3 or more, whose deviation is measured")
    terminal.set_up_log()
    terminal.set_up_jax()
    places, tiles = backbone.cut(args.slide)
    found: dict[str, np.ndarray] = {}
    for name, config in trainings(args.images, args.seeds).items():
        folder = args.out / name.replace(" ", "_")
        pretrain.run(config, folder)
        kept = folder / "figures.json"
        if not kept.is_file():
            probe = backbone.probe_config(str(folder / pretrain.WEIGHTS), args.classes, 1)
            probe.data.path = str(args.data)
            figures = metrics.figures(backbone.probed(probe), True)
            told = backbone.slide_figures(probe.pretrained, places, tiles)
            scores = [figures["balanced_accuracy"], figures["macro_auroc"], *told]
            files.write_json(kept, dict(zip(COLUMNS, scores, strict=True)))
        found[name] = np.array([files.read_json(kept)[column] for column in COLUMNS])
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
    for name, labels in (("VICReg as well", 1.0), ("VICReg alone", 0.0)):
        config = training(tuple(FAMILIES), images, 0)
        config.looks, config.each, config.loss.similarity = 2, (EACH // 2,), 1.0
        for label in ("classes", "families", "parameters"):
            config.loss[label] = labels
        found[name] = config
    return found


def training(families: tuple[str, ...], images: int, seed: int) -> ConfigDict:
    """A short training on these families."""
    config = pretrain_textures.get_config()
    config.families, config.seed = families, seed
    config.sizes, config.images, config.each = (SIZE,), (images,), (EACH,)
    # Shorter, too: the averages would still hold much of the random weights.
    config.warmup = min(config.warmup, images // 10)
    config.average = 0.98
    config.test_every, config.keep_every = images, 0
    return config


def table(found: dict[str, np.ndarray]) -> list[str]:
    """Figures [4] of each training as lines of Markdown, each with how far it is from all's."""
    whole = np.array([row for name, row in found.items() if name.startswith("all")])
    mean, deviation = whole.mean(0), whole.std(0, ddof=1)
    rest = {name: row for name, row in found.items() if not name.startswith("all")}
    lines = [f"| trained on | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    cells = [f"{a:.3f} (deviation {b:.3f})" for a, b in zip(mean, deviation, strict=True)]
    lines.append(f"| all, mean of {len(whole)} seeds | {' | '.join(cells)} |")
    for name, row in rest.items():
        distances = (row - mean) / np.maximum(deviation, 1e-9)
        cells = [f"{a:.3f} (z {z:+.1f})" for a, z in zip(row, distances, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(terminal.call(main))
