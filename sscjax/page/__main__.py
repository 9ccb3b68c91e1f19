"""Make a run's report.html and model_card.md anew: `python -m sscjax.page runs/three_class`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax import cli, page


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m sscjax.page", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run, or of a protocol")
    for path in page.write_again(parser.parse_args().run.expanduser().resolve()):
        print(path)


if __name__ == "__main__":
    sys.exit(cli.call(main))
