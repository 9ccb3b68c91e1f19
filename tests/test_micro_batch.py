"""The micro-batch is measured once, remembered, and never a number that does not fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import pytest
import random_weights

from sscjax import micro_batch
from sscjax.models import CNN, MobileNetV2

MODEL = CNN(3, (4, 8), (8,))
SIZE = 20


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return {"batch_stats": {}, **random_weights.draw(MODEL, SIZE)}


def choose(variables: dict[str, Any], folder: Path, batch: int = 16, size: int = SIZE) -> int:
    return micro_batch.choose(MODEL, variables, 0, size, batch, folder)


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Measure nothing: these are the times, by micro-batch; returns what was asked for."""
    asked: list[int] = []

    def answer(model: Any, variables: Any, first: int, size: int, number: int) -> float:
        asked.append(number)
        return seconds[number]

    monkeypatch.setattr(micro_batch, "_seconds", answer)
    return asked


def test_the_quickest_is_taken_and_remembered(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, {2: 3.0, 4: 1.0, 8: 2.0, 16: 4.0})
    assert choose(variables, tmp_path) == 4
    assert asked == [2, 4, 8, 16]
    assert choose(variables, tmp_path) == 4
    assert len(asked) == 4
    # Another size, batch or machine is another matter.
    choose(variables, tmp_path, size=24)
    choose(variables, tmp_path, batch=8)
    monkeypatch.setattr(micro_batch, "_processor", lambda: "another")
    choose(variables, tmp_path)
    assert len(asked) == 4 + 4 + 3 + 4
    assert len(json.loads((tmp_path / "micro_batch.json").read_text("utf-8"))) == 4


@pytest.mark.parametrize("text", ("{", "[1]", "\x00", '{"KEY": 5}', '{"KEY": "4"}'))
def test_a_damaged_memory_is_measured_anew(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    scripted(monkeypatch, {2: 3.0, 4: 1.0, 8: 2.0, 16: 4.0})
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
    scripted(monkeypatch, {2: 3.0, 4: 1.0, 8: 2.0, 16: 4.0})
    (tmp_path / "file").write_text("", "utf-8")
    with caplog.at_level(logging.WARNING):
        assert choose(variables, tmp_path / "file") == 4
    assert "cannot be written" in caplog.text


def test_nothing_to_choose(
    variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few images, a batch that no candidate divides, and a GPU take the batch whole."""
    asked = scripted(monkeypatch, {})
    assert choose(variables, tmp_path, batch=1) == 1
    assert choose(variables, tmp_path, batch=15) == 15
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(variables, tmp_path, batch=32) == 32
    assert asked == []


@pytest.mark.usefixtures("quick_compiler")
def test_measuring(variables: dict[str, Any], tmp_path: Path) -> None:
    """The real thing: some candidate, and every stretch of both networks can be run."""
    assert choose(variables, tmp_path) in (2, 4, 8, 16)
    model = MobileNetV2(3, alpha=0.1)
    drawn = random_weights.draw(model, 32)
    for first in (0, *model.cut_points[-2:]):
        assert micro_batch._seconds(model, drawn, first, 32, 2) > 0
