"""`sscjax reproduce`: repeat a run and compare it with the first."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "reproduce",
        "Repeat a finished run from its record, after a check that images, weights and code are "
        "the same, and compare every prediction and figure. Exit code 1: something differs.",
        """
        sscjax reproduce runs/skin
        sscjax reproduce runs/skin --check --data=moved/skin
        """,
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a finished run or cross-validation"
    )
    made.add_argument(
        "--workdir",
        type=Path,
        metavar="FOLDER",
        help="where it runs again (default: RUN_reproduced)",
    )
    made.add_argument(
        "--data",
        metavar="PATH",
        help="where the images are now (default: where they were in training)",
    )
    made.add_argument(
        "--weights",
        metavar="FILE",
        help="where the file of pretrained weights is now (default: where it was in training)",
    )
    made.add_argument(
        "--check",
        action="store_true",
        help="compare what goes into the run, and do not train (default: train again)",
    )
    return made


def main() -> int:
    """Check, run again, compare; 1 where something differs."""
    given = parser().parse_args()
    from sscjax.experiments.reproduce import reproduce
    from sscjax.system import terminal

    terminal.set_up_log()
    terminal.set_up_jax()
    folder = given.run.expanduser().resolve()
    target = (given.workdir or folder.with_name(f"{folder.name}_reproduced")).expanduser()
    return reproduce(folder, target.resolve(), given.data, given.weights, given.check)
