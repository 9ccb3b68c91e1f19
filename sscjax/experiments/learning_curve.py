"""What more training subjects would gain: `sscjax learning-curve RUN|FOLDER`.

The classifier is fitted to nested subsets of the training subjects of each fold, from a few to
all, and tested on the fold's other subjects; several repeats with other folds and subsets. An
inverse power law extrapolates (`evaluation.power_law`). The backbone is frozen and its features are
computed once, so that a curve takes minutes; what fine-tuning would gain it does not say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import splits
from sscjax.errors import UserError
from sscjax.evaluation import resampling
from sscjax.evaluation.learning_curve import Curve, Measured, Point, curve_of
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import frozen_head, overrides
from sscjax.experiments.frozen_head import FrozenHead
from sscjax.reports import figures
from sscjax.system import files, formatting, run_dir
from sscjax.system.progress import Progress

# A figure and its unit; whether more data raise it.
FIGURES = (
    ("balanced_accuracy", "subject", True),
    ("balanced_accuracy", "image", True),
    ("log_loss", "subject", False),
    ("log_loss", "image", False),
)

# Numbers of training subjects, where none are given.
_SIZES = 6


@dataclasses.dataclass(frozen=True)
class Options:
    """How the curve is measured.

    Attributes:
      sizes: numbers of training subjects; () for six from a few to all.
      folds: of each repeat.
      repeats: with other folds and subsets.
      seed: of folds, subsets and resamples.
    """

    sizes: Sequence[int] = ()
    folds: int = 5
    repeats: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raise a UserError for a number out of its range."""
        for name, value, least in (("folds", self.folds, 2), ("repeats", self.repeats, 1)):
            if value < least:
                raise UserError(f"--{name}={value}: expected {least} or more")
        if self.sizes and len(set(self.sizes)) < 3:
            raise UserError(
                f"--sizes={' '.join(map(str, self.sizes))}: expected three or more different "
                "numbers of training subjects, or a curve cannot be fitted"
            )


def config_of(
    path: Path, config: str, data: str | None, classes: Sequence[str], weights: str | None
) -> ConfigDict:
    """The config whose images and backbone are used.

    Args:
      path: the folder of a run or cross-validation, or of images.
      config: name or file of the config for a folder of images.
      data: the images of a run that are elsewhere now; None for those of its record.
      classes: names in label order, for a folder of images; () for the sorted ones.
      weights: in place of the config's `pretrained`; None for that.

    Raises:
      UserError: no such folder, or no such config.
    """
    run = run_dir.RunDir(path)
    if run.has(run_dir.PROTOCOL):
        chosen = ConfigDict(run.protocol()["config"])
    elif run.has(run_dir.RECORD):
        chosen = ConfigDict(run.finished_record()["config"])
    elif path.exists():
        chosen = overrides.config_of(config)
        overrides.set_fields(chosen, {"data.path": str(path)})
    else:
        raise UserError(f"{path} does not exist: give the folder of a run or of images")
    if data is not None:
        chosen.data.path = data
    if classes:
        chosen.data.classes = tuple(classes)
    if weights is not None:
        chosen.pretrained = weights
    return chosen


def learning_curve(path: Path, config: ConfigDict, options: Options, out: Path) -> str:
    """Measure, extrapolate and write a text, JSON, CSV and a picture; returns the text.

    Args:
      path: as given by the user, for the text.
      config: as `config_of` gives it.
      options: how it is measured.
      out: folder to write to.

    Raises:
      UserError: too few subjects, sizes out of range, images or weights that are not available.
    """
    options.check()
    head = frozen_head.load(config)
    measured = measure(head, options)
    curves = [curve_of(measured, *figure, seed=options.seed) for figure in FIGURES]
    text = _text(path, head, options, curves)
    files.write_text(out / run_dir.LEARNING_CURVE_TEXT, text + "\n")
    about = {
        "path": str(path),
        "config": config.name,
        "weights": head.weights,
        "images": len(head.images),
        "subjects": len(set(head.images.subjects.tolist())),
        "folds": options.folds,
        "repeats": options.repeats,
        "seed": options.seed,
        "curves": [dataclasses.asdict(curve) for curve in curves],
    }
    files.write_json(out / run_dir.LEARNING_CURVE_JSON, about)
    files.write_text(out / run_dir.LEARNING_CURVE_TABLE, files.csv_text(_table(curves)))
    picture = figures.subject_curves(_panels(curves), int(measured.sizes[-1]))
    figures.write_png(out / run_dir.LEARNING_CURVE_PLOT, picture)
    return text


