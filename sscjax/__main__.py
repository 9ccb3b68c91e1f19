"""The command `sscjax COMMAND ...`, the same as `python -m sscjax COMMAND ...`."""

from __future__ import annotations

import importlib
import sys

import sscjax

# Command -> module and what it does, in the order in which a study meets them. The modules are
# imported when they are called: help has to be there at once.
COMMANDS = {
    "train": ("sscjax.main", "train on a folder of images, test and report"),
    "audit": ("sscjax.cli.audit", "look for leaks in a set of images, before any training"),
    "predict": ("sscjax.cli.predict", "classify new images with a finished run"),
    "explain": ("sscjax.cli.explain", "draw which parts of an image a prediction rests on"),
    "slides": ("sscjax.cli.slides", "cut whole slides into tiles"),
    "compare": ("sscjax.cli.compare", "test whether one run is better than another"),
    "sample-size": ("sscjax.cli.sample_size", "plan how many patients the next study needs"),
    "learning-curve": (
        "sscjax.cli.learning_curve",
        "estimate what more training patients would gain",
    ),
    "compare-features": (
        "sscjax.cli.compare_features",
        "compare encoders on the same patients and folds",
    ),
    "report": ("sscjax.cli.report", "write a run's page and model card again"),
    "export": ("sscjax.cli.export", "write a run's model as ONNX, StableHLO or a web page"),
    "reproduce": ("sscjax.cli.reproduce", "repeat a run and compare it with the first"),
    "app": ("sscjax.cli.app", "open all of this as pages in the browser of this computer"),
    "doctor": ("sscjax.cli.doctor", "check whether this machine is fit for training"),
}


def usage() -> str:
    """The help of the command itself."""
    lines = [f"  {name:16} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sscjax COMMAND ...",
            "",
            "Train image classifiers on small medical data sets, on an ordinary computer.",
            "For research, not for diagnosis.",
            "",
            "commands:",
            *lines,
            "",
            "`sscjax COMMAND --help` explains one; `sscjax --version` prints the version.",
            "",
            "example:",
            "  sscjax train skin",
            "  sscjax predict runs/skin new_patients --out=new",
        ]
    )


def main() -> int:
    """Call the command that the first argument names; returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"sscjax {sscjax.__version__}")
        return 0
    if name not in COMMANDS:
        from sscjax.cli.parsing import nearest

        hint = nearest(name, COMMANDS) or f"; expected {', '.join(COMMANDS)}"
        print(f"error: sscjax has no command {name!r}{hint}", file=sys.stderr)
        return 2
    from sscjax.system import terminal

    # The command sees its own arguments only.
    sys.argv[:2] = [f"sscjax {name}"]
    module = importlib.import_module(COMMANDS[name][0])
    return terminal.call(module.main)


if __name__ == "__main__":
    sys.exit(main())
