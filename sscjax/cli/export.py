"""`sscjax export`: write a run's model for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser, one_of

FORMATS = ("onnx", "stablehlo", "web")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "export",
        "Write a run's model for other programs, and keep it only if its predictions on images of "
        "the run agree with the run's.",
        """
        sscjax export runs/skin --format=onnx --out=skin.onnx
        sscjax export runs/skin --format=web --out=page
        """,
    )
    made.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    made.add_argument(
        "--format",
        required=True,
        type=one_of(*FORMATS),
        metavar="FORMAT",
        help="onnx (a .onnx file for onnxruntime and others), stablehlo (a .zip file for JAX "
        "without this package) or web (a folder with a page for browsers)",
    )
    made.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="the file or folder to write"
    )
    made.add_argument(
        "--overwrite", action="store_true", help="replace what is at --out (default: refuse)"
    )
    made.add_argument(
        "--data",
        metavar="PATH",
        help="where the run's images are now (default: where they were in training)",
    )
    made.add_argument(
        "--ort-web",
        type=Path,
        metavar="PATH",
        help="onnxruntime-web, packed or unpacked, for --format=web (default: download it)",
    )
    made.add_argument(
        "--intended-use",
        metavar="TEXT",
        help="for which patients the model is meant, and for which not; the page and the metadata "
        "show it (default: config.intended_use of the run)",
    )
    return made


def main() -> int:
    """Export and print."""
    given = parser().parse_args()
    from sscjax.export.verify import ExportOptions
    from sscjax.export.write import export
    from sscjax.system import terminal

    terminal.set_up_log()
    terminal.set_up_jax()
    settings = ExportOptions(given.data, given.ort_web, given.intended_use)
    print(export(given.run, given.format, given.out, settings, given.overwrite))
    return 0
