"""`sscjax compare-features`: which encoder is best on one's own patients, if they can show it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "compare-features",
        "Compare encoders on the same patients, folds and repeats: an L2-regularised classifier on "
        "the features of each, paired differences per patient with intervals, calibration, speed "
        "and size. Writes a page, a text and JSON.",
        """
        sscjax compare-features skin --features mobilenet_v2 uni:uni/model.bin
        sscjax compare-features skin --features a.npz b.h5 a.npz+b.h5
        """,
    )
    made.add_argument(
        "path", type=Path, metavar="PATH", help="folder of images, or a table that lists them"
    )
    made.add_argument(
        "--features",
        nargs="+",
        required=True,
        metavar="ENCODER",
        help="two or more: a file of features (.npz, .h5, .csv, .parquet, .npy), NAME, NAME:FILE "
        "of weights or NAME:random, with @SIZE for other pixels; A+B reads both together",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder to write to (default: runs/NAME_features)",
    )
    made.add_argument(
        "--folds", type=int, default=5, metavar="NUMBER", help="folds by patient (default: 5)"
    )
    made.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="NUMBER",
        help="repeats with other folds (default: 5)",
    )
    made.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classes in order (default: sorted)",
    )
    made.add_argument(
        "--config",
        default="best",
        metavar="NAME",
        help="config that says how images are read (default: best)",
    )
    made.add_argument(
        "--weights",
        metavar="FILE",
        help="ImageNet weights of MobileNetV2 (default: fetched, or in the cache)",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="seed of folds, resamples and swaps (default: 0)",
    )
    return made


def main() -> None:
    """Compare, print and write."""
    given = parser().parse_args()
    from sscjax.experiments import learning_curve
    from sscjax.experiments.encoders import comparison
    from sscjax.reports import encoders
    from sscjax.system import terminal

    terminal.set_up_log()
    path = given.path.expanduser()
    config = learning_curve.config_of(path, given.config, None, given.classes, given.weights)
    options = comparison.Options(given.folds, given.repeats, given.seed)
    found = comparison.compare(given.features, config, options)
    out = given.out or comparison.default_folder(path)
    page = encoders.write(out, str(path), found)
    print(encoders.text(str(path), found))
    print(f"\nThe page: {page}")
