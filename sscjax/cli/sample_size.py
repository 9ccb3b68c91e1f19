"""`sscjax sample-size`: how many patients the next study needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax.experiments.sample_size import POWER, WITHIN, samplesize
from sscjax.system import terminal


def main() -> int:
    """Parse the command line, compute, print."""
    terminal.set_up_log()
    parser = argparse.ArgumentParser(
        prog="python -m sscjax sample-size", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", type=Path, help="a finished run or protocol")
    parser.add_argument("other", type=Path, nargs="?", help="another on the same images")
    parser.add_argument(
        "--within",
        type=float,
        nargs="+",
        default=list(WITHIN),
        help="half widths of the 95 %% interval in points; 10 7.5 5",
    )
    parser.add_argument(
        "--power", type=float, default=POWER, help="chance to show a difference; 0.8"
    )
    parser.add_argument("--json", type=Path, help="write all of it there, too")
    arguments = parser.parse_args()
    return samplesize(
        arguments.run,
        arguments.other,
        within=arguments.within,
        power=arguments.power,
        json_path=arguments.json,
    )


if __name__ == "__main__":
    sys.exit(terminal.call(main))
