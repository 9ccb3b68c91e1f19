"""Nothing leaves the machine: training, prediction and report with every way out closed.

A hook of the interpreter sees each look-up of a name, each connection and each datagram, refuses it
and writes it down, so that one whose error is swallowed is found as well. Where the system lets
the test, the process has no network at all besides: libraries in C have none to use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_folder

REPOSITORY = Path(__file__).resolve().parent.parent

# Python imports it before anything else, in subprocesses, too.
HOOK = """
import os
import sys

WAYS_OUT = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "socket.sendto", "socket.sendmsg", "socket.bind", "urllib.Request", "ftplib.connect",
    "http.client.connect", "smtplib.connect",
)


def refuse(event, arguments):
    if event in WAYS_OUT:
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{event} {arguments!r}\\n")
        raise PermissionError(f"no network in this test: {event}")


sys.addaudithook(refuse)
"""

# Several programs one after the other, in one process: most of their time goes into the start.
PROGRAMS = """
import json
import os
import runpy
import sys

for words in json.loads(os.environ["COMMANDS"]):
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=False)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words[0]} ended with {end.code}")
"""


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder with the hook in it."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    (folder / "attempts").touch()
    return folder


def start(
    closed: Path, program: str, commands: str = "[]", *, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(closed), str(REPOSITORY)]),
        "SSCJAX_CACHE": str(closed / "cache"),
        "ATTEMPTS": str(closed / "attempts"),
        "COMMANDS": commands,
    }
    return subprocess.run(
        [*prefix, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        env=environment,
        check=False,
        timeout=300,
    )


def without_network() -> tuple[str, ...]:
    """What starts a process without any network, where this user may."""
    command = ("unshare", "--net")
    if shutil.which("unshare") is None:
        return ()
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else ()


def test_training_prediction_and_report_need_no_network(tmp_path: Path, closed: Path) -> None:
    images, run = write_folder(tmp_path / "images"), tmp_path / "run"
    flags = [
        f"--config.data.path={images}",
        "--config.model.name=cnn",
        "--config.model.cnn_widths=(4,)",
        "--config.model.cnn_dense=(8,)",
        "--config.stages.head.epochs=1",
        "--config.stages.finetune.epochs=1",
        "--config.stages.finetune.warmup_epochs=0.0",
        "--config.stages.finetune.freeze_first=0",
    ]
    out = tmp_path / "answers"
    commands = [
        ["sscjax.main", "--config=configs/smoke.py", f"--workdir={run}", *flags],
        ["sscjax.predict", str(run), str(images), f"--out={out}"],
        ["sscjax.page", str(run)],
    ]
    done = start(closed, PROGRAMS, json.dumps(commands), prefix=without_network())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (closed / "attempts").read_text(encoding="utf-8") == ""
    assert (run / "report.html").is_file() and (out / "predictions.json").is_file()


@pytest.mark.parametrize(
    "program",
    [
        "import urllib.request; urllib.request.urlopen('https://example.org')",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "try:\n import socket; socket.getaddrinfo('example.org', 80)\nexcept OSError: pass",
    ],
)
def test_hook_refuses_and_notes_every_attempt(closed: Path, program: str) -> None:
    """Also one whose error is swallowed."""
    done = start(closed, program)
    assert (closed / "attempts").read_text(encoding="utf-8")
    assert "no network in this test" in done.stderr or program.startswith("try")


def test_weights_are_the_one_thing_that_is_fetched(closed: Path) -> None:
    """Only where the config asks for ImageNet's, from the one address, over https."""
    program = "from sscjax.pretrained import download; download.imagenet_weights(128, 1.0)"
    done = start(closed, program)
    attempts = (closed / "attempts").read_text(encoding="utf-8")
    assert done.returncode != 0 and "WeightsUnavailableError" in done.stderr
    assert "https://storage.googleapis.com/tensorflow/keras-applications/" in attempts
