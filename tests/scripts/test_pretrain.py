"""Training a backbone on drawn textures: resumed to the same bits, refused where it must be."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from ml_collections import ConfigDict

from sscjax import backbone, main, pretrain
from sscjax.configs import pretrain_textures
from sscjax.errors import UserError
from sscjax.models import mobilenet_v2
from sscjax.models.pretrained.formats import read_weights
from sscjax.system import progress, signals, terminal
from sscjax.system.files import sha256
from sscjax.textures import draw
from sscjax.training import checkpoint

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """Two blocks, because compiling all of them takes most of the time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(mobilenet_v2, "_BLOCKS", ((1, 16, 1, 1), (2, 24, 1, 2)))
    yield
    patch.undo()


def tiny(**changes: Any) -> ConfigDict:
    config = pretrain_textures.get_config()
    config.families = ("voronoi", "weave")
    config.recipes, config.alpha = 3, 0.35
    config.sizes, config.images, config.each = (32,), (48,), (4,)
    config.test_images, config.test_size = 8, 32
    config.test_every, config.save_every, config.keep_every = 24, 16, 0
    config.warmup = 8
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("pretrain") / "whole"
    text = pretrain.run(tiny(), folder)
    assert "48 pictures" in text and "backbone.safetensors" in text
    return folder


def interrupted(folder: Path, config: ConfigDict, after: int) -> None:
    """SIGTERM, as a batch system sends it, in the middle of that step."""
    with pytest.MonkeyPatch.context() as patch:
        advance, calls = progress.Progress.advance, [0]

        def counted(self: progress.Progress, images: int) -> None:
            calls[0] += 1
            if calls[0] == after:
                os.kill(os.getpid(), signal.SIGTERM)
            advance(self, images)

        patch.setattr(progress.Progress, "advance", counted)
        with signals.handled(), pytest.raises(KeyboardInterrupt):
            pretrain.run(config, folder)


def without_times(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "curves.csv").read_text("utf-8").splitlines()))
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def test_resumed_training_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    # The first steps do not depend on the length of the course.
    interrupted(tmp_path / "cut", tiny(images=(56,)), 2)
    record = json.loads((tmp_path / "cut" / "pretrain.json").read_text("utf-8"))
    assert (
        record["status"] == "started" and not (tmp_path / "cut" / "backbone.safetensors").exists()
    )
    # No shorter than it is already; the record stays what it was.
    with pytest.raises(UserError, match=r"images: \[56\] then, \[8\] now \(too late after 16 pic"):
        pretrain.run(tiny(images=(8,)), tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "pretrain.json").read_text("utf-8")) == record
    pretrain.run(tiny(), tmp_path / "cut")
    record = json.loads((tmp_path / "cut" / "pretrain.json").read_text("utf-8"))
    assert [one["pictures"] for one in record["starts"]] == [0, 16]
    assert sha256(tmp_path / "cut" / "backbone.safetensors") == sha256(
        whole / "backbone.safetensors"
    )
    assert without_times(tmp_path / "cut") == without_times(whole)


