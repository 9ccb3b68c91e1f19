"""`sscjax report`: write a run's page and model card again."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "report",
        "Write report.html and model_card.md of a finished run again, from its folder alone.",
        "sscjax report runs/three_class",
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a finished run or cross-validation"
    )
    return made


def main() -> None:
    """Write the files and print their names."""
    given = parser().parse_args()
    from sscjax.reports import html

    for path in html.write_again(given.run.expanduser().resolve()):
        print(path)
