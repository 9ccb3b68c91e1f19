"""`sscjax explain`: draw which parts of an image a prediction rests on."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import PRIVATE, Parser, add_maps


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "explain",
        "Draw which parts of an image a prediction rests on: what hiding each part costs, and the "
        "model's map if it passed its check.",
        "sscjax explain runs/skin new_patients/patient_41 --out=maps",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    made.add_argument(
        "input", type=Path, nargs="+", metavar="INPUT", help="images, folders or manifests"
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the maps go (default: a new folder in explanations, named by date and run)",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace earlier results in that folder (default: refuse)",
    )
    made.add_argument("--private", action="store_true", help=PRIVATE)
    made.add_argument(
        "--layer",
        default="",
        metavar="NAME",
        help="layer whose output is mapped (default: all that the classifier reads)",
    )
    add_maps(made)
    made.add_argument(
        "--of",
        default="",
        metavar="CLASS",
        help="class to explain (default: the most probable one of each image)",
    )
    made.add_argument(
        "--most",
        type=int,
        default=50,
        metavar="NUMBER",
        help="explain at most so many images (default: 50)",
    )
    return made


def main() -> int:
    """Draw, write, print."""
    given = parser().parse_args()
    from sscjax.inference.explain import explain
    from sscjax.system import terminal

    terminal.set_up_log()
    terminal.set_up_jax()
    return explain(
        given.run,
        given.input,
        given.out,
        layer=given.layer,
        of=given.of,
        most=given.most,
        overwrite=given.overwrite,
        private=given.private,
        show=given.maps,
    )
