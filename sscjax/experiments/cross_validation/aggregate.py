"""The end of a protocol: the test predictions of all its folds in one table, and what follows.

Two ways to sum up folds stand side by side, because they differ. Pooled figures come from one table
of all test predictions; they have intervals by subject. Means of folds average the figures that
each model has on its own test images, with the standard deviation. A pooled AUROC ranks the scores
of different models together; the mean of folds ranks each model's alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import dataset
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics, segmentation
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config, summarize
from sscjax.experiments.cross_validation import folds
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.reports import figures
from sscjax.reports.tables import confusion_text, intervals_table, paper_table, results_table
from sscjax.system import files, formatting, run_dir

COLUMNS = ("file", "label", "subject", "repeat", "fold")

# Figures that are no mean of anything where a class is missing from a fold.
_OF_ALL_CLASSES = ("balanced_accuracy", "macro_auroc", "quadratic_kappa")

_PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "auroc")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished fold as it lies in its folder.

    Attributes:
      fold: what was planned.
      metrics: its metrics.json.
      fallback: what stood in for ImageNet's weights, see `summarize.stand_in`.
      predictions: of its test images, by the model that it ended with.
      stages: the same by the model of each stage.
      search: of 'nested': the candidates, their scores and which was chosen.
      masks: of its test images, where masks are told.
    """

    fold: Fold
    metrics: dict[str, Any]
    fallback: str
    predictions: Predictions
    stages: dict[str, Predictions]
    search: dict[str, Any] | None
    masks: segmentation.Table | None = None


def read(fold: Fold, place: Path, image_set: ImageSet, search: dict[str, Any] | None) -> Outcome:
    """Read a finished fold from its folder `place`.

    Args:
      fold: what was planned.
      place: the fold's folder.
      image_set: the images of the whole protocol.
      search: see `Outcome`.

    Raises:
      UserError: its predictions are not those of the images that it was to test.
    """
    run = run_dir.RunDir(place)
    found, record = run.metrics(), run.record()
    return Outcome(
        fold=fold,
        metrics=found,
        fallback=summarize.stand_in(record["weights"]) if record else "",
        predictions=_tested(fold, run.predictions, image_set),
        stages={
            name: _tested(fold, run.stage(name).predictions, image_set) for name in found["stages"]
        },
        search=search,
        masks=_masks(fold, place, image_set, found.get("segmentation")),
    )


def _masks(
    fold: Fold, place: Path, image_set: ImageSet, found: dict[str, Any] | None
) -> segmentation.Table | None:
    """The masks of the test images, which must be those that the fold's figures are of."""
    if found is None or "test" not in found["splits"]:
        return None
    table = segmentation.read_csv(place / run_dir.MASKS).where("test")
    names = table.files.tolist()
    same = (
        set(names) <= set(image_set.files[fold.tested].tolist())
        and len(set(names)) == len(names) == found["splits"]["test"]["n"]
        and list(table.classes) == found["classes"]
    )
    if not same:
        raise UserError(
            f"{place / run_dir.MASKS}: its test rows are not the masks that {fold.name} tests; "
            "delete this fold's folder and give the same command again"
        )
    return table


def _tested(fold: Fold, path: Path, image_set: ImageSet) -> Predictions:
    """The test rows, which must be those that were planned, in the order of the set."""
    table = Predictions.read_csv(path).where("test")
    wanted = fold.tested
    same = len(table) == len(wanted) and all(
        np.array_equal(ours, theirs)
        for ours, theirs in (
            (table.files, image_set.files[wanted]),
            (table.subjects, image_set.subjects[wanted]),
            (table.labels, image_set.labels[wanted]),
        )
    )
    if not same:
        raise UserError(
            f"{path}: its test rows are not the {len(wanted)} images that {fold.name} tests; "
            "delete this fold's folder and give the same command again"
        )
    return table


