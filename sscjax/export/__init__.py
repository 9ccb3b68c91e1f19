"""A finished run for other programs: an ONNX file, StableHLO, a page in the browser.

`sscjax export RUN --format=onnx --out=skin.onnx` writes the file, runs it by its own
runtime on images of the run, and keeps it only if it predicts as the run does.
"""

from sscjax.export.stablehlo import load as load_stablehlo

__all__ = ["load_stablehlo"]
