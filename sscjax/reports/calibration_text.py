"""What calibration.json says, as text: how far predictions can be trusted, the patient first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from sscjax.evaluation.rules import UNITS
from sscjax.reports.tables import UNITS as PLURALS
from sscjax.system.formatting import (
    WIDTH,
    align,
    clean_name,
    number,
    percent,
    share_span,
    span,
)

# Tables of rows by their names in calibration.json.
TABLES = {"held_out": "held-out", "test": "test"}

AGGREGATED = {
    "mean": "the mean of its images' probabilities",
    "geometric": "the geometric mean of its images' probabilities",
}

_OPERATING = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}


def text(content: Mapping[str, Any], repeated: bool = False) -> str:
    """What the rules are, what chose them, and what they do on the test rows.

    Args:
      content: of calibration.json, see `reliability.Assessment`; without `outliers` for a
        cross-validation.
      repeated: whether subjects and images were tested several times.
    """
    blocks = [wrapped(held_out_line(content))]
    for unit in UNITS:
        block = content[unit]
        title = f"Per {unit}"
        if unit == "subject":
            title += f", whose row is {AGGREGATED[content['aggregation']]}"
        blocks += [f"{title}:\n{_temperature(block)}", _operating_point(block["threshold"], unit)]
        lines = [*abstention_lines(block["abstention"], unit, repeated)]
        lines += set_lines(block["prediction_set"], unit, repeated)
        blocks.append("\n".join(map(wrapped, lines)))
    if "outliers" in content:
        blocks.append("\n".join(map(wrapped, flag_lines(content["outliers"]))))
    return "\n\n".join(blocks)


def wrapped(line: str) -> str:
    """A sentence on lines that fit the terminal."""
    return textwrap.fill(line, WIDTH - 2, break_on_hyphens=False)


def held_out_line(content: Mapping[str, Any]) -> str:
    """Which rows chose the rules, and what else they were used for."""
    held_out = content["held_out"]
    counts = f"{held_out['subjects']} subjects with {held_out['images']} images"
    used_for = ", ".join(held_out["used_for"])
    if held_out["source"] == "out-of-fold" and "outliers" in content:
        line = _development_line(held_out["subjects"], counts, used_for)
    elif held_out["source"] == "out-of-fold":
        line = (
            f"Rules rest on out-of-fold predictions of {counts}. These choose: {used_for}. Figures "
            "of a patient are by rules that were chosen on other patients."
        )
    else:
        line = (
            f"Rules rest on {counts} held out for validation. These choose: {used_for}. They were "
            "not used for fitting. Figures of them are too good; the test rows chose nothing."
        )
    return line + label_line(content)


def _development_line(subjects: int, counts: str, used_for: str) -> str:
    """Of a run without validation images, whose classifier is fitted to all but the test images."""
    if not subjects:
        return (
            "No images were held out for validation, and a class has too few subjects in training "
            "to leave any out, so that no rules could be chosen: probabilities are as the network "
            "gave them."
        )
    return (
        "No images were held out for validation: the classifier is fitted to all that are not for "
        f"testing. Rules rest on out-of-fold predictions of {counts}, each by a classifier that "
        f"was fitted to other subjects. These choose: {used_for}. The test rows chose nothing."
    )


def label_line(content: Mapping[str, Any]) -> str:
    """How many subjects have images of several labels, and what these subjects count as."""
    count = content.get("several_labels") or 0
    if not count:
        return ""
    counted = {
        "majority": "each counts as most of its images do, of equally many as the later class",
        "worst": "each counts as the latest class of its images",
        "image": "they are left out of the figures per subject",
    }[content["subject_label"]]
    return f" {count} subjects have images of several labels: {counted}."


def _temperature(block: Mapping[str, Any]) -> str:
    """The temperature, and how good the probabilities are before and after it."""
    value, reason = block["temperature"], block["reason"]
    line = temperature_line(block)
    rows = [["", "calibration error", "95 % interval", "chance", "Brier", "95 % interval"]]
    rows[0].append("log loss")
    for table, states in block["splits"].items():
        # Without a temperature both are the same.
        same = bool(reason) and value == 1 and not _varies(block)
        for place, state in enumerate(("before", "after")):
            if same and state == "before":
                continue
            quality, title = states[state], TABLES.get(table, table)
            intervals = table != "held_out"
            rows.append(
                [
                    title if same else f"{title} {state}",
                    number(quality["ece"]),
                    span("ece", quality["ece_interval"] if intervals else None),
                    number(quality["ece_by_chance"]),
                    number(quality["brier"]),
                    span("brier", quality["brier_interval"] if intervals else None),
                    number(block["log_loss"][table][place]),
                ]
            )
    return f"{wrapped(line)}\n{align(rows)}"


def _varies(block: Mapping[str, Any]) -> bool:
    """Whether any fold of a cross-validation has a temperature."""
    return any(value != 1 for value in block.get("temperatures") or [])


def temperature_line(block: Mapping[str, Any]) -> str:
    """The temperature of a unit in a sentence.

    Args:
      block: of the unit, in calibration.json.
    """
    value, reason = block["temperature"], block["reason"]
    if reason:
        line = f"Probabilities keep the temperature 1: {reason}."
    else:
        was = "too confident" if value > 1 else "not confident enough"
        line = (
            f"Probabilities are calibrated by a temperature of {value:.2f} (they were {was}); left "
            f"out of the fit, subjects gain {block['gain']:.3f} log loss, standard error "
            f"{block['standard_error']:.3f}."
        )
    if _varies(block):
        ends = min(block["temperatures"]), max(block["temperatures"])
        line += f" In the folds it is {ends[0]:.2f} to {ends[1]:.2f}, from the other folds."
    return line


def _operating_point(point: Mapping[str, Any], unit: str) -> str:
    """Without intervals of the held-out rows, where the threshold was chosen."""
    title = (
        f"Called {clean_name(point['positive'], 60)} from a probability of {point['value']:.3f} on "
        f"({point['rule']})."
    )
    columns = [["", *_OPERATING.values()]]
    if "held_out" in point:
        of = point["held_out"]
        columns += [
            [f"held-out {PLURALS[unit]}", *(percent(of[name]["value"]) for name in _OPERATING)]
        ]
    if "test" in point:
        figures = [point["test"][name] for name in _OPERATING]
        columns += [
            [f"test {PLURALS[unit]}", *(percent(figure["value"]) for figure in figures)],
            ["95 % interval", *(share_span(figure["interval"]) for figure in figures)],
        ]
    return f"{wrapped(title)}\n{align(list(zip(*columns, strict=True)))}"


def tests(count: int, unit: str, repeated: bool) -> str:
    """'40 test subjects', or '120 tests of subjects' where each was tested several times."""
    return f"{count:,} tests of {PLURALS[unit]}" if repeated else f"{count:,} test {PLURALS[unit]}"


def abstention_lines(abstention: Mapping[str, Any], unit: str, repeated: bool = False) -> list[str]:
    """The confidence threshold, and what is answered above it, in sentences."""
    lines = []
    if abstention["value"] is None:
        lines.append(f"No confidence threshold, the network never abstains ({abstention['rule']}).")
    else:
        lines.append(
            "No answer (abstain) below the confidence threshold of "
            f"{abstention['value']:.3f} ({abstention['rule']})."
        )
    if "test" in abstention:
        coverage, accuracy = abstention["test"]["coverage"], abstention["test"]["accuracy"]
        lines.append(
            f"Of the {tests(coverage['n'], unit, repeated)} {accuracy['n']:,} "
            f"({percent(coverage['value'])}) are answered, and of these "
            f"{percent(accuracy['value'])} right ({share_span(accuracy['interval'])})."
        )
    if abstention["area"] is not None:
        lines.append(
            "Mean accuracy over all coverages, the most confident first: "
            f"{percent(abstention['area'])} ({share_span(abstention['area_interval'])})."
        )
    return lines


def set_lines(sets: Mapping[str, Any], unit: str, repeated: bool = False) -> list[str]:
    """The prediction sets: their rule, coverage and size, in sentences."""
    rule, figures = sets["rule"], sets["test"]
    lines = [f"{rule[0].upper()}{rule[1:]}."]
    coverage, right = figures["coverage"], figures["right_of_one"]
    if coverage["n"]:
        size, interval = figures["mean_size"], figures["mean_size_interval"]
        within = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
        lines.append(
            f"Of the {tests(coverage['n'], unit, repeated)} {percent(coverage['value'])} "
            f"({share_span(coverage['interval'])}) have their class in the set, which holds "
            f"{size:.2f}{within} classes on average. {right['n']:,} sets hold one class, of which "
            f"{percent(right['value'])} are right ({share_span(right['interval'])})."
        )
    return lines


def flag_lines(outliers: Mapping[str, Any]) -> list[str]:
    """The flag for images unlike the training images, in sentences, warnings first."""
    shares = ", ".join(
        f"{percent(share)} of {split}" for split, share in outliers["share_flagged"].items()
    )
    made_up = ", ".join(
        f"{percent(share)} of {kind}" for kind, share in outliers["made_up_flagged"].items()
    )
    return [
        *(f"Warning: {line}" for line in outliers["warnings"]),
        f"Flagged as unlike the training images: {shares} (target {percent(outliers['rate'])}); of "
        f"images made up to try the flag: {made_up}.",
    ]
