"""A run's figures as text for the terminal: plain ASCII, at most `WIDTH` columns.

`Figures` is what `metrics.figures` returns and `BySplit` what `metrics.figures_by_split` returns:
{split: {'subject': Figures, 'image': Figures}}.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.evaluation import intervals, metrics
from sscjax.reports import paper
from sscjax.system.formatting import (
    NAME_WIDTH,
    SHARES,
    WIDTH,
    align,
    clean_name,
    number,
    percent,
    span,
)

Figures = Mapping[str, Any]
BySplit = Mapping[str, Mapping[str, Figures]]

# In the order in which they are shown: the patient first.
UNITS = {"subject": "subjects", "image": "images"}

STAND_INS = {
    "random": "RANDOM starting weights",
    "bundled": "BUNDLED starting weights, trained on drawn textures",
}
"""What a run may have started from where it should have been ImageNet's weights."""


_TITLES = {
    "precision": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
}


def figure_title(name: str) -> str:
    """A figure's key as words: `macro_auroc` as `macro AUROC`."""
    return _TITLES.get(name, name.replace("_", " ").replace("auroc", "AUROC"))


def results_table(
    figures_by_split: BySplit, splits: Sequence[str] = ("val", "test"), *, repeated: bool = False
) -> str:
    """The run's results: one table over all classes, then one per split over each class.

    Args:
      figures_by_split: the run's figures.
      splits: which splits to show, in this order; those without figures are left out.
      repeated: whether subjects and images were tested several times, so that tests are counted.
    """
    shown = [split for split in splits if split in figures_by_split]
    blocks = [_overall(figures_by_split, shown, "tests" if repeated else "n")]
    blocks += [_per_class(split, figures_by_split[split], repeated) for split in shown]
    return "\n\n".join(blocks)


def _overall(figures_by_split: BySplit, splits: Sequence[str], count: str) -> str:
    rows = [["split", "per", count, "accuracy", "balanced", "AUROC", "kappa", "log loss"]]
    for split in splits:
        for unit, figures in figures_by_split[split].items():
            row = [
                split,
                unit,
                str(figures["n"]),
                percent(figures["accuracy"]),
                percent(figures["balanced_accuracy"]),
                number(figures["macro_auroc"]),
                number(figures["quadratic_kappa"]),
                number(figures["log_loss"]),
            ]
            rows.append(row)
    return align(rows, left=2)


def intervals_table(
    figures: Mapping[str, Figures], ranges: Mapping[str, Figures], reach: str
) -> str:
    """Every figure of the test split with its interval, per subject and per image.

    Args:
      figures: {'subject': Figures, 'image': Figures} of the test split.
      ranges: what `intervals.test_figures` gives for the same predictions.
      reach: what the intervals can say, in view of how the run was split; sentences for the end.
    """
    notes = [textwrap.fill(note, WIDTH) for note in method_notes(ranges)]
    first, *rows = interval_rows(figures, ranges)
    # Narrower than on the page: so most tables fit without being divided.
    heading = [f"{first[0]}, per", *(cell.removeprefix("per ") for cell in first[1:])]
    table = align([heading, *rows], together=2)
    return "\n".join([table, textwrap.fill(reach, WIDTH), *notes])


def method_notes(ranges: Mapping[str, Figures]) -> list[str]:
    """Which method each interval is by, and why there is none; [] of runs that did not say so.

    Args:
      ranges: what `intervals.test_figures` gives.
    """
    by_method: dict[str, dict[str, None]] = {}
    for unit, of_unit in ranges.items():
        for name, method in of_unit.get("methods", {}).items():
            by_method.setdefault(method, {})[_kind_title(name)] = None
        for name, reason in of_unit.get("reasons", {}).items():
            text = f"No interval per {unit}, {reason}"
            by_method.setdefault(text, {})[_kind_title(name)] = None
    return [f"{method}: {', '.join(kinds)}." for method, kinds in by_method.items()]


def _kind_title(name: str) -> str:
    """A figure without its class: `precision early` as `PPV`."""
    return figure_title(name.partition(" ")[0])


