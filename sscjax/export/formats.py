"""The table of formats: who writes each, and how its file's name ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sscjax.export import onnx_file, stablehlo, web
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
      write: f(opened, path, options) writes the file, or the folder, `path`, which does not exist;
        it has to compare what it wrote with the run.
      suffix: that the file's name must end in; '' where it is a folder.
      about: for people.
    """

    write: Callable[[Classifier, Path, ExportOptions], Outcome]
    suffix: str
    about: str


FORMATS: dict[str, Format] = {
    "stablehlo": Format(stablehlo.write, ".zip", "for JAX, without this package"),
    "onnx": Format(onnx_file.write, ".onnx", "for onnxruntime and other runtimes"),
    "web": Format(web.write, "", "a folder with a page that predicts in the browser"),
}
