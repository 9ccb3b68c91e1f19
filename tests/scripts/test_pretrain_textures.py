"""Training a backbone on drawn textures: resumed to the same bits, and put into the package."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from sscjax.errors import UserError
from sscjax.models import mobilenet_v2
from sscjax.models.pretrained import bundled
from sscjax.models.pretrained.formats import read_weights
from sscjax.system import signals, terminal
from sscjax.system.files import sha256
from sscjax.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from pretrain_textures import bundle, draw, objective, train  # noqa: E402
from pretrain_textures.config import (  # noqa: E402
    Schedule,
    get_config,
    make_optimizer,
    make_plan,
    make_rate,
    make_schedule,
)

FOLDER = Path(bundled.__file__).parent


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch, quick_compiler: None) -> None:
    """Two blocks, because compiling all of them takes most of the time."""
    monkeypatch.setattr(mobilenet_v2, "_BLOCKS", ((1, 16, 1, 1), (2, 24, 1, 2)))


def tiny(**changes: Any) -> ConfigDict:
    config = get_config()
    config.families = ("voronoi", "weave")
    config.recipes, config.alpha = 3, 0.35
    config.sizes, config.images, config.each = (32, 40), (16, 12), (4, 2)
    config.test_images, config.test_size = 8, 32
    config.test_every, config.save_every, config.keep_every = 14, 16, 0
    config.warmup = 8
    config.update_from_flattened_dict(changes)
    return config


def interrupted(folder: Path, config: ConfigDict, after: int) -> None:
    """SIGTERM, as a batch system sends it, in the middle of that step."""
    with pytest.MonkeyPatch.context() as patch:
        make_step = objective.make_step

        def made(*args: Any) -> Any:
            program, calls = make_step(*args), [0]

            def step(*values: Any) -> Any:
                calls[0] += 1
                if calls[0] == after:
                    os.kill(os.getpid(), signal.SIGTERM)
                return program(*values)

            return step

        patch.setattr(objective, "make_step", made)
        with signals.handled(), pytest.raises(KeyboardInterrupt):
            train.run(config, folder)


def without_times(folder: Path) -> list[dict[str, str]]:
    lines = csv.DictReader((folder / "curves.csv").read_text("utf-8").splitlines())
    return [{name: cell for name, cell in line.items() if name != "seconds"} for line in lines]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("shallow")
def test_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Two sizes, cut with the last step of the first, in the middle of a line of the curves."""
    undisturbed, cut = tmp_path / "undisturbed", tmp_path / "cut"
    text = train.run(tiny(), undisturbed)
    assert "28 pictures" in text and "backbone.safetensors" in text
    interrupted(cut, tiny(), 2)
    assert json.loads((cut / "pretrain.json").read_text("utf-8"))["status"] == "started"
    assert not (cut / "backbone.safetensors").exists()
    with pytest.raises(UserError, match="holds a training with another config"):
        train.run(tiny(seed=1), cut)
    train.run(tiny(), cut)
    weights = undisturbed / "backbone.safetensors"
    assert sha256(cut / "backbone.safetensors") == sha256(weights)
    assert without_times(cut) == without_times(undisturbed)
    assert [(line["pictures"], line["size"]) for line in without_times(cut)] == [
        ("16", "32"),
        ("28", "40"),
    ]
    # Given again, a finished training is left as it is.
    record = json.loads((undisturbed / "pretrain.json").read_text("utf-8"))
    assert record["status"] == "finished" and record["sha256"] == sha256(weights)
    before = (undisturbed / "pretrain.json").read_bytes()
    assert "28 pictures" in train.run(tiny(), undisturbed)
    assert (undisturbed / "pretrain.json").read_bytes() == before
    # The file holds the averaged backbone: kernels in float16, the rest in float32, no classifier.
    arrays, convention = read_weights(weights)
    assert convention.name == "keras" and not any("predictions" in name for name in arrays)
    start = objective.start(make_plan(tiny()), make_optimizer(tiny()), 0)
    with checkpoint.Checkpoints(undisturbed / "checkpoints") as saved:
        state = saved.restore(5, start)
    average = {
        f"{kind}/{layer}/{name}": np.asarray(leaf)
        for kind, tree in zip(("params", "batch_stats"), state["average"], strict=True)
        for layer, leaves in tree.items()
        for name, leaf in leaves.items()
    }
    assert len(arrays) == len(average) - 2  # kernel and bias of the classifier
    for name, array in arrays.items():
        kind = np.float16 if name.endswith("kernel") else np.float32
        np.testing.assert_array_equal(array, average[name].astype(kind), err_msg=name)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("shallow")
