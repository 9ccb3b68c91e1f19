"""The pictures of the page: errors and right answers with their maps, inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.errors import UserError
from sscjax.evaluation import segmentation
from sscjax.reports import overlays
from sscjax.reports.html.run_data import Folder
from sscjax.system import run_dir

# Pictures of a gallery: a protocol has more of them in the folders of its folds.
MOST_PICTURES = 12

# Side in pixels to which pictures inside the page are reduced.
PICTURE_SIDE = 192

# The same of the sheet with masks.
MASKS_SIDE = 1400


def galleries(folder: Folder) -> dict[str, Any] | None:
    """Pictures of errors and right answers with their maps; of a protocol those of all folds."""
    sources = list(folder.folds.values()) if folder.is_protocol else [folder]
    found = [
        (source, source.optional["explanations"])
        for source in sources
        if source.optional["explanations"]
    ]
    if not found:
        return None
    entries = [(source, entry) for source, index in found for entry in index["images"]]
    entries.sort(key=lambda pair: -pair[1]["probability"])
    errors = [pair for pair in entries if not pair[1]["right"]]
    right = [pair for pair in entries if pair[1]["right"]]
    classes = folder.record["data"]["classes"]
    right.sort(key=lambda pair: (_place(classes, pair[1]["label"]), -pair[1]["probability"]))
    if folder.is_protocol:
        right = _first_of_each(right)
    return {
        "method": found[0][1]["method"],
        "layer": found[0][1]["layer"],
        "map_size": found[0][1]["map_size"],
        "split": found[0][1]["split"],
        "errors_in_all": sum(index["errors_in_all"] for _, index in found),
        "errors": [_picture(*pair) for pair in errors[:MOST_PICTURES]],
        "right": [_picture(*pair) for pair in right[:MOST_PICTURES]],
    }


def masks(folder: Folder) -> dict[str, Any] | None:
    """How well masks were told, and a picture, which a protocol has not; None without masks."""
    found = folder.metrics.get("segmentation")
    if found is None:
        return None
    picture = folder.path / run_dir.MASKS_SHEET
    return {
        "rows": segmentation.rows(found),
        "note": segmentation.note(found),
        "uri": overlays.data_uri(picture, MASKS_SIDE) if picture.is_file() else "",
    }


def _place(classes: Sequence[str], name: str) -> int:
    return classes.index(name) if name in classes else len(classes)


def _first_of_each(pairs: list[tuple[Folder, dict[str, Any]]]) -> list[Any]:
    """At most two of each class."""
    taken: dict[str, int] = {}
    found = []
    for pair in pairs:
        label = pair[1]["label"]
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= 2:
            found.append(pair)
    return found


def _picture(source: Folder, entry: Mapping[str, Any]) -> dict[str, Any]:
    def uri(name: str) -> str:
        path = source.path / run_dir.EXPLANATIONS / name
        # A name in a file could be that of any picture on the machine.
        if path.name != name or not path.is_file():
            raise UserError(
                f"{source.path / run_dir.EXPLANATIONS}: no picture is called {name!r}, expected "
                f"those that {run_dir.EXPLANATIONS_INDEX} names; give the run's command again"
            )
        try:
            return overlays.data_uri(path, PICTURE_SIDE)
        except (OSError, SyntaxError, ValueError) as error:  # as Pillow says of damaged ones
            raise UserError(f"{path} is damaged ({error}): give the run's command again") from error

    return {
        **entry,
        "uri": uri(entry["image"]),
        "maps": [
            {"class": found["class"], "uri": uri(found["overlay"])} for found in entry["maps"]
        ],
    }
