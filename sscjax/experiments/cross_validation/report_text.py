"""The report of a cross-validation, as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sscjax.data import dataset
from sscjax.evaluation import metrics, segmentation
from sscjax.experiments import run_text
from sscjax.experiments.cross_validation import folds, procedure
from sscjax.experiments.cross_validation.outcomes import Outcome
from sscjax.experiments.handed_on import Tested, sentence
from sscjax.reports import calibration_text, paper, site_table
from sscjax.reports.tables import (
    UNITS,
    confusion_text,
    intervals_table,
    paper_table,
    results_table,
)
from sscjax.system import formatting
from sscjax.training.settings import Settings


def report(
    settings: Settings,
    folder: Path,
    images: dataset.Images,
    outcomes: Sequence[Outcome],
    figures: dict[str, Any],
    calibration: dict[str, Any],
    labels: str | None = None,
    tested: Tested | None = None,
) -> str:
    """The report of a cross-validation.

    Args:
      settings: of the cross-validation.
      folder: where it lies.
      images: all of them, each with the split 'test'.
      outcomes: of every fold.
      figures: its metrics.json.
      calibration: its calibration.json.
      labels: on labels that predictions contradict; None where there is nothing to say.
      tested: what the model of all images is described by; None where there is none.
    """
    test, ranges = figures["splits"]["test"], figures["test_intervals"]
    reach = run_text.reach(images, ranges) + (
        " They take the models as they are. The standard deviation of the folds is mostly the "
        "difference between their test subjects; it does not show what other training subjects "
        "would change."
    )
    repeated = figures["over_repeats"] is not None
    again = procedure.text(figures["over_folds"], figures["procedure_intervals"])
    parts = [
        *map(formatting.paragraph, figures["warnings"]),
        *run_text.test_lines(figures["tested"]),
        _title(settings, images, outcomes, figures.get("sites", {}).get("apart", False)),
        *([formatting.paragraph(sentence(tested.about))] if tested else []),
        _folds_table(settings, outcomes, figures["over_folds"]),
    ]
    if settings.protocol == "nested":
        parts.append(_search_table(outcomes))
    parts.append(_aggregate_title(figures))
    if len(figures["stages"]) > 1:
        parts.append(_stages_table(figures["stages"]))
    parts += [
        results_table(figures["splits"], repeated=repeated),
        intervals_table(test, ranges, reach),
        *([again] if again else []),
        *([site_table.text(figures["sites"])] if "sites" in figures else []),
        *([segmentation.text(figures["segmentation"])] if "segmentation" in figures else []),
        *(
            f"{_tested(unit, repeated)}\n" + confusion_text(shown["confusion"], shown["classes"])
            for unit, shown in test.items()
        ),
        calibration_text.text(calibration, repeated),
    ]
    if paper.compares(settings.name):
        parts.append(
            paper_table(
                len(images.originals.classes),
                settings.model.name,
                figures["splits"],
                split_by=images.by if images.has_subjects else "image",
                synthetic=images.synthetic,
            )
        )
    if labels:
        parts.append(labels)
    parts.append(f"Everything lies in {folder}")
    return "\n\n".join(parts) + "\n"


def _tested(unit: str, repeated: bool) -> str:
    return f"tests of {UNITS[unit]}, of all repeats" if repeated else f"test {UNITS[unit]}"


def _title(
    settings: Settings, images: dataset.Images, outcomes: Sequence[Outcome], apart: bool
) -> str:
    kind, repeats = settings.protocol, len({one.fold.repeat for one in outcomes})
    number, by = len(images.originals), settings.split.by
    what = folds.TITLES[kind]
    if kind in ("kfold", "nested"):
        what = f"{settings.cv.folds}-fold {what}"
    times = "once" if repeats == 1 else f"{repeats} times"
    lines = [f"{what[0].upper()}{what[1:]} by {by}: {len(outcomes)} models of {number} images."]
    if kind in folds.EXHAUSTIVE:
        unseen = "a model that saw no image of its subject"
        if by == "image":
            unseen = "a model that did not see it, but maybe others of its subject"
        lines.append(f"Each image is tested {times}, by {unseen}.")
    else:
        lines.append("Each model is tested on another draw: an image may be tested often or never.")
    if apart:
        lines.append("No site is trained on and tested by one model: folds keep sites apart.")
    if kind == "nested":
        lines.append(
            f"Each fold chose its settings by {settings.cv.inner_folds} inner folds of its own "
            "training images."
        )
    return "\n".join(map(formatting.paragraph, lines))


def _folds_table(settings: Settings, outcomes: Sequence[Outcome], over: dict[str, Any]) -> str:
    """One row per fold with the figures of its test images, then mean and standard deviation."""
    loso = settings.protocol == "loso"
    by_site = settings.protocol == "leave_one_site_out"
    names: Sequence[str] = ("accuracy", "log_loss") if loso else metrics.OVERALL
    if by_site:  # the column of sites takes its place
        names = [name for name in names if name != "quadratic_kappa"]
    shares = ("accuracy", "balanced_accuracy")
    heads = {
        "balanced_accuracy": "balanced",
        "macro_auroc": "AUROC",
        "quadratic_kappa": "kappa",
    }
    columns = [heads.get(name, name.replace("_", " ")) for name in names]
    head = [*(["site"] if by_site else []), "subject" if loso else "subjects"]
    rows = [["fold", *head, *([] if loso else ["right"]), "images", "stage", *columns]]

    def cell(name: str, value: float | None) -> str:
        return formatting.percent(value) if name in shares else formatting.number(value)

    for outcome in outcomes:
        subjects = sorted(set(outcome.predictions.subjects.tolist()))
        tested = [formatting.clean_name(subjects[0]) if loso else str(len(subjects))]
        if by_site:
            tested.insert(0, formatting.clean_name(outcome.fold.config.split.test_site, 16))
        splits = outcome.metrics["splits"]
        rows.append(
            [
                outcome.fold.name,
                *tested,
                *([] if loso else [formatting.percent(splits["test"]["subject"]["accuracy"])]),
                str(len(outcome.predictions)),
                formatting.clean_name(outcome.metrics["final_stage"], 12),
                *(cell(name, splits["test"]["image"][name]) for name in names),
            ]
        )
    for title, key in (("mean of folds", "mean"), ("sd of folds", "sd")):
        right = [] if loso else [formatting.percent(over["subject"]["accuracy"][key])]
        of_images = (cell(name, over["image"][name][key]) for name in names)
        rows.append([title, *("" for _ in head), *right, "", "", *of_images])
    table = formatting.align(rows, left=2 if loso or by_site else 1)
    return f"{table}\nRight: share of the subjects. After `stage`: figures per image."


def _search_table(outcomes: Sequence[Outcome]) -> str:
    rows = [["fold", "chosen by the inner folds", "mean score", "of candidates"]]
    for outcome in outcomes:
        assert outcome.search is not None
        chosen = outcome.search["candidates"][outcome.search["chosen"]]
        cells = [
            chosen["name"],
            formatting.number(chosen["mean"]),
            str(len(outcome.search["candidates"])),
        ]
        rows.append([outcome.fold.name, *cells])
    assert outcomes[0].search is not None
    return formatting.align(rows, left=2) + f"\nScores: {outcomes[0].search['metric']}."


def _aggregate_title(figures: dict[str, Any]) -> str:
    macro = figures["over_folds"]["image"]["macro_auroc"]
    lines = [
        "All test predictions in one table (aggregated).",
        "Its AUROC ranks the scores of different models together;",
        _own_auroc(macro),
    ]
    if figures["over_repeats"] is not None:
        over = figures["over_repeats"]["image"]["accuracy"]
        lines.append(
            f"Accuracy of each repeat's own table: mean {formatting.percent(over['mean'])}, "
            "standard "
            f"deviation {formatting.percent(over['sd'])}."
        )
    return "\n".join(map(formatting.paragraph, lines))


def _own_auroc(macro: dict[str, Any]) -> str:
    if macro["mean"] is None:
        return "no fold has images of every class, so none has a macro AUROC of its own."
    mean = formatting.number(macro["mean"])
    return f"the mean of the {macro['n']} folds' own macro AUROC is {mean}."


def _stages_table(stages: dict[str, Any]) -> str:
    rows = [["stage, raw", "per", "accuracy", "95 % interval", "balanced", "AUROC", "log loss"]]
    for name, stage in stages.items():
        for unit in UNITS:
            own, range_ = stage["splits"]["test"][unit], stage["test_intervals"][unit]
            rows.append(
                [
                    formatting.clean_name(name),
                    unit,
                    formatting.percent(own["accuracy"]),
                    formatting.span("accuracy", range_["accuracy"]),
                    formatting.percent(own["balanced_accuracy"]),
                    formatting.number(own["macro_auroc"]),
                    formatting.number(own["log_loss"]),
                ]
            )
    return formatting.align(rows, left=2)
