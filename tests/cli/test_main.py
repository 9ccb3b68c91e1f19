"""The command line: flags, overrides, one-line errors with exit code 2, and a whole real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from absl import flags
from small_runs import write_folder

from sscjax import main
from sscjax.configs import smoke
from sscjax.errors import UserError
from sscjax.experiments import single_run, summarize
from sscjax.models import mobilenet_v2
from sscjax.models.pretrained import download
from sscjax.system import machine, terminal

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def forget_overrides() -> Iterator[None]:
    """A process parses once; what one test overrides must not reach the next."""
    yield
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)


def _parse(monkeypatch: pytest.MonkeyPatch, *flags: str) -> Any:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["sscjax", *flags])  # put back afterwards
    return main.parse(sys.argv, "")


def test_fields_are_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _parse(
        monkeypatch,
        "--config=configs/three_class.py",
        "--config.stages.head.epochs=7",
        "--config.data.classes=('a','b')",
        "--config.pretrained=none",
    )
    assert config.name == "three_class" and config.stages.head.epochs == 7
    assert config.data.classes == ("a", "b") and config.pretrained == "none"


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("--config.stages.head.epoch=3", "did you mean --config.stages.head.epochs?"),
        ("--config.data.pth=x", "did you mean --config.data.path?"),
        ("--config.sed=1", "did you mean --config.seed?"),
        ("--workdr=x", "did you mean --workdir?"),
        ("--config.seed=one", "seed"),
        ("surplus", "expected only flags"),
    ],
)
def test_wrong_flags_are_one_line(flag: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        _parse(monkeypatch, "--config=configs/three_class.py", flag)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_config_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean configs.three_class.py"):
        _parse(monkeypatch, "--config=configs/three_clas.py")


def test_config_may_stand_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    arguments = ["sscjax", "--config", "configs/smoke.py", "--config.seed=3"]
    monkeypatch.setattr(sys, "argv", arguments)
    config = main.parse(arguments, "")
    assert config.name == "smoke" and config.seed == 3


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.parse(["sscjax", "--help"], main.__doc__ or "")
    assert caught.value.code == 0 and "--workdir" in capsys.readouterr().out


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise UserError("image a.jpg is empty: delete it")

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert terminal.call(wrong) == 2
    assert capsys.readouterr().err == "error: image a.jpg is empty: delete it\n"
    assert terminal.call(interrupted) == 130
    assert terminal.call(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        terminal.call(lambda: print(1 / 0))


def test_folder_that_is_a_link_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out where the folder is made, in a line as for any other that cannot be."""
    ring = tmp_path / "ring"
    ring.symlink_to("ring")
    monkeypatch.setattr(main, "_WORKDIR", SimpleNamespace(value=str(ring)))
    assert main.workdir("any") == ring


def _run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SSCJAX_CACHE": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "sscjax.main", *flags],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        env=environment,
        check=False,
        timeout=300,
    )


def test_bad_input_of_a_real_start(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    victim = next((folder / "early").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:100])
    done = _run(
        tmp_path,
        "--config=configs/smoke.py",
        f"--config.data.path={folder}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and victim.name in last
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no way to the release."""

    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens


@pytest.mark.usefixtures("no_network", "quick_compiler")
def test_run_without_network_falls_back_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MobileNetV2 from end to end where no weights can be had; then gone on with."""
    # Three blocks, because compiling all of them takes most of the time.
    monkeypatch.setattr(mobilenet_v2, "_BLOCKS", ((1, 16, 1, 1), (6, 24, 2, 2)))
    config = smoke.get_config()
    config.pretrained = "imagenet"
    config.stages.finetune.freeze_first = 17
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    with caplog.at_level("WARNING", logger="sscjax"):
        text = single_run.run(config, tmp_path / "run")
    assert "RANDOM WEIGHTS" in caplog.text and "RANDOM starting weights" in text
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["weights"]["fallback"] and record["status"] == "finished"
    tuned = record["stages"][1]
    assert tuned["batch_norm"] == "batch" and tuned["learning_rate"] == 1e-3
    shutil.rmtree(tmp_path / "run" / "stages" / "finetune")
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({**record, "status": "started"}), encoding="utf-8"
    )
    monkeypatch.setattr(download, "imagenet_weights", _must_not_be_asked)
    assert single_run.run(config, tmp_path / "run") == text


def _must_not_be_asked(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a run that began with random weights looked for others")


@pytest.mark.usefixtures("no_network")
def test_fallback_error_stops(tmp_path: Path) -> None:
    config = smoke.get_config()
    config.pretrained = "imagenet"
    config.pretrained_fallback = "error"
    with pytest.raises(download.WeightsUnavailableError, match="pretrained"):
        single_run.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_programs_are_kept_by_the_processors_they_were_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """JAX's key leaves them out: on two processors one would get what was compiled for one."""
    folders = set()
    for processors in (1, 2):
        monkeypatch.setattr(machine, "processors", lambda found=processors: found)
        for told in (None, "2"):
            monkeypatch.delenv("NPROC", raising=False)
            if told:
                monkeypatch.setenv("NPROC", told)
            folders.add(terminal.programs_folder())
    assert len(folders) == 4
