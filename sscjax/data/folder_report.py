"""What of a folder was not read: files of other kinds, images outside, levels without a meaning."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence

from sscjax.data import scan
from sscjax.data.image_formats import IMAGE_SUFFIXES, is_image_name
from sscjax.data.layout import Layout
from sscjax.data.listing import ImageRecord, shown

_LOG = logging.getLogger(__name__)

# How many names of a folder level are shown.
_NAMED = 3


def others(tree: scan.Tree) -> Counter[tuple[str, bool]]:
    """Files that are neither images nor masks, by suffix and whether they lie in no folder."""
    return Counter(
        (os.path.splitext(file)[1].lower() or "no suffix", "/" not in file)
        for file in tree.files
        if not is_image_name(tree.path(file))
    )


def say_skipped(tree: scan.Tree, ignored: int, loose: int, private: bool) -> str:
    """Warn of files that were passed over; what the line for reports says of them."""
    if not ignored and not loose:
        return ""
    _LOG.warning(
        "%s: ignored %d file(s) in class folders that are not %s, and %d image(s) outside "
        "class folders",
        shown(tree.folder, private), ignored, " ".join(IMAGE_SUFFIXES), loose,
    )  # fmt: skip
    return f"; ignored: {ignored} other file(s), {loose} image(s) outside class folders"


def skipped(tree: scan.Tree, other: Counter[tuple[str, bool]], loose: int) -> dict[str, int]:
    """Everything passed over, by kind."""
    by_suffix: Counter[str] = Counter()
    for (suffix, _), number in other.items():
        by_suffix[suffix] += number
    counts = {f"{suffix} (no image)": number for suffix, number in by_suffix.most_common()}
    if loose:
        counts["image (outside the folders)"] = loose
    return {**counts, **tree.skipped}


def ignored_levels(records: Sequence[ImageRecord], chosen: Layout, private: bool) -> list[str]:
    """Levels of folders that say nothing, with a few of their names."""
    names: dict[int, set[str]] = {}
    for record in records:
        for number, name in enumerate(record.file.split("/")[:-1], 1):
            names.setdefault(number, set()).add(name)
    used = {"label", "subject", "split", "site"}
    ignored = []
    for number, found in names.items():
        level = chosen.levels[number - 1] if number <= len(chosen.levels) else "*"
        if used.isdisjoint(level.split("+")):
            shown_names = "" if private else ": " + ", ".join(sorted(found)[:_NAMED])
            more = f", ... ({len(found)})" if len(found) > _NAMED or private else ""
            ignored.append(f"folder level {number}{shown_names}{more}")
    return ignored
