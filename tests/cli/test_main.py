"""`sscjax train`: flags, overrides, and errors of one line with exit code 2."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from sscjax import configs, main
from sscjax.cli import config_help
from sscjax.configs import default, smoke
from sscjax.errors import UserError
from sscjax.experiments import overrides, single_run, summarize
from sscjax.models import mobilenet_v2
from sscjax.models.pretrained import download
from sscjax.system import machine, terminal

REPOSITORY = Path(__file__).resolve().parents[2]


def _parse(*words: str) -> ConfigDict:
    return main.parse(list(words)).config


def test_fields_are_overridden() -> None:
    config = _parse(
        "--config=three_class",
        "--config.stages.head.epochs=7",
        "--config.stages.head.learning_rate=3e-3",
        "--config.data.classes=('a','b')",
        "--config.pretrained=none",
        "--config.private=true",
        "--config.augment.crop=1",
    )
    assert config.name == "three_class" and config.stages.head.epochs == 7
    assert config.data.classes == ("a", "b") and config.pretrained == "none"
    assert config.stages.head.learning_rate == 3e-3 and config.private is True
    assert config.augment.crop == 1.0 and isinstance(config.augment.crop, float)


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("data.classes", "(normal,early,late)", ("normal", "early", "late")),
        ("data.classes", "normal,early,late", ("normal", "early", "late")),
        ("data.classes", "normal, early , late", ("normal", "early", "late")),
        ("data.classes", "('normal', 'early')", ("normal", "early")),
        ("data.classes", "['normal']", ("normal",)),
        ("data.classes", "(normal,)", ("normal",)),
        ("data.classes", "1,2,3", ("1", "2", "3")),  # grades are words, too
        ("data.classes", "grade 1,grade (2)", ("grade 1", "grade (2)")),
        ("data.classes", "()", ()),
        ("data.mask_classes", "background,tumour", ("background", "tumour")),
        ("stage_order", "head", ("head",)),
        ("stage_order", "(head,finetune)", ("head", "finetune")),
        ("model.feature_layers", "block_3_add,block_5_add", ("block_3_add", "block_5_add")),
        ("cv.search", "batch_size=8,16,seed=1,2", ("batch_size=8,16", "seed=1,2")),
        ("model.cnn_widths", "8,16", (8, 16)),
        ("model.cnn_widths", "(8,)", (8,)),
        ("stages.head.l2", "0.1", (0.1,)),
    ],
)
def test_tuples_need_neither_quotes_nor_brackets(
    field: str, text: str, expected: tuple[object, ...]
) -> None:
    config = _parse("--config=three_class", f"--config.{field}={text}")
    assert overrides.config_value(config, field) == expected


def test_an_emptied_tuple_of_numbers_stays_one_of_numbers(tmp_path: Path) -> None:
    """Its own value says no longer what it holds."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from sscjax.configs import default\n\n\n"
        "def get_config():\n    config = default.get_config()\n"
        "    config.model.cnn_dense = ()\n    return config\n",
        encoding="utf-8",
    )
    assert _parse(f"--config={path}").model.cnn_dense == ()
    assert _parse(f"--config={path}", "--config.model.cnn_dense=8").model.cnn_dense == (8,)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--config.stages.head.epoch=3", "did you mean --config.stages.head.epochs?"),
        ("--config.data.pth=x", "did you mean --config.data.path?"),
        ("--config.sed=1", "did you mean --config.seed?"),
        ("--config.data=x", "a block of fields such as --config.data."),
        ("--workdr=x", "did you mean --workdir?"),
        ("-config=x", "did you mean --config?"),
        ("--config.seed=one", "--config.seed=one: expected a whole number, such as 0"),
        ("--config.seed", "expected a value, as in --config.seed=VALUE"),
        ("--config.private=maybe", "expected True or False"),
        ("--config.split.train=half", "expected a number, such as 0.7"),
        ("--config.model.cnn_widths=a,b", "expected values with commas between them"),
        ("--config.data.classes=a,,b", "expected values with commas between them"),
        ("--clases=a,b", "did you mean --classes?"),
    ],
)
def test_wrong_flags_are_one_line(flag: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        _parse("--config=configs/three_class.py", flag)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", (REPOSITORY, None))
def test_configs_by_name_by_file_and_by_path(
    folder: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the clone, and from a folder that knows nothing of it."""
    monkeypatch.chdir(folder or tmp_path)
    path = configs.file_of("smoke")
    for value in ("smoke", "smoke.py", "configs/smoke.py", str(path)):
        assert _parse(f"--config={value}").name == "smoke"
        assert _parse("--config", value, "--config.seed", "3").seed == 3


def test_wrong_config_names_the_nearest(tmp_path: Path) -> None:
    for value in ("three_clas", "configs/three_clas.py"):
        nearest = value.replace("clas", "class")
        with pytest.raises(UserError, match=f"did you mean '{nearest}'?"):
            _parse(f"--config={value}")
    (tmp_path / "my_skin.py").touch()
    with pytest.raises(UserError, match="did you mean '.*/my_skin.py'"):
        _parse(f"--config={tmp_path / 'myskin.py'}")
    with pytest.raises(UserError, match="expected a file, or best, best_three_class, "):
        _parse("--config=xyzzy")
    with pytest.raises(UserError, match="name a folder of images, .* or a config, as in --config"):
        _parse()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("skin", "surplus"), "found 'surplus', which is one argument too many"),
        (("skin", "--config.data.path=skin"), "FOLDER and --config.data.path are both given"),
        (("skin", "--classes=a", "--config.data.classes=a"), "leave one of them out"),
    ],
)
def test_what_is_given_twice_is_one_line(words: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        _parse(*words)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_every_field_is_explained() -> None:
    """By --helpfull, with the default that the config has, and in the columns of a terminal."""
    path = configs.file_of("default")
    assert path is not None
    listed = config_help.fields(path)
    config = default.get_config()
    expected = {name: overrides.config_value(config, name) for name in overrides.names(config)}
    assert {field.name: ast.literal_eval(field.default) for field in listed} == expected
    assert all(len(field.comment) > 10 for field in listed)
    comments = {field.name: field.comment for field in listed}
    assert comments["batch_size"] == "Images per step."
    assert comments["stages.finetune.learning_rate"] == "Learning rate at its highest."
    text = config_help.describe(path)
    assert max(map(len, text.splitlines())) <= 80
    assert "--config.data.image_size  (default: 128)\n      Height and width" in text


def test_helpfull_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.parse(["--helpfull"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "--workdir FOLDER" in out and "--config.cv.folds" in out


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


def test_folder_that_is_a_link_to_itself(tmp_path: Path) -> None:
    """One line where the folder is made, as for any other that cannot be."""
    ring = tmp_path / "ring"
    ring.symlink_to("ring")
    done = _run(tmp_path, "--config=smoke", f"--workdir={ring}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.match(f"error: .*{ring} cannot be written", done.stderr.splitlines()[-1])


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


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no way to the release."""

    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens


@pytest.mark.slow
@pytest.mark.usefixtures("no_network", "quick_compiler")
def test_run_without_network_falls_back_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MobileNetV2 from end to end where no weights can be had; then resumed."""
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
    monkeypatch.setattr(download, "imagenet_weights", _must_not_be_called)
    assert single_run.run(config, tmp_path / "run") == text


def _must_not_be_called(*args: Any, **kwargs: Any) -> Any:
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
        monkeypatch.setattr(machine, "processors", lambda count=processors: count)
        for threads in (None, "2"):
            monkeypatch.delenv("NPROC", raising=False)
            if threads:
                monkeypatch.setenv("NPROC", threads)
            folders.add(terminal.programs_folder())
    assert len(folders) == 4