def test_loss_falls() -> None:
    """On one batch that is shown again and again."""
    plan = objective.Plan(draw.Recipes(("voronoi", "weave"), 3), 0.35)
    optimizer = optax.adam(1.0)
    batch = objective.make_draw(plan, 4, 32)(jax.random.key(1))
    state, step = objective.start(plan, optimizer, 0), objective.make_step(plan, optimizer)
    curve = []
    for _ in range(20):
        state, parts = step(state, batch, jnp.float32(3e-3))
        curve.append({name: float(value) for name, value in parts.items()})
    # At first all recipes are alike, and all parameters in the middle.
    assert curve[0]["entropy"] == pytest.approx(np.log(6), abs=1e-4)
    middle = 12 * np.square(0.5 - np.asarray(batch.parameters)).mean()
    assert curve[0]["parameters"] == pytest.approx(middle, rel=1e-4)
    for name in ("entropy", "parameters", "loss"):
        assert curve[-1][name] < 0.8 * curve[0][name], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("celts", "weave")}, "expected some of fibres"),
        ({"families": ()}, "expected some of fibres"),
        ({"images": (10,)}, "expected as many whole numbers"),
        ({"each": (1.5, 1)}, r"each=\(1.5, 1\), .*: expected as many whole numbers"),
        ({"sizes": (16, 32)}, "32 pixels or more"),
        ({"recipes": 0}, "config.recipes=0: expected 1 or more"),
        ({"seed": -1}, "config.seed=-1: expected 0 or more"),
        ({"cooldown": 1.0}, "config.cooldown=1.0"),
        ({"learning_rate": np.nan}, "config.learning_rate=nan"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train.run(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        train.run(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_rate_rises_stays_and_falls() -> None:
    config = tiny(sizes=(32,), images=(800,), each=(4,), warmup=80, learning_rate=0.01)
    schedule = make_schedule(config)
    assert schedule.steps == 100 and schedule.pictures(7) == 56
    rates = np.array([make_rate(config, schedule)(step) for step in range(100)])
    np.testing.assert_allclose(rates[:10], 0.01 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:70], 0.01)
    np.testing.assert_allclose(rates[70:], 0.01 * np.arange(30, 0, -1) / 30)


def test_schedule_of_two_sizes() -> None:
    schedule = make_schedule(tiny(images=(24, 20)))
    assert schedule == Schedule((32, 40), (8, 4), (3, 8)) and schedule.steps == 8
    assert [schedule.phase(step) for step in range(8)] == [0] * 3 + [1] * 5
    assert [schedule.pictures(done) for done in range(9)] == [0, 8, 16, 24, 28, 32, 36, 40, 44]
    # 26 is passed by the first step of small batches; of the multiples of 12, 24 is the border.
    assert [done for done in range(1, 9) if schedule.passes(done, 26)] == [4]
    assert [done for done in range(1, 9) if schedule.passes(done, 12)] == [2, 3, 6]
    assert not any(schedule.passes(done, 0) for done in range(1, 9))


def test_classifier_moves_by_a_tenth_and_biases_do_not_decay() -> None:
    """Seen from outside: what a step changes where all gradients are 1, or all are 0."""
    params = {
        layer: {name: jnp.ones(1) for name in ("kernel", "bias")}
        for layer in ("Conv1", "predictions")
    }
    for decay, gradient in ((0.0, 1.0), (0.5, 0.0)):
        optimizer = make_optimizer(tiny(weight_decay=decay, clip=100.0))
        given = jax.tree.map(lambda leaf, value=gradient: leaf * value, params)
        moved = jax.tree.map(
            lambda leaf: leaf.item(), optimizer.update(given, optimizer.init(params), params)[0]
        )
        kernel = -1.0 if gradient else -decay
        assert moved["Conv1"]["kernel"] == pytest.approx(kernel, abs=1e-4)
        assert moved["predictions"]["kernel"] == pytest.approx(kernel / 10, abs=1e-4)
        assert moved["Conv1"]["bias"] == pytest.approx(-gradient, abs=1e-4)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command line that the test fills."""
    words = ["program"]
    monkeypatch.setattr("sys.argv", words)
    yield words


def test_command_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command.append("--config.recipe=3")
    assert terminal.call(train.main) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "recipe" in said
    command[1:] = ["--config.recipes=0"]
    assert terminal.call(train.main) == 2
    assert "config.recipes=0: expected 1 or more" in capsys.readouterr().err


# --- what the package ships -----------------------------------------------------------------------


def test_shipped_record_is_of_this_config() -> None:
    """Of the fields that are left; the others had the values by which nothing was done."""
    record = json.loads((FOLDER / "pretrain.json").read_text("utf-8"))
    assert record["status"] == "finished" and record["sha256"] == bundled.SHA256
    then, now = record["config"], json.loads(json.dumps(get_config().to_dict()))
    assert then.pop("loss") == {
        **{"classes": 1.0, "families": 1.0, "parameters": 1.0},
        **{"similarity": 0.0, "smoothing": now.pop("smoothing")},
    }
    assert then.pop("groups") == 1 and then.pop("looks") == 1
    assert then == now
    lines = list(csv.DictReader((FOLDER / "curves.csv").read_text("utf-8").splitlines()))
    assert int(lines[-1]["pictures"]) == record["pictures"]
    sheet = (FOLDER / "DATASHEET.md").read_text("utf-8")
    assert all(name in sheet for name in draw.FAMILIES)


def test_documented_long_training_keeps_few_files() -> None:
    """Its flags are fields of the config, with which it would be planned."""
    text = (ROOT / "docs" / "bundled_backbone.md").read_text("utf-8")
    (line,) = re.findall(
        r"    python -m scripts.pretrain_textures.train --workdir=runs/long(?:.*\\\n)*.*", text
    )
    flags = dict(re.findall(r'--config\.(\w+)="?([^\s"]+)', line))
    config = get_config()
    config.update({name: ast.literal_eval(value) for name, value in flags.items()})
    make_plan(config)
    schedule = make_schedule(config)
    assert len(schedule.sizes) == 3
    assert schedule.pictures(schedule.steps) // config.keep_every < 20


def test_only_finished_trainings_are_bundled(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = sha256(FOLDER / bundled.FILE)
    command.append(str(tmp_path))

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            bundle.main()

    refused("pretrain.json is missing")
    (tmp_path / "pretrain.json").write_text('{"status": "started"}', encoding="utf-8")
    (tmp_path / "backbone.safetensors").write_bytes(b"other")
    (tmp_path / "curves.csv").write_text("step\n", encoding="utf-8")
    refused("the training is not finished")
    text = '{"status": "finished", "sha256": "0"}'
    (tmp_path / "pretrain.json").write_text(text, encoding="utf-8")
    refused("backbone.safetensors was changed")
    assert sha256(FOLDER / bundled.FILE) == before
    # The bundled training itself, into another package.
    (tmp_path / "__init__.py").write_text('SHA256 = "0"\n', encoding="utf-8")
    command[1] = str(FOLDER)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "__init__.py"))
    assert bundle.main() == 0
    assert f'SHA256 = "{before}"' in (tmp_path / "__init__.py").read_text("utf-8")
    for name in (bundled.FILE, "pretrain.json", "curves.csv"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
