"""A finished run, or cross-validation, as an object: its figures, predictions and classifier."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from sscjax.evaluation import result
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments.cross_validation import all_folds
from sscjax.inference import ensemble
from sscjax.inference.classifier import Classifier
from sscjax.inference.ensemble import Ensemble
from sscjax.reports import headline
from sscjax.system import files, formatting, run_dir


class RunResult:
    """What a run left in its folder.

    Attributes:
      folder: where everything lies.
      text: the report, as in report.txt.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text

    @functools.cached_property
    def predictions(self) -> Predictions:
        """Calibrated predictions: of a run every image, of a cross-validation every test image."""
        return Predictions.read_csv(self.folder / run_dir.PREDICTIONS)

    @functools.cached_property
    def figures(self) -> result.Evaluation:
        """Figures of the test images with their intervals, as `sscjax.evaluate` gives them.

        Of a cross-validation all test predictions of its folds are aggregated; where it has
        repeats, a subject's images are aggregated within a repeat and not across.
        """
        splits = files.read_json(self.folder / run_dir.METRICS)["splits"]
        ordered = splits["test"]["image"]["quadratic_kappa"] is not None
        subjects = Predictions.read_csv(self.folder / run_dir.SUBJECT_PREDICTIONS)
        return result.of_tables(self.predictions.where("test"), subjects.where("test"), ordered)

    @functools.cached_property
    def headline(self) -> str:
        """What the command prints: the figure that counts, what is weak about it, what is next."""
        return headline.text(self.folder)

    def classifier(self) -> Classifier | Ensemble:
        """The trained classifier; of a cross-validation that of all images, or else its folds'."""
        return ensemble.open_folder(self.folder)

    def __repr__(self) -> str:
        accuracy = self.figures["balanced_accuracy"].per_subject.value
        folder = formatting.clean_file(str(self.folder), 60)
        share = formatting.percent(accuracy)
        return f"RunResult({folder}: balanced accuracy {share} of test subjects)"


def run(
    config: ConfigDict, folder: Path, *, fresh: bool = False, command: Sequence[str] = ()
) -> RunResult:
    """Do what `config.protocol` says, or find it done; arguments as of `all_folds.run`."""
    return RunResult(folder, all_folds.run(config, folder, fresh=fresh, command=command))
