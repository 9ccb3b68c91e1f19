"""Compare runs on the same images: `sscjax compare RUN_A RUN_B ...`.

A RUN is the folder of a run, of one of its stages (RUN/stages/NAME) or of a cross-validation, or a
predictions.csv. Where all of them follow the paper's own configs, the paper's comparison of its two
networks stands first.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import manifest, names
from sscjax.errors import UserError
from sscjax.evaluation import paired_tests
from sscjax.evaluation import predictions as predictions_module
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import paper
from sscjax.system import files, run_dir

_LOG = logging.getLogger(__name__)

UNITS = ("image", "subject")


@dataclasses.dataclass(frozen=True)
class Run:
    """What is compared.

    Attributes:
      path: as it was given.
      predictions: the rows of one split.
      ordered: whether its classes are a scale, so that kappa has a meaning.
      hashes: SHA-256 of the run's images by name, and of what ('file' or 'pixels'); empty where
        there is no manifest.
      config: the name of its config; '' where there is no record.
    """

    path: Path
    predictions: Predictions
    ordered: bool
    hashes: Mapping[str, tuple[str, str]]
    config: str = ""


# --- reading --------------------------------------------------------------------------------------


def read_run(path: Path, split: str) -> Run:
    """Read the predictions of a run, a stage, or the first repeat of a cross-validation.

    Raises:
      UserError: there are none, or none of this split, or an image is predicted twice.
    """
    table = path / run_dir.PREDICTIONS if path.is_dir() else path
    if not table.is_file():
        raise UserError(f"{path} holds no {run_dir.PREDICTIONS}: give the folder of a finished run")
    predictions = predictions_module.Predictions.read_csv(table).where(split)
    if not len(predictions):
        raise UserError(f"{table} has no rows of the split {split!r}: choose another --split")
    of_stage = table.parent.parent.name == run_dir.STAGES
    folder = table.parent.parent.parent if of_stage else table.parent
    unique, counts = np.unique(predictions.files, return_counts=True)
    repeats, once = int(counts.max()), predictions.files[: len(unique)]
    # Repeat after repeat, each with every image; those of hold-outs have others each time.
    in_turn = np.array_equal(predictions.files, np.tile(once, repeats))
    if repeats > 1 and in_turn and run_dir.RunDir(folder).has(run_dir.PROTOCOL):
        # Tested several times, a patient is still one patient.
        predictions = predictions.take(np.arange(len(unique)))
        _LOG.info("%s: the first of %d repeats is taken", path, repeats)
    elif repeats > 1:
        raise UserError(
            f"{table} predicts {unique[counts.argmax()]} {repeats} times in the split "
            f"{split!r}, expected once: give one run or fold, not several in one table"
        )
    return Run(path, predictions, _is_ordered(folder), _hashes(folder), _config_name(folder))


def _config_name(folder: Path) -> str:
    """The name of the config that the run or cross-validation followed, or ''."""
    run = run_dir.RunDir(folder)
    for name in (run_dir.RECORD, run_dir.PROTOCOL):
        record = run.optional(name)
        if isinstance(record, dict) and isinstance(record.get("config"), dict):
            return str(record["config"].get("name", ""))
    return ""


def _is_ordered(folder: Path) -> bool:
    """Whether the run has a kappa among its own metrics."""
    path = folder / run_dir.METRICS
    if not path.is_file():
        return False
    try:
        splits = files.read_json(path)["splits"].values()
        return any(split["image"]["quadratic_kappa"] is not None for split in splits)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): give {folder / run_dir.PREDICTIONS} in a folder "
            "without it"
        ) from error


def _hashes(folder: Path) -> dict[str, tuple[str, str]]:
    """By the run's manifest; all folds of a cross-validation have the same images."""
    own = run_dir.RunDir(folder)
    for run in (own, *own.folds(run_dir.MANIFEST)):
        if run.has(run_dir.MANIFEST):
            rows = manifest.read(run.path)["images"]
            return {row["file"]: (row["of"], row["sha256"]) for row in rows}
    return {}


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
    kept = [_take(run, sorted(common)) for run in runs]
    first = kept[0]
    kept = [first, *(_with_names_of(first, run) for run in kept[1:])]
    for run in kept[1:]:
        _refuse_changes(first, run, "label", _labels(first), _labels(run))
        subjects = (one.predictions.subjects.tolist() for one in (first, run))
        _refuse_changes(first, run, "subject", *subjects)
        _refuse_changes(first, run, "content", *_contents(first, run))
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
    return dataclasses.replace(
        other, predictions=dataclasses.replace(other.predictions, classes=renamed)
    )


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


def _take(run: Run, files: list[str]) -> Run:
    place = {file: row for row, file in enumerate(run.predictions.files.tolist())}
    rows = np.array([place[file] for file in files])
    return dataclasses.replace(run, predictions=run.predictions.take(rows))


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
    runs = [read_run(folder.expanduser(), split) for folder in folders]
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
                    first.by_subject(), second.by_subject(), ordered, seed
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
