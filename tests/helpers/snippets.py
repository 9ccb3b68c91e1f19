"""The code of docs/export.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def snippets(section: str) -> str:
    """All Python of a section of docs/export.md."""
    text = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    body = next(one for one in part if one.partition("\n")[0] == section)
    return "\n".join(re.findall(r"^```python\n(.*?)^```", body, re.MULTILINE | re.DOTALL))


def run_snippet(section: str, folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    """What a section's Python leaves behind, run in the folder of the exported files."""
    names: dict[str, Any] = {"images": pixels, "np": np}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # The snippets are for readers who have not forbidden broadcasting.
        exec(snippets(section), names)
    return names


def page(name: str) -> str:
    """All Python of a page of docs/, in its order."""
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
