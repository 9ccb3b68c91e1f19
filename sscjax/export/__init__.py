"""A finished run as one file for other programs: ONNX, StableHLO, plain arrays.

`python -m sscjax.export RUN --format=onnx --out=skin.onnx` writes the file, runs it by its own
runtime on images of the run, and keeps it only if it answers as the run does.
"""

from sscjax.export.stablehlo import load as load_stablehlo

__all__ = ["load_stablehlo"]
