"""Every script starts from a clone and says how it is called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "scripts").glob("*.py")
    # The others are imported by these.
    if "__main__" in path.read_text("utf-8")
)
MODULES = [f"scripts.pretrain_textures.{name}" for name in ("train", "bundle")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, *MODULES])
def test_help(name: str) -> None:
    words = [name] if name.endswith(".py") else ["-m", name]
    called = subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=ROOT,
        # The package of this clone, whatever is installed.
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 0, called.stderr
    assert re.split(r"[./]", name.removesuffix(".py"))[-1] in called.stdout
