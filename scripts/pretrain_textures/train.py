"""Train a backbone on drawn textures.

    python -m scripts.pretrain_textures.train [--workdir=FOLDER] [--config.FIELD=VALUE ...]

The folder then holds `backbone.safetensors` (kernels in float16), for --config.pretrained of any
run, with `pretrain.json`, `curves.csv` and the checkpoints of the training. The same command again
resumes it where it stopped. The fields are those of `config.py`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict, config_flags

from sscjax.errors import DivergedError, UserError
from sscjax.experiments import run_record
from sscjax.models import MobileNetV2
from sscjax.models.pretrained import preprocessing, save
from sscjax.system import signals, terminal
from sscjax.system.files import csv_text, read_json, sha256, write_json, write_text
from sscjax.training import checkpoint

from . import draw, objective
from .config import get_config
from .objective import HEAD

_LOG = logging.getLogger(__name__)

FILE, WEIGHTS, CURVES = "pretrain.json", "backbone.safetensors", "curves.csv"
_CHECKPOINTS, _KEPT = "checkpoints", "weights"

# Of the dense layer, as a share of the others'.
_HEAD_RATE = 0.1
# Share of the old kept of squared gradients: for a training of so few steps.
_B2 = 0.99
# Apart from the keys of the training's steps, which are counted from 0.
_TEST_KEY = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Course:
    """How long a training takes: phases, one after the other, with pictures of growing size.

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


def run(config: ConfigDict, folder: Path) -> str:
    """Train, or resume the training in `folder`.

    Args:
      config: see `config.py`.
      folder: created when missing.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: a field has no meaning, or the folder holds something else.
      DivergedError: the loss is no number.
    """
    plan, course, optimizer = make_plan(config), make_course(config), make_optimizer(config)
    now: dict[str, Any] = {
        "status": "started",
        "config": json.loads(json.dumps(config.to_dict())),
        "versions": {**run_record.versions(), "device": jax.default_backend()},
    }
    if (folder / FILE).is_file():
        earlier = read_json(folder / FILE)
        if earlier["config"] != now["config"]:
            raise UserError(
                f"{folder} holds a training with another config: give that, or another --workdir"
            )
        if earlier["status"] == "finished":
            _LOG.info("this training is finished: nothing is left to do")
            return _closing(folder, earlier)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no training: give another --workdir")
    write_json(folder / FILE, now)
    with checkpoint.Checkpoints(folder / _CHECKPOINTS) as saved:
        start = objective.start(plan, optimizer, config.seed)
        newest = saved.newest(start, lambda info: True)
        info, state = newest or ({"curves": [], "seconds": 0.0, "sums": []}, start)
        state, curves, seconds = _train(config, plan, course, optimizer, folder, saved, info, state)
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


