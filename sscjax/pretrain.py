"""Train a backbone on drawn textures.

    python -m sscjax.pretrain --config=configs/pretrain_textures.py

The folder then holds `backbone.safetensors` (kernels in float16), for --config.pretrained of any
run, with `pretrain.json`, `curves.csv` and the checkpoints of the training. Given again, the
command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from sscjax import backbone, main
from sscjax.errors import DivergedError, UserError
from sscjax.experiments import run_record
from sscjax.models import MobileNetV2
from sscjax.models.pretrained import preprocessing
from sscjax.models.pretrained.convert import HEAD
from sscjax.models.pretrained.save import save_backbone
from sscjax.system import locks, progress, run_dir, signals, terminal
from sscjax.system.files import csv_text, sha256, write_json, write_text
from sscjax.textures import draw
from sscjax.training import checkpoint

_LOG = logging.getLogger(__name__)

FILE = "pretrain.json"
_KEYS = ("status", "config", "versions")
WEIGHTS, CURVES = "backbone.safetensors", "curves.csv"
_CHECKPOINTS, _KEPT = "checkpoints", "weights"
# Fields that change nothing of the result.
_FREE = ("config.name:", "config.save_every:", "config.keep_every:")
# A longer or shorter course of the same beginning: see `late` and `make_rate`.
_LENGTH = "config.images:"

# Of the dense layer, as a share of the others'.
_HEAD_RATE = 0.1
# Share of the old kept of squared gradients: of a course of so few steps.
_B2 = 0.99

# JAX's keys take no more bits of a seed.
_MOST_SEED = 2**32 - 1
# Apart from the keys of the training's steps, which are counted from 0.
_TEST_KEY = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Course:
    """How long a training goes on: phases, one after the other, with pictures of growing size.

    Attributes:
      sizes: sides of the pictures in pixels.
      batches: pictures of a step.
      ends: the step at which each phase ends.
    """

    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def steps(self) -> int:
        """All of them."""
        return self.ends[-1]

    def phase(self, step: int) -> int:
        """Which one a step, counted from 0, belongs to."""
        return next(k for k, end in enumerate(self.ends) if step < end)

    def pictures(self, steps: int) -> int:
        """Seen in so many steps."""
        starts = (0, *self.ends[:-1])
        return sum(
            batch * max(0, min(steps, end) - start)
            for batch, start, end in zip(self.batches, starts, self.ends, strict=True)
        )

    def passes(self, steps: int, every: int) -> bool:
        """Whether the last of so many steps reaches a multiple of `every` pictures (0: never)."""
        before, now = self.pictures(steps - 1), self.pictures(steps)
        return bool(every) and before // every < now // every


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
    optimizer = make_optimizer(config)
    run_dir.refuse_foreign(folder, FILE)
    with locks.Lock(folder) as lock:
        lock.take()
        run_dir.clear(folder, FILE)
        if fresh:
            run_dir.delete(folder, FILE)
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        now: dict[str, Any] = {
            "status": "started",
            "config": json.loads(json.dumps(config.to_dict())),
            "versions": {**run_record.versions(), "device": jax.default_backend()},
        }
        earlier = run_dir.read_json(folder / FILE, _KEYS)
        if earlier is None:
            # Before anything else, because by it the folder is known as ours.
            write_json(folder / FILE, now)
            earlier = now
        found = run_record.config_differences(earlier["config"], now["config"])
        allowed = _FREE if earlier["status"] == "finished" else (*_FREE, _LENGTH)
        run_record.refuse([line for line in found if not line.startswith(allowed)], folder)
        if earlier["status"] == "finished" and (folder / WEIGHTS).is_file():
            _LOG.info("this training is finished: nothing is left to do (--fresh trains anew)")
            return _closing(folder, earlier)
        with checkpoint.Checkpoints(folder / _CHECKPOINTS) as saved:
            info, state = _restored(backbone.start(plan, optimizer, config.seed), saved)
            done = int(state["step"])
            then = make_course(ConfigDict(earlier["config"]), plan)
            why = late(then, course, done, config.cooldown)
            lines = [line for line in found if line.startswith(_LENGTH)]
            run_record.refuse([f"{line} ({why})" for line in lines if why], folder)
            now["starts"] = starts(earlier, now["versions"], course.pictures(done))
            write_json(folder / FILE, now)
            state, curves, seconds = _train(
                config, plan, course, optimizer, folder, saved, info, state
            )
        _keep(folder / WEIGHTS, plan.model, state)
        now |= {
            "status": "finished",
            "pictures": course.pictures(course.steps),
            "seconds": round(seconds),
            "sha256": sha256(folder / WEIGHTS),
            "test": curves[-1],
        }
        write_json(folder / FILE, now)
    return _closing(folder, now)


def make_plan(config: ConfigDict) -> backbone.Plan:
    """What a config trains on what."""
    families = tuple(config.families)
    # As text, because a tuple of a config may hold anything.
    unknown = [str(name) for name in families if str(name) not in draw.FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        near = terminal.nearest(unknown[0], list(draw.FAMILIES)) if unknown else None
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(
            f"config.families={families}: expected some of {', '.join(draw.FAMILIES)}, each "
            f"once{hint}"
        )
    for field in ("recipes", "groups", "test_images", "test_every"):
        if config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 1 or more")
    for field in ("save_every", "keep_every", "warmup"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]}: expected 0 or more")
    if not 0 <= config.seed <= _MOST_SEED:
        raise UserError(f"config.seed={config.seed}: expected 0 to {_MOST_SEED}")
    if not 0 < config.alpha < math.inf:
        raise UserError(f"config.alpha={config.alpha}: expected a width above 0")
    for field in ("bn_momentum", "average", "cooldown"):
        if not 0 <= config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 0 to less than 1")
    loss = config.loss
    weights = (loss.classes, loss.families, loss.parameters, loss.similarity)
    if not all(0 <= one < math.inf for one in weights) or not 0 <= loss.smoothing < 1:
        raise UserError("config.loss: expected weights of 0 or more, and smoothing below 1")
    if sum(weights) == 0:
        raise UserError("config.loss: all weights are 0; set one above 0")
    if config.looks not in (1, 2) or (loss.similarity and config.looks != 2):
        raise UserError(
            f"config.looks={config.looks}: expected 1 or 2, and 2 with loss.similarity above 0"
        )
    return backbone.Plan(
        draw.Recipes(families, config.recipes),
        alpha=config.alpha,
        groups=config.groups,
        looks=config.looks,
        classes=loss.classes,
        families=loss.families,
        parameters=loss.parameters,
        similarity=loss.similarity,
        smoothing=loss.smoothing,
        bn_momentum=config.bn_momentum,
        average=config.average,
    )


def make_course(config: ConfigDict, plan: backbone.Plan) -> Course:
    """How many steps with which pictures."""
    sizes, images, each = tuple(config.sizes), tuple(config.images), tuple(config.each)
    alike = len(sizes) == len(images) == len(each) > 0
    whole = all(isinstance(one, int) for one in (*sizes, *images, *each))
    if not alike or not whole or min(*images, *each) < 1 or min(sizes) < 32:
        raise UserError(
            f"config.sizes={sizes}, images={images}, each={each}: expected as many whole numbers "
            "of pictures and of textures of a family, 1 or more, as sizes of 32 pixels or more"
        )
    if config.test_size < 32:
        raise UserError(f"config.test_size={config.test_size}: expected 32 pixels or more")
    batches = tuple(dataclasses.replace(plan, each=count).batch for count in each)
    steps = [max(1, round(n / batch)) for n, batch in zip(images, batches, strict=True)]
    return Course(sizes, batches, tuple(np.cumsum(steps).tolist()))


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW with a rate of 1; only kernels decay."""
    above = all(0 < one < math.inf for one in (config.learning_rate, config.clip))
    if not above or not 0 <= config.weight_decay < math.inf:
        raise UserError(
            f"config.learning_rate={config.learning_rate}, clip={config.clip}, weight_decay="
            f"{config.weight_decay}: expected above 0, above 0, and 0 or more"
        )

    def kernels(params: Any) -> Any:
        return {
            layer: {name: name == "kernel" for name in leaves} for layer, leaves in params.items()
        }

    def head(params: Any) -> Any:
        return {layer: layer == HEAD for layer in params}

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(1.0, b2=_B2, weight_decay=config.weight_decay, mask=kernels),
        # Adam moves every weight by as much, whatever its gradient: the sum of 1280 features, none
        # of them negative, would leap.
        optax.masked(optax.scale(_HEAD_RATE), head),
    )


