"""Slides that a run is asked about: cut as its training tiles were, and drawn with its answers.

How tiles were cut stands in the `slides.json` beside them, and the run keeps a copy.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import image_folder, image_io
from sscjax.data.inputs import Asked
from sscjax.data.slides import output, reader
from sscjax.data.slides.cut import cut_all
from sscjax.data.slides.output import Source
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Judged
from sscjax.inference.ensemble import Ensemble
from sscjax.reports import figures
from sscjax.system import formatting

TILES = "slides"
MOST_DECISIVE = 10

# Tells tiles that were cut to be asked about from those that a user cut into such a folder.
_MARK = ".predicted"


@dataclasses.dataclass(frozen=True)
class Cut:
    """What became of the slides.

    Attributes:
      asked: all tiles, slide after slide; each slide is a subject.
      slides: the slides that were cut, with what is kept of them.
      failed: one line for each that could not be.
    """

    asked: list[Asked]
    slides: list[tuple[Source, dict[str, Any]]]
    failed: list[str]


def part(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Slides among inputs, and the inputs that are none.

    A folder, which `asked` would take for images, is searched: what only a slide's name ends in is
    a slide, and so is a .tif with several levels or tiles. A folder of slides alone is no input
    beside them.
    """
    slides: list[Path] = []
    rest: list[Path] = []
    for path in (one.expanduser() for one in inputs):
        if path.is_file() and _is_slide(path):
            slides.append(path)
        elif path.is_dir() and not (path / image_folder.MANIFEST).is_file():
            files = list(image_folder.walk(path))
            found = [file for file in files if _is_slide(file)]
            slides += found
            if len(found) < sum(file.suffix.lower() in reader.SUFFIXES for file in files):
                if found:
                    raise UserError(
                        f"{path} holds slides, such as {found[0].name}, and images; put them into "
                        "folders of their own"
                    )
                rest.append(path)
            elif not found:
                rest.append(path)
        else:
            rest.append(path)
    return slides, rest


