"""Train a backbone on drawn textures: `python -m sscjax.pretrain --config=configs/pretrain_textures.py`.

The folder then holds `backbone.safetensors` (kernels in float16), for --config.pretrained of any run,
with `pretrain.json`, `curves.csv` and the checkpoints of the training. Given again, the command goes
on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from sscjax import backbone, checkpoint, cli, interrupts, locks, main, progress, record
from sscjax.errors import DivergedError, UserError
from sscjax.files import csv_text, sha256, write_json, write_text
from sscjax.models import MobileNetV2
from sscjax.pretrained import convention, write
from sscjax.pretrained.convert import HEAD
from sscjax.textures import draw

_LOG = logging.getLogger(__name__)

FILE = "pretrain.json"
_KEYS = ("status", "config", "versions")
WEIGHTS, CURVES = "backbone.safetensors", "curves.csv"
_CHECKPOINTS, _KEPT = "checkpoints", "weights"
# Fields that change nothing of the result.
_FREE = ("config.name", "config.save_every", "config.keep_every")

# Apart from the keys of the training's steps, which are counted from 0.
_TEST_KEY = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Course:
    """How long a training goes on.

    Attributes:
      sizes: sides of the pictures in pixels, one after the other.
      ends: the step at which the pictures of each size end.
      test_every: steps between two tests.
      save_every: steps between two checkpoints.
      keep_every: steps between two backbones that are kept.
      tests: batches of a test.
    """

    sizes: tuple[int, ...]
    ends: tuple[int, ...]
    test_every: int
    save_every: int
    keep_every: int
    tests: int

    @property
    def steps(self) -> int:
        """All of them."""
        return self.ends[-1]

    def size(self, step: int) -> int:
        """Of the pictures of a step, counted from 0."""
        return next(s for s, end in zip(self.sizes, self.ends, strict=True) if step < end)


def run(config: ConfigDict, folder: Path, *, fresh: bool = False) -> str:
    """Train, or go on with the training in `folder`.

    Args:
      config: see `configs/pretrain_textures.py`.
      folder: created when missing.
      fresh: delete what is there.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: anything that the user can mend.
    """
    plan = make_plan(config)
    course = make_course(config, plan)
    optimizer = make_optimizer(config, course.steps)
    record.refuse_foreign(folder, FILE)
    with locks.Lock(folder) as lock:
        lock.take()
        if fresh:
            lock.before_move()
            record.delete(folder, FILE)
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        now = {
            "status": "started",
            "config": json.loads(json.dumps(config.to_dict())),
            "versions": {**record.versions(), "device": jax.default_backend()},
        }
        earlier = _read(folder)
        if earlier is not None:
            found = record.config_differences(earlier["config"], now["config"])
            record.refuse([line for line in found if not line.startswith(_FREE)], folder)
            if earlier["status"] == "finished" and (folder / WEIGHTS).is_file():
                _LOG.info("this training is finished: nothing is left to do (--fresh trains anew)")
                return _closing(folder, earlier)
        write_json(folder / FILE, now)
        with checkpoint.Checkpoints(folder / _CHECKPOINTS) as saved:
            state, curves, seconds = _train(config, plan, course, optimizer, folder, saved)
        _keep(folder / WEIGHTS, plan.model, state)
        now |= {
            "status": "finished",
            "pictures": course.steps * plan.batch,
            "seconds": round(seconds),
            "sha256": sha256(folder / WEIGHTS),
            "test": curves[-1],
        }
        write_json(folder / FILE, now)
    return _closing(folder, now)


def make_plan(config: ConfigDict) -> backbone.Plan:
    """What a config trains on what."""
    families = tuple(config.families)
    unknown = [name for name in families if name not in draw.FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        near = cli.nearest(unknown[0], list(draw.FAMILIES)) if unknown else None
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(
            f"config.families={families}: expected some of {', '.join(draw.FAMILIES)}, each "
            f"once{hint}"
        )
    for field in ("recipes", "groups", "each", "images", "test_images", "test_every"):
        if config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 1 or more")
    for field in ("save_every", "keep_every"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]}: expected 0 (never) or more")
    if config.alpha <= 0:
        raise UserError(f"config.alpha={config.alpha}: expected a width above 0")
    for field in ("bn_momentum", "average", "warmup"):
        if not 0 <= config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 0 to less than 1")
    loss = config.loss
    if min(loss.classes, loss.parameters, loss.similarity) < 0 or not 0 <= loss.smoothing < 1:
        raise UserError("config.loss: expected weights of 0 or more, and smoothing below 1")
    if loss.classes + loss.parameters + loss.similarity == 0:
        raise UserError("config.loss: all weights are 0; set one above 0")
    if config.looks not in (1, 2) or (loss.similarity and config.looks != 2):
        raise UserError(
            f"config.looks={config.looks}: expected 1 or 2, and 2 with loss.similarity above 0"
        )
    return backbone.Plan(
        draw.Recipes(families, config.recipes),
        alpha=config.alpha,
        groups=config.groups,
        each=config.each,
        looks=config.looks,
        classes=loss.classes,
        parameters=loss.parameters,
        similarity=loss.similarity,
        smoothing=loss.smoothing,
        bn_momentum=config.bn_momentum,
        average=config.average,
    )


def make_course(config: ConfigDict, plan: backbone.Plan) -> Course:
    """How many steps with which pictures."""
    sizes, shares = tuple(config.sizes), tuple(config.shares)
    if not sizes or min(sizes) < 32 or len(sizes) != len(shares) or min(shares) <= 0:
        raise UserError(
            f"config.sizes={sizes}, config.shares={shares}: expected as many shares above 0 as "
            "sizes of 32 pixels or more"
        )
    steps = max(1, round(config.images / plan.batch))
    ends = np.maximum(np.round(np.cumsum(shares) / sum(shares) * steps), 1).astype(int)

    def every(images: int) -> int:
        return max(1, round(images / plan.batch)) if images else 0

    return Course(
        sizes,
        tuple(ends.tolist()),
        every(config.test_every),
        every(config.save_every),
        every(config.keep_every),
        max(1, round(config.test_images / plan.batch)),
    )


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine; only kernels decay."""
    if config.learning_rate <= 0 or config.clip <= 0 or config.weight_decay < 0:
        raise UserError(
            f"config.learning_rate={config.learning_rate}, clip={config.clip}, weight_decay="
            f"{config.weight_decay}: expected above 0, above 0, and 0 or more"
        )
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, round(config.warmup * steps), max(steps, 2)
    )

    def kernels(params: Any) -> Any:
        return {
            layer: {name: name == "kernel" for name in leaves} for layer, leaves in params.items()
        }

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels),
    )


