"""Make a run's report.html and model_card.md anew: `python -m sscjax report runs/three_class`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax.reports import html
from sscjax.system import terminal


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m sscjax report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run, or of a protocol")
    for path in html.write_again(parser.parse_args().run.expanduser().resolve()):
        print(path)


if __name__ == "__main__":
    sys.exit(terminal.call(main))
