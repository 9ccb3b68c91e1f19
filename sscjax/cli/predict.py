"""`sscjax predict`: classify new images by a finished run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax.inference.predict import PRIVATE_HELP, predict
from sscjax.system import terminal


def main() -> int:
    """Parse the command line, predict, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax predict", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run, or protocol")
    parser.add_argument("input", type=Path, nargs="+", help="images, folders, manifests or slides")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="predictions")
    parser.add_argument("--overwrite", action="store_true", help="replace what lies at --out")
    parser.add_argument("--private", action="store_true", help=PRIVATE_HELP)
    arguments = parser.parse_args()
    terminal.set_up_log()
    terminal.set_up_jax()
    return predict(
        arguments.run, arguments.input, arguments.out, arguments.overwrite, arguments.private
    )


if __name__ == "__main__":
    sys.exit(terminal.call(main))
