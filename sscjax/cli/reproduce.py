"""`sscjax reproduce`: repeat a run and compare it with the first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax.experiments.reproduce import reproduce
from sscjax.system import terminal

# --- the program ----------------------------------------------------------------------------------


def main() -> int:
    """Parse the command line, check, run again, compare."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax reproduce", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run or protocol")
    parser.add_argument("--workdir", type=Path, help="where it runs again; RUN_reproduced")
    parser.add_argument("--data", help="where the images are now, if they were moved")
    parser.add_argument("--weights", help="where the file of weights is now, if it was moved")
    parser.add_argument("--check", action="store_true", help="compare what goes in, do not run")
    arguments = parser.parse_args()
    terminal.set_up_log()
    terminal.set_up_jax()
    folder = arguments.run.expanduser().resolve()
    target = (arguments.workdir or folder.with_name(f"{folder.name}_reproduced")).expanduser()
    return reproduce(folder, target.resolve(), arguments.data, arguments.weights, arguments.check)


if __name__ == "__main__":
    sys.exit(terminal.call(main))