def late(then: Course, now: Course, done: int, cooldown: float) -> str:
    """Why a training cannot go on by another course than it was begun by; '' where it can.

    Every step that is done must be as it would have been by the course now.

    Args:
      then: the course until now.
      now: the one it is to have.
      done: steps that are done.
      cooldown: share of the steps in which the learning rate falls.
    """
    if then == now:
        return ""
    after = f"too late after {then.pictures(done)} pictures: "
    if done >= min(then.steps, now.steps):
        return f"{after}by one of the two nothing is left to be done"
    if any(min(a, done) != min(b, done) for a, b in zip(then.ends, now.ends, strict=True)):
        return f"{after}a size that is finished keeps its number"
    if any(done > one.steps - _fall(cooldown, one) + 1 for one in (then, now)):
        return f"{after}the learning rate has begun to fall, or would have"
    return ""


def starts(earlier: Mapping[str, Any], versions: dict[str, str], pictures: int) -> list[Any]:
    """What each start of a training ran on, and after how many pictures, for its record.

    Warns if this start runs on something else than the one before.

    Args:
      earlier: the record until now.
      versions: of this start.
      pictures: that were seen before it.
    """
    found = earlier.get("starts", [{"pictures": 0, "versions": earlier["versions"]}])
    # Of the others nothing was saved.
    found = [one for one in found if one["pictures"] < pictures]
    for one in found[-1:]:
        for line in run_record.config_differences(one["versions"], versions, "versions"):
            _LOG.warning("%s: the result may differ in the last bits", line)
    return [*found, {"pictures": pictures, "versions": versions}]


