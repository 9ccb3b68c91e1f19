"""`sscjax audit`: look for leaks in a set of images, before any training."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser, one_of


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "audit",
        "Look for leaks in a set of images: the same image or the same subject in two splits, one "
        "image under two labels, classes that differ in how their images were made. Exit code 1: "
        "there is a leak.",
        """
        sscjax audit skin
        sscjax audit skin --splits=runs/skin/splits.csv --json=audit.json
        """,
    )
    made.add_argument("data", type=Path, metavar="DATA", help="folder of images, or a table")
    made.add_argument(
        "--image-size",
        type=int,
        default=128,
        metavar="PIXELS",
        help="side that images are compared at, 32 or more (default: 128)",
    )
    made.add_argument(
        "--corrupt",
        "--config.data.corrupt",  # as messages and the training spell it
        dest="corrupt",
        type=one_of("few", "error", "skip"),
        default="few",
        metavar="WHAT",
        help="images that cannot be read: few leaves out up to 1 %%, error stops at any, skip "
        "leaves out all (default: few)",
    )
    made.add_argument(
        "--pages",
        "--config.data.pages",
        dest="pages",
        default="",
        metavar="WHICH",
        help="page of files with several: first, middle, channels or a number (default: find out)",
    )
    made.add_argument(
        "--pixel-bits",
        "--config.data.pixel_bits",
        dest="pixel_bits",
        type=int,
        default=0,
        metavar="BITS",
        help="bits that 16-bit files use; 0: find out (default: 0)",
    )
    made.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="splits.csv of a run, to look across its splits (default: those of the manifest)",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write the findings there (default: print only)"
    )
    # Under the names of the config's fields, too: messages name these.
    made.add_argument(
        *("--layout", "--config.data.layout"),
        dest="layout",
        default="",
        metavar="LEVELS",
        help="what the folder's levels mean, such as class/patient (default: find out)",
    )
    made.add_argument(
        *("--columns", "--config.data.columns"),
        dest="columns",
        default="",
        metavar="ROLE=COLUMN,...",
        help="columns of a table, such as label=dx,subject=lesion_id (default: by their names)",
    )
    made.add_argument(
        *("--merge-spellings", "--config.data.merge_spellings"),
        dest="merge_spellings",
        nargs="?",
        const=True,
        default=False,
        type=_flag,
        metavar="True",
        help="read names that differ only in capitals, white space or the form of accents as one "
        "(default: False)",
    )
    made.add_argument(
        *("--shared-subjects", "--config.data.shared_subjects"),
        dest="shared_subjects",
        type=one_of("same", "different"),
        metavar="WHAT",
        help="what equal names of subjects in several classes are: same or different subjects "
        "(default: stop where it is in doubt)",
    )
    return made


def _flag(text: str) -> bool:
    """True or False, as the config's fields are given."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected True or False")
    return text.lower() == "true"


def main() -> int:
    """Audit and print; 1 where something leaks."""
    given = parser().parse_args()
    from sscjax.data.audit.report import audit_folder
    from sscjax.data.layout import Reading
    from sscjax.data.pixel_range import Decoding
    from sscjax.system import terminal

    terminal.set_up_log()
    return audit_folder(
        given.data,
        given.image_size,
        corrupt=given.corrupt,
        splits=given.splits,
        json_path=given.json,
        decoding=Decoding(given.pixel_bits, given.pages, mpp=-1, masks=False),
        reading=Reading(
            given.layout, given.columns, given.merge_spellings, given.shared_subjects or ""
        ),
    )
