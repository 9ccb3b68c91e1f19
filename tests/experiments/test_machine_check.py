"""Each check passes on a sound machine, and finds what is wrong with another."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from sscjax.experiments import machine_check as doctor
from sscjax.experiments.machine_check import Check
from sscjax.models.pretrained import download
from sscjax.system import cache_dir, files, formatting


def test_installed_versions_are_within_their_bounds() -> None:
    found = doctor.libraries()
    assert found.state == "ok"
    for name in ("Python", "jax", "flax", "optax", "orbax-checkpoint"):
        assert re.search(rf"\b{name} \d", found.text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("numpy<2", "expected <2"),
        ("jax>=99", "expected >=99"),
        ("no-such-library>=1", "no-such-library is missing"),
        ("numpy<2; python_version>'3'", "expected <2"),
    ],
)
def test_version_out_of_bounds(line: str, said: str) -> None:
    found = doctor.libraries(["scipy>=1", line])
    assert found.state == "problem" and said in found.text and "pip install" in found.fix
    assert "scipy" not in found.text


@pytest.mark.parametrize("line", ["numpy<2; python_version<'3'", "numpy<2; extra == 'bench'"])
def test_bounds_for_others_do_not_count(line: str) -> None:
    assert doctor.libraries([line]).state == "ok"


def test_python_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    found = doctor.libraries()
    assert found.state == "problem" and "Python 3.9.1 (expected" in found.text


def test_extras_are_there_or_the_command_that_brings_them() -> None:
    lines = ["numpy<99", "numpy>=1; extra == 'fast'", "no-such-library>=1; extra == 'slow'"]
    assert doctor._unmet(lines, "fast") == []
    assert doctor._unmet(lines, "slow") == ["no-such-library is missing (expected >=1)"]
    found = doctor.extra("export", "exported files")
    absent = doctor._unmet(extra="export")
    assert found.state == ("warning" if absent else "ok")
    assert found.fix == ("for exported files: pip install 'sscjax[export]'" if absent else "")


def test_devices() -> None:
    found = doctor.devices()
    assert found.state == "ok" and jax.devices()[0].device_kind in found.text


@pytest.mark.parametrize(("gib", "state"), [(8.0, "ok"), (2.0, "warning"), (0.5, "problem")])
def test_memory(gib: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 99 kB\nMemAvailable:   {int(gib * 2**20)} kB\n", "utf-8")
    monkeypatch.setattr(doctor, "MEMINFO", path)
    found = doctor.memory()
    assert found.state == state and bool(found.fix) == (state != "ok")
    assert f"{gib:.1f} GiB available" in found.text
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "none")
    assert doctor.memory().state == "warning"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "new" / "cache"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 * 2**30))
    found = doctor.disk()
    assert found.state == "ok" and "50.0 GiB" in found.text
    assert not list(cache_dir.cache_dir().iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**28))
    found = doctor.disk()
    assert found.state == "problem" and "free 1 GiB" in found.fix
    # Below a file nothing can be written, whoever the user is.
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "file" / "cache"))
    found = doctor.disk()
    assert found.state == "problem" and "cannot be written" in found.text
    assert "SSCJAX_CACHE" in found.fix


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    path = cache_dir.cache_dir() / download.release_name(128, 1.0)
    found = doctor.weights()
    assert found.state == "warning" and path.name in found.fix
    assert not list(tmp_path.iterdir())  # nothing was downloaded
    files.write_bytes(path, b"no weights")
    found = doctor.weights()
    assert found.state == "problem" and "no usable weights" in found.text
    # As pinned at its first use: the content is read at that time only.
    files.write_json(path.with_name(path.name + ".json"), {"sha256": files.sha256(path)})
    assert doctor.weights().state == "ok"
    files.write_bytes(path, b"other weights")
    found = doctor.weights()
    assert found.state == "problem" and "has changed" in found.text


@pytest.mark.usefixtures("quick_compiler")
def test_train_step() -> None:
    found = doctor.train_step()
    rate = re.search(r"finite; (\d+) images/s", found.text)
    assert found.state == "ok" and rate is not None and int(rate[1]) > 0
    found = doctor.train_step(learning=float("nan"))
    assert found.state == "problem" and "not finite" in found.text and found.fix


def test_lines_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Check:
        raise ZeroDivisionError("oh\nno")

    def note() -> Check:
        return Check("warning", "word " * 60, "fix " * 60)

    assert doctor.run({"one": lambda: Check("ok", "fine"), "two": note}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "one", "fine"]
    assert lines[1].startswith("warning  two") and max(map(len, lines)) <= formatting.WIDTH
    assert sum("fix: " in line for line in lines) == 1
    assert lines[-1] == "0 problems, 1 warnings"
    # A check that fails itself is a problem, and the others go on.
    assert doctor.run({"three": broken, "one": lambda: Check("ok", "fine")}) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError: oh no" in out and "ok       one" in out


def test_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "PACKAGE", "sscjax-that-is-not-there")
    assert doctor.run({"libraries": doctor.libraries}) == 0
    assert "fix: pip install -e ." in capsys.readouterr().out


@pytest.mark.slow
def test_program(tmp_path: Path) -> None:
    """All of it, and devices that are not there: as a user calls it."""
    call = [sys.executable, "-m", "sscjax", "doctor"]
    environment = {**os.environ, "SSCJAX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
    states = re.findall(r"^(ok|warning|problem)  ", done.stdout, re.MULTILINE)
    assert len(states) == len(doctor.CHECKS) and done.returncode == int("problem" in states)
    assert re.search(r"^ok +training step ", done.stdout, re.MULTILINE)
    environment["JAX_PLATFORMS"] = "none_such"
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and re.search(r"^problem +devices ", done.stdout, re.MULTILINE)
    assert "fix: unset JAX_PLATFORMS" in done.stdout
    done = subprocess.run([*call, "--jsn"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "no option --jsn" in done.stderr
