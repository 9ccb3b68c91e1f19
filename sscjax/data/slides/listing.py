"""Which files of a folder are slides: one for each, and no label, overview or sidecar file."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sscjax.data.slides import reader

_LOG = logging.getLogger("sscjax.data.slides")

# What programs call the pictures that a scanner takes beside the scan: `case_1_label.png`.
_BESIDE = re.compile(
    r"(?P<slide>.+?)[ _.-]+(label|macro|overview|thumbnail|thumb|slide[ _-]?label|preview)",
    re.IGNORECASE,
)


def slides_of(files: Sequence[Path], where: Path) -> list[Path]:
    """The slides among the files of a folder; what is left out is logged by kind.

    Of the files of one DICOM series the first is the slide: OpenSlide reads the others with it.
    Pictures of a slide's label or glass, and the images that a Hamamatsu .vms or .vmu file names,
    are no slides.

    Args:
      files: all files of the folder, at any depth.
      where: the folder, for the log.
    """
    candidates = [path for path in files if path.suffix.lower() in reader.SUFFIXES]
    stems = {path.with_suffix("") for path in candidates}
    parts = _named_by_index(candidates)
    kept: list[Path] = []
    left_out: Counter[str] = Counter()
    series: set[str] = set()
    for path in candidates:
        match = _BESIDE.fullmatch(path.stem)
        identifier = reader.dicom_series(path)
        if path in parts or (match and path.with_name(match["slide"]) in stems):
            left_out["label, overview or part of another slide"] += 1
        elif identifier and identifier in series:
            left_out["further file of a DICOM series"] += 1
        else:
            kept.append(path)
            series.add(identifier)
    for path in files:
        if path.suffix.lower() not in reader.SUFFIXES:
            left_out[f"{path.suffix.lower() or 'no suffix'}"] += 1
    if left_out:
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        _LOG.info("%s: files that are no slides of their own: %s", where, said)
    return kept


def _named_by_index(candidates: Sequence[Path]) -> set[Path]:
    """Images that a Hamamatsu index file names as its parts."""
    parts: set[Path] = set()
    for path in candidates:
        if path.suffix.lower() in (".vms", ".vmu") and path.is_file():  # no pipe, which would wait
            try:
                text = path.read_bytes()[:100_000].decode("latin-1")
            except OSError:
                continue  # said where it is opened
            names = re.findall(r"^\w+File(?:\([^)]*\))?\s*=\s*(.+?)\s*$", text, re.MULTILINE)
            parts |= {path.with_name(name) for name in names}
    return parts
