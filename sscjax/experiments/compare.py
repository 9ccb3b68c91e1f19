"""Compare runs on the same images: `sscjax compare RUN_A RUN_B ...`.

`run_predictions` says what a RUN is. Where all of them follow the paper's own configs, the paper's
comparison of its two networks stands first.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import names
from sscjax.errors import UserError
from sscjax.evaluation import paired_tests
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import run_predictions
from sscjax.experiments.run_predictions import Run
from sscjax.reports import paper

_LOG = logging.getLogger(__name__)

UNITS = ("image", "subject")


# --- the same images ------------------------------------------------------------------------------


def align(runs: Sequence[Run], intersection: bool) -> list[Run]:
    """The runs with the same rows in the same order and the same classes.

    Args:
      runs: two or more.
      intersection: keep the images that all of them have, instead of refusing others.

    Raises:
      UserError: the runs do not have the same images with the same labels and subjects.
    """
    common = set.intersection(*(set(run.predictions.files.tolist()) for run in runs))
    for run in runs:
        if not intersection:
            _refuse_others(runs[0], run)
    if not common:
        raise UserError("the runs have no image in common: they are of other image sets")
    kept = [run.take(sorted(common)) for run in runs]
    first = kept[0]
    kept = [first, *(_with_names_of(first, run) for run in kept[1:])]
    for run in kept[1:]:
        _refuse_changes(first, run, "label", _labels(first), _labels(run))
        subjects = (one.predictions.subjects.tolist() for one in (first, run))
        _refuse_changes(first, run, "subject", *subjects)
        _refuse_changes(first, run, "content", *_contents(first, run))
        _refuse_other_subjects(first, run)
    # Outputs that stand for no class differ from model to model; classes keep the first's order.
    classes = tuple(dict.fromkeys(name for run in kept for name in run.predictions.classes))
    order = [name for name in classes if all(name in run.predictions.classes for run in kept)]
    same_order = all(
        [name for name in run.predictions.classes if name in order] == order for run in kept
    )
    return [
        dataclasses.replace(
            run,
            predictions=_with_classes(run.predictions, classes),
            subjects=_with_classes(run.subjects, classes),
            ordered=same_order and all(one.ordered for one in runs),
        )
        for run in kept
    ]


def _with_names_of(first: Run, other: Run) -> Run:
    """The second run with the first's names for classes that differ only in their spelling."""
    known = {names.key(name): name for name in first.predictions.classes}
    own = other.predictions.classes
    renamed = tuple(names.matched(name, known) or name for name in own)
    if renamed == own or len(set(renamed)) < len(own):
        return other
    for old, new in zip(own, renamed, strict=True):
        if old != new:
            _LOG.warning(
                "%s: the class %s is read as %s of %s: they differ only in %s",
                other.path, names.shown(old), names.shown(new), first.path,
                names.difference(old, new),
            )  # fmt: skip
    tables = (
        dataclasses.replace(table, classes=renamed) for table in (other.predictions, other.subjects)
    )
    images, subjects = tables
    return dataclasses.replace(other, predictions=images, subjects=subjects)


def _refuse_others(first: Run, other: Run) -> None:
    mine, theirs = (set(run.predictions.files.tolist()) for run in (first, other))
    if mine != theirs:
        examples = ", ".join(sorted(mine ^ theirs)[:3])
        raise UserError(
            f"{first.path} and {other.path} are not of the same images: {len(mine - theirs)} only "
            f"in the first, {len(theirs - mine)} only in the second ({examples}, ...); split both "
            f"alike (split.seed), or compare the {len(mine & theirs)} that both have by "
            "--intersection"
        )


def _refuse_changes(
    first: Run, other: Run, what: str, mine: Sequence[str], theirs: Sequence[str]
) -> None:
    """Refuse two runs that say different things of the same images, which are given in order."""
    files_of = first.predictions.files.tolist()
    found = [
        f"{file} ({one} and {two})"
        for file, one, two in zip(files_of, mine, theirs, strict=True)
        if one != two
    ]
    if found:
        strange = sorted(set(theirs) - set(mine)) if what == "label" else []
        named = f"; {first.path} has no image of {', '.join(strange[:3])}" if strange else ""
        raise UserError(
            f"{first.path} and {other.path} differ in the {what} of {len(found)} images: "
            f"{', '.join(found[:3])}{named}; compare runs of one image set"
        )


def _refuse_other_subjects(first: Run, other: Run) -> None:
    """Refuse runs for which a subject whose images have several labels is not the same."""
    known = [
        {
            (name, table.classes[label])
            for name, label in zip(table.subjects.tolist(), table.labels.tolist(), strict=True)
        }
        for table in (first.subjects, other.subjects)
    ]
    if known[0] != known[1]:
        names = sorted({name for name, _ in known[0] ^ known[1]})
        raise UserError(
            f"{first.path} and {other.path} differ in what {len(names)} subjects are "
            f"({', '.join(names[:3])}), whose images have several labels: compare runs with the "
            "same config.data.subject_label"
        )


