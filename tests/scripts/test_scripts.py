"""The scripts run from a clone of which a copy is installed, as the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WITH_CONFIGS = sorted(
    path.name
    for path in SCRIPTS.glob("*.py")
    if re.search(r"^from sscjax.configs import", path.read_text("utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", WITH_CONFIGS)
def test_configs_are_found_from_any_folder(tmp_path: Path, name: str) -> None:
    """Imported, not run: it has all that it imports, and none of it by chance from this folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='imported'); "
        "import sscjax; print(sscjax.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPTS / name)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(SCRIPTS), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    # The package of the clone, too, whatever is installed.
    assert Path(found.stdout.strip()).parent.parent == SCRIPTS.parent
