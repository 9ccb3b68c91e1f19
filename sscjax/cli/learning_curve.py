"""`sscjax learning-curve`: estimate what more training patients would gain."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "learning-curve",
        "Estimate what more training patients would gain: accuracy and log loss against their "
        "number, with intervals and an extrapolation. Fits L2-regularised classifiers on frozen "
        "features, which takes minutes. Writes text, JSON, CSV and a picture.",
        """
        sscjax learning-curve runs/skin
        sscjax learning-curve skin --classes normal early late --out=curve
        """,
    )
    made.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="folder of a finished run or cross-validation, or of images",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder to write to (default: learning_curve in the run, or runs/learning_curve)",
    )
    made.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="numbers of training patients (default: six, from a few to all)",
    )
    made.add_argument(
        "--folds", type=int, default=5, metavar="NUMBER", help="folds by patient (default: 5)"
    )
    made.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="NUMBER",
        help="repeats with other folds and patients (default: 5)",
    )
    made.add_argument(
        "--config",
        default="best_three_class",
        metavar="NAME",
        help="config for a folder of images (default: best_three_class)",
    )
    made.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classes in order, for a folder of images (default: sorted)",
    )
    made.add_argument(
        "--data", metavar="FOLDER", help="the images of the run (default: where its record says)"
    )
    made.add_argument(
        "--weights", metavar="FILE", help="weights of the backbone (default: those of the config)"
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="seed of folds, subsets and resamples (default: 0)",
    )
    return made


def main() -> None:
    """Measure, print and write."""
    given = parser().parse_args()
    from sscjax.experiments import learning_curve
    from sscjax.system import run_dir, terminal

    terminal.set_up_log()
    path = given.path.expanduser()
    config = learning_curve.config_of(path, given.config, given.data, given.classes, given.weights)
    run = run_dir.RunDir(path)
    own = run.has(run_dir.RECORD) or run.has(run_dir.PROTOCOL)
    out = given.out or (path if own else Path("runs")) / run_dir.LEARNING_CURVE
    options = learning_curve.Options(given.sizes, given.folds, given.repeats, given.seed)
    print(learning_curve.learning_curve(path, config, options, out))
    print(f"\nEverything lies in {out}")
