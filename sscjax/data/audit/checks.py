"""Look for leaks in a set of images, before any training: `sscjax audit DATA`.

What makes results too optimistic without anybody noticing: copies of an image on both sides of a
split, patients on both sides, labels that a file's size or a stain's colour gives away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import lazy
from sscjax.data.audit import confounders, duplicates
from sscjax.data.audit.duplicates import Found, Pair
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.system import cache_dir, files, machine, run_dir
from sscjax.system.progress import Progress

LEAK = 1
"""Exit code where something leaks."""

EXAMPLES = 20
"""Of each finding, in audit.json; the terminal shows fewer."""

FEWEST_SUBJECTS = 5
"""A class of fewer subjects gives intervals too wide to be of use."""

# What is looked for, in the order of the report; severity of a finding in brackets.
CHECKS = {
    "subjects_across_splits": "No subject stands in two splits",
    "copies_across_splits": "No image has a copy in another split",
    "identical_labels": "No image stands under two labels",
    "copies_across_subjects": "No image of one subject has a copy at another's",
    "copies_across_labels": "No near copies stand under two labels",
    "confounds": "No property of the files, and no mean colour, tells the label",
    "few_subjects": f"Every class has at least {FEWEST_SUBJECTS} subjects",
    "several_labels": "Every subject has one label",
    "copies_within_subjects": "No copies within a subject",
    "blank": "No image is blank",
}


@dataclasses.dataclass(frozen=True)
class _View:
    """A set as the checks see it."""

    images: ImageSet
    splits: np.ndarray | None
    found: Found

    def different(self, pair: Pair, of: np.ndarray | None) -> bool:
        return of is not None and bool(of[pair.first] != of[pair.second])

    def example(self, pair: Pair) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for key, index in (("a", pair.first), ("b", pair.second)):
            entry[key] = str(self.images.files[index])
            entry[f"label_{key}"] = self.images.classes[self.images.labels[index]]
            entry[f"subject_{key}"] = str(self.images.subjects[index])
            if self.splits is not None:
                entry[f"split_{key}"] = str(self.splits[index])
        return {**entry, "relation": pair.relation, "similarity": pair.likeness}


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
      n_images, n_subjects, classes, seconds, protocol_allows_leakage, fingerprint (of images and
      splits), findings (kind, severity 'leak', 'warning' or 'note', title, detail, count,
      examples) and checks (kind, title, passed).
    """
    started = time.monotonic()
    view = _View(image_set, splits, search(image_set))
    findings = [
        finding
        for finding in (
            _subjects_across_splits(view),
            *_copies(view),
            _confounds(view, root),
            _few_subjects(view),
            _several_labels(view),
            _blank(view),
        )
        if finding is not None
    ]
    kinds = {finding["kind"] for finding in findings}
    order = {"leak": 0, "warning": 1, "note": 2}
    skipped = {"subjects_across_splits", "copies_across_splits"} if splits is None else set()
    return {
        "n_images": len(image_set),
        "n_subjects": len(set(image_set.subjects.tolist())),
        "classes": list(image_set.classes),
        "seconds": round(time.monotonic() - started, 1),
        "protocol_allows_leakage": allowed,
        "fingerprint": fingerprint(image_set, splits),
        "findings": sorted(findings, key=lambda finding: order[finding["severity"]]),
        "checks": [
            {"kind": kind, "title": title, "passed": kind not in kinds}
            for kind, title in CHECKS.items()
            if kind not in skipped
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
                "`sscjax audit` lists all of them"
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
        return Found([Pair(*pair) for pair in kept["pairs"]], blank, colours)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _copies(view: _View) -> list[dict[str, Any] | None]:
    labels, subjects = view.images.labels, view.images.subjects
    kinds: dict[str, list[Pair]] = {kind: [] for kind in CHECKS}
    for pair in view.found.pairs:
        if view.found.blank[pair.first]:
            continue  # empty tiles are alike
        if view.different(pair, labels):
            same = pair.relation == "identical"
            kinds["identical_labels" if same else "copies_across_labels"].append(pair)
        if view.different(pair, view.splits):
            kinds["copies_across_splits"].append(pair)
        elif view.different(pair, subjects):
            kinds["copies_across_subjects"].append(pair)
        else:
            kinds["copies_within_subjects"].append(pair)
    split = view.splits is not None
    return [
        _of_pairs(
            view,
            kinds["copies_across_splits"],
            "copies_across_splits",
            "leak",
            "{n} of images with a copy in another split",
            "remove one of each, or give both the same subject.",
        ),
        _of_pairs(
            view,
            kinds["identical_labels"],
            "identical_labels",
            "leak",
            "{n} of identical images under two labels",
            "one of the labels is wrong: remove the wrong image.",
        ),
        _of_pairs(
            view,
            kinds["copies_across_subjects"],
            "copies_across_subjects",
            "warning" if split else "leak",
            "{n} of images of one subject with a copy at another",
            "a split by subject parts them: give both the same subject, or remove one.",
        ),
        _of_pairs(
            view,
            kinds["copies_across_labels"],
            "copies_across_labels",
            "warning",
            "{n} of near copies under two labels",
            "look whether both labels are right.",
        ),
        _of_pairs(
            view,
            kinds["copies_within_subjects"],
            "copies_within_subjects",
            "note",
            "{n} of copies within a subject",
            "overlapping tiles count one place twice; no split parts them.",
        ),
    ]


def _of_pairs(
    view: _View, pairs: list[Pair], kind: str, severity: str, title: str, detail: str
) -> dict[str, Any] | None:
    if not pairs:
        return None
    number = "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs"
    likest = sorted(pairs, key=lambda pair: -pair.likeness)[:EXAMPLES]
    examples = [view.example(pair) for pair in likest]
    return _finding(kind, severity, title.format(n=number), detail, len(pairs), examples)


# --- subjects, labels, files --------------------------------------------------------------------


def _finding(
    kind: str,
    severity: str,
    title: str,
    detail: str,
    count: int,
    examples: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    found = {"kind": kind, "severity": severity, "title": title, "detail": detail, "count": count}
    return {**found, "examples": list(examples)} if examples else found


def _subjects_across_splits(view: _View) -> dict[str, Any] | None:
    if view.splits is None:
        return None
    pairs = np.unique(np.stack([view.images.subjects, view.splits.astype(np.str_)]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    shared = names[counts > 1].tolist()
    if not shared:
        return None
    examples = [
        {"a": name, "split_a": " and ".join(pairs[1, pairs[0] == name].tolist())}
        for name in shared[:EXAMPLES]
    ]
    title = f"{len(shared):,} of {len(names):,} subjects stand in more than one split"
    detail = "put all images of a subject into one split."
    return _finding("subjects_across_splits", "leak", title, detail, len(shared), examples)


def _subject_labels(view: _View) -> np.ndarray:
    """[subjects, classes]: images of each."""
    names, group = np.unique(view.images.subjects, return_inverse=True)
    table = np.zeros((len(names), len(view.images.classes)), np.int64)
    np.add.at(table, (group, view.images.labels), 1)
    return table


def _few_subjects(view: _View) -> dict[str, Any] | None:
    having = (_subject_labels(view) > 0).sum(0)
    few = [
        f"{name} ({number})"
        for name, number in zip(view.images.classes, having.tolist(), strict=True)
        if number < FEWEST_SUBJECTS
    ]
    if not few:
        return None
    title = f"fewer than {FEWEST_SUBJECTS} subjects in {', '.join(few)}"
    detail = "no figure of so few patients is sure; intervals will say so."
    return _finding("few_subjects", "warning", title, detail, len(few))


def _several_labels(view: _View) -> dict[str, Any] | None:
    names = np.unique(view.images.subjects)
    mixed = (_subject_labels(view) > 0).sum(1) > 1
    if not mixed.any():
        return None
    title = f"{mixed.sum():,} of {len(names):,} subjects have images of several labels"
    detail = "right where tissue differs within a patient; else look at these labels."
    examples = [{"a": str(name)} for name in names[mixed][:EXAMPLES]]
    return _finding("several_labels", "note", title, detail, int(mixed.sum()), examples)


def _blank(view: _View) -> dict[str, Any] | None:
    blank = np.flatnonzero(view.found.blank)
    if not len(blank):
        return None
    title = f"{len(blank):,} images hold next to nothing"
    detail = "copies are looked for among the others; leave out tiles without tissue."
    examples = [{"a": str(view.images.files[index])} for index in blank[:EXAMPLES]]
    return _finding("blank", "note", title, detail, len(blank), examples)


def _confounds(view: _View, root: Path | None) -> dict[str, Any] | None:
    images = view.images
    properties = {
        f"mean {colour}": view.found.colours[:, index].astype(np.float64)
        for index, colour in enumerate(("red", "green", "blue"))
    }
    if root is not None:
        properties |= confounders.file_properties([root / file for file in images.paths])
    found = confounders.find(properties, images.labels, images.subjects, len(images.classes))
    if not found:
        return None
    said = [
        f"{one.name} is {'higher' if one.higher else 'lower'} in {images.classes[one.label]} "
        f"(AUROC {one.area:.2f}, p {max(one.p, 1e-4):.2g})"
        for one in found[:6]
    ]
    title = f"the label can be told from {', '.join(dict.fromkeys(one.name for one in found))}"
    detail = f"{'; '.join(said)}, by subject. A network may learn the scanner, not the disease."
    return _finding("confounds", "warning", title, detail, len(found))
