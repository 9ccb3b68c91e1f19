"""`sscjax sample-size`: plan how many patients the next study needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "sample-size",
        "Plan how many patients the next study needs: for intervals of a given width, with an "
        "assurance, with more images per patient in exchange for patients, and with a second run "
        "on the same images for showing that one is better.",
        """
        sscjax sample-size runs/skin
        sscjax sample-size runs/skin runs/other --within 5 2.5 --power=0.9
        """,
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a finished run or cross-validation"
    )
    made.add_argument(
        "other",
        type=Path,
        nargs="?",
        metavar="OTHER",
        help="another run on the same images (default: none)",
    )
    made.add_argument(
        "--within",
        type=float,
        nargs="+",
        default=[10.0, 7.5, 5.0],
        metavar="POINTS",
        help="half widths of the 95 %% interval in percentage points (default: 10 7.5 5)",
    )
    made.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="probability of showing a true difference, 0 to 1 (default: 0.8)",
    )
    made.add_argument(
        "--assurance",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="probability that the next study reaches the width, 0.5 to 1 (default: 0.8)",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write all of it as JSON (default: print only)"
    )
    return made


def main() -> int:
    """Compute and print."""
    given = parser().parse_args()
    from sscjax.experiments.sample_size import Options, samplesize
    from sscjax.system import terminal

    terminal.set_up_log()
    options = Options(given.within, given.power, given.assurance)
    return samplesize(given.run, given.other, options, json_path=given.json)
