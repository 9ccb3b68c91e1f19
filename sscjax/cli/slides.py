"""`sscjax slides`: cut whole slides into tiles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sscjax.cli.parsing import Parser, one_of

# Name, type, default, metavar and meaning of the options that are fields of `tiling.Settings`.
NUMBERS: tuple[tuple[str, Any, Any, str, str], ...] = (
    ("field-px", int, 512, "PIXELS", "side of a tile's field of view, in pixels of level 0"),
    ("field-um", float, 0.0, "MICROMETRES", "the same in micrometres; 0: --field-px counts"),
    ("tile-size", int, 128, "PIXELS", "side of a written tile"),
    ("min-tissue", float, 0.5, "SHARE", "least share of a tile that is tissue, 0 to 1"),
    ("overlap", float, 0.0, "SHARE", "share of a tile that its neighbour repeats, 0 to 0.9"),
    ("max-tiles", int, 0, "NUMBER", "tiles of one slide, drawn from all of it; 0: all"),
    (
        "mpp",
        float,
        0.0,
        "NUMBER",
        "micrometres per pixel, in place of what the slides say; 0: what they say",
    ),
    ("seed", int, 0, "NUMBER", "seed of the draw by --max-tiles"),
)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "slides",
        "Cut whole slides into tiles, without glass, pen marks and blur. Exit code 1: a slide "
        "could not be cut.",
        """
        sscjax slides my_slides --out=tiles --field-um=256
        sscjax slides my_slides --out=tiles --table=labels.csv --stain=macenko
        """,
    )
    made.add_argument("slides", type=Path, metavar="SLIDES", help="a slide, or a folder of slides")
    made.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the tiles go"
    )
    made.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="csv with file,label,subject of the slides (default: labels from the folders)",
    )
    for name, kind, default, metavar, text in NUMBERS:
        made.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default:g})",
        )
    made.add_argument(
        "--stain",
        type=one_of("none", "macenko"),
        default="none",
        metavar="METHOD",
        help="macenko gives all tiles the stains of one reference; none (default: none)",
    )
    made.add_argument(
        "--keep-all",
        action="store_true",
        help="keep tiles with pen marks or blur (default: leave them out)",
    )
    made.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="NUMBER",
        help="slides at a time; 0: one per core (default: 0)",
    )
    return made


def main() -> int:
    """Cut and print; 1 where a slide could not be cut."""
    given = parser().parse_args()
    from sscjax.data.slides.cut import cut
    from sscjax.data.slides.tiling import Settings
    from sscjax.system import terminal

    terminal.set_up_log()
    fields = {name.replace("-", "_") for name, *_ in NUMBERS}
    settings = Settings(
        **{field: getattr(given, field) for field in fields},
        reject=not given.keep_all,
        stain=given.stain,
    )
    return cut(given.slides, given.out, settings, table=given.table, jobs=given.jobs)
