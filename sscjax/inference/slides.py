"""Slides to predict for: cut as the training tiles were, and drawn with the predictions.

How tiles were cut stands in the `slides.json` beside them, and the run keeps a copy.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import csv_table, image_folder, image_io, listing, scan
from sscjax.data.inputs import InputImage
from sscjax.data.slides import output, reader
from sscjax.data.slides.cut import cut_all
from sscjax.data.slides.listing import slides_of
from sscjax.data.slides.output import Source
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble
from sscjax.reports import figures
from sscjax.reports.html import slide_viewer
from sscjax.reports.html.openseadragon import PACKAGE
from sscjax.system import formatting

_LOG = logging.getLogger(__name__)

TILES = "slides"
MOST_DECISIVE = 10

# Within the folder of the tiles, which an overwriting call removes.
VIEWER = "viewer"

# Marks a folder of tiles that `cut` made, and not the user.
_MARK = ".predicted"


@dataclasses.dataclass(frozen=True)
class Cut:
    """What became of the slides.

    Attributes:
      tiles: all tiles, slide after slide; each slide is a subject.
      slides: the slides that were cut, with what is kept of them.
      failed: one line for each that could not be.
    """

    tiles: list[InputImage]
    slides: list[tuple[Source, dict[str, Any]]]
    failed: list[str]


def part(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Slides among inputs, and the inputs that are none.

    A folder, which `inputs.find` would take for images, is searched: what only a slide's name
    ends in is a slide, and so is a .tif with several levels or tiles. A folder of slides
    alone is no input beside them.
    """
    slides: list[Path] = []
    rest: list[Path] = []
    for path in (given.expanduser() for given in inputs):
        if path.is_file() and _is_slide(path):
            slides.append(path)
        elif path.is_dir() and not (path / image_folder.MANIFEST).is_file():
            files = list(scan.walk(path))
            in_folder = slides_of([file for file in files if _is_slide(file)], path)
            slides += in_folder
            if len(in_folder) < len(slides_of(files, path)):
                if in_folder:
                    raise UserError(
                        f"{path} holds slides, such as {in_folder[0].name}, and images; put them "
                        "into folders of their own"
                    )
                rest.append(path)
            elif not in_folder:
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
        csv_table.refuse_undecodable(path)
    names = _names(slides)
    keys = output.keys(names)
    sources = [
        Source(path, name, keys[name], "", name) for path, name in zip(slides, names, strict=True)
    ]
    settings = dataclasses.replace(settings, mpp_for_all=False)
    folder = out / TILES
    output.begin(folder, settings)
    (folder / _MARK).touch()
    results = cut_all(folder, sources, settings)
    done = [
        (source, result.kept)
        for source, result in zip(sources, results, strict=True)
        if result.kept is not None
    ]
    failed = [result.reason for result in results if result.kept is None]
    if not done:
        raise UserError(f"no slide could be cut: {failed[0]}")
    output.write_manifest(folder, done)
    tiles = [
        InputImage(
            folder / tile["file"], _tile_name(source, tile), source.name, mpp=tile["mpp"] or 0.0
        )
        for source, about in done
        for tile in about["tiles"]
    ]
    empty = [source.name for source, about in done if not about["tiles"]]
    failed += [f"{name}: no field of it holds enough tissue" for name in empty]
    return Cut(tiles, done, failed)


def _names(slides: Sequence[Path]) -> list[str]:
    """The files' names; with their folders where two would be alike."""
    targets = [listing.target_of(path) for path in slides]
    if len(set(targets)) < len(targets):
        twice = next(path for path in slides if targets.count(listing.target_of(path)) > 1)
        raise UserError(f"{twice} is given twice: name it once")
    short = [path.name for path in slides]
    return short if len(set(short)) == len(short) else [path.as_posix() for path in targets]


def _tile_name(source: Source, tile: dict[str, Any]) -> str:
    """A tile's name in the results."""
    return f"{source.name} {tile['x']},{tile['y']}"


# --- pictures -------------------------------------------------------------------------------------


