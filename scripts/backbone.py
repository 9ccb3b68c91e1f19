"""What the frozen features of a backbone tell: of a slide, and of labelled images by subject.

    python scripts/backbone.py slide SLIDE FILE...
    python scripts/backbone.py probe FOLDER FILE... --classes A B C
    python scripts/backbone.py finetune FOLDER FILE... --classes A B C --size=64 --epochs=6

FILE are weights of MobileNetV2, or 'none' for random ones (BatchNorm's averages from the images).

`slide` needs no labels: the slide is cut into tiles of 128 pixels, a quarter of the default field,
and of each tile's features (standardised, cosine similarity) it asks whether tiles that touch it
are more like it than tiles at least four tiles away (AUROC, a mean over tiles), and whether the
tile in another stain, light, blur and JPEG is still the one most like it (share of tiles).

`probe` cross-validates a linear classifier in five folds by subject: exactly the 'linear probe' of
scripts/recipe.py.

`finetune` gives each to `sscjax.experiments.single_run` in two stages, three times, each with another split by
subject (the same for all files); random weights have one stage that trains everything at 1e-3.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import clone  # noqa: F401  (the configs)
import jax
import jax.numpy as jnp
import numpy as np
import recipe
from ml_collections import ConfigDict
from scipy.stats import rankdata

from sscjax.configs import best_three_class, three_class
from sscjax.data import augment
from sscjax.data.slides import tiling
from sscjax.data.slides.reader import open_slide
from sscjax.evaluation import intervals, metrics, predictions
from sscjax.experiments import single_run
from sscjax.models import MobileNetV2, initial_variables
from sscjax.models.pretrained import load, preprocessing
from sscjax.system import formatting, terminal
from sscjax.textures import scanner
from sscjax.training import frozen_features, losses, train_step

SIZE, BATCH = 128, 32
# Tiles that touch, and tiles that are far: in tiles between their middles.
NEAR, FAR = 1.5, 4.0
CHANGES = augment.Changes(crop=1.0, stain=0.3, turn=True)


def main() -> int:
    """Print one line for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("slide", "probe", "finetune"))
    parser.add_argument("source", help="the slide, or the folder of images")
    parser.add_argument("files", nargs="+", help="weights, or 'none'")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--repeats", type=int, default=1, help="partitions into five folds")
    parser.add_argument("--size", type=int, default=SIZE, help="of 'finetune', in pixels")
    parser.add_argument("--epochs", type=int, default=8, help="of 'finetune'")
    parser.add_argument("--seeds", type=int, default=3, help="of 'finetune'")
    args = parser.parse_args()
    if args.what == "slide":
        places, tiles = cut(Path(args.source))
        print(f"{len(tiles)} tiles\n| weights | neighbours' AUROC | found again |\n|---|---|---|")
    elif args.what == "finetune":
        seeds = " | ".join(f"seed {seed}" for seed in range(args.seeds))
        print(f"| weights | {seeds} | mean |\n|---|{args.seeds * '---|'}---|")
    else:
        print("| weights | balanced accuracy per image (95 %) | macro AUROC |\n|---|---|---|")
    for name in args.files:
        started = time.monotonic()
        if args.what == "slide":
            near, again = slide_figures(name, places, tiles)
            cells = [f"{near:.3f}", f"{again:.1%}"]
        elif args.what == "finetune":
            cells = tuned_figures(name, args)
        else:
            config = probe_config(name, args.classes, args.repeats)
            config.data.path = args.source
            cells = probe_cells(probed(config))
        print(f"| {Path(name).stem} | {' | '.join(cells)} |", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 0


def cut(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Places [N,2] in tiles, and tiles [N,128,128,3] uint8."""
    settings = tiling.Settings(field_px=SIZE, tile_size=SIZE)
    with open_slide(path) as slide:
        planned = tiling.plan(slide, settings)
        found = list(tiling.tiles(slide, planned, settings, path.name))
    places = np.array([(tile.x, tile.y) for tile in found]) / SIZE
    return places, np.stack([tile.pixels for tile in found])


def features_of(name: str, images: np.ndarray) -> np.ndarray:
    """Standardised features [N,1280] of images [N,S,S,3] uint8."""
    model = MobileNetV2(1)
    variables = jax.tree.map(jnp.asarray, initial_variables(model, SIZE, 0))
    params, stats, scheme = variables["params"], variables["batch_stats"], preprocessing.KERAS
    if name == "none":
        some = np.random.default_rng(0).choice(len(images), (4, 64), replace=True)
        batches = [
            jnp.asarray(preprocessing.preprocess(images[one], scheme.scaling)) for one in some
        ]
        stats = frozen_features.calibrate_batch_norm(
            model.clone(bn_momentum=0.0), params, stats, batches
        )
    else:
        loaded = load.load_backbone(name, params, stats)
        params, stats, scheme = loaded.params, loaded.batch_stats, loaded.convention
    program = train_step.Program(
        model.clone(padding=scheme.padding, bn_epsilon=scheme.bn_epsilon),
        losses.Objective("softmax"),
        lambda stored, key: preprocessing.preprocess(stored, scheme.scaling),
        micro_batch=8,
    )
    function = train_step.make_features(program, program.model.features_end)
    found = frozen_features.batched(lambda batch: function(params, stats, batch), images, BATCH)
    return (found - found.mean(0)) / np.maximum(found.std(0), 1e-6)


def by_another_laboratory(key: jax.Array, tiles: jax.Array) -> jax.Array:
    """Tiles [B,S,S,3] float32, 0 to 255, turned, in another stain, light, blur and JPEG quality."""

    def draw(index: jax.Array) -> jax.Array:
        # 1 is the stains' in `augment`.
        own = jax.random.fold_in(jax.random.fold_in(key, index), 2)
        return jax.random.uniform(own, (4,), jnp.float32)

    draws = jax.vmap(draw)(jnp.arange(len(tiles)))
    planes = augment.augment_batch(key, tiles, CHANGES).transpose(0, 3, 1, 2)
    brightness, contrast = (1.0 + 0.15 * (2.0 * draws[:, k] - 1.0) for k in range(2))
    planes = scanner.lit(planes, brightness, contrast)
    planes = scanner.blurred(planes, draws[:, 2], 1.0)
    planes = scanner.compressed(planes, jnp.floor(40 + 61 * draws[:, 3]))
    return planes.transpose(0, 2, 3, 1)


def slide_figures(name: str, places: np.ndarray, tiles: np.ndarray) -> tuple[float, float]:
    """AUROC of neighbours, and the share of tiles found again."""
    changed = by_another_laboratory(jax.random.key(0), jnp.asarray(tiles, jnp.float32))
    both = np.concatenate([tiles, np.asarray(changed.round(), np.uint8)])
    found = features_of(name, both)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    own, other = np.split(found, 2)
    alike = own @ own.T
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    areas = []
    for row, distance in zip(alike, apart, strict=True):
        near, far = (distance > 0) & (distance < NEAR), distance >= FAR
        if near.any() and far.any():
            ranks = rankdata(np.concatenate([row[near], row[far]]))[: near.sum()]
            above = ranks.sum() - near.sum() * (near.sum() + 1) / 2
            areas.append(above / (near.sum() * far.sum()))
    again = (other @ own.T).argmax(1) == np.arange(len(own))
    return float(np.mean(areas)), float(again.mean())


def probe_config(name: str, classes: list[str], repeats: int) -> ConfigDict:
    """The linear probe of `recipe` from these weights."""
    config = best_three_class.get_config()
    config.update_from_flattened_dict(recipe.PROBE)
    config.pretrained, config.data.classes = name, tuple(classes)
    config.protocol, config.cv.repeats = "kfold", repeats
    return config


def probed(config: ConfigDict) -> predictions.Predictions:
    """What the linear probe answers, each image by the fold that had not seen its subject."""
    return recipe.cross_validate(config, recipe.by_run)


def probe_cells(table: predictions.Predictions) -> list[str]:
    """Balanced accuracy with its interval, and AUROC."""
    figures = metrics.figures(table, True)
    span = intervals.figures(table, True)["balanced_accuracy"]
    reach = "" if span is None else f" ({span[0]:.3f} to {span[1]:.3f})"
    auroc = formatting.number(figures["macro_auroc"])
    return [f"{figures['balanced_accuracy']:.3f}{reach}", auroc]


def tuned_figures(name: str, args: argparse.Namespace) -> list[str]:
    """Balanced accuracy of the test images after fine-tuning, for each seed and their mean."""
    found = []
    for seed in range(args.seeds):
        config = three_class.get_config()
        config.seed, config.pretrained = seed, name
        config.data.path, config.data.classes = args.source, tuple(args.classes)
        config.data.image_size, config.augment.copies = args.size, 0
        config.stages.finetune.epochs = args.epochs
        config.stages.head.optimizer = "lbfgs"
        if name == "none":
            config.stage_order = ("finetune",)
            del config.stages.head
            config.stages.finetune.freeze_first = 0
            config.stages.finetune.learning_rate = config.scratch.learning_rate
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            single_run.run(config, run)
            table = predictions.Predictions.read_csv(
                run / "stages" / "finetune" / "predictions.csv"
            )
        found.append(metrics.figures(table.where("test"), True)["balanced_accuracy"])
        print(f"{name}, seed {seed}: {found[-1]:.3f}", file=sys.stderr, flush=True)
    return [f"{value:.3f}" for value in (*found, np.mean(found))]


if __name__ == "__main__":
    sys.exit(terminal.call(main))
