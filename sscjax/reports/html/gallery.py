"""The pictures of the page: errors and right predictions with their maps, inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.errors import UserError
from sscjax.evaluation import segmentation
from sscjax.evaluation.map_check import Maps
from sscjax.reports import label_noise, overlays
from sscjax.reports.html.run_data import Folder
from sscjax.system import run_dir

# Pictures of a gallery: a cross-validation has more of them in the folders of its folds.
MOST_PICTURES = 12

# Side in pixels to which pictures inside the page are reduced.
PICTURE_SIDE = 192

# The same of the sheet with masks.
MASKS_SIDE = 1400


def galleries(folder: Folder) -> dict[str, Any] | None:
    """Pictures of errors and right predictions with their maps, of one run or of all folds."""
    sources = list(folder.folds.values()) if folder.is_cross_validation else [folder]
    indices = [
        (source, source.optional["explanations"])
        for source in sources
        if source.optional["explanations"]
    ]
    if not indices:
        return None
    entries = [(source, entry) for source, index in indices for entry in index["images"]]
    entries.sort(key=lambda pair: -pair[1]["probability"])
    errors = [pair for pair in entries if not pair[1]["right"]]
    right = [pair for pair in entries if pair[1]["right"]]
    classes = folder.record["data"]["classes"]
    right.sort(key=lambda pair: (_place(classes, pair[1]["label"]), -pair[1]["probability"]))
    if folder.is_cross_validation:
        right = _first_of_each(right)
    first = indices[0][1]
    maps = _maps(folder, [source for source, _ in indices])
    shown = maps is not None and maps.shown
    return {
        "method": first["method"],
        # Before 0.4 a map was of one layer.
        "layers": first.get("layers") or [first["layer"]],
        "shown": shown,
        "verdict": "These maps were not checked" if maps is None else maps.verdict,
        "map_size": indices[0][1]["map_size"],
        "split": indices[0][1]["split"],
        "errors_in_all": sum(index["errors_in_all"] for _, index in indices),
        "errors": [_picture(*pair, shown=shown) for pair in errors[:MOST_PICTURES]],
        "right": [_picture(*pair, shown=shown) for pair in right[:MOST_PICTURES]],
    }


def _maps(folder: Folder, sources: Sequence[Folder]) -> Maps | None:
    """How maps were checked: those of the model that is handed on, else of all that are shown."""
    handed_on = run_dir.RunDir(folder.path).handed_on
    folders = (
        [handed_on]
        if handed_on.has(run_dir.MAPS)
        else [run_dir.RunDir(source.path) for source in sources]
    )
    known = []
    for run in folders:
        content = run.optional(run_dir.MAPS)
        if content is None:
            return None
        known.append(Maps.of_folder(content, run.path))
    return Maps.join(known)


def masks(folder: Folder) -> dict[str, Any] | None:
    """Figures of masks, and a picture, which a cross-validation has not; None without masks."""
    figures = folder.metrics.get("segmentation")
    if figures is None:
        return None
    picture = folder.path / run_dir.MASKS_SHEET
    return {
        "rows": segmentation.rows(figures),
        "note": segmentation.note(figures),
        "uri": overlays.data_uri(picture, MASKS_SIDE) if picture.is_file() else "",
    }


def labels(folder: Folder) -> dict[str, Any] | None:
    """Labels that the predictions contradict, and a picture of such images; None without."""
    path = folder.path / run_dir.LABEL_NOISE
    if not path.is_file():
        return None
    picture = folder.path / run_dir.LABEL_NOISE_SHEET
    return {
        "tables": label_noise.read_rows(path),
        "note": " ".join(label_noise.NOTE.split()),
        "uri": overlays.data_uri(picture, MASKS_SIDE) if picture.is_file() else "",
    }


def _place(classes: Sequence[str], name: str) -> int:
    return classes.index(name) if name in classes else len(classes)


def _first_of_each(pairs: list[tuple[Folder, dict[str, Any]]]) -> list[Any]:
    """At most two of each class."""
    counts: dict[str, int] = {}
    chosen = []
    for pair in pairs:
        label = pair[1]["label"]
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= 2:
            chosen.append(pair)
    return chosen


def _picture(source: Folder, entry: Mapping[str, Any], *, shown: bool) -> dict[str, Any]:
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
            {"class": one["class"], "uri": uri(one["overlay"])} for one in entry["maps"] if shown
        ],
    }