def test_training_of_two_sizes_resumes_across_the_border(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny(families=("weave",), sizes=(32, 40), images=(16, 12), each=(8, 4))
    plan, sizes = pretrain.make_plan(config), []
    program = backbone.make_step(plan, pretrain.make_optimizer(config))

    def step(state: Any, batch: draw.Batch, rate: Any) -> Any:
        sizes.append(batch.images.shape[1:3])
        return program(state, batch, rate)

    # Compiled once for all three starts.
    monkeypatch.setattr(backbone, "make_step", lambda *args: step)
    for name in ("make_draw", "make_test"):
        monkeypatch.setattr(backbone, name, functools.cache(getattr(backbone, name)))
    pretrain.run(config, tmp_path / "whole")
    assert sizes == [(8, 32)] * 2 + [(4, 40)] * 3
    # With the last step of the first size, in the middle of a row of the curves.
    interrupted(tmp_path / "cut", config, 2)
    pretrain.run(config, tmp_path / "cut")
    assert sizes[5:] == sizes[:5]
    one, other = tmp_path / "whole", tmp_path / "cut"
    assert sha256(one / "backbone.safetensors") == sha256(other / "backbone.safetensors")
    assert without_times(one) == without_times(other)
    rows = without_times(one)
    assert [(row["pictures"], row["size"]) for row in rows] == [("24", "40"), ("28", "40")]


def test_record_and_curves(whole: Path) -> None:
    record = json.loads((whole / "pretrain.json").read_text("utf-8"))
    assert record["status"] == "finished" and record["pictures"] == 48
    assert record["sha256"] == sha256(whole / "backbone.safetensors")
    assert record["config"]["seed"] == 0 and "jax" in record["versions"]
    assert record["starts"] == [{"pictures": 0, "versions": record["versions"]}]
    rows = without_times(whole)
    assert [row["pictures"] for row in rows] == ["24", "48"]
    assert all(np.isfinite(float(cell)) for row in rows for cell in row.values())


def test_finished_training_is_left_alone(whole: Path) -> None:
    before = sha256(whole / "pretrain.json")
    assert "48 pictures" in pretrain.run(tiny(), whole)
    assert sha256(whole / "pretrain.json") == before
    with pytest.raises(UserError, match=r"config.seed: 0 then, 1 now.*--fresh"):
        pretrain.run(tiny(seed=1), whole)
    with pytest.raises(UserError, match="config.images"):
        pretrain.run(tiny(images=(96,)), whole)


def test_weights_are_those_of_the_average(whole: Path) -> None:
    """The file holds the backbone without its head, kernels in float16, the rest in float32."""
    weights, convention = read_weights(whole / "backbone.safetensors")
    assert convention.name == "keras" and not any("predictions" in name for name in weights)
    plan = pretrain.make_plan(tiny())
    start = backbone.start(plan, optax.sgd(0.1), 0)
    assert len(weights) == len(jax.tree.leaves(start["average"])) - 2  # kernel and bias of the head
    with checkpoint.Checkpoints(whole / "checkpoints") as saved:
        state = saved.restore(6, backbone.start(plan, pretrain.make_optimizer(tiny()), 0))
    average, last = (
        {
            f"{kind}/{layer}/{name}": np.asarray(leaf)
            for kind, tree in zip(("params", "batch_stats"), trees, strict=True)
            for layer, leaves in tree.items()
            for name, leaf in leaves.items()
        }
        for trees in (state["average"], (state["params"], state["batch_stats"]))
    )
    for name, array in weights.items():
        kind = np.float16 if name.endswith("kernel") else np.float32
        np.testing.assert_array_equal(array, average[name].astype(kind), err_msg=name)
        assert not np.array_equal(array, last[name].astype(kind)), name


def test_loss_falls() -> None:
    """On one batch that is shown again and again, of every part of the objective."""
    plan = backbone.Plan(
        draw.Recipes(("voronoi", "weave"), 3), 0.35, groups=1, each=2, looks=2, similarity=0.5
    )
    optimizer = optax.adam(1.0)
    batch = backbone.make_draw(plan, 32)(jax.random.key(1))
    assert batch.images.shape == (1, 8, 32, 32, 3)
    np.testing.assert_array_equal(batch.classes[0, :4], batch.classes[0, 4:])
    state, step = backbone.start(plan, optimizer, 0), backbone.make_step(plan, optimizer)
    found = []
    for _ in range(20):
        state, parts = step(state, batch, jnp.float32(3e-3))
        found.append({name: float(value) for name, value in parts.items()})
    # At first all recipes are alike, and all parameters in the middle.
    assert found[0]["entropy"] == pytest.approx(np.log(6), abs=1e-4)
    middle = 12 * np.square(0.5 - np.asarray(batch.parameters)).mean()
    assert found[0]["parameters"] == pytest.approx(middle, rel=1e-4)
    for name in ("entropy", "parameters", "similarity", "loss"):
        assert found[-1][name] < 0.8 * found[0][name], name


def test_projector_reads_the_features_of_any_width() -> None:
    """A wide network has more of them; traced, not compiled."""
    plan = backbone.Plan(
        draw.Recipes(("voronoi",), 2), 1.4, groups=1, each=2, looks=2, similarity=1.0
    )
    optimizer = optax.sgd(1.0)
    batch = jax.eval_shape(backbone.make_draw(plan, 32), jax.random.key(0))
    state = backbone.start(plan, optimizer, 0)
    assert len(state["params"]["projector_hidden"]["kernel"]) == 1792
    _, parts = jax.eval_shape(
        backbone.make_step(plan, optimizer), state, batch, jax.ShapeDtypeStruct((), jnp.float32)
    )
    assert "similarity" in parts


def test_groups_mix_families() -> None:
    plan = backbone.Plan(draw.Recipes(("voronoi", "weave"), 3), 0.35, groups=3, each=2)
    batch = backbone.make_draw(plan, 32)(jax.random.key(0))
    np.testing.assert_array_equal(batch.families, [[0, 0, 1, 1]] * 3)
    np.testing.assert_array_equal(batch.classes // 3, batch.families)
    assert plan.batch == 12 and batch.images.shape[:2] == (3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("celts", "weave")}, "did you mean 'cells'"),
        ({"families": ()}, "expected some of fibres"),
        ({"families": (1, 2)}, r"config.families=\(1, 2\): expected some of fibres"),
        ({"images": (10, 10)}, "expected as many whole numbers"),
        ({"images": ("a",)}, r"images=\('a',\), each=\(4,\): expected as many whole numbers"),
        ({"each": (1.5,)}, r"each=\(1.5,\): expected as many whole numbers"),
        ({"sizes": (32.5,)}, r"config.sizes=\(32.5,\).*: expected as many whole numbers"),
        ({"sizes": (16,)}, "32 pixels or more"),
        ({"recipes": 0}, "config.recipes=0: expected 1 or more"),
        ({"seed": -1}, "config.seed=-1: expected 0 to 4294967295"),
        ({"seed": 2**32}, "config.seed=4294967296: expected"),
        ({"alpha": np.inf}, "config.alpha=inf: expected a width above 0"),
        ({"loss.classes": np.nan}, "config.loss: expected weights of 0 or more"),
        ({"cooldown": 1.0}, "config.cooldown=1.0"),
        ({"learning_rate": 0.0}, "config.learning_rate=0.0"),
        ({"learning_rate": np.nan}, "config.learning_rate=nan"),
        ({"clip": np.nan}, "clip=nan"),
        ({"weight_decay": np.inf}, "weight_decay=inf"),
        ({"loss.similarity": 1.0}, "2 with loss.similarity above 0"),
        ({"looks": 3}, "config.looks=3"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        pretrain.run(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        pretrain.run(tiny(), tmp_path, fresh=True)
    assert (tmp_path / "thesis.txt").exists()


def test_rate_rises_stays_and_falls() -> None:
    config = tiny(images=(800,), warmup=80, learning_rate=0.01)
    course = pretrain.make_course(config, pretrain.make_plan(config))
    assert course.steps == 100 and course.pictures(7) == 56
    rates = np.array([pretrain.make_rate(config, course)(step) for step in range(100)])
    np.testing.assert_allclose(rates[:10], 0.01 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:70], 0.01)
    np.testing.assert_allclose(rates[70:], 0.01 * np.arange(30, 0, -1) / 30)


def test_course_of_two_sizes() -> None:
    config = tiny(sizes=(32, 64), images=(24, 20), each=(4, 2))
    course = pretrain.make_course(config, pretrain.make_plan(config))
    assert course == pretrain.Course((32, 64), (8, 4), (3, 8)) and course.steps == 8
    assert [course.phase(step) for step in range(8)] == [0] * 3 + [1] * 5
    assert [course.pictures(done) for done in range(9)] == [0, 8, 16, 24, 28, 32, 36, 40, 44]
    # 26 is passed by the first step of small batches; of the multiples of 12, one is the border.
    assert [done for done in range(1, 9) if course.passes(done, 26)] == [4]
    assert [done for done in range(1, 9) if course.passes(done, 12)] == [2, 3, 6]
    assert not any(course.passes(done, 0) for done in range(1, 9))


@pytest.mark.parametrize(
    ("images", "done", "why"),
    [
        # Of 50 and 50 steps, the last 30 with a falling rate.
        ((400, 400), 100, ""),
        ((400, 800), 40, ""),
        ((480, 400), 40, ""),
        ((320, 400), 40, ""),
        ((400, 200), 50, ""),
        ((400, 8000), 71, ""),
        ((312, 400), 40, "a size that is finished"),
        ((480, 400), 51, "a size that is finished"),
        ((392, 800), 60, "a size that is finished"),
        ((400, 80), 60, "nothing is left to be done"),
        ((80, 80), 60, "nothing is left to be done"),
        ((400, 8000), 100, "nothing is left to be done"),
        ((400, 8000), 72, "begun to fall"),
        ((400, 200), 60, "begun to fall"),
    ],
)
def test_course_changes_before_it_matters(images: tuple[int, int], done: int, why: str) -> None:
    """A change is refused if, and only if, some step that is done would have been another."""
    configs = [tiny(sizes=(32, 64), images=some, each=(4, 4)) for some in ((400, 400), images)]
    then, now = (pretrain.make_course(one, pretrain.make_plan(one)) for one in configs)
    found = pretrain.late(then, now, done, configs[0].cooldown)
    assert (why in found) if why else not found
    steps = [
        [(course.phase(step), pretrain.make_rate(config, course)(step)) for step in range(done)]
        for config, course in zip(configs, (then, now), strict=True)
        if done <= course.steps
    ]
    if "nothing" not in why:
        assert (steps[0] != steps[1]) == bool(why)


def test_each_start_and_what_it_ran_on_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    one, other = {"jax": "0.1", "device": "cpu"}, {"jax": "0.1", "device": "gpu"}
    first = pretrain.starts({"versions": one}, one, 0)
    assert first == [{"pictures": 0, "versions": one}] and not caplog.text
    # Nothing was saved before this start: nothing of the result is by the one before.
    assert pretrain.starts({"versions": one, "starts": first}, other, 0) == [
        {"pictures": 0, "versions": other}
    ]
    assert not caplog.text
    both = pretrain.starts({"versions": one, "starts": first}, other, 40)
    assert both == [*first, {"pictures": 40, "versions": other}]
    assert "versions.device: cpu then, gpu now: the result may differ" in caplog.text
    # Records of before have those of one start.
    assert pretrain.starts({"versions": one}, other, 40) == both
    caplog.clear()
    pretrain.starts({"versions": other, "starts": both}, other, 48)
    assert not caplog.text


def test_classifier_moves_by_a_tenth_and_biases_do_not_decay() -> None:
    """Seen from outside: what a step changes where all gradients are 1, or all are 0."""
    params = {
        layer: {name: jnp.ones(1) for name in ("kernel", "bias")}
        for layer in ("Conv1", "predictions")
    }
    for decay, gradient in ((0.0, 1.0), (0.5, 0.0)):
        optimizer = pretrain.make_optimizer(tiny(weight_decay=decay, clip=100.0))
        given = jax.tree.map(lambda leaf, value=gradient: leaf * value, params)
        moved = jax.tree.map(
            lambda leaf: leaf.item(), optimizer.update(given, optimizer.init(params), params)[0]
        )
        kernel = -1.0 if gradient else -decay
        assert moved["Conv1"]["kernel"] == pytest.approx(kernel, abs=1e-4)
        assert moved["predictions"]["kernel"] == pytest.approx(kernel / 10, abs=1e-4)
        assert moved["Conv1"]["bias"] == pytest.approx(-gradient, abs=1e-4)


@pytest.fixture
def unused_flags() -> Iterator[None]:
    """As in a new process, and after the test again."""
    flags.FLAGS.unparse_flags()
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.usefixtures("unused_flags")
def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for program, name, message in (
        (pretrain._main, "pretrain_texture", "did you mean configs/pretrain_textures.py?"),
        (pretrain._main, "smoke", "give --config=configs/pretrain_textures.py"),
        (main.main, "pretrain_textures", "configs of sscjax.pretrain are for that program"),
    ):
        monkeypatch.setattr("sys.argv", ["sscjax", f"--config=configs/{name}.py"])
        assert terminal.call(program) == 2
        assert message in capsys.readouterr().err