def _is_slide(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in reader.SLIDE_SUFFIXES:
        return False
    return suffix not in image_io.IMAGE_SUFFIXES or reader.opens(path)


def settings_of(opened: Classifier | Ensemble) -> Settings:
    """How slides are cut for a run: as its training tiles were.

    Raises:
      UserError: nobody knows, for the tiles were not cut by this package.
    """
    path = opened.folders[0] / output.SETTINGS
    if not path.is_file():
        raise UserError(
            f"{opened.folder} was not trained on tiles that `sscjax slides` cut, so how a slide "
            "is to be cut for it is not known; cut slides as its tiles were, and give these"
        )
    return output.read_settings(path)


def ours(out: Path) -> bool:
    """Whether the folder `slides` of the results, finished or not, was made by `cut`."""
    return (out / TILES / _MARK).is_file()


def refuse_folder(out: Path) -> None:
    """Raise a UserError where tiles would replace a folder that is none of these results."""
    if (out / TILES).exists() and not ours(out):
        raise UserError(
            f"--out={out} holds a folder {TILES} of something else (no {_MARK} in it): name "
            "another folder"
        )


def remove(out: Path) -> None:
    """Remove the tiles of earlier results."""
    if ours(out):
        shutil.rmtree(out / TILES, ignore_errors=True)


def cut(slides: Sequence[Path], out: Path, settings: Settings) -> Cut:
    """Cut slides into the folder `slides` of the results.

    Raises:
      UserError: not one of them could be cut, or one is given twice, or has a name that cannot be
        used.
    """
    for path in slides:
        image_folder.refuse_undecodable(path)
    names = _names(slides)
    keys = output.keys(names)
    sources = [
        Source(path, name, keys[name], "", name) for path, name in zip(slides, names, strict=True)
    ]
    place = out / TILES
    output.begin(place, settings)
    (place / _MARK).touch()
    results = cut_all(place, sources, settings)
    done = [
        (source, one.kept)
        for source, one in zip(sources, results, strict=True)
        if one.kept is not None
    ]
    failed = [one.reason for one in results if one.kept is None]
    if not done:
        raise UserError(f"no slide could be cut: {failed[0]}")
    output.write_manifest(place, done)
    asked = [
        Asked(place / row["file"], _tile_name(source, row), source.name)
        for source, kept in done
        for row in kept["tiles"]
    ]
    empty = [source.name for source, kept in done if not kept["tiles"]]
    failed += [f"{name}: no field of it holds enough tissue" for name in empty]
    return Cut(asked, done, failed)


def _names(slides: Sequence[Path]) -> list[str]:
    """The files' names; with their folders where two would be alike."""
    places = [image_folder.target_of(path) for path in slides]
    if len(set(places)) < len(places):
        twice = next(path for path in slides if places.count(image_folder.target_of(path)) > 1)
        raise UserError(f"{twice} is given twice: name it once")
    short = [path.name for path in slides]
    return short if len(set(short)) == len(short) else [path.as_posix() for path in places]


def _tile_name(source: Source, tile: dict[str, Any]) -> str:
    """A tile's name in the results."""
    return f"{source.name} {tile['x']},{tile['y']}"


# --- pictures -------------------------------------------------------------------------------------


def draw(
    out: Path, found: Cut, judged: Judged, opened: Classifier | Ensemble
) -> list[dict[str, str]]:
    """Draw each slide's heat map and its most decisive tiles, and say where they are.

    Args:
      out: folder of the results.
      found: the slides.
      judged: the answers for tiles, these among them, by name.
      opened: the run.
    """
    row_of = {name: row for row, name in enumerate(judged.names.tolist())}
    entries = []
    for source, kept in found.slides:
        tiles = [
            (tile, row_of[name])
            for tile in kept["tiles"]
            if (name := _tile_name(source, tile)) in row_of
        ]
        if not tiles:
            continue
        rows = [row for _, row in tiles]
        corners = np.array([(tile["x"], tile["y"]) for tile, _ in tiles])
        files = {"heat_map": f"{source.key}_heat.png", "decisive": f"{source.key}_decisive.png"}
        _heat_map(out / files["heat_map"], source, kept, corners, judged.scores[rows], opened)
        _decisive(out / files["decisive"], out, source, tiles, judged, opened)
        entries.append({"slide": source.name, **files})
    return entries


def _heat_map(
    path: Path,
    source: Source,
    kept: dict[str, Any],
    corners: np.ndarray,
    scores: np.ndarray,
    opened: Classifier | Ensemble,
) -> None:
    with reader.open_slide(source.path) as slide:
        thumbnail = slide.thumbnail(1024)
    drawn = figures.heat_map(
        thumbnail,
        corners * thumbnail.shape[1] / kept["width"],
        kept["field"] * thumbnail.shape[1] / kept["width"],
        scores,
        title=formatting.clean_file(source.name, 60),
        label=f"probability of {formatting.clean_name(opened.rules.positive, 40)}",
        threshold=opened.rules.threshold,
    )
    figures.write_png(path, drawn)


def _decisive(
    path: Path,
    out: Path,
    source: Source,
    tiles: Sequence[tuple[dict[str, Any], int]],
    judged: Judged,
    opened: Classifier | Ensemble,
) -> None:
    """The tiles that speak the most for the slide's most probable class."""
    rows = np.array([row for _, row in tiles])
    answer = int(judged.probabilities[rows].mean(0).argmax())
    order = np.argsort(-judged.probabilities[rows, answer], kind="stable")[:MOST_DECISIVE]
    panels = []
    for index in order.tolist():
        tile, row = tiles[index]
        pixels = image_io.read_image(out / TILES / tile["file"], None)
        share = formatting.percent(float(judged.probabilities[row, answer]))
        panels.append((f"{share} at {tile['x']},{tile['y']}", pixels))
    name = formatting.clean_name(opened.columns[answer], 24)
    title = f"{formatting.clean_file(source.name, 60)}: the tiles that speak the most for {name}"
    figures.write_png(path, figures.image_sheet(title, panels, columns=5))
