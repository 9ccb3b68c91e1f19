"""The folder of tiles: its files, written so that a slide is complete in it or not there at all.

manifest.csv           one row for each tile: file, label, subject, slide, x, y, mpp, tissue
slides.json            the settings that all slides were cut by
tiles/SLIDE/X_Y.png    the tiles, by their place in pixels of level 0
slides/SLIDE.json      what became of a slide; written last
thumbnails/SLIDE.png   the slide with its grid
"""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sscjax.data.image_folder import MANIFEST
from sscjax.data.slides import tiling
from sscjax.data.slides.tiling import Plan, Settings, Tile
from sscjax.errors import UserError
from sscjax.system import files, run_dir

SETTINGS = run_dir.SLIDES
FORMAT = 1
COLUMNS = ("file", "label", "subject", "slide", "x", "y", "mpp", "tissue")

# Colours of the grid, distinguishable with any kind of colour vision (Okabe and Ito 2008).
_COLOURS = {
    "taken": (0, 114, 178),
    tiling.PEN: (213, 94, 0),
    tiling.BLUR: (204, 121, 167),
    tiling.BEYOND: (120, 120, 120),
}
_LEGEND = 22  # pixels
_SHOWN = 1024


@dataclasses.dataclass(frozen=True)
class Source:
    """A slide that is to be cut.

    Attributes:
      path: the file.
      name: as the user knows it: relative to the folder of slides.
      key: its name in the folder of tiles, unlike any other's.
      label: class, '' where it is not known.
      subject: patient or biopsy; the slide itself where none is named.
    """

    path: Path
    name: str
    key: str
    label: str
    subject: str

    def state(self) -> dict[str, Any]:
        """Values that change if the slide's file, label or subject changes."""
        status = self.path.stat()
        return {
            "name": self.name,
            "bytes": status.st_size,
            "modified": status.st_mtime,
            "label": self.label,
            "subject": self.subject,
        }


def keys(names: Iterable[str]) -> dict[str, str]:
    """A folder's name for each slide's name: plain letters, and no two alike on any system."""
    key_of: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = unicodedata.normalize("NFKD", str(Path(name).with_suffix("")))
        plain = plain.encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_")[:80] or "slide"
        key, number = plain, 1
        while key.lower() in taken:
            number += 1
            key = f"{plain}_{number}"
        taken.add(key.lower())
        key_of[name] = key
    return key_of


# --- settings -------------------------------------------------------------------------------------


def begin(out: Path, settings: Settings) -> None:
    """Make the folder, or make sure that its tiles were cut by the same settings.

    Raises:
      UserError: they were not, or the folder holds something else, or cannot be written.
    """
    path = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file, expected a folder")
    if path.is_file():
        earlier = read_settings(path)
        if earlier != settings:
            then, now = earlier.as_json(), settings.as_json()
            changed = [
                f"{name} {then[name]} then, {now[name]} now"
                for name in now
                if then[name] != now[name]
            ]
            raise UserError(
                f"--out={out} holds tiles cut by other settings ({'; '.join(changed)}): name "
                "another folder, or give the same settings"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out={out} holds something else (no {SETTINGS}): name another folder")
    try:
        files.write_json(path, {"format": FORMAT, "settings": settings.as_json()})
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): name another folder"
        ) from error