def _train(
    config: ConfigDict,
    plan: backbone.Plan,
    course: Course,
    optimizer: optax.GradientTransformation,
    folder: Path,
    saved: checkpoint.Checkpoints,
) -> tuple[dict[str, Any], list[dict[str, float]], float]:
    """The last state, the curves, and the seconds of all starts together."""
    state = backbone.start(plan, optimizer, config.seed)
    info: dict[str, Any] = {"curves": [], "seconds": 0.0, "sums": []}
    found = saved.newest(state, lambda info: True)
    if found is not None:
        info, state = found
    curves: list[dict[str, float]] = info["curves"]
    before, began = float(info["seconds"]), time.monotonic()
    done = int(state["step"])
    if done:
        _LOG.info("going on after %d of %d pictures", done * plan.batch, course.steps * plan.batch)
    key = jax.random.key(config.seed)
    step, test = backbone.make_step(plan, optimizer), backbone.make_test(plan)
    draws = {size: backbone.make_draw(plan, size) for size in course.sizes}
    sums: list[dict[str, Any]] = info["sums"]

    def seconds() -> float:
        return before + time.monotonic() - began

    def save(done: int) -> None:
        plain = [{name: float(value) for name, value in one.items()} for one in sums]
        saved.save(done, state, {"curves": curves, "seconds": seconds(), "sums": plain})

    total = course.steps * plan.batch
    with (
        interrupts.held(),
        progress.Progress("pretraining", total, done * plan.batch) as shown,
    ):
        while done < course.steps:
            batch = draws[course.size(done)](jax.random.fold_in(key, done))
            state, some = step(state, batch)
            sums.append(some)
            done += 1
            shown.advance(plan.batch)
            if done % course.test_every == 0 or done == course.steps:
                row = _row(plan, course, test, draws, state, sums, key, done)
                curves.append({**row, "seconds": round(seconds(), 1)})
                sums = []
                _write_curves(folder, curves)
                shown.note(f"test accuracy {row['test_accuracy']:.1%}")
            if course.keep_every and done % course.keep_every == 0:
                _keep(folder / _KEPT / f"{done * plan.batch:09d}.safetensors", plan.model, state)
            regular = course.save_every and done % course.save_every == 0
            if regular or done == course.steps or interrupts.asked():
                save(done)
            if interrupts.asked():
                break
    return state, curves, seconds()