def _labels(run: Run) -> list[str]:
    return [run.predictions.classes[label] for label in run.predictions.labels.tolist()]


def _contents(first: Run, other: Run) -> tuple[list[str], list[str]]:
    """The starts of each image's hashes; '' where the two are not hashes of the same thing."""
    mine, theirs = [], []
    for file in first.predictions.files.tolist():
        one, two = first.hashes.get(file), other.hashes.get(file)
        comparable = one is not None and two is not None and one[0] == two[0]
        mine.append(one[1][:12] if one and comparable else "")
        theirs.append(two[1][:12] if two and comparable else "")
    return mine, theirs


def _with_classes(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same table with a column for each of `classes`, 0 where the model has none."""
    columns = [classes.index(name) for name in predictions.classes]
    probabilities = np.zeros((len(predictions), len(classes)))
    probabilities[:, columns] = predictions.probabilities
    labels = np.array(columns, np.int32)[predictions.labels]
    return dataclasses.replace(
        predictions, labels=labels, probabilities=probabilities, classes=classes
    )


# --- comparing ------------------------------------------------------------------------------------


def compare_paper() -> list[dict[str, Any]]:
    """The paper's MobileNetV2 against its CNN, from their printed tables; ready for JSON.

    Which images both networks have right is not published, so the difference is given as of two
    independent sets of images. There is no p-value: images are augmented copies of some forty
    biopsies, and a test that takes them for independent finds differences that do not exist.

    Returns:
      per study and split: num_classes, split, n, first and second (images right), difference,
      interval.
    """
    comparisons = []
    for num_classes, split in itertools.product(sorted(paper.STUDIES), ("val", "test")):
        (first, n), (second, _) = (
            paper.counts(paper.result(num_classes, model, split)) for model in paper.MODELS
        )
        comparisons.append(
            {
                "num_classes": num_classes,
                "split": split,
                "n": n,
                "first": first,
                "second": second,
                "difference": (first - second) / n,
                "interval": list(paired_tests.unpaired_difference((first, n), (second, n))),
            }
        )
    return comparisons


def compare_folders(
    folders: Sequence[Path], split: str, intersection: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Compare the runs in 2 to 26 folders, see `align` and `compare_runs`.

    Raises:
      UserError: another number of folders, no finished run, or runs that cannot be compared.
    """
    if not 2 <= len(folders) <= len(string.ascii_uppercase):
        given = "1 run" if len(folders) == 1 else f"{len(folders)} runs"
        raise UserError(f"{given} given: expected 2 to 26 to compare")
    runs = [run_predictions.read_run(folder.expanduser(), split) for folder in folders]
    return compare_runs(align(runs, intersection), split, seed)


def compare_runs(runs: Sequence[Run], split: str, seed: int = 0) -> dict[str, Any]:
    """Every pair of aligned runs, per image and per subject; ready for JSON.

    Returns:
      paper: see `compare_paper`; [] unless all runs follow the paper's configs. split, classes, n,
      n_subjects, same_pixels (whether the images' hashes were compared), tests (how many p-values
      there are), runs: [{letter, path}], pairs: [{first, second (letters), image, subject: what
      `paired_tests.compare` gives, with `p_holm` beside each `p`, corrected over all of them}].
    """
    letters = string.ascii_uppercase
    ordered = runs[0].ordered
    pairs: list[dict[str, Any]] = []
    for one, other in itertools.combinations(range(len(runs)), 2):
        first, second = runs[one].predictions, runs[other].predictions
        pairs.append(
            {
                "first": letters[one],
                "second": letters[other],
                "image": paired_tests.compare(first, second, ordered, seed),
                "subject": paired_tests.compare(
                    runs[one].subjects, runs[other].subjects, ordered, seed
                ),
            }
        )
    entries = [entry for pair in pairs for unit in UNITS for entry in pair[unit]["figures"]]
    _correct(entries)
    predictions = runs[0].predictions
    return {
        "paper": compare_paper() if all(paper.compares(run.config) for run in runs) else [],
        "split": split,
        "classes": list(predictions.classes),
        "n": len(predictions),
        "n_subjects": len(set(predictions.subjects.tolist())),
        "same_pixels": all(all(_contents(runs[0], run)[0]) for run in runs[1:]),
        "runs": [
            {"letter": letter, "path": str(run.path)}
            for letter, run in zip(letters, runs, strict=False)
        ],
        "tests": sum(entry["p"] is not None for entry in entries),
        "pairs": pairs,
    }


def _correct(entries: Sequence[dict[str, Any]]) -> None:
    """Put Holm's p-values beside the plain ones, corrected for all pairs, figures and units."""
    corrected = paired_tests.holm([entry["p"] for entry in entries])
    for entry, value in zip(entries, corrected, strict=True):
        entry["p_holm"] = value
