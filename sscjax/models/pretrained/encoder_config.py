"""What lies beside a weight file: how its pixels were scaled, and under which licence it stands.

timm and transformers publish weights as a folder: `config.json`, `preprocessor_config.json`, and a
`README.md` that begins with facts for machines. Weights in a network that scales pixels otherwise
give features that look plausible and are wrong, so these files are read where there are any.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sscjax.errors import UserError
from sscjax.models.pretrained import preprocessing

_MAX_BYTES = 2**20  # of a file of facts; larger ones are none

# Licences that forbid uses which the permissive ones allow, by how their names begin.
_RESTRICTIVE = {
    "cc-by-nc": "no commercial use",
    "cc-by-nc-nd": "no commercial use, and what is made of it may not be passed on",
    "dinov3": "the DINOv3 License, with conditions on use and on passing on",
    "hoptimus": "no commercial use",
    "other": "terms of its own, to be read before use",
}


class Facts(NamedTuple):
    """What is known of a weight file beside its weights.

    Attributes:
        convention: how pixels are scaled; None where nothing says so.
        size: side in pixels of the images that the weights were trained on; 0 where unknown.
        licence: its identifier, such as 'cc-by-nc-4.0'; '' where unknown.
        source: the name of the file that said how pixels are scaled; ''.
    """

    convention: preprocessing.Convention | None
    size: int
    licence: str
    source: str

    @property
    def restriction(self) -> str:
        """What the licence is known to forbid, in words; '' where nothing is known."""
        known = [start for start in _RESTRICTIVE if self.licence.lower().startswith(start)]
        return _RESTRICTIVE[max(known, key=len)] if known else ""


def beside(path: Path, width: int | None = None) -> Facts:
    """Facts in `NAME.json`, `config.json`, `preprocessor_config.json` and `README.md`.

    Args:
        path: of the weights; `NAME.json` beside them is their own, the others are the folder's.
        width: channels of the network's features; a config that gives another one is for another
            file, and says nothing here. None: whatever it gives.

    Raises:
        UserError: the config's mean or standard deviation is none.
    """
    convention, size, licence, source = None, 0, "", ""
    for name in (f"{path.stem}.json", "config.json", "preprocessor_config.json"):
        found = _read(path.parent / name)
        if not _is_of(found, width):
            continue
        nested = found.get("pretrained_cfg")
        facts = nested if isinstance(nested, dict) else found
        mean = facts.get("mean", facts.get("image_mean"))
        std = facts.get("std", facts.get("image_std"))
        if convention is None and mean is not None and std is not None:
            try:
                convention, source = preprocessing.convention_of(mean, std), name
            except (TypeError, ValueError) as error:
                raise UserError(f"{path.parent / name}: {error}") from error
        size = size or _side(facts.get("input_size", found.get("image_size")))
        licence = licence or str(facts.get("license") or "")
    return Facts(convention, size, licence or _licence_of(path.parent / "README.md"), source)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_of(found: dict[str, Any], width: int | None) -> bool:
    """Whether a config is for a network of this width, as far as it says."""
    stated = found.get("num_features", found.get("hidden_size", width))
    return width is None or bool(stated == width)


def _side(value: Any) -> int:
    """The side in pixels of `224`, `[224, 224]` or `[3, 224, 224]`; 0 of anything else."""
    last = value[-1] if isinstance(value, list) and value else value
    return last if isinstance(last, int) and last > 0 else 0


def _licence_of(path: Path) -> str:
    """The line `license:` between the first two lines `---` of a README; ''."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(2**14)
    except OSError:
        return ""
    head = re.match(r"---\s*\n(.*?)\n---", start, re.DOTALL)
    found = re.search(r"^license:\s*([\w.\-]+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""