def _row(
    plan: backbone.Plan,
    course: Course,
    test: Any,
    draws: dict[int, Any],
    state: dict[str, Any],
    sums: list[dict[str, Any]],
    key: jax.Array,
    done: int,
) -> dict[str, float]:
    """Means of the steps since the last row, and the averaged weights on fresh draws."""
    row: dict[str, float] = {"step": done, "pictures": done * plan.batch}
    row["size"] = course.size(done - 1)
    for name in sums[0] if sums else ():
        row[name] = float(np.mean([float(one[name]) for one in sums])) / plan.groups
    if not all(map(np.isfinite, row.values())):
        raise DivergedError(
            f"the loss is no number after {done} steps: lower config.learning_rate, and give "
            "--fresh"
        )
    # The last size throughout, so that all rows are comparable.
    size, own = course.sizes[-1], jax.random.fold_in(key, _TEST_KEY)
    tests = [
        test(*state["average"], draws[size](jax.random.fold_in(own, k)))
        for k in range(course.tests)
    ]
    for name in tests[0]:
        row[f"test_{name}"] = float(np.mean([float(one[name]) for one in tests]))
    return row


def _write_curves(folder: Path, curves: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in curves for name in row))
    rows = [[row.get(name) for name in names] for row in curves]
    write_text(folder / CURVES, csv_text([names, *rows]))


def _keep(path: Path, model: MobileNetV2, state: dict[str, Any]) -> None:
    """Write the averaged backbone."""
    params, stats = jax.tree.map(np.asarray, state["average"])
    own = {layer.name for layer in model.layers} - {HEAD}
    params = {layer: leaves for layer, leaves in params.items() if layer in own}
    write.save_backbone(path, params, stats, convention.KERAS, half=True)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, **{key: found[key] for key in _KEYS}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh") from error


def _closing(folder: Path, now: dict[str, Any]) -> str:
    test, minutes = now["test"], now["seconds"] / 60
    return (
        f"{now['pictures']} pictures in {minutes:.0f} minutes; on fresh draws it tells "
        f"{test['test_accuracy']:.1%} of the recipes, and parameters with "
        f"{test['test_parameters']:.2f} of their variance as error\n"
        f"{folder / WEIGHTS}: for --config.pretrained\n"
    )


def _main() -> None:
    """Parse the command line and train."""
    config = main.parse(sys.argv, __doc__ or "", "pretrain_textures")
    cli.set_up_log()
    cli.set_up_jax()
    print(f"\n{run(config, main.workdir(config.name), fresh=main.fresh())}", end="")


if __name__ == "__main__":
    sys.exit(cli.call(_main))
