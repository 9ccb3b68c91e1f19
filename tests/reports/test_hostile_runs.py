"""Run folders and checkpoints whose files were changed: a clear error or a sound result.

As in test_hostile.py: hypothesis makes the changes, always the same, and `HOSTILE_EXAMPLES`
multiplies them.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import changed, clear, tried
from hypothesis import given
from hypothesis import strategies as st
from small_runs import finished_run, write_folder

from sscjax.data import manifest
from sscjax.errors import UserError
from sscjax.experiments import run_predictions
from sscjax.inference import classifier
from sscjax.reports import html
from sscjax.system import run_dir
from sscjax.training import checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_compiler"),
    pytest.mark.filterwarnings("ignore"),
]

RECORDS = (
    *("run.json", "metrics.json", "calibration.json", "audit.json", "manifest.json"),
    *("stages/head/stage.json", "explanations/explanations.json"),
)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 0.5, 1e300, math.inf, 10**30, "", "x", "../..", "/etc/passwd"),
    *([], {}, [[]], [None], {"": 0}),
)


@pytest.fixture(scope="module")
def run(quick_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    images = write_folder(place / "images", subjects=4, tiles=8)
    return finished_run(place / "run", images, "cnn")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What Orbax leaves unread of a damaged model is thrown away here, where no warning counts."""
    yield
    gc.collect()


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """A file holds something else meanwhile."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in what a JSON file holds, outermost first."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any, *, remove: bool) -> Any:
    """The same with something else, or nothing, at a place."""
    if not at:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if remove:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


def ask(folder: Path) -> None:
    """All that reads a finished run: each gives something sound, or says what is wrong."""
    readers: tuple[Callable[[], Any], ...] = (
        lambda: classifier.open_run(folder),
        lambda: html.write_again(folder),
        lambda: run_dir.read(folder),
        lambda: manifest.read(folder),
        lambda: run_predictions.read_run(folder, "test"),
    )
    for reader in readers:
        try:
            found = reader()
        except UserError as error:
            clear(error)
            continue
        if isinstance(found, classifier.Classifier):
            assert 0 < found.rules.image.temperature < math.inf
            assert found.stage == "head"


@tried(15)
@given(data=st.data())
def test_records_with_something_else_in_them(run: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(RECORDS))
    sound = json.loads((run / name).read_text(encoding="utf-8"))
    found = list(places(sound))
    # Half of them near the root, where most is read.
    at = data.draw(st.sampled_from([one for one in found if len(one) < 3]) | st.sampled_from(found))
    value = put(sound, at, data.draw(st.sampled_from(ODD)), remove=data.draw(st.booleans()))
    with replaced(run / name, json.dumps(value).encode()):
        ask(run)


@tried(15)
@given(data=st.data())
def test_files_of_a_run_of_other_bytes(run: Path, data: st.DataObject) -> None:
    model = [path for path in (run / "stages/head/model").rglob("*") if path.is_file()]
    names = [*(run / name for name in (*RECORDS, "outliers.npz", "predictions.csv")), *model]
    path = data.draw(st.sampled_from(sorted(names)))
    with replaced(path, data.draw(changed([path.read_bytes()]) | st.just(b"[" * 200_000))):
        ask(run)


def test_a_stage_of_another_folder(run: Path) -> None:
    """A name in a record becomes a part of a path."""
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    figures["final_stage"] = "../stages/head"
    with (
        replaced(run / "metrics.json", json.dumps(figures).encode()),
        pytest.raises(UserError, match=r"no stage is called '../stages/head'"),
    ):
        classifier.open_run(run)


TREE = {"a": np.arange(12, dtype=np.float32), "b": {"c": np.float32(3)}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoints") / "sound"
    with checkpoint.Checkpoints(place) as kept:
        for step in (1, 2):
            kept.save(step, TREE, {"step": step})
    return place


def test_a_picture_of_another_folder(run: Path) -> None:
    """The page takes no picture that a record names elsewhere."""
    path = run / "explanations" / "explanations.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    for name in ("../explanations/00.png", str(run / "explanations" / "00.png"), ""):
        told["images"][0]["image"] = name
        with (
            replaced(path, json.dumps(told).encode()),
            pytest.raises(UserError, match="no picture is called"),
        ):
            html.write_again(run)
    picture = run / "explanations" / "00.png"
    for data in (b"", picture.read_bytes()[:200], b"\x89PNG\r\n\x1a\n" + bytes(40)):
        with replaced(picture, data), pytest.raises(UserError, match=r"00.png is damaged"):
            html.write_again(run)


@tried(15)
@given(data=st.data())
def test_checkpoints_of_other_bytes(checkpoints: Path, data: st.DataObject) -> None:
    """Found out, or nothing that is read is changed; the one before is there still."""
    newest = sorted(path for path in (checkpoints / "2").rglob("*") if path.is_file())
    path = data.draw(st.sampled_from([one for one in newest if one.stat().st_size]))
    other = data.draw(changed([path.read_bytes()]))
    place = checkpoints.with_name("changed")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(checkpoints, place)
    (place / path.relative_to(checkpoints)).write_bytes(other)
    with checkpoint.Checkpoints(place) as kept:
        found = kept.newest(TREE, lambda info: True)
    assert found is not None and found[0] in ({"step": 1}, {"step": 2})
    np.testing.assert_array_equal(found[1]["a"], TREE["a"])
    assert found[1]["b"]["c"] == 3
