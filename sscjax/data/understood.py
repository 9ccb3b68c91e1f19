"""What was understood of a set of images: shown before anything is computed, kept for the report.

A folder that is read wrongly gives figures all the same. So one table says which classes, patients
and splits were found and where, what was passed over and why, and what the files look like.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, TiffImagePlugin

from sscjax.errors import UserError
from sscjax.system import machine

if TYPE_CHECKING:
    from sscjax.data.listing import ImageRecord

WIDTH = 80
"""Columns of the terminal that the text fits into."""

# Files whose headers are read, evenly spaced: all of a large set would take long.
_LOOKED_AT = 400
_CLASSES_SHOWN = 24
_NAMED = 4

_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
_MICRONS = {2: 25_400.0, 3: 10_000.0}  # by TIFF's ResolutionUnit: inch, centimetre


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the images of a set come from, and what was done with what lay there.

    Attributes:
      read: what was read, such as 'folder skin'.
      patients: where they were read from: 'folder level 2', 'column patient_id' or 'none'.
      splits: the same.
      masks: where masks come from, if there are any.
      layout: of a folder, and whether it was given or found.
      columns: of a table: column by what it holds.
      skipped: number of files by kind.
      ignored: levels of folders that were not used.
      merged: spellings of names that were read as another.
      by_name: images of a table that were found by their name alone.
    """

    read: str
    patients: str
    splits: str
    masks: str = "beside the images"
    layout: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ignored: Sequence[str] = ()
    merged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    by_name: int = 0


def describe(
    records: Sequence[ImageRecord], classes: Sequence[str], origin: Origin
) -> dict[str, Any]:
    """What was understood, ready for JSON. No image is decoded, and no patient named.

    Args:
      records: the images.
      classes: their classes in order.
      origin: where they come from.

    Returns:
      read, layout, columns, found_by_name, classes (name, images, patients, train, val, test),
      patients, in_several_classes (number of patients), splits, masks (number), masks_from,
      skipped (kind, number), ignored, merged.
    """
    without = sum(record.subject == record.file for record in records)
    patients = origin.patients
    if without == len(records):
        patients = "none: each image counts as a patient"
    elif without:
        patients += f"; {without} images without one count as one each"
    skipped = [{"kind": kind, "number": number} for kind, number in origin.skipped.items()]
    return {
        "read": origin.read,
        "layout": origin.layout,
        "columns": dict(origin.columns),
        "found_by_name": origin.by_name,
        "classes": _classes(classes, records),
        "patients": patients,
        "in_several_classes": _in_several_classes(records),
        "splits": origin.splits,
        "masks": sum(bool(record.masks) for record in records),
        "masks_from": origin.masks,
        "skipped": skipped,
        "ignored": list(origin.ignored),
        "merged": dict(origin.merged),
    }