# --- measuring ------------------------------------------------------------------------------------


def measure(head: FrozenHead, options: Options) -> Measured:
    """Fit classifiers to nested subsets of subjects, and predict the subjects of other folds.

    Raises:
      UserError: too few subjects of a class, or sizes out of range.
    """
    images = head.images
    names, group = np.unique(images.subjects, return_inverse=True)
    votes = np.zeros((len(names), len(images.classes)), np.int64)
    np.add.at(votes, (group, images.labels), 1)
    strata = votes.argmax(axis=1)
    of_class = np.bincount(strata, minlength=len(images.classes))
    least = max(options.folds, resampling.FEWEST_SUBJECTS)
    if of_class.min() < least:
        raise UserError(
            f"class {images.classes[int(of_class.argmin())]!r} has {of_class.min()} subjects: a "
            f"learning curve by {options.folds} folds needs {least} of each class; lower --folds, "
            "or merge classes (config.data.merge)"
        )
    plans = [_orders(images, group, strata, options, repeat) for repeat in range(options.repeats)]
    most = min(len(order) for plan in plans for _, order in plan)
    sizes = _sizes(options.sizes, len(images.classes), most)
    tables = []
    total = options.repeats * options.folds * len(sizes)
    with Progress("classifiers", total) as progress:
        for plan in plans:
            probabilities = np.zeros((len(sizes), len(images), len(images.classes)))
            for tested, order in plan:
                test = np.flatnonzero(tested)
                for place, size in enumerate(sizes.tolist()):
                    train = np.flatnonzero(np.isin(group, order[:size]))
                    probabilities[place, test] = head.predict(train, test)
                    progress.advance(1)
            tables.append([_predictions(head, one) for one in probabilities])
    return Measured(sizes, tables)