def make_rate(config: ConfigDict, course: Course) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: it rises, stays, and falls to 0 at the end.

    Until it falls nothing depends on the length of the course, so that a training may be given
    another length while it is under way (Hägele et al. 2024, NeurIPS).
    """
    warm = max(1, round(config.warmup / course.batches[0]))
    fall = _fall(config.cooldown, course)

    def rate(step: int) -> float:
        share = min((step + 1) / warm, (course.steps - step) / fall, 1.0)
        return float(config.learning_rate) * share

    return rate


def _fall(cooldown: float, course: Course) -> int:
    """In how many steps at the end the learning rate falls."""
    return max(1, round(cooldown * course.steps))


def _restored(
    state: dict[str, Any], saved: checkpoint.Checkpoints
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a training and its state, as saved last; else `state`, that of the start."""
    found = saved.newest(state, lambda info: True)
    return found or ({"curves": [], "seconds": 0.0, "sums": []}, state)


def _train(
    config: ConfigDict,
    plan: backbone.Plan,
    course: Course,
    optimizer: optax.GradientTransformation,
    folder: Path,
    saved: checkpoint.Checkpoints,
    info: dict[str, Any],
    state: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, float]], float]:
    """The last state, the curves, and the seconds of all starts together."""
    curves: list[dict[str, float]] = info["curves"]
    before, began = float(info["seconds"]), time.monotonic()
    done, total = int(state["step"]), course.pictures(course.steps)
    if done:
        _LOG.info("going on after %d of %d pictures", course.pictures(done), total)
    key = jax.random.key(config.seed)
    phases = [
        dataclasses.replace(plan, each=batch // dataclasses.replace(plan, each=1).batch)
        for batch in course.batches
    ]
    draws = [
        backbone.make_draw(phase, size) for phase, size in zip(phases, course.sizes, strict=True)
    ]
    # Of one size throughout, so that all rows are comparable.
    fresh = backbone.make_draw(phases[-1], config.test_size)
    step, test = backbone.make_step(plan, optimizer), backbone.make_test(plan)
    rate = make_rate(config, course)
    sums: list[dict[str, Any]] = info["sums"]

    def seconds() -> float:
        return before + time.monotonic() - began

    def save(done: int) -> None:
        plain = [{name: float(value) for name, value in one.items()} for one in sums]
        saved.save(done, state, {"curves": curves, "seconds": seconds(), "sums": plain})

    def row(done: int) -> dict[str, float]:
        found: dict[str, float] = {"step": done, "pictures": course.pictures(done)}
        found["size"] = course.sizes[course.phase(done - 1)]
        for name in sums[0]:
            found[name] = float(np.mean([float(one[name]) for one in sums])) / plan.groups
        own = jax.random.fold_in(key, _TEST_KEY)
        tests = [
            test(*state["average"], fresh(jax.random.fold_in(own, k)))
            for k in range(max(1, round(config.test_images / phases[-1].batch)))
        ]
        for name in tests[0]:
            found[f"test_{name}"] = float(np.mean([float(one[name]) for one in tests]))
        if not all(map(np.isfinite, found.values())):
            raise DivergedError(
                f"the loss is no number after {done} steps: lower config.learning_rate, and give "
                "--fresh"
            )
        return {**found, "seconds": round(seconds(), 1)}

    with (
        signals.held(),
        progress.Progress("pretraining", total, course.pictures(done)) as shown,
    ):
        while done < course.steps:
            phase = course.phase(done)
            batch = draws[phase](jax.random.fold_in(key, done))
            state, some = step(state, batch, jnp.float32(rate(done)))
            sums.append(some)
            done += 1
            shown.advance(course.batches[phase])
            last = done == course.steps
            if course.passes(done, config.test_every) or last:
                curves.append(row(done))
                sums = []
                _write_curves(folder, curves)
                shown.note(f"test accuracy {curves[-1]['test_accuracy']:.1%}")
            if course.passes(done, config.keep_every):
                name = f"{course.pictures(done):09d}.safetensors"
                _keep(folder / _KEPT / name, plan.model, state)
            if course.passes(done, config.save_every) or last or signals.asked():
                save(done)
            if signals.asked():
                break
    return state, curves, seconds()


def _write_curves(folder: Path, curves: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in curves for name in row))
    rows = [[row.get(name) for name in names] for row in curves]
    write_text(folder / CURVES, csv_text([names, *rows]))


def _keep(path: Path, model: MobileNetV2, state: dict[str, Any]) -> None:
    """Write the averaged backbone."""
    params, stats = jax.tree.map(np.asarray, state["average"])
    own = {layer.name for layer in model.layers} - {HEAD}
    params = {layer: leaves for layer, leaves in params.items() if layer in own}
    save_backbone(path, params, stats, preprocessing.KERAS, half=True)


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
    if "families" not in config:
        raise UserError(
            "this config is none of a pretraining: give --config=configs/pretrain_textures.py"
        )
    terminal.set_up_log()
    terminal.set_up_jax()
    print(f"\n{run(config, main.workdir(config.name), fresh=main.fresh())}", end="")


if __name__ == "__main__":
    sys.exit(terminal.call(_main))
