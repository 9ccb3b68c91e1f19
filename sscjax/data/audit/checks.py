"""Look for leaks in a set of images, before any training: `sscjax audit DATA`.

What makes results too optimistic without anybody noticing: copies of an image on both sides of a
split, patients on both sides, labels that a file's size or a stain's colour gives away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import lazy
from sscjax.data.audit import appearance, duplicates
from sscjax.data.audit.duplicates import Found, Pair
from sscjax.data.audit.findings import CHECKS, View, every, unchecked
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.system import cache_dir, files, machine, run_dir
from sscjax.system.progress import Progress

LEAK = 1
"""Exit code where something leaks."""


def audit(
    image_set: ImageSet, splits: np.ndarray | None, root: Path | None, *, allowed: bool = False
) -> dict[str, Any]:
    """Look for leaks; JSON-ready, what audit.json holds.

    Args:
      image_set: N images.
      splits: [N] str of 'train', 'val', 'test'; None where none are made yet: then a copy at
        another subject counts as a leak, for a split may part the two.
      root: folder that the files' names are relative to; None where they are no files.
      allowed: whether the protocol wants its leaks (the paper's does).

    Returns:
      n_images, n_subjects, classes, understood, seconds, protocol_allows_leakage, fingerprint (of
      images and splits), findings (kind, severity 'leak', 'warning' or 'note', title, detail,
      count, examples), checks (kind, title, passed), and
      unchecked (kind, title, reason): those that had nothing to look at.
    """
    started = time.monotonic()
    view = View(image_set, splits, search(image_set))
    found = every(view, root)
    kinds = {finding["kind"] for finding in found}
    order = {"leak": 0, "warning": 1, "note": 2}
    reasons = {kind: why for kind, why in unchecked(view, root).items() if kind not in kinds}
    return {
        "n_images": len(image_set),
        "n_subjects": len(set(image_set.subjects.tolist())),
        "classes": list(image_set.classes),
        "understood": dict(image_set.understood),
        "seconds": round(time.monotonic() - started, 1),
        "protocol_allows_leakage": allowed,
        "fingerprint": fingerprint(image_set, splits),
        "findings": sorted(found, key=lambda finding: order[finding["severity"]]),
        "checks": [
            {"kind": kind, "title": title, "passed": kind not in kinds}
            for kind, title in CHECKS.items()
            if kind not in reasons
        ],
        "unchecked": [
            {"kind": kind, "title": title, "reason": reasons[kind]}
            for kind, title in CHECKS.items()
            if kind in reasons
        ],
    }


def fingerprint(image_set: ImageSet, splits: np.ndarray | None) -> str:
    """SHA-256 of all that an audit looks at."""
    parts = [image_set.fingerprint(), *([] if splits is None else splits.tolist())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(folder: Path, image_set: ImageSet, splits: np.ndarray | None) -> dict[str, Any] | None:
    """The audit.json of a folder, if it is of these images and splits."""
    try:
        found: dict[str, Any] = files.read_json(folder / run_dir.AUDIT)
        return found if found["fingerprint"] == fingerprint(image_set, splits) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def leaks(found: dict[str, Any]) -> list[str]:
    """The titles of what leaks."""
    return [one["title"] for one in found["findings"] if one["severity"] == "leak"]


def refuse(found: dict[str, Any]) -> None:
    """Raise a UserError for what leaks, unless the protocol wants that; for two labels always."""
    allowed = found["protocol_allows_leakage"]
    for one in found["findings"]:
        if one["severity"] == "leak" and (one["kind"] == "identical_labels" or not allowed):
            pairs = [f"{e['a']} and {e['b']}" for e in one.get("examples", [])[:2] if "b" in e]
            shown = f" ({'; '.join(pairs)})" if pairs else ""
            raise UserError(
                f"the audit of the images found a leak: {one['title']}{shown}; {one['detail']} "
                "`sscjax audit --json=FILE` lists all of them"
                + ("" if allowed else "; config.audit.on_leakage=report trains all the same")
            )


# --- copies -------------------------------------------------------------------------------------


def search(image_set: ImageSet) -> Found:
    """The copies among images, remembered in the cache folder by the images' fingerprint."""
    images = image_set.images
    key = hashlib.sha256(f"{lazy.fingerprint(images)} {machine.source_sha256()}".encode())
    path = cache_dir.cache_dir() / "audit" / f"{key.hexdigest()[:40]}.json"
    known = _read(path, len(image_set))
    if known is not None:
        return known
    with Progress("audit of the images", len(image_set)) as progress:
        found = duplicates.find(images, progress.advance)
    kept = {
        "pairs": [dataclasses.astuple(pair) for pair in found.pairs],
        "blank": np.flatnonzero(found.blank).tolist(),
        "colours": np.round(found.colours, 4).astype(float).tolist(),
        "stains": np.round(found.stains, 5).astype(float).tolist(),
        "implied": [found.implied, found.implied_found],
    }
    try:
        files.write_json(path, kept)
    except OSError:
        return found  # a cache that cannot be written is searched again next time
    return found


def _read(path: Path, count: int) -> Found | None:
    try:
        kept = files.read_json(path)
        colours = np.array(kept["colours"], np.float32).reshape(count, 3)
        blank = np.zeros(count, bool)
        blank[kept["blank"]] = True
        stains = np.array(kept["stains"], np.float32).reshape(count, appearance.FEATURES)
        implied, implied_found = kept["implied"]
        pairs = [Pair(*pair) for pair in kept["pairs"]]
        return Found(pairs, blank, colours, stains, implied, implied_found)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
