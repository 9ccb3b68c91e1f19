"""A comparison of runs as text: plain ASCII for the terminal, and Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.reports import paper, tables
from sscjax.system import formatting

# Figures that are shares, shown in percent.
SHARES = ("accuracy", "balanced_accuracy")

Rows = list[list[str]]


def terminal(compared: Mapping[str, Any]) -> str:
    """What `compare.compare_runs` returns as aligned tables, at most `formatting.WIDTH` columns."""
    parts = []
    for title, rows, notes in _sections(compared):
        table = [formatting.align(rows)] if rows else []
        parts.append("\n".join([*([title] if title else []), *table, *notes]))
    return "\n\n".join(parts) + "\n"


def markdown(compared: Mapping[str, Any]) -> str:
    """The same as Markdown: a heading, a table and its notes for each section."""
    parts = []
    for title, rows, notes in _sections(compared):
        parts += [f"### {_escaped(title)}", ""] if title else []
        if rows:
            lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
            rule = f"|---|{'---:|' * (len(rows[0]) - 1)}"
            parts += [lines[0], rule, *lines[1:], ""]
        parts += [*(f"{_escaped(note)}  " for note in notes), ""]
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Names of folders and classes as text, not as Markdown or HTML."""
    for letter in "\\`*_|<>[]":
        text = text.replace(letter, "\\" + letter)
    return text


def _sections(compared: Mapping[str, Any]) -> list[tuple[str, Rows, list[str]]]:
    """(title, rows, notes) of the paper's table, of the runs, and of each pair and unit."""
    sections = [_paper_section(compared["paper"])] if compared["paper"] else []
    sections.append(_runs_section(compared))
    for pair in compared["pairs"]:
        sections += [_pair_section(pair, unit) for unit in tables.UNITS]
    sections.append(("", [], _notes(compared)))
    return sections


def _paper_section(entries: Sequence[Mapping[str, Any]]) -> tuple[str, Rows, list[str]]:
    first, second = (paper.MODEL_TITLES[model] for model in paper.MODELS)
    rows = [["classes", "split", first, second, "difference", "95 % interval"]]
    for entry in entries:
        rows.append(
            [
                str(entry["num_classes"]),
                entry["split"],
                *(f"{entry[place]}/{entry['n']}" for place in ("first", "second")),
                _difference("accuracy", entry["difference"]),
                _span("accuracy", entry["interval"]),
            ]
        )
    notes = (
        "Which images both networks have right is not published: the interval takes the two as "
        "independent. It counts augmented copies of one biopsy as independent images: the true "
        "interval is wider, by how much nobody can tell, and a p-value would mean nothing."
    )
    return f"The paper's own comparison, images right: {first} - {second}", rows, _lines(notes)


def _runs_section(compared: Mapping[str, Any]) -> tuple[str, Rows, list[str]]:
    lines = [
        f"{run['letter']} = {formatting.clean_file(run['path'], formatting.WIDTH - 4)}"
        for run in compared["runs"]
    ]
    what = (
        f"{compared['n']} images of {compared['n_subjects']} subjects, split '{compared['split']}'"
    )
    same = "the same files by hash" if compared["same_pixels"] else "the same by name alone"
    return f"These runs: {what}, {same}", [], lines


def _pair_section(pair: Mapping[str, Any], unit: str) -> tuple[str, Rows, list[str]]:
    first, second, values = pair["first"], pair["second"], pair[unit]
    rows = [[f"per {unit}", first, second, f"{first} - {second}", "95 % interval", "p", "p (Holm)"]]
    for entry in values["figures"]:
        if entry["first"] is not None or entry["second"] is not None:
            name = entry["name"]
            p_values = map(p_value, (entry["p"], entry["p_holm"]))
            rows.append([_title(name), *_cells(name, entry), *p_values])
    alone = [values["correct"][key] for key in ("first_only", "second_only")]
    dash = formatting.UNDEFINED
    gap = f"{alone[0] - alone[1]:+d}"
    rows.append(["right in one alone", *map(str, alone), gap, dash, dash, dash])
    count = f"{values['n']} {tables.UNITS[unit]}"
    return f"{first} - {second}, {count}", rows, []


def _title(name: str) -> str:
    figure, _, of_class = name.partition(" ")
    return f"{tables.figure_title(figure)} {formatting.clean_name(of_class, 14)}".strip()


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    show = formatting.percent if name in SHARES else formatting.number
    return [
        show(entry["first"]),
        show(entry["second"]),
        _difference(name, entry["difference"]),
        _span(name, entry["interval"]),
    ]


def _difference(name: str, value: float | None) -> str:
    if value is None:
        return formatting.UNDEFINED
    return f"{100 * value:+.1f} %" if name in SHARES else f"{value:+.3f}"


def _span(name: str, interval: Sequence[float] | None) -> str:
    if interval is None:
        return formatting.UNDEFINED
    low, high = interval
    if name in SHARES:
        return f"{100 * low:+.1f} to {100 * high:+.1f} %"
    return f"{low:+.3f} to {high:+.3f}"


def p_value(value: float | None) -> str:
    """A p-value with three decimals, four where it is below 0.01; a dash where there is none."""
    if value is None:
        return formatting.UNDEFINED
    if value < 0.0001:
        return "<0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _notes(compared: Mapping[str, Any]) -> list[str]:
    first = compared["pairs"][0]["image"]
    counts = {pair[unit]["swaps"] for pair in compared["pairs"] for unit in tables.UNITS}
    swaps = "all of them" if counts == {"all"} else f"all, or {max(counts - {'all'})} drawn"
    text = (
        f"Intervals: bootstrap of subjects, {first['resamples']} times, the same ones for both; of "
        "AUROC DeLong's, clustered by subject. p: the two models' predictions of all images of a "
        f"subject are swapped ({swaps}), which is valid however few subjects there are. p (Holm): "
        f"corrected for the {compared['tests']} tests of these tables, all pairs, figures and "
        "units; read this one unless you chose one figure beforehand. Only the log loss is better "
        "where it is smaller. A dash: too few subjects to tell, or no test."
    )
    return _lines(text)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, formatting.WIDTH - 4)