def _orders(
    images: Any, group: np.ndarray, strata: np.ndarray, options: Options, repeat: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each fold the images that it tests, [N] bool, and its training subjects, [S] int.

    They are in the order in which they are added: one of each class, then so that the shares of the
    classes stay the same.
    """
    seed = np.random.SeedSequence([options.seed, repeat])
    folds = splits.subject_folds(images, options.folds, int(seed.generate_state(1)[0] >> 1))
    rng = np.random.default_rng(seed)
    plan = []
    for fold in range(int(folds.max()) + 1):
        tested = folds == fold
        subjects = np.unique(group[~tested])
        position = np.zeros(len(subjects))
        for label in np.unique(strata[subjects]):
            members = rng.permutation(np.flatnonzero(strata[subjects] == label))
            position[members] = (np.arange(len(members)) + rng.random()) / len(members)
            position[members[0]] = -1
        plan.append((tested, subjects[np.argsort(position, kind="stable")]))
    return plan


def _sizes(given: Sequence[int], classes: int, most: int) -> np.ndarray:
    """Numbers of training subjects, rising."""
    least = 2 * classes
    if given:
        wrong = [size for size in given if not classes <= size <= most]
        if wrong:
            raise UserError(
                f"--sizes: {wrong[0]} training subjects: expected {classes}, one for each class, "
                f"to {most}, what the folds leave to train on"
            )
        return np.unique(given)
    sizes = np.unique(np.round(np.geomspace(min(least, most), most, _SIZES)).astype(int))
    if len(sizes) < 3:
        raise UserError(
            f"the folds leave {most} subjects to train on: too few for a learning curve; raise "
            "--folds, or use more subjects"
        )
    return sizes


def _predictions(head: FrozenHead, probabilities: np.ndarray) -> Predictions:
    images = head.images
    return Predictions(
        files=images.files,
        subjects=images.subjects,
        splits=np.full(len(images), "test"),
        labels=images.labels,
        probabilities=probabilities,
        classes=images.classes,
    )


# --- what is written ------------------------------------------------------------------------------


def _title(curve: Curve) -> str:
    return f"{curve.figure.replace('_', ' ')} per {curve.unit}"


def _show(curve: Curve, point: Point) -> str:
    is_share = curve.figure == "balanced_accuracy"
    value = formatting.percent(point.value) if is_share else formatting.number(point.value)
    if point.low is None or point.high is None:
        return value
    ends = (point.low, point.high)
    span = formatting.share_span(ends) if is_share else formatting.span(curve.figure, ends)
    return f"{value} ({span})"


def _text(path: Path, head: FrozenHead, options: Options, curves: Sequence[Curve]) -> str:
    subjects = len(set(head.images.subjects.tolist()))
    weights = formatting.clean_file(head.weights, 40)
    blocks = [
        f"{formatting.clean_file(str(path), 50)}: {len(head.images)} images of {subjects} "
        f"subjects\nL2-regularised classifier on frozen features ({weights}),\n"
        f"{options.folds} folds by subject, {options.repeats} repeats"
    ]
    for unit in ("subject", "image"):
        shown = [curve for curve in curves if curve.unit == unit]
        lines = [["training subjects", *(_title(curve) for curve in shown)]]
        for place, point in enumerate(shown[0].points):
            cells = [_show(curve, curve.points[place]) for curve in shown]
            lines.append([str(point.subjects), *cells])
        for place, point in enumerate(shown[0].forecast):
            cells = [_show(curve, curve.forecast[place]) for curve in shown]
            lines.append([f"{point.subjects}, extrapolated", *cells])
        lines.append(["endless, extrapolated", *(_show(curve, curve.limit) for curve in shown)])
        blocks.append(formatting.align(lines))
    blocks.append(
        "Per subject: the mean of its images' probabilities, neither of them calibrated.\n"
        "In brackets 95 % confidence intervals: a bootstrap of the tested subjects and of\n"
        "the repeats. Extrapolated: an inverse power law (Figueroa et al. 2012), fitted\n"
        "again in each resample. It assumes that new subjects are like these and that\n"
        "the curve keeps its form, which no interval covers; the further out, the less\n"
        "it says."
    )
    return "\n\n".join(blocks)


def _table(curves: Sequence[Curve]) -> Iterator[list[Any]]:
    yield ["figure", "unit", "kind", "training_subjects", "value", "low", "high"]
    for curve in curves:
        for kind, points in (("measured", curve.points), ("extrapolated", curve.forecast)):
            for point in points:
                ends = [point.value, point.low, point.high]
                yield [curve.figure, curve.unit, kind, point.subjects, *ends]


def _panels(curves: Sequence[Curve]) -> list[list[Mapping[str, Any]]]:
    """Shares in one panel, losses in the other."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for curve in curves:
        panels.setdefault(curve.figure, []).append(
            {
                "title": _title(curve),
                "is_share": curve.figure == "balanced_accuracy",
                "points": [_ends(point) for point in curve.points],
                "forecast": [_ends(point) for point in curve.drawn],
            }
        )
    return list(panels.values())


def _ends(point: Point) -> dict[str, float]:
    """A point whose interval, where there is none, is the value itself."""
    low = point.value if point.low is None else min(point.low, point.value)
    high = point.value if point.high is None else max(point.high, point.value)
    return {"subjects": point.subjects, "value": point.value, "low": low, "high": high}
