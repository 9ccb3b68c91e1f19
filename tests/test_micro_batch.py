"""The micro-batch is measured once, remembered, and never a number that does not fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import pytest
import random_weights

from sscjax import machine, micro_batch
from sscjax.models import CNN, MobileNetV2

MODEL = CNN(3, (4, 8), (8,))
SIZE = 20


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return {"batch_stats": {}, **random_weights.draw(MODEL, SIZE)}


def choose(variables: dict[str, Any], folder: Path, batch: int = 16, size: int = SIZE) -> int:
    return micro_batch.choose(MODEL, variables, 0, size, batch, folder)


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[list[int]]:
    """Measure nothing: these are the times, by micro-batch; returns what was asked for."""
    return scripted_stretches(monkeypatch, [seconds])


def scripted_stretches(
    monkeypatch: pytest.MonkeyPatch, stretches: list[dict[int, float]]
) -> list[list[int]]:
    asked: list[list[int]] = []

    def answer(*parts: Any) -> list[dict[int, float]]:
        asked.append(parts[-1])
        return [{number: seconds[number] for number in parts[-1]} for seconds in stretches]

    monkeypatch.setattr(micro_batch, "measure", answer)
    return asked


def test_the_quickest_is_taken_and_remembered(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, {4: 1.0, 8: 2.0, 16: 4.0})
    assert choose(variables, tmp_path) == 4
    assert choose(variables, tmp_path) == 4
    assert asked == [[4, 8, 16]]
    # Another size, batch or machine is another matter.
    choose(variables, tmp_path, size=24)
    choose(variables, tmp_path, batch=8)
    monkeypatch.setattr(machine, "processor", lambda: "another")
    choose(variables, tmp_path)
    assert asked[1:] == [[4, 8, 16], [4, 8], [4, 8, 16]]
    assert len(json.loads((tmp_path / "micro_batch.json").read_text("utf-8"))) == 4


def test_noise_changes_nothing(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {4: 0.97, 8: 1.0, 16: 1.2})
    assert choose(variables, tmp_path) == 8


def test_the_largest_stretch_does_not_decide_alone(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of MobileNetV2, whose whole step takes longer with 4 and with 16 images than with 8."""
    first = {4: 23.9, 8: 32.6, 16: 36.1}
    middle = {4: 7.2, 8: 5.5, 16: 5.4}
    last = {4: 8.4, 8: 7.6, 16: 7.5}
    scripted_stretches(monkeypatch, [first, middle, last])
    assert choose(variables, tmp_path) == 8


@pytest.mark.parametrize("text", ("{", "[1]", "\x00", '{"KEY": 5}', '{"KEY": "4"}'))
def test_a_damaged_memory_is_measured_anew(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    scripted(monkeypatch, {4: 1.0, 8: 2.0, 16: 4.0})
    monkeypatch.setattr(micro_batch, "_key", lambda *parts: "KEY")
    (tmp_path / "micro_batch.json").write_text(text, "utf-8")
    assert choose(variables, tmp_path) == 4
    assert json.loads((tmp_path / "micro_batch.json").read_text("utf-8"))["KEY"] == 4


def test_a_folder_that_cannot_be_written_only_warns(
    variables: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted(monkeypatch, {4: 1.0, 8: 2.0, 16: 4.0})
    (tmp_path / "file").write_text("", "utf-8")
    with caplog.at_level(logging.WARNING):
        assert choose(variables, tmp_path / "file") == 4
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("batch", "asked"), ((32, [4, 8, 16]), (50, [2, 5, 10]), (15, [3, 5, 15]), (512, [4, 8, 16]))
)
def test_only_divisors_of_the_batch(
    variables: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    asked: list[int],
) -> None:
    found = scripted(monkeypatch, dict.fromkeys(range(33), 1.0))
    assert choose(variables, tmp_path, batch=batch) == asked[1]
    assert found == [asked]


def test_nothing_to_choose(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prime batch goes image by image, few images and those on a GPU all at once."""
    asked = scripted(monkeypatch, {})
    assert choose(variables, tmp_path, batch=2) == 2
    assert choose(variables, tmp_path, batch=31) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(variables, tmp_path, batch=32) == 32
    assert asked == []


def test_stretches() -> None:
    """First, middle and last block that trains; the last convolution is one, the pool is none."""
    model = MobileNetV2(3)
    tree = {"params": dict.fromkeys(random_weights.shapes(model, 32)["params"])}
    names = [
        (model.layer_names[start], model.layer_names[end - 1])
        for start, end in micro_batch.stretches(model, tree, model.cut_points[1])
    ]
    assert names == [
        ("block_1_expand", "block_1_project_BN"),
        ("block_9_expand", "block_9_add"),
        ("Conv_1", "out_relu"),
    ]
    tree = {"params": dict.fromkeys(random_weights.shapes(MODEL, SIZE)["params"])}
    assert micro_batch.stretches(MODEL, tree, 0) == [(0, 5), (5, 10)]


@pytest.mark.usefixtures("quick_compiler")
def test_measuring(variables: dict[str, Any]) -> None:
    """The real thing: every stretch of both networks can be run."""
    found = micro_batch.measure(MODEL, variables, 0, SIZE, 4, (2, 4))
    assert [sorted(seconds) for seconds in found] == [[2, 4], [2, 4]]
    assert all(0 < each < 60 for seconds in found for each in seconds.values())
    model = MobileNetV2(3, alpha=0.1)
    found = micro_batch.measure(model, random_weights.draw(model, 32), 0, 32, 2, (1,))
    assert [list(seconds) for seconds in found] == [[1]] * 3
    assert all(0 < seconds[1] < 60 for seconds in found)
