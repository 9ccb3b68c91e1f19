"""The table of figures per site, for the terminal and the page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from sscjax.system import formatting

_NOTE = (
    "Intervals by subject, of each site alone. Sites differ in their patients as well as in their "
    "stain and scanner; balanced accuracy and AUROC are of the classes that occur at a site."
)

_FIGURES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_auroc": "AUROC"}


def rows(by_site: Mapping[str, Any], unit: str) -> list[list[str]]:
    """The cells of the table, the heading first; [] where no site is known.

    Args:
      by_site: what `by_site.figures` gives.
      unit: 'subject' or 'image'.
    """
    if not by_site:
        return []
    head = [f"per {unit}", "n"]
    lines = [head + [cell for title in _FIGURES.values() for cell in (title, "95 % interval")]]
    for site in by_site["sites"]:
        of_unit = site["splits"]["test"][unit]
        ranges = site["test_intervals"][unit]
        cells = [formatting.clean_name(site["name"], 16), str(of_unit["n"])]
        for name in _FIGURES:
            show = formatting.percent if name in formatting.SHARES else formatting.number
            cells += [show(of_unit[name]), formatting.span(name, ranges[name])]
        lines.append(cells)
    return lines


def text(by_site: Mapping[str, Any]) -> str:
    """The tables per subject and per image; '' where no site is known.

    Args:
      by_site: what `by_site.figures` gives.
    """
    if not by_site:
        return ""
    blocks = [
        formatting.align(rows(by_site, unit), left=2, together=2) for unit in ("subject", "image")
    ]
    return "\n\n".join(
        ["Test figures per site", *blocks, textwrap.fill(note(by_site), formatting.WIDTH - 4)]
    )


def note(by_site: Mapping[str, Any]) -> str:
    """What to bear in mind when reading the table."""
    lines = ["Images of these sites were in training as well.", _NOTE]
    if by_site["apart"]:
        lines[0] = "Each site was tested by a model that saw none of its images."
    if by_site["left_out"]:
        lines.append(f"{by_site['left_out']} sites with fewer subjects are left out.")
    return " ".join(lines)
