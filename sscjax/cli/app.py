"""`sscjax app`: the same path in the browser, for people without a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sscjax.cli.parsing import Parser
from sscjax.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = Parser(
        "app",
        "Open a page on this computer: choose a folder of images, see what is found in it, train, "
        "read the report, predict for new patients, export. The page is served by this computer "
        "to its own browser alone.",
        """
        sscjax app
        sscjax app --runs=studies --no-browser
        """,
    )
    made.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="where the studies are kept (default: runs)",
    )
    made.add_argument(
        "--port",
        type=int,
        default=0,
        metavar="NUMBER",
        help="port on 127.0.0.1; 0 takes a free one (default: 0)",
    )
    made.add_argument(
        "--no-browser",
        action="store_true",
        help="only print the address (default: open it)",
    )
    made.add_argument(
        "--config",
        default="best",
        metavar="CONFIG",
        help="the recipe of trainings: name of a config or a file (default: best)",
    )
    made.add_argument(
        "--ort-web",
        type=Path,
        metavar="PATH",
        help="onnxruntime-web, packed or unpacked, for the web page of a model (default: download "
        "it when such a page is made)",
    )
    return made


def main() -> int:
    """Serve until Ctrl-C."""
    given = parser().parse_args()
    try:
        from sscjax.app import server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f"the package {error.name} is not installed, and the app needs it: "
            "pip install 'sscjax[app]'"
        ) from error
    from sscjax.app.desk import Options

    runs = given.runs.expanduser().resolve()
    return server.serve(
        Options(runs, given.config, given.ort_web), given.port, browser=not given.no_browser
    )