def make_plan(config: ConfigDict) -> objective.Plan:
    """What a config trains on what."""
    families = tuple(config.families)
    unknown = [name for name in families if name not in draw.FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        raise UserError(
            f"config.families={families}: expected some of {', '.join(draw.FAMILIES)}, each once"
        )
    for field in ("recipes", "test_images", "test_every"):
        if config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 1 or more")
    for field in ("seed", "save_every", "keep_every", "warmup"):
        if config[field] < 0:
            raise UserError(f"config.{field}={config[field]}: expected 0 or more")
    for field in ("bn_momentum", "average", "cooldown", "smoothing"):
        if not 0 <= config[field] < 1:
            raise UserError(f"config.{field}={config[field]}: expected 0 to less than 1")
    return objective.Plan(
        draw.Recipes(families, config.recipes),
        alpha=config.alpha,
        smoothing=config.smoothing,
        bn_momentum=config.bn_momentum,
        average=config.average,
    )


def make_course(config: ConfigDict) -> Course:
    """How many steps with which pictures."""
    sizes, images, each = tuple(config.sizes), tuple(config.images), tuple(config.each)
    alike = len(sizes) == len(images) == len(each) > 0
    integers = all(isinstance(value, int) for value in (*sizes, *images, *each))
    if not alike or not integers or min(*images, *each) < 1 or min(*sizes, config.test_size) < 32:
        raise UserError(
            f"config.sizes={sizes}, images={images}, each={each}, test_size={config.test_size}: "
            "expected as many whole numbers of pictures and of textures of a family, 1 or more, "
            "as sizes, and these of 32 pixels or more"
        )
    batches = tuple(len(config.families) * count for count in each)
    steps = [max(1, round(n / batch)) for n, batch in zip(images, batches, strict=True)]
    return Course(sizes, batches, tuple(np.cumsum(steps).tolist()))


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW with a rate of 1; only kernels decay."""
    above = all(0 < value < math.inf for value in (config.learning_rate, config.clip))
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


def make_rate(config: ConfigDict, course: Course) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: it rises, stays, and falls to 0 at the end."""
    warm = max(1, round(config.warmup / course.batches[0]))
    fall = max(1, round(config.cooldown * course.steps))

    def rate(step: int) -> float:
        share = min((step + 1) / warm, (course.steps - step) / fall, 1.0)
        return float(config.learning_rate) * share

    return rate


def _train(
    config: ConfigDict,
    plan: objective.Plan,
    course: Course,
    optimizer: optax.GradientTransformation,
    folder: Path,
    saved: checkpoint.Checkpoints,
    info: dict[str, Any],
    state: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, float]], float]:
    """The last state, the curves, and the seconds of all starts together."""
    curves: list[dict[str, float]] = info["curves"]
    # What each step since the last row of the curves gave.
    sums: list[dict[str, Any]] = info["sums"]
    before, began = float(info["seconds"]), time.monotonic()
    done, total = int(state["step"]), course.pictures(course.steps)
    if done:
        _LOG.info("resumed after %d of %d pictures", course.pictures(done), total)
    key = jax.random.key(config.seed)
    draws = [
        objective.make_draw(plan, each, size)
        for each, size in zip(config.each, course.sizes, strict=True)
    ]
    # Of one size throughout, so that all lines of the curves are comparable.
    fresh = objective.make_draw(plan, config.each[-1], config.test_size)
    step, test = objective.make_step(plan, optimizer), objective.make_test(plan)
    rate = make_rate(config, course)

    def seconds() -> float:
        return before + time.monotonic() - began

    def measured(done: int) -> dict[str, float]:
        row: dict[str, float] = {"step": done, "pictures": course.pictures(done)}
        row["size"] = course.sizes[course.phase(done - 1)]
        for name in sums[0]:
            row[name] = float(np.mean([float(values[name]) for values in sums]))
        own = jax.random.fold_in(key, _TEST_KEY)
        tests = [
            test(*state["average"], fresh(jax.random.fold_in(own, k)))
            for k in range(max(1, round(config.test_images / course.batches[-1])))
        ]
        for name in tests[0]:
            row[f"test_{name}"] = float(np.mean([float(values[name]) for values in tests]))
        if not all(map(np.isfinite, row.values())):
            raise DivergedError(
                f"the loss is no number after {done} steps: lower config.learning_rate, and give "
                "another --workdir"
            )
        return {**row, "seconds": round(seconds(), 1)}

    with signals.deferred():
        while done < course.steps:
            phase = course.phase(done)
            batch = draws[phase](jax.random.fold_in(key, done))
            state, parts = step(state, batch, jnp.float32(rate(done)))
            sums.append(parts)
            done += 1
            last = done == course.steps
            if course.passes(done, config.test_every) or last:
                curves.append(measured(done))
                sums = []
                write_text(
                    folder / CURVES, csv_text([curves[0], *(row.values() for row in curves)])
                )
                accuracy = curves[-1]["test_accuracy"]
                _LOG.info(
                    "%d pictures: test accuracy %.1f %%", course.pictures(done), 100 * accuracy
                )
            if course.passes(done, config.keep_every):
                name = f"{course.pictures(done):09d}.safetensors"
                _keep(folder / _KEPT / name, plan.model, state)
            if course.passes(done, config.save_every) or last or signals.stop_requested():
                plain = [{name: float(v) for name, v in values.items()} for values in sums]
                saved.save(done, state, {"curves": curves, "seconds": seconds(), "sums": plain})
            if signals.stop_requested():
                break
    return state, curves, seconds()


def _keep(path: Path, model: MobileNetV2, state: dict[str, Any]) -> None:
    """Write the averaged backbone."""
    params, stats = jax.tree.map(np.asarray, state["average"])
    own = {layer.name for layer in model.layers} - {HEAD}
    params = {layer: leaves for layer, leaves in params.items() if layer in own}
    save.save_backbone(path, params, stats, preprocessing.KERAS, half=True)


def _closing(folder: Path, now: dict[str, Any]) -> str:
    test, minutes = now["test"], now["seconds"] / 60
    return (
        f"{now['pictures']} pictures in {minutes:.0f} minutes; on fresh draws it recognises "
        f"{test['test_accuracy']:.1%} of the recipes, and parameters with "
        f"{test['test_parameters']:.2f} of their variance as error\n"
        f"{folder / WEIGHTS}: for --config.pretrained\n"
    )


def main() -> int:
    """Parse the command line and train."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
        return 0
    values = flags.FlagValues()
    try:
        config = config_flags.DEFINE_config_dict(
            "config", get_config(), "any field, as --config.FIELD=VALUE", flag_values=values
        )
        workdir = flags.DEFINE_string(
            "workdir", "runs/pretrain_textures", "folder of the training", flag_values=values
        )
        rest = values(sys.argv)[1:]
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{' '.join(str(error).split())} (--help says what is expected)") from error
    if rest:
        raise UserError(f"{' '.join(rest)}: expected flags alone, as --help shows")
    terminal.set_up_log()
    terminal.set_up_jax()
    print(f"\n{run(config.value, Path(workdir.value))}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