def write(
    config: ConfigDict,
    folder: Path,
    image_set: ImageSet,
    synthetic: bool,
    outcomes: Sequence[Outcome],
    leaks: Sequence[str] = (),
) -> str:
    """Write tables, figures, picture and report of the whole; returns the text.

    Args:
      config: of the protocol.
      folder: of the protocol.
      image_set: the images that were split.
      synthetic: whether they are the embedded synthetic set.
      outcomes: of every fold, in the order of `folds.plan`.
      leaks: what the audit found to leak, though the protocol went on.
    """
    ordered = data_from_config.is_ordered(config, image_set, synthetic)
    nowhere = np.full(len(image_set), "test")
    images = dataset.Images(
        image_set, nowhere, image_set, synthetic, by=config.split.by, ordered=ordered
    )
    tables = by_repeat([one.predictions for one in outcomes], outcomes)
    by_stage = {
        name: by_repeat([one.stages[name] for one in outcomes], outcomes)
        for name in outcomes[0].stages
    }
    run = run_dir.RunDir(folder)
    joined(tables).write_csv(run.predictions)
    for name, of_stage in by_stage.items():
        joined(of_stage).write_csv(run.stage(name).predictions)
    _write_folds(folder / run_dir.FOLDS_TABLE, image_set, outcomes)
    warnings = summarize.warnings(
        images,
        fallback=max(one.fallback for one in outcomes),
        named=summarize.names_classes(config, synthetic),
        leaks=leaks,
    )
    found = {"warnings": warnings, **_metrics(config, outcomes, tables, by_stage, images)}
    told = [one.masks for one in outcomes if one.masks is not None]
    if told:
        whole = segmentation.join(told)
        whole.write_csv(folder / run_dir.MASKS)
        found["segmentation"] = segmentation.by_split(whole)
    files.write_json(folder / run_dir.METRICS, found)
    test = found["splits"]["test"]["image"]
    matrix = figures.confusion(test["confusion"], test["classes"], title="test images")
    figures.write_png(folder / run_dir.confusion_plot("test"), matrix)
    text = _text(config, folder, images, outcomes, found)
    files.write_text(folder / run_dir.REPORT, text)
    return text


# --- tables -------------------------------------------------------------------------------------


def by_repeat(found: Sequence[Predictions], outcomes: Sequence[Outcome]) -> list[Predictions]:
    """One table for each repeat, its images in the order of the set.

    Args:
      found: the test rows of each fold.
      outcomes: the folds, in the same order.
    """
    tables = []
    for repeat in sorted({one.fold.repeat for one in outcomes}):
        parts = [k for k, one in enumerate(outcomes) if one.fold.repeat == repeat]
        places = np.concatenate([outcomes[k].fold.tested for k in parts])
        if len(np.unique(places)) < len(places):
            raise AssertionError(f"an image is tested twice in repeat {repeat}")
        tables.append(joined([found[k] for k in parts], np.argsort(places)))
    return tables


def joined(tables: Sequence[Predictions], order: np.ndarray | None = None) -> Predictions:
    """The rows of several tables of the same classes as one, `order` [N] int applied to them."""
    whole = Predictions.join(tables)
    return whole if order is None else whole.take(order)


def _write_folds(path: Path, image_set: ImageSet, outcomes: Sequence[Outcome]) -> None:
    """Which fold tested each row of predictions.csv, in its order."""
    table: list[Sequence[Any]] = [COLUMNS]
    rows = sorted((one.fold.repeat, i, one.fold.name) for one in outcomes for i in one.fold.tested)
    for repeat, i, name in rows:
        label = image_set.classes[image_set.labels[i]]
        table.append([str(image_set.files[i]), label, str(image_set.subjects[i]), repeat, name])
    files.write_text(path, files.csv_text(table))


# --- figures ------------------------------------------------------------------------------------