def _classes(classes: Sequence[str], records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    own: dict[str, list[ImageRecord]] = {name: [] for name in classes}
    for record in records:
        own[record.label].append(record)
    return [_class(name, of_class) for name, of_class in own.items()]


def _in_several_classes(records: Sequence[ImageRecord]) -> int:
    classes: dict[str, set[str]] = {}
    for record in records:
        classes.setdefault(record.subject, set()).add(record.label)
    return sum(len(labels) > 1 for labels in classes.values())


def _class(name: str, own: Sequence[ImageRecord]) -> dict[str, Any]:
    splits = Counter(record.split for record in own)
    row = {"name": name, "images": len(own), "patients": len({record.subject for record in own})}
    return row | {split: splits[split] for split in ("train", "val", "test") if None not in splits}


def with_files(understood: Mapping[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """The same with what the headers of files say: sizes, formats, bit depths, resolution.

    Args:
      understood: what `describe` returns.
      paths: the images; of many, some hundred are looked at, evenly spaced.
    """
    step = max(1, -(-len(paths) // _LOOKED_AT))
    chosen = list(paths[::step])
    with ThreadPoolExecutor(max_workers=machine.processors()) as pool:
        headers = [header for header in pool.map(_header, chosen) if header is not None]
    counts: dict[str, Any] = {
        key: dict(Counter(header[key] for header in headers if header[key]).most_common(6))
        for key in ("size", "format", "pixels", "mpp")
    }
    return {
        **understood,
        "files": {"number": len(paths), "looked_at": len(chosen), "read": len(headers), **counts},
    }


def _header(path: Path) -> dict[str, str] | None:
    """Size, format, kind of pixels and resolution of a file; None where it is no image."""
    # Imported here: that module reads images, this one only describes them.
    from sscjax.data import image_io

    try:
        kind, width, height = image_io.read_header(path)
        # Pillow's limit on pixels guards decoding, and nothing is decoded here.
        with path.open("rb") as file, Image.open(file, formats=(kind,)) as image:
            mode, resolution = image.mode, _mpp(image)
    except (UserError, OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning):
        return None
    bits = _BITS.get(mode, 8)
    named = "grey" if mode in _BITS or mode in ("L", "LA", "La") else mode
    return {
        "size": f"{width} x {height}",
        "format": kind,
        "pixels": f"{bits} bit {'palette' if mode == 'P' else named}",
        "mpp": resolution,
    }


def _mpp(image: Image.Image) -> str:
    """Micrometres per pixel by a TIFF's own tags; '' where there are none, or those of a screen."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ""
    unit, across = image.tag_v2.get(296, 2), image.tag_v2.get(282, 0)
    try:
        value = _MICRONS[int(unit)] / float(across)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""
    return f"{value:.3g}" if value < 50 else ""


# --- text -----------------------------------------------------------------------------------------


def rows(understood: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything but the classes as name and text, for the terminal and the report."""
    made = [
        ("read", understood["read"] + _if(understood["layout"], " as {}")),
        ("columns", ", ".join(f"{what}: {name}" for what, name in understood["columns"].items())),
        ("images", _found_by_name(understood)),
        ("patients", f"from {understood['patients']}{_several(understood)}"),
        ("splits", f"from {understood['splits']}"),
        ("masks", f"{understood['masks']}, from {understood['masks_from']}"),
        (
            "skipped",
            ", ".join(f"{one['number']} {one['kind']}" for one in understood["skipped"])
            or "nothing",
        ),
        ("ignored", "; ".join(understood["ignored"])),
        ("merged", ", ".join(f"{old!r} as {new!r}" for old, new in understood["merged"].items())),
        ("files", _files(understood.get("files"))),
    ]
    made = [(name, text.replace("from none", "none")) for name, text in made]
    if not understood["masks"]:
        made.remove(next(row for row in made if row[0] == "masks"))
        made.insert(-4, ("masks", "none"))
    return [(name, _plain(text)) for name, text in made if text]


def _if(text: str, form: str) -> str:
    return form.format(text) if text else ""


def _several(understood: Mapping[str, Any]) -> str:
    number = understood.get("in_several_classes", 0)  # runs of before 0.4 do not say
    return f"; {number} with images of several classes" if number else ""


def _found_by_name(understood: Mapping[str, Any]) -> str:
    number = understood["found_by_name"]
    return f"{number} found by their name below the folder" if number else ""


def _files(files: Mapping[str, Any] | None) -> str:
    if not files:
        return ""
    parts = [_counted(files["size"], files["read"], " pixels")]
    parts += [_counted(files[key], files["read"]) for key in ("format", "pixels")]
    mpp = files["mpp"]
    parts.append(_counted(mpp, files["read"], " um per pixel") if mpp else "no resolution known")
    looked = (
        "" if files["looked_at"] == files["number"] else f" (of {files['looked_at']:,} looked at)"
    )
    unread = files["looked_at"] - files["read"]
    parts += [f"{unread} without a readable header"] if unread else []
    return "; ".join(part for part in parts if part) + looked


def _counted(counts: Mapping[str, int], total: int, unit: str = "") -> str:
    if len(counts) == 1 and sum(counts.values()) == total:
        return next(iter(counts)) + unit
    named = [f"{name}{unit} ({number})" for name, number in list(counts.items())[:_NAMED]]
    return ", ".join(named) + (", ..." if len(counts) > _NAMED else "")


def class_rows(understood: Mapping[str, Any]) -> list[list[str]]:
    """The classes as a table with a header, for the terminal and the report."""
    classes = understood["classes"]
    counted = [key for key in ("images", "patients", "train", "val", "test") if key in classes[0]]
    body = [[_plain(one["name"]), *(f"{one[key]:,}" for key in counted)] for one in classes]
    if understood["patients"].startswith("none"):
        for line in body:
            line[1 + counted.index("patients")] = "?"
    return [["class", *counted], *body]


def text(understood: Mapping[str, Any]) -> str:
    """The table for the terminal, at most `WIDTH` columns wide.

    Args:
      understood: what `describe` or `with_files` returns.
    """
    table = class_rows(understood)
    more = len(table) - 1 - _CLASSES_SHOWN
    table = table[: _CLASSES_SHOWN + 1]
    width = min(max(len(line[0]) for line in table), WIDTH - 3 - 10 * (len(table[0]) - 1))
    lines = ["What was read"]
    for name, *cells in table:
        short = name if len(name) <= width else name[: width - 3] + "..."
        lines.append(f"  {short:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    lines += [f"  and {more} more classes"] if more > 0 else []
    for name, content in rows(understood):
        lines += textwrap.wrap(
            content,
            WIDTH - 1,
            initial_indent=f"  {name:<9} ",
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _plain(name: str) -> str:
    """Nothing that moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
