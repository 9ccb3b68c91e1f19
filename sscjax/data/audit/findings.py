"""What an audit can find, each kind with its severity, its text and its examples."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import lazy
from sscjax.data.audit import confounders, patients, sites
from sscjax.data.audit.duplicates import Found, Pair
from sscjax.data.dataset import ImageSet
from sscjax.data.pixel_range import DIM

EXAMPLES = 1000
"""Of each finding, in audit.json; the terminal shows fewer."""

FEWEST_SUBJECTS = 5
"""A class of fewer subjects gives intervals too wide to be of use."""

MANY_COPIES = 20
"""Pairs of copies from which more must be expected that were missed."""

_LEAST_RANGE = 32  # grey levels between the darkest and the brightest pixel of a set

_FEWEST_IMPLIED = 30  # pairs that follow from others, for an estimate of what was missed

Finding = dict[str, Any]

# What is looked for, in the order of the report; severity of a finding in brackets.
CHECKS = {
    "subjects_across_splits": "No subject stands in two splits",
    "copies_across_splits": "No image has a copy in another split",
    "identical_labels": "No image stands under two labels",
    "copies_across_subjects": "No image of one subject has a copy at another's",
    "copies_across_labels": "No near copies stand under two labels",
    "twins": "No two subjects look like one patient",
    "confounds": "No mean colour tells the label",
    "files": "No size, format or resolution of the files tells the label",
    "dim": "The images use the range of grey levels",
    **sites.CHECKS,
    "few_subjects": f"Every class has at least {FEWEST_SUBJECTS} subjects",
    "several_labels": "Every subject has one label",
    "copies_within_subjects": "No two images of a subject show the same area",
    "blank": "No image is blank",
}


@dataclasses.dataclass(frozen=True)
class View:
    """A set as the checks see it."""

    images: ImageSet
    splits: np.ndarray | None
    found: Found

    def different(self, pair: Pair, of: np.ndarray | None) -> bool:
        """Whether the two images differ in a property [N]; False where there is none."""
        return of is not None and bool(of[pair.first] != of[pair.second])

    def example(self, pair: Pair) -> dict[str, Any]:
        """The pair with its files, labels, subjects and splits."""
        entry: dict[str, Any] = {}
        for key, index in (("a", pair.first), ("b", pair.second)):
            entry[key] = str(self.images.files[index])
            entry[f"label_{key}"] = self.images.classes[self.images.labels[index]]
            entry[f"subject_{key}"] = str(self.images.subjects[index])
            if self.splits is not None:
                entry[f"split_{key}"] = str(self.splits[index])
        return {**entry, "relation": pair.relation, "similarity": pair.likeness}


def every(view: View, root: Path | None) -> list[Finding]:
    """All findings of a set, in the order of the checks.

    Args:
      view: the set.
      root: folder that the files' names are relative to; None where they are no files.
    """
    findings = (
        _subjects_across_splits(view),
        *_copies(view),
        _missed_copies(view),
        _twins(view),
        *_confounds(view, root),
        *sites.findings(view.images, np.hstack([view.found.colours, view.found.stains])),
        _few_subjects(view),
        _several_labels(view),
        _blank(view),
        _dim(view),
    )
    return [finding for finding in findings if finding is not None]


# --- copies -------------------------------------------------------------------------------------


def _copies(view: View) -> list[Finding | None]:
    labels, subjects = view.images.labels, view.images.subjects
    kinds: dict[str, list[Pair]] = collections.defaultdict(list)
    for pair in view.found.pairs:
        if view.found.blank[pair.first]:
            continue  # empty tiles are alike
        # A pair counts under every check that it fails.
        if view.different(pair, labels):
            same = pair.relation == "identical"
            kinds["identical_labels" if same else "copies_across_labels"].append(pair)
        if view.different(pair, view.splits):
            kinds["copies_across_splits"].append(pair)
        if view.different(pair, subjects):
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
            "{n} of images within a subject that show the same area",
            "overlapping tiles count one area twice; a split by subject keeps them together.",
        ),
    ]


def _of_pairs(
    view: View, pairs: list[Pair], kind: str, severity: str, title: str, detail: str
) -> Finding | None:
    if not pairs:
        return None
    number = "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs"
    likest = sorted(pairs, key=lambda pair: -pair.likeness)[:EXAMPLES]
    examples = [view.example(pair) for pair in likest]
    return _finding(kind, severity, title.format(n=number), detail, len(pairs), examples)


def _missed_copies(view: View) -> Finding | None:
    """How many more copies must be expected where many were found."""
    copies = [pair for pair in view.found.pairs if pair.relation != "identical"]
    if len(copies) < MANY_COPIES:
        return None
    implied, direct = view.found.implied, view.found.implied_found
    if implied < _FEWEST_IMPLIED or not direct:
        title = f"more copies than these {len(copies):,} pairs must be expected"
        detail = "too few of them follow from one another to estimate how many."
        return _finding("missed_copies", "note", title, detail, len(copies))
    # Of the pairs that follow from others a known share was found directly. Of all pairs the same
    # share should have been, and what was found in addition is no longer missing.
    by_itself = len(copies) - (implied - direct)
    missing = round(max(by_itself * implied / direct - len(copies), 0))
    if not missing:
        return None
    pairs = "pair" if missing == 1 else "pairs"
    title = f"about {missing:,} more {pairs} of copies must be expected"
    detail = (
        f"of {implied:,} pairs that follow from two others the search had found {direct:,} by "
        f"itself ({100 * direct / implied:.1f} %). Name the subjects: then no split parts what was "
        "missed."
    )
    return _finding("missed_copies", "note", title, detail, missing)


# --- subjects, labels, files --------------------------------------------------------------------


def _twins(view: View) -> Finding | None:
    twins = patients.find(view.found.stains, view.images.subjects)
    if not twins:
        return None
    number = "1 pair" if len(twins) == 1 else f"{len(twins):,} pairs"
    title = f"{number} of subjects may be one patient under two names"
    detail = (
        "a hint: of all subjects they are each other's most alike, in stain and texture. Slides "
        "that were stained together look so too. Of real biopsies under two names 7 in 10 were "
        "noticed."
    )
    examples = [
        {
            "a": pair.first,
            "b": pair.second,
            "relation": f"{pair.first_images} and {pair.second_images} images, odds "
            f"{min(pair.odds, 1e6):,.0f} to 1 if one pair of the set is one patient",
            "similarity": round(pair.probability, 4),
        }
        for pair in twins[:EXAMPLES]
    ]
    return _finding("twins", "note", title, detail, len(twins), examples)


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


def _subjects_across_splits(view: View) -> Finding | None:
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


def _subject_labels(view: View) -> np.ndarray:
    """[subjects, classes]: images of each."""
    names, group = np.unique(view.images.subjects, return_inverse=True)
    table = np.zeros((len(names), len(view.images.classes)), np.int64)
    np.add.at(table, (group, view.images.labels), 1)
    return table


def _few_subjects(view: View) -> Finding | None:
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


def _several_labels(view: View) -> Finding | None:
    names = np.unique(view.images.subjects)
    mixed = (_subject_labels(view) > 0).sum(1) > 1
    if not mixed.any():
        return None
    title = f"{mixed.sum():,} of {len(names):,} subjects have images of several labels"
    detail = "right where tissue differs within a patient; else look at these labels."
    examples = [{"a": str(name)} for name in names[mixed][:EXAMPLES]]
    return _finding("several_labels", "note", title, detail, int(mixed.sum()), examples)


def _blank(view: View) -> Finding | None:
    blank = np.flatnonzero(view.found.blank)
    if not len(blank):
        return None
    title = f"{len(blank):,} images hold next to nothing"
    detail = "copies are looked for among the others; leave out tiles without tissue."
    examples = [{"a": str(view.images.files[index])} for index in blank[:EXAMPLES]]
    return _finding("blank", "note", title, detail, len(blank), examples)


def _dim(view: View) -> Finding | None:
    """Pixels that use a small part of the range are often no pixels, or of another bit depth."""
    low, high = 255, 0
    for part in lazy.chunks(view.images.images):
        pixels = view.images.images[part]
        low, high = min(low, int(pixels.min())), max(high, int(pixels.max()))
    if high >= DIM and high - low >= _LEAST_RANGE:
        return None
    title = f"all images use the grey levels {low} to {high} of 0 to 255 alone"
    detail = (
        "as masks do, or values of another bit depth: look at them. "
        "--config.data.pixel_bits=N says how many bits 16-bit files use."
    )
    return _finding("dim", "warning", title, detail, len(view.images))


def _confounds(view: View, root: Path | None) -> list[Finding]:
    """What tells the label, colours and files apart: one may have been looked at without the other.

    Both are tested together, so that chance is counted once.
    """
    images = view.images
    properties = {
        f"mean {colour}": view.found.colours[:, index].astype(np.float64)
        for index, colour in enumerate(("red", "green", "blue"))
    }
    colours = set(properties)
    if root is not None:
        properties |= confounders.file_properties([root / file for file in images.paths])
        properties |= confounders.scales(root, images.paths)
    found = confounders.find(properties, images.labels, images.subjects, len(images.classes))
    findings = []
    for kind, chosen in (
        ("confounds", [one for one in found if one.name in colours]),
        ("files", [one for one in found if one.name not in colours]),
    ):
        if not chosen:
            continue
        said = [
            f"{one.name} is {'higher' if one.higher else 'lower'} in {images.classes[one.label]} "
            f"(AUROC {one.area:.2f}, p {max(one.p, 1e-4):.2g})"
            for one in chosen[:6]
        ]
        title = f"the label can be told from {', '.join(dict.fromkeys(one.name for one in chosen))}"
        detail = f"{'; '.join(said)}, by subject. A network may learn the scanner, not the disease."
        findings.append(_finding(kind, "warning", title, detail, len(chosen)))
    return findings


# --- what cannot be looked at -------------------------------------------------------------------


def unchecked(view: View, root: Path | None) -> dict[str, str]:
    """The checks that had nothing to look at, by kind, with the reason.

    Args:
      view: the set.
      root: folder that the files' names are relative to; None where they are no files.
    """
    images = view.images
    sizes = np.unique(images.subjects, return_counts=True)[1]
    if not len(images):
        return {kind: "there are no images" for kind in CHECKS}
    reasons = dict(_without_splits(view)) | sites.unchecked(images)
    if np.count_nonzero(~view.found.blank) < 2:
        reasons |= {
            kind: "fewer than two images hold anything" for kind in CHECKS if "copies" in kind
        }
    if root is None:
        reasons["files"] = "the images are no files"
    elif not confounders.file_properties([root / file for file in images.paths[:1]]):
        reasons["files"] = "the files cannot be read where they are named"
    if len(np.unique(images.labels)) < 2:
        of_labels = ("identical_labels", "copies_across_labels", "confounds", "several_labels")
        reasons["files"] = "all images have one label"
        reasons |= dict.fromkeys(of_labels, "all images have one label")
    elif not confounders.can_find(images.labels, images.subjects, len(images.classes)):
        reasons |= dict.fromkeys(("confounds", "files"), "too few subjects to tell it from chance")
    if len(sizes) < 2:
        reasons["copies_across_subjects"] = "there is one subject"
    if sizes.max() < 2:
        within = ("several_labels", "copies_within_subjects")
        reasons |= dict.fromkeys(within, "every subject has one image")
    if np.count_nonzero(sizes >= patients.FEWEST_IMAGES) < patients.FEWEST_SUBJECTS:
        reasons["twins"] = (
            f"fewer than {patients.FEWEST_SUBJECTS} subjects have {patients.FEWEST_IMAGES} images "
            "or more"
        )
    return reasons


def _without_splits(view: View) -> Iterator[tuple[str, str]]:
    if view.splits is None or len(np.unique(view.splits)) < 2:
        reason = "no splits were given" if view.splits is None else "there is one split"
        yield "subjects_across_splits", reason
        yield "copies_across_splits", reason
