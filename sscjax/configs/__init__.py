"""The configs of this package as modules: `from sscjax.configs import three_class`.

Each has `get_config() -> ConfigDict`, a fresh config that may be changed before it is given to
`sscjax.run`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

# A wheel brings the configs in this folder. In a clone they lie beside the package, where
# `--config=configs/NAME.py` finds them, and nothing but this file is here.
_beside = Path(__file__).resolve().parents[2] / "configs"
if not (Path(__file__).parent / "default.py").is_file() and _beside.is_dir():
    __path__.append(str(_beside))

if TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        """A config's module, which a type checker does not see in a clone."""


def names() -> list[str]:
    """The configs there are, sorted: what `--config=NAME` may name."""
    files = (path for folder in __path__ for path in Path(folder).glob("*.py"))
    return sorted(path.stem for path in files if path.stem != "__init__")


def file_of(name: str) -> Path | None:
    """The file of the config `name`, or None if there is no such config."""
    for folder in __path__:
        path = Path(folder) / f"{name}.py"
        if path.is_file() and name != "__init__":
            return path
    return None