def read_settings(path: Path) -> Settings:
    """The settings in a `slides.json`.

    Raises:
      UserError: it is damaged, or of another version.
    """
    try:
        kept = files.read_json(path)
        if kept["format"] != FORMAT:
            raise ValueError(f"format {kept['format']}, expected {FORMAT}")
        return Settings.from_json(kept["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or of another version ({error}): cut the slides again into another "
            "folder"
        ) from error


# --- one slide ------------------------------------------------------------------------------------


def finished(out: Path, source: Source) -> dict[str, Any] | None:
    """The record of a slide that was cut earlier; None if it has changed or is incomplete."""
    try:
        record = files.read_json(out / "slides" / f"{source.key}.json")
        same = record["source"] == source.state() and isinstance(record["tiles"], list)
        complete = all((out / row["file"]).is_file() for row in record["tiles"]) if same else False
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return record if complete else None


class Writer:
    """Takes the tiles of one slide; `close` gives them their names, all at once.

    Left without it, nothing of the slide stays.
    """

    def __init__(self, out: Path, source: Source) -> None:
        self._out, self._source = out, source
        self._place = out / "tiles" / source.key
        self._temporary = out / "tiles" / f".{source.key}.tmp"
        (out / "slides" / f"{source.key}.json").unlink(missing_ok=True)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._rows: list[dict[str, Any]] = []

    def add(self, tile: Tile, mpp: float | None) -> None:
        """Write one tile."""
        name = f"{tile.x}_{tile.y}.png"
        Image.fromarray(tile.pixels).save(self._temporary / name, "PNG")
        self._rows.append(
            {
                "file": f"tiles/{self._source.key}/{name}",
                "x": tile.x,
                "y": tile.y,
                "mpp": None if mpp is None else round(mpp, 4),
                "tissue": round(tile.tissue, 4),
            }
        )

    def close(self, about: Mapping[str, Any], picture: np.ndarray) -> dict[str, Any]:
        """Publish the slide's tiles and return its record."""
        # Those that a cap drew come in the order of drawing.
        self._rows.sort(key=lambda row: (row["y"], row["x"]))
        shutil.rmtree(self._place, ignore_errors=True)
        self._temporary.replace(self._place)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
        files.write_bytes(self._out / "thumbnails" / f"{self._source.key}.png", buffer.getvalue())
        record = {"source": self._source.state(), **about, "tiles": self._rows}
        files.write_json(self._out / "slides" / f"{self._source.key}.json", record)
        return record

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


def drawing(
    planned: Plan, taken: Iterable[tuple[int, int]], skipped: Mapping[tuple[int, int], str]
) -> np.ndarray:
    """The thumbnail with the grid of fields that hold tissue, and a legend: uint8 [h,w,3]."""
    image = Image.fromarray(planned.thumbnail)
    image.thumbnail((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
    scale = planned.scale * image.width / planned.thumbnail.shape[1]
    places = dict.fromkeys(taken, "taken")
    places |= {place: why for place, why in skipped.items() if why != tiling.NO_TISSUE}
    draw = ImageDraw.Draw(image)
    side = planned.field * scale
    for (x, y), kind in sorted(places.items(), key=lambda item: item[1] == "taken"):
        corner = (x * scale, y * scale)
        far = (corner[0] + side - 1, corner[1] + side - 1)
        draw.rectangle((corner, far), outline=_COLOURS[kind], width=2)
        if kind != "taken" and side >= 6:
            draw.line((corner, far), fill=_COLOURS[kind], width=2)
    counts = {kind: sum(why == kind for why in places.values()) for kind in _COLOURS}
    return _with_legend(image, {kind: count for kind, count in counts.items() if count})


def _with_legend(image: Image.Image, counts: Mapping[str, int]) -> np.ndarray:
    """A line of coloured squares, with what they mean, below the picture."""
    entries = [f"{kind} ({count})" for kind, count in counts.items()] or ["no field with tissue"]
    probe = ImageDraw.Draw(image)
    widths = [round(probe.textlength(entry, font_size=13)) + 38 for entry in entries]
    picture = Image.new("RGB", (max(image.width, sum(widths) + 6), image.height + _LEGEND), "white")
    picture.paste(image, (0, 0))
    draw, left, top = ImageDraw.Draw(picture), 6, image.height + 4
    for kind, entry, width in zip([*counts, ""], entries, widths, strict=False):
        if kind:
            draw.rectangle((left, top + 1, left + 12, top + 13), outline=_COLOURS[kind], width=3)
        draw.text((left + 18, top), entry, fill="black", font_size=13)
        left += width
    return np.asarray(picture)


# --- the manifest ---------------------------------------------------------------------------------


def write_manifest(out: Path, done: Iterable[tuple[Source, Mapping[str, Any]]]) -> int:
    """Write `manifest.csv` for the slides that are done, and return its number of tiles."""
    lines = [
        [row["file"], source.label, source.subject, source.name, *(row[key] for key in COLUMNS[4:])]
        for source, record in done
        for row in record["tiles"]
    ]
    files.write_text(out / MANIFEST, files.csv_text([COLUMNS, *lines]))
    return len(lines)
