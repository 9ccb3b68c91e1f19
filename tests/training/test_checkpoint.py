"""What is saved comes back to the bit; what is unfinished or damaged is recognised."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from trees import assert_same

from sscjax.errors import UserError
from sscjax.system import terminal
from sscjax.training import freezing, optimizers
from sscjax.training.checkpoint import Checkpoints, load_model, save_model

# Orbax reads all arrays at once: when one is damaged it leaves the others unread and unawaited.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def params(seed: int = 0) -> freezing.Params:
    rng = np.random.default_rng(seed)
    awkward = [np.float32(np.pi), -0.0, 1e-45, np.inf, np.nan, np.finfo(np.float32).max]
    return {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)},
        "dense": {"bias": jnp.asarray(awkward, jnp.float32)},
    }


def tree(seed: int = 0, optimizer: Any = "adamw") -> dict[str, Any]:
    """As a run saves it: parameters, an optimizer's nested namedtuples after a step, counters."""
    weights = params(seed)
    decay = 0.1 if optimizer == "adamw" else 0.0
    rule = optimizers.make_optimizer(
        optimizer, optax.constant_schedule(0.1), weight_decay=decay, clip_norm=1.0
    )
    gradients = jax.tree.map(jnp.ones_like, weights)
    _, state = rule.update(gradients, rule.init(weights), weights)
    return {"params": weights, "opt_state": state, "step": jnp.int32(seed)}


