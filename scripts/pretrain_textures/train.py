"""Train a backbone on drawn textures.

    python -m scripts.pretrain_textures.train [--workdir=FOLDER] [--config.FIELD=VALUE ...]

The folder then contains `backbone.safetensors` (kernels in float16), for --config.pretrained of any
run, with `pretrain.json`, `curves.csv` and the checkpoints of the training. The same command again
resumes it where it stopped. The fields are those of `config.py`.
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
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from sscjax.errors import DivergedError, UserError
from sscjax.experiments import run_record
from sscjax.models import MobileNetV2
from sscjax.models.pretrained import preprocessing, save
from sscjax.system import signals, terminal
from sscjax.system.files import csv_text, read_json, sha256, write_json, write_text
from sscjax.training import checkpoint

from . import objective
from .config import Schedule, get_config, make_optimizer, make_plan, make_rate, make_schedule
from .objective import HEAD

_LOG = logging.getLogger(__name__)

FILE, WEIGHTS, CURVES = "pretrain.json", "backbone.safetensors", "curves.csv"
_CHECKPOINTS, _ON_THE_WAY = "checkpoints", "weights"

# Apart from the keys of the training's steps, which are counted from 0.
_TEST_KEY = 2**31 - 1

State = dict[str, Any]


def run(config: ConfigDict, folder: Path) -> str:
    """Train, or resume the training in `folder`.

    Args:
      config: see `config.py`.
      folder: created when missing.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: a field has no meaning, or the folder holds something else.
      DivergedError: the loss is not a number.
    """
    plan, schedule, optimizer = make_plan(config), make_schedule(config), make_optimizer(config)
    record: dict[str, Any] = {
        "status": "started",
        "config": json.loads(json.dumps(config.to_dict())),
        "versions": {**run_record.versions(), "device": jax.default_backend()},
    }
    if (folder / FILE).is_file():
        earlier = read_json(folder / FILE)
        if earlier["config"] != record["config"]:
            raise UserError(
                f"{folder} holds a training with another config: give that, or another --workdir"
            )
        if earlier["status"] == "finished":
            _LOG.info("this training is finished: nothing is left to do")
            return _summary(folder, earlier)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no training: give another --workdir")
    write_json(folder / FILE, record)
    with checkpoint.Checkpoints(folder / _CHECKPOINTS) as checkpoints:
        start = objective.start(plan, optimizer, config.seed)
        newest = checkpoints.newest(start, lambda info: True)
        info, state = newest or ({"curves": [], "seconds": 0.0, "sums": []}, start)
        training = Training(config, plan, schedule, folder, checkpoints, **info)
        state = training.run(state, objective.make_step(plan, optimizer))
    _save_backbone(folder / WEIGHTS, plan.model, state)
    record |= {
        "status": "finished",
        "pictures": schedule.pictures(schedule.steps),
        "seconds": round(training.elapsed),
        "sha256": sha256(folder / WEIGHTS),
        "test": training.curves[-1],
    }
    write_json(folder / FILE, record)
    return _summary(folder, record)


@dataclasses.dataclass
class Training:
    """A training in progress.

    Attributes:
      config, plan, schedule: what is trained, and how long.
      folder: of its files.
      checkpoints: in it.
      curves: a line for each test.
      seconds: of earlier starts.
      sums: what each step since the last line of the curves returned.
    """

    config: ConfigDict
    plan: objective.Plan
    schedule: Schedule
    folder: Path
    checkpoints: checkpoint.Checkpoints
    curves: list[dict[str, float]]
    seconds: float
    sums: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._key = jax.random.key(self.config.seed)
        self._test = objective.make_test(self.plan)
        # Of one size throughout, so that all lines of the curves are comparable.
        each, size = self.config.each[-1], self.config.test_size
        self._draw_test = objective.make_draw(self.plan, each, size)

    @property
    def elapsed(self) -> float:
        """Seconds of all starts together."""
        return self.seconds + time.monotonic() - self._started

    def run(self, state: State, step: Any) -> State:
        """The last state; `step` is that of `objective.make_step`."""
        config, schedule = self.config, self.schedule
        done = int(state["step"])
        if done:
            total = schedule.pictures(schedule.steps)
            _LOG.info("resumed after %d of %d pictures", schedule.pictures(done), total)
        draws = [
            objective.make_draw(self.plan, each, size)
            for each, size in zip(config.each, schedule.sizes, strict=True)
        ]
        rate = make_rate(config, schedule)
        with signals.deferred():
            while done < schedule.steps and not signals.stop_requested():
                batch = draws[schedule.phase(done)](jax.random.fold_in(self._key, done))
                state, parts = step(state, batch, jnp.float32(rate(done)))
                self.sums.append(parts)
                done += 1
                last = done == schedule.steps
                if schedule.passes(done, config.test_every) or last:
                    self._test_and_log(state, done)
                if schedule.passes(done, config.keep_every):
                    path = self.folder / _ON_THE_WAY / f"{schedule.pictures(done):09d}.safetensors"
                    _save_backbone(path, self.plan.model, state)
                stop = last or signals.stop_requested()
                if schedule.passes(done, config.save_every) or stop:
                    self._save_checkpoint(state, done)
        return state

    def _save_checkpoint(self, state: State, done: int) -> None:
        sums = [{name: float(value) for name, value in parts.items()} for parts in self.sums]
        info = {"curves": self.curves, "seconds": self.elapsed, "sums": sums}
        self.checkpoints.save(done, state, info)

    def _test_and_log(self, state: State, done: int) -> None:
        """Test the averaged weights on new draws, and write the curves."""
        pictures, size = self.schedule.pictures(done), self.schedule.phase(done - 1)
        key = jax.random.fold_in(self._key, _TEST_KEY)
        count = max(1, round(self.config.test_images / self.schedule.batches[-1]))
        tests = [
            self._test(*state["average"], self._draw_test(jax.random.fold_in(key, k)))
            for k in range(count)
        ]
        line = {
            **{"step": done, "pictures": pictures, "size": self.schedule.sizes[size]},
            **_means(self.sums, ""),
            **_means(tests, "test_"),
        }
        if not all(map(np.isfinite, line.values())):
            raise DivergedError(
                f"the loss is not a number after {done} steps: lower config.learning_rate, and "
                "give another --workdir"
            )
        self.curves.append({**line, "seconds": round(self.elapsed, 1)})
        self.sums = []
        lines = [self.curves[0], *(line.values() for line in self.curves)]
        write_text(self.folder / CURVES, csv_text(lines))
        accuracy = 100 * self.curves[-1]["test_accuracy"]
        _LOG.info("%d pictures: test accuracy %.1f %%", pictures, accuracy)


def _means(parts: list[dict[str, Any]], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{name}": float(np.mean([float(values[name]) for values in parts]))
        for name in parts[0]
    }


def _save_backbone(path: Path, model: MobileNetV2, state: State) -> None:
    """Write the averaged backbone."""
    params, stats = jax.tree.map(np.asarray, state["average"])
    backbone = {layer.name for layer in model.layers} - {HEAD}
    params = {layer: leaves for layer, leaves in params.items() if layer in backbone}
    save.save_backbone(path, params, stats, preprocessing.KERAS, half=True)


def _summary(folder: Path, record: dict[str, Any]) -> str:
    test, minutes = record["test"], record["seconds"] / 60
    return (
        f"{record['pictures']} pictures in {minutes:.0f} minutes; on new draws it predicts "
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
