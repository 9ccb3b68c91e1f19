"""A run whose images cannot all be read: refused in a line, or without them and saying so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from small_runs import finished_run, one_stage_config, put, write_folder

from sscjax.errors import UserError
from sscjax.experiments import single_run
from sscjax.reports.html import write


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A manifest of 36 tiles; of two the file was cut short or emptied."""
    folder = write_folder(tmp_path / "images")
    first, second = broken(folder)
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    return folder


def broken(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))[3:5]


def config_of(images: Path, corrupt: str) -> ConfigDict:
    config = one_stage_config()
    config.data.path = str(images)
    config.data.corrupt = corrupt
    return config


def test_error_is_one_line_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="truncated or damaged") as caught:
        single_run.run(config_of(images, "error"), tmp_path / "run")
    text = str(caught.value)
    assert "\n" not in text and "config.data.corrupt=skip: 2 of 36 images, also" in text
    assert all(str(path) in text for path in broken(images))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="corrupt='ignore': expected 'few' or 'error' or 'skip'"):
        single_run.run(config_of(images, "ignore"), tmp_path / "run")


@pytest.mark.slow
def test_skip_says_so_everywhere_and_stays_strict(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished_run(tmp_path / "run", images, "cnn", data__corrupt="skip")
    names = [path.relative_to(images).as_posix() for path in broken(images)]
    said = f"2 OF 36 IMAGES LEFT OUT, for they cannot be read: {', '.join(names)}"
    assert said in caplog.text
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    assert list(data["skipped"]) == names and data["images"] == 34
    assert "zero bytes" in data["skipped"][names[1]]
    warned = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["warnings"]
    assert said in " ".join(warned[0].split())
    assert said in " ".join((run / "report.txt").read_text(encoding="utf-8").split())
    html, card = (path.read_text(encoding="utf-8") for path in write(run))
    assert "<strong>2 images</strong>, for they cannot be read:" in html
    assert all(f"<li><bdi>{name}</bdi></li>" in html for name in names)
    assert "2 OF 36 IMAGES LEFT OUT" in card
    table = (run / "predictions.csv").read_text(encoding="utf-8")
    assert not [name for name in names if name in table] and table.count("\n") == 35

    # The same again: found and left out as before.
    caplog.clear()
    with caplog.at_level("INFO", logger="sscjax"):
        finished_run(run, images, "cnn", data__corrupt="skip")
    assert "nothing is left to do" in caplog.text and said in caplog.text
    # Mended, they are other data.
    put(broken(images)[1])
    with pytest.raises(UserError, match="left out then, read now.*data.fingerprint") as caught:
        finished_run(run, images, "cnn", data__corrupt="skip")
    assert names[1] in str(caught.value) and names[0] not in str(caught.value)