def zeros(like: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, like)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with one checkpoint, of step 3."""
    with Checkpoints(tmp_path / "saved") as checkpoints:
        checkpoints.save(3, tree(), {"epoch": 3})
    return tmp_path / "saved"


# ---- a run's checkpoints ------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ("adam", "adamw", "sgd"))
def test_round_trip(tmp_path: Path, optimizer: str) -> None:
    original = tree(1, optimizer)
    info = {"epoch": 2, "rows": [{"loss": 0.1 + 0.2, "name": "µ"}], "best": None}
    with Checkpoints(tmp_path / "new" / "run") as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(7, original, info)
    with Checkpoints(tmp_path / "new" / "run") as again:
        assert again.latest() == 7
        assert_same(again.restore(7, zeros(original)), original)
        assert again.info(7) == info


def test_restored_arrays_compile_nothing_anew(tmp_path: Path) -> None:
    """A run that goes on finds its programs in the cache: no array is bound to a device."""
    original = tree(1)
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, original, {})
        restored = checkpoints.restore(1, zeros(original))
    save_model(tmp_path / "model", params())
    program: Any = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree))
    model = load_model(tmp_path / "model", params(1))
    for found, expected in ((restored, original), (model, params())):
        program.clear_cache()
        program(expected)
        program(found)
        assert program._cache_size() == 1


def test_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpoints(Path("saved")) as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.save(4, tree(4), {})
    assert names(saved) == ["3", "4"]
    save_model(Path("model"), params())
    assert_same(load_model(Path("model"), params(1)), params())


def test_newest_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 10):
            checkpoints.save(step, tree(step), {"step": step})
            assert checkpoints.latest() == step
        assert names(tmp_path) == ["10", "2"]
        assert checkpoints.info(2) == {"step": 2}
        assert_same(checkpoints.restore(2, zeros(tree())), tree(2))


def test_saving_a_step_again_does_nothing(saved: Path) -> None:
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(3, tree(9), {"epoch": 9})
        assert checkpoints.info(3) == {"epoch": 3}
        assert_same(checkpoints.restore(3, zeros(tree())), tree())


def test_unfinished_checkpoint_is_no_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when all is written and only the name is missing; the next run writes it again."""
    rename = os.rename

    def stop(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        if Path(target).name == "4":
            raise KeyboardInterrupt
        rename(source, target, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", stop)
        with Checkpoints(saved) as checkpoints:
            checkpoints.save(4, tree(4), {"epoch": 4})
    left = [name for name in names(saved) if name != "3"]
    assert len(left) == 1 and left[0].startswith("4.")
    assert (saved / left[0] / "state").is_dir()

    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 3
        assert_same(checkpoints.restore(3, zeros(tree())), tree())
        checkpoints.save(4, tree(5), {"epoch": 5})
        assert checkpoints.latest() == 4
        assert_same(checkpoints.restore(4, zeros(tree())), tree(5))


# ---- damage -------------------------------------------------------------------------------------


def data_file(checkpoint: Path) -> Path:
    """The largest file under the state: the arrays."""
    files = [path for path in (checkpoint / "state" / "d").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    """One bit in the middle: the length stays, the checksum does not."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", (truncate, flip, Path.unlink))
def test_damaged_arrays(saved: Path, damage: Any) -> None:
    damage(data_file(saved / "3"))
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(3, zeros(tree()))
    assert_clear(str(caught.value), saved / "3", "--fresh")


@pytest.mark.parametrize("damage", (truncate, Path.unlink))
def test_damaged_info(saved: Path, damage: Any) -> None:
    damage(saved / "3" / "info" / "metadata")
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.info(3)
    assert_clear(str(caught.value), saved / "3", "--fresh")


def assert_clear(message: str, folder: Path, mend: str) -> None:
    """One line, not too long, with the folder and the mend."""
    assert str(folder) in message and mend in message
    assert "\n" not in message and len(message) < 400 + len(str(folder))


def test_same_step_damaged_again_and_again(saved: Path) -> None:
    """On a bad disk: what resumes from an earlier checkpoint writes the same step once more."""
    for number in (4, 4, 4):
        with Checkpoints(saved) as checkpoints:
            checkpoints.save(number, tree(number), {"epoch": number})
        flip(data_file(saved / str(number)))
        with Checkpoints(saved) as checkpoints:
            found = checkpoints.newest(zeros(tree()), lambda info: True)
            assert found is not None and found[0] == {"epoch": 3}
            assert checkpoints.latest() == 3
    assert names(saved) == ["3", "4.damaged", "4.damaged.2", "4.damaged.3"]


UNDAMAGED: dict[str, Exception] = {
    "files": OSError(errno.EMFILE, "Too many open files"),
    "memory": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "rights": PermissionError(errno.EACCES, "Permission denied", "state"),
    "drive": ValueError("UNKNOWN: Error reading d/0: Stale file handle [OS error 116]"),
    "words": ValueError("RESOURCE_EXHAUSTED: Error opening d/0: Too many open files"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("name", UNDAMAGED)
def test_what_the_machine_lacks_is_no_damage(
    saved: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound checkpoint stays in its place, and a finished stage is not to be trained again."""
    error = UNDAMAGED[name]
    save_model(saved / "model", params())

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with Checkpoints(saved) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", fail)
        patch.setattr(ocp.StandardCheckpointer, "restore", fail)
        for read in (
            lambda: checkpoints.newest(zeros(tree()), lambda info: True),
            lambda: load_model(saved / "model", params()),
        ):
            with pytest.raises((OSError, MemoryError)) as caught:
                read()
            if isinstance(caught.value, OSError):
                assert caught.value.errno in terminal._STORAGE and caught.value.filename
    assert names(saved) == ["3", "model"]


def test_error_of_the_disk_is_damage(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector stays one: the run would never get past it."""
    with Checkpoints(saved) as checkpoints:
        restore = checkpoints._manager.restore

        def fail(step: int, **kwargs: Any) -> Any:
            if step == 4:
                raise OSError(errno.EIO, "Input/output error")
            return restore(step, **kwargs)

        checkpoints.save(4, tree(4), {"epoch": 4})
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        found = checkpoints.newest(zeros(tree()), lambda info: True)
    assert found is not None and found[0] == {"epoch": 3}
    assert names(saved) == ["3", "4.damaged"]


OTHERS: dict[str, Any] = {
    "shape": params() | {"dense": {"bias": jnp.zeros(7)}},
    "missing layer": {"conv": params()["conv"]},
    "further layer": params() | {"more": {"bias": jnp.zeros(2)}},
    "another name": {"conv": params()["conv"], "danse": params()["dense"]},
}


@pytest.mark.parametrize("other", OTHERS)
def test_checkpoint_of_another_structure(saved: Path, other: str) -> None:
    like = tree() | {"params": OTHERS[other]}
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match="cannot be read"):
        checkpoints.restore(3, like)


def test_checkpoint_of_another_optimizer(saved: Path) -> None:
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match="cannot be read"):
        checkpoints.restore(3, tree(optimizer="sgd"))


# ---- the model of a finished stage --------------------------------------------------------------


def test_model(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    save_model(folder, params())
    assert_same(load_model(folder, zeros(params())), params())
    save_model(folder, params(1))  # replaced, whatever was there
    assert_same(load_model(folder, zeros(params())), params(1))
    assert names(folder.parent) == ["model"]
    assert json.loads((folder / "_METADATA").read_text(encoding="utf-8"))


@pytest.mark.parametrize("other", OTHERS)
def test_model_of_another_structure(tmp_path: Path, other: str) -> None:
    save_model(tmp_path / "model", params())
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_model(tmp_path / "model", OTHERS[other])
    assert_clear(str(caught.value), tmp_path / "model", "give --fresh")


def test_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found") as caught:
        load_model(tmp_path / "none", params())
    assert_clear(str(caught.value), tmp_path / "none", "give --fresh")


IMPORTS = """
import importlib, logging, pkgutil, sys
import absl.logging, orbax.checkpoint

def levels():
    return {name: logging.getLogger(name).level for name in ("", "absl", "orbax", "jax", "pooch")}

logging.getLogger("absl").setLevel(logging.INFO)
logging.getLogger("orbax").setLevel(logging.DEBUG)
before = levels()
import sscjax.training.checkpoint
for module in pkgutil.walk_packages(sscjax.__path__, "sscjax."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:  # of an extra that is not installed
            pass
assert "sscjax.experiments.single_run" in sys.modules and levels() == before, levels()
from sscjax.system import terminal as cli
cli.call(lambda: None)
assert {logging.getLogger(name).level for name in ("absl", "orbax")} == {logging.CRITICAL}
"""


@pytest.mark.slow
def test_imports_leave_the_loggers_of_others_alone() -> None:
    """Programs alone silence Orbax."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
