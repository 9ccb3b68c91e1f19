"""Every command as it is started: its help, its mistakes, the commands that it says to repeat."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import write_folder

import sscjax
from sscjax import __main__ as dispatcher
from sscjax import main as train
from sscjax.cli import explain, export, sample_size, slides
from sscjax.cli.parsing import Parser, one_of
from sscjax.data.slides import tiling
from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import sample_size as planning
from sscjax.export.formats import FORMATS
from sscjax.inference.explain import MOST
from sscjax.system import terminal

REPOSITORY = Path(__file__).resolve().parents[2]
# The file that pip writes for the entry `sscjax` of [project.scripts].
CONSOLE_SCRIPT = "import sys\nfrom sscjax.__main__ import main\nsys.exit(main())\n"


def _start(
    *words: str, cwd: Path = REPOSITORY, script: tuple[str, ...] = ("-m", "sscjax")
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *script, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment,
        check=False,
        timeout=120,
    )


def test_the_entry_of_the_console_script_is_the_dispatcher() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.scripts]\nsscjax = "sscjax.__main__:main"\n' in text


# ---- help ---------------------------------------------------------------------------------------


HEAVY = ("jax", "numpy", "ml_collections", "scipy", "PIL", "flax")
WITH_MODULES = f"""
import sys
sys.argv = ["sscjax", *sys.argv[1:]]
from sscjax.__main__ import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print("imported:", *sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [(), ("--help",), *((name, "--help") for name in dispatcher.COMMANDS)]
)
def test_help(words: tuple[str, ...]) -> None:
    """The usage and an example in 80 columns, and nothing heavy is imported for it."""
    done = _start(*words, script=("-c", WITH_MODULES))
    assert done.returncode == 0 and done.stderr == "imported:\n"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"usage: {' '.join(['sscjax', *words[:-1]])} ")
    assert max(map(len, lines)) <= 80
    example = lines.index("example:")
    assert lines[example + 1].startswith(f"  {' '.join(['sscjax', *words[:-1]])}")


