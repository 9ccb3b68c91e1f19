"""`sscjax explain`: draw where the network looked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sscjax.inference import predict
from sscjax.inference.explain import MOST, explain
from sscjax.system import terminal


def main() -> int:
    """Parse the command line, draw, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax explain", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("input", type=Path, nargs="+", help="images, folders or manifests")
    parser.add_argument("--out", type=Path, default=Path("explanations"), help="explanations")
    parser.add_argument("--overwrite", action="store_true", help="replace what lies at --out")
    parser.add_argument("--private", action="store_true", help=predict.PRIVATE_HELP)
    parser.add_argument("--layer", default="", help="by its name; the last one with a place")
    parser.add_argument("--of", default="", help="the class to explain; the most probable one")
    parser.add_argument("--most", type=int, default=MOST, help=f"at most so many images; {MOST}")
    arguments = parser.parse_args()
    terminal.set_up_log()
    terminal.set_up_jax()
    return explain(
        arguments.run,
        arguments.input,
        arguments.out,
        layer=arguments.layer,
        of=arguments.of,
        most=arguments.most,
        overwrite=arguments.overwrite,
        private=arguments.private,
    )


if __name__ == "__main__":
    sys.exit(terminal.call(main))