def pooled(tables: Sequence[Predictions], ordered: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and intervals of all rows, {'image': ..., 'subject': ...} each.

    A subject's images are averaged within a repeat and not across: models are not made a committee.
    """
    units = {
        "image": joined(tables),
        "subject": joined([table.by_subject() for table in tables]),
    }
    return (
        {unit: metrics.figures(table, ordered) for unit, table in units.items()},
        {unit: intervals.figures(table, ordered) for unit, table in units.items()},
    )


def spread(found: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    """Mean and standard deviation of the figures of several test sets, shaped as the figures.

    Args:
      found: what `metrics.figures` gives for each.
      classes: how many of their classes are real; more outputs have no support.

    Returns:
      of each figure {'mean', 'sd', 'n'}: over the n sets where it is defined, and has every class
      where it is of all classes. sd is the sample's; None below two, as is the mean of none.
    """
    whole = [all(entry["support"] for entry in one["per_class"][:classes]) for one in found]

    def over(values: Sequence[float | None]) -> dict[str, Any]:
        defined = [value for value in values if value is not None]
        return {
            "mean": statistics.fmean(defined) if defined else None,
            "sd": statistics.stdev(defined) if len(defined) > 1 else None,
            "n": len(defined),
        }

    def overall(name: str) -> list[float | None]:
        need = name in _OF_ALL_CLASSES
        return [
            one[name] if every or not need else None
            for one, every in zip(found, whole, strict=True)
        ]

    return {
        **{name: over(overall(name)) for name in metrics.OVERALL},
        "per_class": [
            {
                "name": found[0]["per_class"][k]["name"],
                **{name: over([one["per_class"][k][name] for one in found]) for name in _PER_CLASS},
            }
            for k in range(classes)
        ],
    }


def _metrics(
    config: ConfigDict,
    outcomes: Sequence[Outcome],
    tables: Sequence[Predictions],
    by_stage: dict[str, list[Predictions]],
    images: dataset.Images,
) -> dict[str, Any]:
    """What stands in metrics.json: the keys of a run's, pooled, and the folds beside them."""
    ordered, classes = images.ordered, len(images.originals.classes)
    test, ranges = pooled(tables, ordered)
    chosen = {one.metrics["final_stage"] for one in outcomes}
    tests = [one.metrics["splits"]["test"] for one in outcomes]
    stages = {}
    for name, of_stage in by_stage.items():
        of_test, of_ranges = pooled(of_stage, ordered)
        first = outcomes[0].metrics["stages"][name]
        stage_tests = [one.metrics["stages"][name]["splits"]["test"] for one in outcomes]
        stages[name] = {
            "splits": {"test": of_test},
            "test_intervals": of_ranges,
            "over_folds": _over(stage_tests, classes),
            "frozen_parameters": first["frozen_parameters"],
            "trained_parameters": first["trained_parameters"],
        }
    repeats = [metrics.figures_by_split(table, ordered)["test"] for table in tables]
    # Of repeated hold-outs each repeat is one fold.
    several = len(tables) > 1 and config.protocol in folds.EXHAUSTIVE
    return {
        "protocol": config.protocol,
        "probabilities": {
            "splits": "calibrated",
            "stages": "as the network gave them",
            "temperature": None,  # each fold has its own
        },
        # None where folds chose different stages: the pooled model is then each fold's own.
        "final_stage": chosen.pop() if len(chosen) == 1 else None,
        "splits": {"test": test},
        "test_intervals": ranges,
        "stages": stages,
        "over_folds": _over(tests, classes),
        "over_repeats": _over(repeats, classes) if several else None,
        "folds": [_of_fold(one) for one in outcomes],
    }


def _over(tests: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    return {unit: spread([one[unit] for one in tests], classes) for unit in ("image", "subject")}


def _of_fold(one: Outcome) -> dict[str, Any]:
    kept = ("epochs", "best_epoch", "best_value", "stopped_early")
    return {
        "name": one.fold.name,
        "repeat": one.fold.repeat,
        "seed": one.fold.config.seed,
        "test_subjects": sorted(set(one.predictions.subjects.tolist())),
        "final_stage": one.metrics["final_stage"],
        "search": one.search,
        "temperature": one.metrics["probabilities"]["temperature"],
        "splits": {name: one.metrics["splits"][name] for name in ("val", "test")},
        "stages": {
            name: {key: stage[key] for key in kept} for name, stage in one.metrics["stages"].items()
        },
    }


# --- text ---------------------------------------------------------------------------------------


def _text(
    config: ConfigDict,
    folder: Path,
    images: dataset.Images,
    outcomes: Sequence[Outcome],
    found: dict[str, Any],
) -> str:
    test, ranges = found["splits"]["test"], found["test_intervals"]
    shown = test["image"]
    reach = summarize.reach(images, ranges) + (
        "\nThey take the models as they are; what other training images change, the folds show."
    )
    parts = [
        *found["warnings"],
        _title(config, images, outcomes),
        _folds_table(config, outcomes, found["over_folds"]["image"]),
    ]
    if config.protocol == "nested":
        parts.append(_search_table(outcomes))
    parts.append(_pooled_title(found))
    if len(found["stages"]) > 1:
        parts.append(_stages_table(found["stages"]))
    parts += [
        results_table(found["splits"]),
        intervals_table(test, ranges, reach),
        *([segmentation.text(found["segmentation"])] if "segmentation" in found else []),
        "test images\n" + confusion_text(shown["confusion"], shown["classes"]),
        paper_table(
            len(images.originals.classes),
            config.model.name,
            found["splits"],
            split_by=images.by if images.has_subjects else "image",
            synthetic=images.synthetic,
        ),
        f"Everything lies in {folder}",
    ]
    return "\n\n".join(parts) + "\n"


def _title(config: ConfigDict, images: dataset.Images, outcomes: Sequence[Outcome]) -> str:
    kind, repeats = config.protocol, len({one.fold.repeat for one in outcomes})
    number, by = len(images.originals), config.split.by
    what = folds.TITLES[kind]
    if kind in ("kfold", "nested"):
        what = f"{config.cv.folds}-fold {what}"
    times = "once" if repeats == 1 else f"{repeats} times"
    lines = [f"{what[0].upper()}{what[1:]} by {by}: {len(outcomes)} models of {number} images."]
    if kind in folds.EXHAUSTIVE:
        unseen = "a model that saw no image of its subject"
        if by == "image":
            unseen = "a model that did not see it, but maybe others of its subject"
        lines.append(f"Each image is tested {times}, by {unseen}.")
    else:
        lines.append("Each model is tested on another draw: an image may be tested often or never.")
    if kind == "nested":
        lines.append(
            f"Each fold chose its settings by {config.cv.inner_folds} inner folds of its own "
            "training images."
        )
    return "\n".join(lines)


def _folds_table(config: ConfigDict, outcomes: Sequence[Outcome], over: dict[str, Any]) -> str:
    """One row per fold with the figures of its test images, then mean and standard deviation."""
    loso = config.protocol == "loso"
    names = ("accuracy", "log_loss") if loso else metrics.OVERALL
    shares = ("accuracy", "balanced_accuracy")
    heads = {"balanced_accuracy": "balanced", "macro_auroc": "AUROC", "quadratic_kappa": "kappa"}
    columns = [heads.get(name, name.replace("_", " ")) for name in names]
    head = "subject" if loso else "subjects"
    rows = [["fold", head, "images", "stage", "val balanced", *columns]]

    def cell(name: str, value: float | None) -> str:
        return formatting.percent(value) if name in shares else formatting.number(value)

    for one in outcomes:
        subjects = sorted(set(one.predictions.subjects.tolist()))
        tested = formatting.clean_name(subjects[0]) if loso else str(len(subjects))
        splits = one.metrics["splits"]
        rows.append(
            [
                one.fold.name,
                tested,
                str(len(one.predictions)),
                formatting.clean_name(one.metrics["final_stage"], 12),
                formatting.percent(splits["val"]["image"]["balanced_accuracy"]),
                *(cell(name, splits["test"]["image"][name]) for name in names),
            ]
        )
    for title, key in (("mean of folds", "mean"), ("sd of folds", "sd")):
        rows.append([title, "", "", "", "", *(cell(name, over[name][key]) for name in names)])
    return formatting.align(rows, left=2 if loso else 1)


def _search_table(outcomes: Sequence[Outcome]) -> str:
    rows = [["fold", "chosen by the inner folds", "mean score", "of candidates"]]
    for one in outcomes:
        assert one.search is not None
        chosen = one.search["candidates"][one.search["chosen"]]
        cells = [
            chosen["name"],
            formatting.number(chosen["mean"]),
            str(len(one.search["candidates"])),
        ]
        rows.append([one.fold.name, *cells])
    assert outcomes[0].search is not None
    return formatting.align(rows, left=2) + f"\nScores: {outcomes[0].search['metric']}."


def _pooled_title(found: dict[str, Any]) -> str:
    macro = found["over_folds"]["image"]["macro_auroc"]
    lines = [
        "All test predictions in one table (pooled). A pooled AUROC ranks the scores of different",
        "models together; " + _own_auroc(macro),
    ]
    if found["over_repeats"] is not None:
        over = found["over_repeats"]["image"]["accuracy"]
        lines.append(
            f"Accuracy of each repeat's own table: mean {formatting.percent(over['mean'])}, "
            "standard "
            f"deviation {formatting.percent(over['sd'])}."
        )
    return "\n".join(lines)


def _own_auroc(macro: dict[str, Any]) -> str:
    if macro["mean"] is None:
        return "no fold has images of every class, so none has a macro AUROC of its own."
    mean = formatting.number(macro["mean"])
    return f"the mean of the {macro['n']} folds' own macro AUROC is {mean}."


def _stages_table(stages: dict[str, Any]) -> str:
    rows = [
        ["stage, pooled", "accuracy", "95 % interval", "balanced", "macro AUROC", "log loss, raw"]
    ]
    for name, stage in stages.items():
        own, range_ = stage["splits"]["test"]["image"], stage["test_intervals"]["image"]
        rows.append(
            [
                formatting.clean_name(name),
                formatting.percent(own["accuracy"]),
                formatting.span("accuracy", range_["accuracy"]),
                formatting.percent(own["balanced_accuracy"]),
                formatting.number(own["macro_auroc"]),
                formatting.number(own["log_loss"]),
            ]
        )
    return formatting.align(rows)
