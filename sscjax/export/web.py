"""A run as a static page: the ONNX file, a runtime for browsers, and `site/`, which asks them.

The folder is served by any web server. Images are read and answered in the page.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from sscjax import pictures
from sscjax.export import onnx_file, ort_web
from sscjax.export.check import Outcome, Wish
from sscjax.trained import Trained

MODEL, ABOUT, OFFLINE = "model.onnx", "model.json", "offline.js"

_SERVED = (
    "serve the folder by any web server, here by `python -m http.server` in it; after the first "
    "visit the page works without a network"
)


def write(opened: Trained, place: Path, wish: Wish) -> Outcome:
    """Write the folder; the ONNX file in it is checked as `onnx_file` does.

    `model.json` in it is the metadata with two keys more: check, how far the ONNX file's answers
    are from the run's, and site:

      - onnxruntime: version of onnxruntime-web.
      - files: bytes and sha256 by name.
      - overlay: colours [K,3] of a map from nothing to the highest, 0..255, and cover, the share of
        the image that they cover there.

    Args:
      opened: the run.
      place: the folder to write; it does not exist.
      wish: what the user asked for.

    Raises:
      UserError: see `onnx_file.write` and `ort_web.read`.
    """
    runtime = ort_web.read(wish.ort_web)
    place.mkdir()
    outcome = onnx_file.write(opened, place / MODEL, wish)
    content = {**_site(), **runtime, MODEL: (place / MODEL).read_bytes()}
    worker = content.pop(OFFLINE)
    known = {name: _known(part) for name, part in sorted(content.items())}
    about = {
        **outcome.metadata,
        "check": outcome.agreement.as_json(),
        "site": {
            "onnxruntime": ort_web.VERSION,
            "files": known,
            "overlay": {"colours": pictures.colour_table().tolist(), "cover": pictures.COVER},
        },
    }
    content[ABOUT] = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    content[OFFLINE] = _listed(content) + worker
    for name, part in content.items():
        (place / name).write_bytes(part)
    return Outcome(outcome.metadata, outcome.agreement, (_SERVED,))


def _site() -> dict[str, bytes]:
    """The page's own files by name."""
    folder = resources.files("sscjax.export") / "site"
    return {part.name: part.read_bytes() for part in folder.iterdir() if part.is_file()}


def _known(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _listed(content: dict[str, bytes]) -> bytes:
    """The line that tells the service worker what to keep; other content has another version."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + hashlib.sha256(content[name]).digest())
    # A folder's page is asked for by either name.
    site = {"version": digest.hexdigest()[:16], "files": ["./", *sorted(content)]}
    return f"const SITE = {json.dumps(site)};\n".encode()
