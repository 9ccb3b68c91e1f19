"""`sscjax audit`: look for leaks in a set of images, before any training."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sscjax.data import loading
from sscjax.data.audit.checks import LEAK, audit, leaks, text
from sscjax.data.splits import read_splits
from sscjax.errors import UserError
from sscjax.system import files, terminal

_LOG = logging.getLogger(__name__)


def main() -> int:
    """Parse the command line, look, print; 1 where something leaks."""
    parser = argparse.ArgumentParser(prog="python -m sscjax audit", description=__doc__)
    parser.add_argument("data", type=Path, help="folder or manifest of images")
    parser.add_argument("--image-size", type=int, default=128, help="pixels to compare at")
    parser.add_argument(
        "--corrupt", choices=("error", "skip"), default="error", help="images that cannot be read"
    )
    parser.add_argument("--splits", type=Path, help="splits.csv of a run, to look across them")
    parser.add_argument("--json", type=Path, help="file for the findings")
    args = parser.parse_args()
    terminal.set_up_log()
    if args.image_size < 32:
        raise UserError(f"--image-size={args.image_size}: expected 32 pixels or more")
    image_set = loading.load(args.data.expanduser(), args.image_size, corrupt=args.corrupt)
    for file, reason in image_set.left_out.items():
        _LOG.warning("left out: %s: %s", file, reason)
    divided = read_splits(args.splits, image_set) if args.splits else image_set.splits
    folder = args.data.expanduser()
    found = audit(image_set, divided, folder.parent if folder.is_file() else folder)
    if args.json:
        files.write_json(args.json, found)
    print(text(found), end="")
    return LEAK if leaks(found) else 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