def interval_rows(
    figures: Mapping[str, Figures], ranges: Mapping[str, Figures]
) -> list[tuple[str, ...]]:
    """The cells of `intervals_table`, its heading first: a figure, and of each unit two columns."""
    columns = [["test", *_interval_names(figures["image"])]]
    for unit, values in figures.items():
        pairs = zip(_in_rows(values), _in_rows(ranges[unit], values), strict=True)
        cells = [(_value(*entry), span(entry[0], ends[1])) for entry, ends in pairs]
        columns += [[f"per {unit}", *(value for value, _ in cells)]]
        columns += [["95 % interval", *(ends for _, ends in cells)]]
    return list(zip(*columns, strict=True))


def _in_rows(figures: Figures, shown: Figures | None = None) -> list[tuple[str, Any]]:
    """(name, value or interval) in the order of `_interval_names` of the figures shown."""
    shown = figures if shown is None else shown
    rows = [(name, figures.get(name)) for name in _overall_names(shown)]
    for name in intervals.PER_CLASS:
        pairs = zip(figures["per_class"], shown["per_class"], strict=True)
        rows += [(name, entry.get(name)) for entry, other in pairs if name in other]
    return rows


def _overall_names(figures: Figures) -> list[str]:
    """Runs of earlier versions have fewer figures."""
    return [name for name in (*metrics.OVERALL, *metrics.PROBABILITIES) if name in figures]


def _interval_names(figures: Figures) -> list[str]:
    names = [figure_title(name) for name in _overall_names(figures)]
    for name in intervals.PER_CLASS:
        names += [
            f"{figure_title(name)} {clean_name(entry['name'])}"
            for entry in figures["per_class"]
            if name in entry
        ]
    return names


def _value(name: str, value: float | None) -> str:
    return percent(value) if name in SHARES else number(value)


def _per_class(split: str, units: Mapping[str, Figures], repeated: bool) -> str:
    names = [clean_name(entry["name"]) for entry in next(iter(units.values()))["per_class"]]
    columns = [[split, *names]]
    for unit, figures in units.items():
        entries = figures["per_class"]
        columns += [
            [
                f"tests, {unit}" if repeated else UNITS.get(unit, unit),
                *(str(entry["support"]) for entry in entries),
            ],
            ["sensitivity", *(percent(entry["sensitivity"]) for entry in entries)],
            ["specificity", *(percent(entry["specificity"]) for entry in entries)],
        ]
    return align(list(zip(*columns, strict=True)), together=3)


