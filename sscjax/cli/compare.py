"""`sscjax compare`: whether one run is better than another."""

from __future__ import annotations

import argparse
import string
import sys
from pathlib import Path

from sscjax.errors import UserError
from sscjax.evaluation import predictions as predictions_module
from sscjax.experiments.compare import align, compare_runs, read_run
from sscjax.reports import comparison
from sscjax.system import files, terminal

# --- the program ----------------------------------------------------------------------------------


def main() -> None:
    """Parse the command line, compare, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument(
        "--split", choices=predictions_module.SPLITS, default="test", help="default: test"
    )
    parser.add_argument(
        "--intersection", action="store_true", help="compare only the images that all runs have"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and swaps; default: 0")
    arguments = parser.parse_args()
    if not 2 <= len(arguments.runs) <= len(string.ascii_uppercase):
        raise UserError(f"{len(arguments.runs)} run given: expected 2 to 26 to compare")
    terminal.set_up_log()
    runs = [read_run(path.expanduser(), arguments.split) for path in arguments.runs]
    found = compare_runs(align(runs, arguments.intersection), arguments.split, arguments.seed)
    print(comparison.terminal(found), end="")
    if arguments.json:
        files.write_json(arguments.json, found)
    if arguments.markdown:
        files.write_text(arguments.markdown, comparison.markdown(found))


if __name__ == "__main__":
    sys.exit(terminal.call(main))
