"""`sscjax predict`: classify new images with a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import PRIVATE, Parser, add_maps


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "predict",
        "Classify new images with a finished run or cross-validation, and write a page to read in "
        "a browser. Exit code 1: an image could not be read.",
        "sscjax predict runs/skin new_patients",
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a finished run or cross-validation"
    )
    made.add_argument(
        "input", type=Path, nargs="+", metavar="INPUT", help="images, folders, manifests or slides"
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where page and tables go (default: a new folder in predictions, named by date and "
        "run)",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace earlier results in that folder (default: refuse)",
    )
    made.add_argument(
        *("--pages", "--config.data.pages"),  # as messages and the training spell it
        dest="pages",
        default="",
        metavar="WHICH",
        help="page of files with several: first, middle, channels or a number (default: as in "
        "training)",
    )
    made.add_argument("--private", action="store_true", help=PRIVATE)
    add_maps(made)
    made.add_argument(
        "--openseadragon",
        type=Path,
        metavar="PATH",
        help="OpenSeadragon's npm archive or folder, for slides (default: fetched once)",
    )
    return made


def main() -> int:
    """Predict, write, print; 1 where an image could not be read, or labels give no figures."""
    given = parser().parse_args()
    from sscjax.inference.predict import predict
    from sscjax.system import terminal

    terminal.set_up_log()
    terminal.set_up_jax()
    return predict(
        given.run,
        given.input,
        given.out,
        given.overwrite,
        given.private,
        show=given.maps,
        openseadragon=given.openseadragon,
        pages=given.pages,
    )