def confusion_text(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A confusion matrix, true class in rows, predicted in columns, with each row's sensitivity.

    Where the names are too wide to stand above the columns, the columns are numbered as the rows.

    Args:
      confusion: [C][C] counts, for example `figures['confusion']`.
      classes: the C names.
    """
    names = [clean_name(name) for name in classes]
    columns, labels = names, names
    body = [[str(count) for count in row] for row in confusion]
    if sum(max(len(name) + 2, 6) for name in names) > WIDTH - NAME_WIDTH - 20:
        columns = [str(index + 1) for index in range(len(names))]
        places = len(columns[-1])
        labels = [f"{index:>{places}} {name}" for index, name in zip(columns, names, strict=True)]
    rows = [["true \\ predicted", *columns, "right"]]
    for index, cells in enumerate(body):
        total = sum(confusion[index])
        right = percent(confusion[index][index] / total if total else None)
        rows.append([labels[index], *cells, right])
    return align(rows)


def paper_table(
    num_classes: int,
    model: str,
    figures_by_split: BySplit,
    *,
    split_by: str,
    synthetic: bool,
) -> str:
    """The paper's figures for this model and number of classes beside the run's, per image.

    Args:
      num_classes: 2 or 3; the paper has no other study and the text says so.
      model: 'mobilenet_v2' or 'cnn'; the text says so where the paper has no such model.
      figures_by_split: the run's figures; classes are matched with the paper's by name.
      split_by: 'subject' or 'image', how the run was split.
      synthetic: the run's images are synthetic.
    """
    rows = paper_rows(num_classes, model, figures_by_split)
    if not rows:
        return paper_gap(num_classes, model)
    title = f"The paper's {paper.MODEL_TITLES[model]}, {num_classes} classes, beside this run"
    notes = [textwrap.fill(note, WIDTH - 4) for note in paper_notes(split_by, synthetic)]
    return "\n".join([title, "", align(rows, left=2), "", *notes])


def paper_gap(num_classes: int, model: str) -> str:
    """Why the paper has nothing to set beside such a run."""
    if num_classes not in paper.STUDIES:
        return f"The paper has no study of {num_classes} classes to set beside this run."
    return f"The paper has no results of {model} to set beside this run."


def paper_rows(num_classes: int, model: str, figures_by_split: BySplit) -> list[list[str]]:
    """The cells of `paper_table`, the heading first; [] where the paper has no such study."""
    if num_classes not in paper.STUDIES or model not in paper.MODELS:
        return []
    rows = [["split", "figure", "paper", "images", "this run", "images"]]
    for split in ("val", "test"):
        if split in figures_by_split:
            entry = paper.result(num_classes, model, split)
            ours = figures_by_split[split]["image"]
            rows += _paper_rows(entry, paper.STUDIES[num_classes], ours)
    return rows


def _paper_rows(entry: paper.Result, study: paper.Study, ours: Figures) -> list[list[str]]:
    """Rows of accuracy, and of each class's sensitivity and specificity where the run has it."""
    our_confusion = ours["confusion"]
    stated = paper.printed(entry.num_classes, entry.model, entry.split, "accuracy")
    right, total = paper.counts(entry)
    our_right = sum(row[index] for index, row in enumerate(our_confusion))
    # Not recomputed where printed: one of the paper's accuracies is rounded, not truncated.
    theirs = paper.truncated_percent(right, total) if stated is None else stated
    cells = [f"{theirs} %", f"{right}/{total}", percent(ours["accuracy"])]
    rows = [[entry.split, "accuracy", *cells, f"{our_right}/{ours['n']}"]]
    our_index = {name.lower(): index for index, name in enumerate(ours["classes"])}
    # Of two classes the one is the mirror of the other: show the disease alone, as the paper does.
    shown = study.classes[1:] if entry.num_classes == 2 else study.classes
    for quantity, count in (("sensitivity", paper.hits), ("specificity", paper.rejections)):
        for name in shown:
            if name in our_index:
                right, total = count(entry.confusion, study.classes.index(name))
                our_right, our_total = count(our_confusion, our_index[name])
                own = percent(our_right / our_total if our_total else None)
                cells = [f"{paper.truncated_percent(right, total)} %", f"{right}/{total}", own]
                rows.append(["", f"{quantity} {name}", *cells, f"{our_right}/{our_total}"])
    return rows


def paper_notes(split_by: str, synthetic: bool) -> list[str]:
    """What to bear in mind when the paper's figures stand beside the run's; a paragraph each."""
    notes = [paper.TRUNCATED]
    if synthetic:
        notes.append("Not comparable: this run's images are synthetic, the paper's are biopsies.")
    else:
        notes.append("The paper's images are private: this run's are others.")
    if split_by == "subject":
        notes.append(
            "Not comparable: the paper splits augmented images, so copies of one biopsy stand in "
            "train and test; this run keeps each subject in one split, a harder and fairer test."
        )
    else:
        notes.append(
            "Split by image as in the paper: images of one biopsy stand in train and test, so "
            "both columns overstate what a new patient would get."
        )
    return notes + paper.errata()


def parameter_line(frozen: int, trained: int, frozen_layers: Sequence[str] = ()) -> str:
    """What a stage freezes and trains, counted as the paper counts.

    Args:
      frozen: parameters that the stage does not train, BatchNorm's moving averages included.
      trained: parameters it trains.
      frozen_layers: names of the frozen layers in network order; empty where no layer is frozen.

    Returns:
      For example `frozen 37,664 parameters (layers Conv1 to block_1_expand_BN), trained 2,225,444`.
    """
    if len(frozen_layers) > 1:
        which = f" (layers {frozen_layers[0]} to {frozen_layers[-1]})"
    elif frozen_layers:
        which = f" (layer {frozen_layers[0]})"
    else:
        which = " (moving averages of BatchNorm)" if frozen else ""
    return f"frozen {frozen:,} parameters{which}, trained {trained:,}"
