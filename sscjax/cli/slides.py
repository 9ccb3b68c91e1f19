"""`sscjax slides`: cut whole slides into tiles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sscjax.data.slides.cut import cut
from sscjax.data.slides.tiling import Settings
from sscjax.system import terminal


def main() -> int:
    """Parse the command line, cut, print."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax slides", description="Cut whole slides into tiles."
    )
    wish = Settings()
    parser.add_argument("slides", type=Path, help="a slide, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tiles")
    parser.add_argument("--table", type=Path, help="csv with file,label,subject of the slides")
    numbers: tuple[tuple[str, Any, Any, str], ...] = (
        ("field-px", int, wish.field_px, "field of view in pixels of level 0"),
        ("field-um", float, wish.field_um, "the same in micrometres; takes precedence"),
        ("tile-size", int, wish.tile_size, "side of a written tile in pixels"),
        ("min-tissue", float, wish.min_tissue, "least share of a field that is tissue"),
        ("overlap", float, wish.overlap, "share of a field that its neighbour repeats"),
        ("max-tiles", int, wish.max_tiles, "of one slide, from all over it; 0: all"),
        ("mpp", float, wish.mpp, "micrometres per pixel, for slides that do not say"),
        ("seed", int, wish.seed, "of the tiles that a cap leaves"),
    )
    for name, kind, usual, text in numbers:
        parser.add_argument(f"--{name}", type=kind, default=usual, help=f"{text}; {usual}")
    parser.add_argument(
        "--stain",
        default=wish.stain,
        help="macenko: give all tiles the stains of one reference; none",
    )
    parser.add_argument("--keep-all", action="store_true", help="keep tiles with pen or blur")
    parser.add_argument("--jobs", type=int, default=0, help="slides at a time; 0: one per core")
    given = vars(parser.parse_args())
    terminal.set_up_log()
    settings = Settings(
        **{name.replace("-", "_"): given[name.replace("-", "_")] for name, *_ in numbers},
        reject=not given["keep_all"],
        stain=given["stain"],
    )
    return cut(given["slides"], given["out"], settings, table=given["table"], jobs=given["jobs"])