def test_help_is_quick() -> None:
    """In the best of three starts, because other tests run beside it; with JAX it takes seconds."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert _start("predict", "--help").returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", [*dispatcher.COMMANDS])
def test_every_option_says_its_default(name: str) -> None:
    parser = importlib.import_module(dispatcher.COMMANDS[name][0]).parser()
    assert isinstance(parser, Parser) and parser.prog == f"sscjax {name}"
    for action in parser._actions[1:]:  # the first is --help
        assert action.help, action.dest
        if not action.required and name != "doctor" and action.dest != "helpfull":
            assert "default: " in action.help, action.dest
        if action.nargs != 0:
            assert action.metavar, action.dest
        shown = action.default
        if isinstance(shown, int | float) and not isinstance(shown, bool):
            assert f"(default: {shown:g})" in action.help


def test_example_commands_parse() -> None:
    """With options that exist, and all arguments that are required."""
    count = 0
    for name, (module, _) in dispatcher.COMMANDS.items():
        parser = importlib.import_module(module).parser()
        example = parser.epilog.partition("\n")[2].replace("\\\n", " ")
        for line in example.splitlines():
            program, command, *words = shlex.split(line)
            assert (program, command) == ("sscjax", name)
            if name == "train":
                assert train.parse([word for word in words if "data.path" not in word])
            else:
                parser.parse_args(words)
            count += 1
    assert count > len(dispatcher.COMMANDS)


def test_defaults_are_those_of_the_functions() -> None:
    """The parsers repeat them, because importing the functions would make the help slow."""
    fields = {name.replace("-", "_"): default for name, _, default, *_ in slides.NUMBERS}
    settings = tiling.Settings()
    assert fields == {name: getattr(settings, name) for name in fields}
    given = slides.parser().parse_args(["x", "--out=y"])
    assert given.stain == settings.stain and given.keep_all is not settings.reject
    assert set(export.FORMATS) == set(FORMATS)
    planned = sample_size.parser().parse_args(["x"])
    assert tuple(planned.within) == planning.WITHIN and planned.power == planning.POWER
    assert explain.parser().parse_args(["x", "y"]).most == MOST
    for split in predictions.SPLITS:
        compare = importlib.import_module("sscjax.cli.compare").parser()
        assert compare.parse_args(["a", "b", f"--split={split}"]).split == split


# ---- mistakes -----------------------------------------------------------------------------------


MISTAKES = [
    ("predic", "sscjax has no command 'predic'; did you mean predict?"),
    ("xyzzy", "sscjax has no command 'xyzzy'; expected train, audit, predict"),
    ("predict", "the following arguments are required: RUN, INPUT"),
    ("predict r x --ovrwrite", "has no option --ovrwrite; did you mean --overwrite?"),
    ("predict r x --over", "predict has no option --over; did you mean --overwrite?"),
    ("doctor --hepl", "sscjax doctor has no option --hepl; did you mean --help"),
    ("export r --formt=onnx --out=x", "has no option --formt; did you mean --format?"),
    ("export r --format=onx --out=x", "found 'onx', expected onnx, stablehlo, web; did"),
    ("report a b", "found 'b', which is one argument too many; `sscjax report --help`"),
    ("sample-size a --power=x", "--power: invalid float value: 'x'"),
    ("audit a --image-size", "--image-size: expected one argument"),
    ("train --confg=three_class", "train has no option --confg; did you mean --config?"),
    ("train", "nothing to train on: name a folder of images"),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES)
def test_mistakes_are_one_line(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sscjax", *words.split()])
    assert dispatcher.main() == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and expected in captured.err


def test_mistakes_of_a_real_start_have_no_traceback() -> None:
    done = _start("predict", "r", "x", "--ovrwrite")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_version_and_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    done = _start("--version")
    assert (done.returncode, done.stdout) == (0, f"sscjax {sscjax.__version__}\n")
    done = _start()
    assert done.returncode == 0
    assert all(re.search(rf"^  {name} ", done.stdout, re.MULTILINE) for name in dispatcher.COMMANDS)


def test_values_that_look_like_options() -> None:
    parser = Parser("try", "Try.", "sscjax try 1")
    parser.add_argument("--low", type=float, metavar="NUMBER", help="a number (default: none)")
    parser.add_argument("words", nargs="*", help="words")
    assert parser.parse_args(["--low", "-1.5"]).low == -1.5
    assert parser.parse_args(["--", "--lw"]).words == ["--lw"]
    with pytest.raises(UserError, match="no option -low; did you mean --low"):
        parser.parse_args(["-low=1"])
    with pytest.raises(UserError, match="no option --xyzzy; sscjax try --help lists all"):
        parser.parse_args(["--xyzzy"])
    assert one_of("a", "b")("a") == "a"


# ---- commands that are said to be given again ---------------------------------------------------


@pytest.mark.parametrize("started", ("module", "script", "main"))
def test_the_command_to_repeat_works(started: str, tmp_path: Path) -> None:
    """However the program was started: what `again` prints runs, and ends in the same way."""
    script = tmp_path / "sscjax script"
    script.write_text(CONSOLE_SCRIPT, encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(
        # At the end of the process, when the program has changed what it changes of its arguments.
        "import atexit\n\n\ndef said():\n"
        "    from sscjax.system import terminal\n    print('again:', terminal.again())\n\n\n"
        "atexit.register(said)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    ways = {
        "module": ("-m", "sscjax", "train"),
        "script": (str(script), "train"),
        "main": ("-m", "sscjax.main"),
    }
    words = [*ways[started], "--config=smoke", "--fresh", "--config.name=a 'b", "--config.sed=1"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 2 and "did you mean --config.seed?" in done.stderr
    command = done.stdout.partition("again: ")[2].strip()
    assert "--fresh" not in command
    repeated = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (repeated.returncode, repeated.stderr) == (2, done.stderr)
    assert repeated.stdout == done.stdout


def test_results_are_not_overwritten_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the option that replaces them."""
    monkeypatch.chdir(tmp_path)
    for name in ("set_up_jax", "set_up_log"):
        monkeypatch.setattr(terminal, name, lambda: None)
    write_folder(tmp_path / "images")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "predictions.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["sscjax", "predict", "run", "images", "--out=predictions"])
    assert dispatcher.main() == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "add --overwrite" in err and "--out=FOLDER" in err
    assert err.startswith("error: --out=predictions holds earlier results")


@pytest.mark.skipif(os.name != "posix", reason="pipes end otherwise on Windows")
def test_help_whose_reader_leaves_ends_silently() -> None:
    """As in `sscjax train --helpfull | head -n 1`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-u", "-m", "sscjax", "train", "--helpfull"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as started:
        assert started.stdout is not None and started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b"" and started.wait(60) == 141