def viewer_files(source: Path | None) -> dict[str, bytes]:
    """The files of the library that pans and zooms; {} where it cannot be fetched, with a line why.

    Args:
      source: an archive or a folder that holds them; None: they are fetched.

    Raises:
      UserError: `source` holds others.
    """
    try:
        return PACKAGE.read(source)
    except UserError as error:
        if source is not None:
            raise
        _LOG.warning("slides are drawn as pictures that do not zoom: %s", error)
        return {}


def draw(
    out: Path,
    cut_slides: Cut,
    table: Decisions,
    opened: Classifier | Ensemble,
    library: Mapping[str, bytes],
) -> list[dict[str, str]]:
    """Draw each slide's heat map and its most decisive tiles, and say where they are.

    Args:
      out: folder of the results.
      cut_slides: the slides.
      table: the decisions, those for these tiles among them, by name.
      opened: the run.
      library: of the viewer, see `viewer_files`.
    """
    row_of = {name: number for number, name in enumerate(table.names.tolist())}
    entries = []
    for source, about in cut_slides.slides:
        tiles = [
            (tile, row_of[name])
            for tile in about["tiles"]
            if (name := _tile_name(source, tile)) in row_of
        ]
        if not tiles:
            continue
        numbers = [number for _, number in tiles]
        heat = slide_viewer.Heat(
            corners=np.array([(tile["x"], tile["y"]) for tile, _ in tiles]) / about["width"],
            side=about["field"] / about["width"],
            values=table.scores[numbers],
            label=f"probability of {formatting.clean_name(opened.rules.positive, 40)}",
            threshold=opened.rules.image.threshold,
        )
        files = {"heat_map": f"{source.key}_heat.png", "decisive": f"{source.key}_decisive.png"}
        order = _most_decisive(table, numbers)
        _decisive(out / files["decisive"], out, source, [tiles[k] for k in order], table, opened)
        with reader.open_slide(source.path) as slide:
            _heat_map(out / files["heat_map"], source, slide.thumbnail(1024), heat)
            if library:
                pixels = slide.thumbnail(slide_viewer.SIDE)
                folder = out / TILES / VIEWER
                shares = [formatting.percent(float(heat.values[k])) for k in order]
                places = list(zip(shares, order, strict=True))
                title = formatting.clean_file(source.name, 60)
                page = slide_viewer.write(folder, source.key, title, pixels, heat, places, library)
                files["viewer"] = f"{TILES}/{VIEWER}/{page}"
        entries.append({"slide": source.name, **files})
    return entries


def _heat_map(path: Path, source: Source, thumbnail: np.ndarray, heat: slide_viewer.Heat) -> None:
    width = thumbnail.shape[1]
    drawn = figures.heat_map(
        thumbnail,
        heat.corners * width,
        heat.side * width,
        heat.values,
        title=formatting.clean_file(source.name, 60),
        label=heat.label,
        threshold=heat.threshold,
    )
    figures.write_png(path, drawn)


def _most_decisive(table: Decisions, numbers: Sequence[int]) -> list[int]:
    """Places in `numbers`, rows of a slide's tiles, that speak most for its most probable class."""
    probabilities = table.probabilities[list(numbers)]
    best = int(probabilities.mean(0).argmax())
    return np.argsort(-probabilities[:, best], kind="stable")[:MOST_DECISIVE].tolist()


def _decisive(
    path: Path,
    out: Path,
    source: Source,
    tiles: Sequence[tuple[dict[str, Any], int]],
    table: Decisions,
    opened: Classifier | Ensemble,
) -> None:
    """Draw tiles, the most decisive of a slide."""
    name_of_slide = source.name
    of_slide = table.probabilities[table.subjects == name_of_slide]
    best = int(of_slide.mean(0).argmax())
    panels = []
    for tile, number in tiles:
        pixels = image_io.read_image(out / TILES / tile["file"], None)
        share = formatting.percent(float(table.probabilities[number, best]))
        panels.append((f"{share} at {tile['x']},{tile['y']}", pixels))
    name = formatting.clean_name(opened.columns[best], 24)
    title = f"{formatting.clean_file(source.name, 60)}: the tiles that speak the most for {name}"
    figures.write_png(path, figures.image_sheet(title, panels, columns=5))
