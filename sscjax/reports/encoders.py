"""The comparison of encoders, as text for the terminal and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sscjax
from sscjax.system import files, formatting

PAGE, TEXT, DATA = "index.html", "comparison.txt", "comparison.json"

TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_auroc": "macro AUROC",
    "log_loss": "log loss",
}
_SIGNIFICANT = 0.05
_MOST = 10_000  # subjects: beyond it a rough number says nothing
_NAME = 34  # columns of an encoder's name on the terminal


def write(out: Path, path: str, found: Mapping[str, Any]) -> Path:
    """Write page, text and JSON; returns where the page lies.

    Args:
      out: the folder, made where it is missing.
      path: the images, as the user gave it.
      found: what `encoders.comparison.compare` gives.
    """
    from sscjax.reports.html import render

    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / DATA, dict(found))
    files.write_text(out / TEXT, text(path, found) + "\n")
    files.write_text(out / PAGE, render.render("encoders.html.j2", _context(path, found)))
    return out / PAGE


def text(path: str, found: Mapping[str, Any]) -> str:
    """Everything at 80 columns."""
    blocks = [
        f"{formatting.clean_file(path, 50)}: {found['images']:,} images of {found['subjects']:,} "
        f"subjects\n{found['folds']} folds by subject, {found['repeats']} repeats, the same for all"
    ]
    for unit in ("subject", "image"):
        lines = [[f"per {unit}", "balanced acc.", "95 %", "AUROC", "log loss", "ECE"]]
        for row in ranked(found):
            figures = row[unit]
            share = figures["balanced_accuracy"]
            lines.append(
                [
                    formatting.clean_name(row["name"], _NAME - 8),
                    formatting.percent(share["value"]),
                    formatting.share_span(share["interval"]).replace(" to ", "-"),
                    formatting.number(figures["macro_auroc"]["value"]),
                    formatting.number(figures["log_loss"]["value"]),
                    formatting.number(figures["calibration_error"]),
                ]
            )
        blocks.append(formatting.align(lines))
    blocks.append(_costs(found))
    blocks.append("\n".join(_wrapped(sentence(pair, found)) for pair in _by_rank(found)))
    blocks.append(
        "ECE: expected calibration error. Intervals: a bootstrap of subjects within each\n"
        "class. p: swaps of whole subjects, corrected for all pairs (Holm)."
    )
    return "\n\n".join(blocks)


def ranked(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The encoders, the least log loss per subject first."""
    return sorted(found["encoders"], key=lambda row: float(row["subject"]["log_loss"]["value"]))


def _by_rank(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs: the best encoder against each other one, then the second, and so on."""
    place = {row["name"]: index for index, row in enumerate(ranked(found))}
    return sorted(
        found["pairs"], key=lambda pair: sorted(place[pair[one]] for one in ("first", "second"))
    )


def _costs(found: Mapping[str, Any]) -> str:
    lines = [["encoder", "features", "parameters", "images/s", "licence"]]
    for row in ranked(found):
        speed = row["images_per_second"]
        lines.append(
            [
                formatting.clean_name(row["name"], _NAME),
                f"{row['features']:,}",
                f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else formatting.UNDEFINED,
                f"{speed:.0f}" if speed else formatting.UNDEFINED,
                formatting.clean_name(row["licence"] or formatting.UNDEFINED, 16),
            ]
        )
    return formatting.align(lines)


def sentence(pair: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What the log loss per subject says of two encoders, and what it would take to know.

    The log loss, because it uses the probabilities and so tells encoders apart with fewer patients
    than accuracy does.
    """
    entry = pair["subject"]["log_loss"]
    better, worse = pair["first"], pair["second"]
    if entry["difference"] > 0:
        better, worse = worse, better
    size = f"{abs(entry['difference']):.3f}"
    span = ""
    if entry["interval"] is not None:
        # As of the better one's lead, however the pair was ordered.
        sign = 1 if entry["difference"] > 0 else -1
        ends = sorted(sign * end for end in entry["interval"])
        span = f" ({ends[0]:.3f} to {ends[1]:.3f})"
    names = f"{formatting.clean_name(better, _NAME)} against {formatting.clean_name(worse, _NAME)}:"
    p = f"p {entry['p_holm']:.3f}" if entry["p_holm"] >= 0.001 else "p below 0.001"
    if entry["p_holm"] < _SIGNIFICANT:
        return f"{names} better by {size}{span} of log loss per subject, {p}"
    needed = entry["subjects_to_tell"]
    more = f"; it would take {_rounded(needed)} subjects" if needed else ""
    return f"{names} not distinguished by {found['subjects']} subjects: {size}{span}, {p}{more}"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 79, subsequent_indent="  ", break_on_hyphens=False)


def _rounded(count: int) -> str:
    """Two digits: more would claim what is not known."""
    if count > _MOST:
        return f"more than {_MOST:,}"
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"some {-(-count // scale) * scale:,}"


def _context(path: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **found,
        "path": Path(path).name,
        "version": sscjax.__version__,
        "rows": ranked(found),
        "titles": TITLES,
        "sentences": [sentence(pair, found) for pair in _by_rank(found)],
        "significant": _SIGNIFICANT,
        "rounded": _rounded,
    }
