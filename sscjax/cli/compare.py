"""`sscjax compare`: test whether one run is better than another."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser, one_of


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "compare",
        "Compare 2 to 26 runs on the same images: differences with 95 % intervals and p values, "
        "paired by subject and corrected for their number.",
        """
        sscjax compare runs/mobilenet runs/cnn
        sscjax compare runs/a runs/b --split=val --markdown=comparison.md
        """,
    )
    made.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a finished run or cross-validation",
    )
    made.add_argument(
        "--split",
        type=one_of("train", "val", "test"),
        default="test",
        metavar="SPLIT",
        help="images to compare on: train, val or test (default: test)",
    )
    made.add_argument(
        "--intersection",
        action="store_true",
        help="compare on the images that all runs have (default: refuse runs whose images differ)",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write all of it as JSON (default: print only)"
    )
    made.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the tables as Markdown (default: print only)",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="seed of bootstrap and permutations (default: 0)",
    )
    return made


def main() -> None:
    """Compare, print, and write the files that are given."""
    given = parser().parse_args()
    from sscjax.experiments.compare import compare_folders
    from sscjax.reports import comparison
    from sscjax.system import files, terminal

    terminal.set_up_log()
    result = compare_folders(given.runs, given.split, given.intersection, given.seed)
    print(comparison.terminal(result), end="")
    if given.json:
        files.write_json(given.json, result)
    if given.markdown:
        files.write_text(given.markdown, comparison.markdown(result))
