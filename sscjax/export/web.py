"""A run as a static page: the ONNX file, a runtime for browsers, and `site/`, which uses them.

The folder is served by any web server. Images are read and predicted in the page. All but two files
are in a folder named by a hash of their content, so that no cache mixes two exports.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from sscjax.export import onnx_file, ort_web
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference.classifier import Classifier
from sscjax.reports import overlays

MODEL, ABOUT = "model.onnx", "model.json"
# The page itself and its service worker, which acts for the files below it.
INDEX, OFFLINE = "index.html", "offline.js"

_VERSION = b"VERSION"
_SERVED = (
    "serve the folder by any web server, here by `python -m http.server` in it; served by https or "
    "from this machine, the page works without a network after the first visit"
)


def write(opened: Classifier, folder: Path, options: ExportOptions) -> Outcome:
    """Write the folder; the ONNX file in it is checked as `onnx_file` does.

    `model.json` in it, beside the ONNX file, is the metadata with two keys more: check, how far the
    ONNX file's predictions are from the run's (by onnxruntime on this machine), and site:

      - onnxruntime: version of onnxruntime-web.
      - files: bytes and sha256 by name.
      - overlay: colours [K,3] of a map from nothing to the highest, 0..255, and cover, the share of
        the image that they cover there.

    Args:
      opened: the run.
      folder: the folder to write; it does not exist.
      options: settings beside the format.

    Raises:
      UserError: see `onnx_file.write` and `ort_web.read`.
    """
    runtime = ort_web.read(options.ort_web)
    folder.mkdir()
    outcome = onnx_file.write(opened, folder / MODEL, options)
    content = {**site_files(), **runtime, MODEL: (folder / MODEL).read_bytes()}
    (folder / MODEL).unlink()
    index, worker = content.pop(INDEX), content.pop(OFFLINE)
    about = {
        **outcome.metadata,
        "check": outcome.agreement.as_json(),
        "site": {
            "onnxruntime": ort_web.VERSION,
            "files": {name: _size_and_hash(part) for name, part in sorted(content.items())},
            "overlay": {"colours": overlays.colour_table().tolist(), "cover": overlays.COVER},
        },
    }
    content[ABOUT] = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    write_files(folder, content, index, worker)
    return Outcome(outcome.metadata, outcome.agreement, (_SERVED,))


def write_files(folder: Path, content: dict[str, bytes], index: bytes, worker: bytes) -> None:
    """Write a page: `content` by name into a folder of its version, beside it page and worker."""
    version = _version({**content, INDEX: index, OFFLINE: worker})
    (folder / version).mkdir()
    for name, part in content.items():
        (folder / version / name).write_bytes(part)
    index = index.replace(_VERSION, version.encode())
    (folder / INDEX).write_bytes(index)
    offline = {"./": index, **{f"{version}/{name}": part for name, part in content.items()}}
    site = {"version": version, "files": {name: _sha256(part) for name, part in offline.items()}}
    (folder / OFFLINE).write_bytes(f"const SITE = {json.dumps(site)};\n".encode() + worker)


def site_files() -> dict[str, bytes]:
    """The page's own files by name."""
    folder = resources.files("sscjax.export") / "site"
    return {part.name: part.read_bytes() for part in folder.iterdir() if part.is_file()}


def _size_and_hash(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": _sha256(content)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _version(content: dict[str, bytes]) -> str:
    """The first 16 digits of a hash of all names and content."""
    return _sha256(
        "".join(sorted(name + _sha256(part) for name, part in content.items())).encode()
    )[:16]
