"""Where the cache folder is, also for users without a home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sscjax.system.cache_dir import cache_dir


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "a" / ".." / "b"))
    assert cache_dir() == tmp_path.resolve() / "b"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSCJAX_CACHE", "relative")
    assert cache_dir() == tmp_path.resolve() / "relative"
    for unset in (True, False):
        if unset:
            monkeypatch.delenv("SSCJAX_CACHE")
        else:
            monkeypatch.setenv("SSCJAX_CACHE", "")
        assert cache_dir().is_absolute() and "sscjax" in cache_dir().parts


HOMELESS = """
import os, pwd, sys

def unknown(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")

pwd.getpwuid = unknown
from sscjax.errors import UserError
from sscjax.system import cache_dir as cache
try:
    print(cache.cache_dir(), cache.cache_dir())
except UserError as error:
    print("error:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /etc/passwd")
def test_cache_of_a_user_without_a_home(tmp_path: Path) -> None:
    """In containers: no HOME, and a number without a name; patched, for only root can take one."""

    def start(**variables: str) -> tuple[str, str]:
        names = ("HOME", "XDG_CACHE_HOME", "SSCJAX_CACHE")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        command = [sys.executable, "-c", HOMELESS]
        environment |= {"TMPDIR": str(tmp_path), **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr.strip()

    folder = tmp_path.resolve() / f"sscjax-{os.getuid()}"
    said, warned = start()
    assert said == f"{folder} {folder}" and folder.stat().st_mode & 0o777 == 0o700
    assert len(warned.splitlines()) == 1 and "no home folder" in warned and "SSCJAX_CACHE" in warned
    assert start(SSCJAX_CACHE="/data/cache") == ("/data/cache /data/cache", "")
    said, warned = start(SSCJAX_CACHE="~/cache")
    assert (
        said.startswith("error: SSCJAX_CACHE is ~/cache, but this user has no home") and not warned
    )
    # Compiled programs are run from there: nobody else must have written them.
    folder.chmod(0o777)
    assert start()[0].startswith(f"error: {folder}: other users can write")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert start()[0].startswith(f"error: {folder}: other users can write")
