"""All models of a cross-validation, which predict together for new images.

A cross-validation ends with a model for each fold and none for new patients. Together they are an
ensemble: probabilities are the mean of the folds' calibrated ones (Breiman 1996, Machine Learning
24, 123-140), a pixel's mask class is the one that most of them predict. The threshold of disease
and the confidence threshold are chosen on the aggregated test predictions, where each image was
predicted by a model that had not seen it. Those are predictions of single models. The performance
of the ensemble, such as its sensitivity at that threshold, is not measured; its mean probabilities
are less extreme, so it abstains more often.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.errors import UserError
from sscjax.evaluation import reliability, thresholds
from sscjax.evaluation.predictions import Predictions, group_means
from sscjax.inference import classifier
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs, Rules
from sscjax.inference.predictor import Predictor, refuse_folder, write_files
from sscjax.system import run_dir
from sscjax.training.settings import read_block


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Predictor):
    """The finished models of a cross-validation; used like a `Classifier`.

    Attributes:
      folder: of the cross-validation.
      members: its folds' models.
      rules: what is made of the mean probabilities.
      warnings: what a reader of its figures must know.
      content: the small files of the folder that `save` writes again, by name.
    """

    folder: Path
    members: tuple[Classifier, ...]
    rules: Rules
    warnings: tuple[str, ...]
    content: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def distance_limit(self) -> float:
        """Distances are in units of each member's own limit."""
        return 1.0

    @property
    def networks(self) -> tuple[Classifier, ...]:
        """The members."""
        return self.members

    def save(self, folder: Path | str) -> None:
        """Write the members to a folder, which `load` and `sscjax predict` accept.

        Args:
          folder: is created; an ensemble that is there already is replaced.

        Raises:
          UserError: the folder holds something else, or cannot be written.
        """
        target = Path(folder).expanduser()
        if target.is_dir() and self.folder.is_dir() and target.samefile(self.folder):
            return
        refuse_folder(target, run_dir.PROTOCOL, run_dir.FOLDS_TABLE)
        (target / run_dir.PROTOCOL).unlink(missing_ok=True)
        for member in self.members:
            member.save(target / run_dir.FOLDS / member.folder.name)
        write_files(target, self.content, run_dir.PROTOCOL)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the members."""
        return tuple(member.folder for member in self.members)

    @property
    def name(self) -> str:
        """Of the config."""
        return self.members[0].name

    @property
    def stage(self) -> str:
        """Whose models the members are."""
        return ", ".join(sorted({member.stage for member in self.members}))

    @property
    def classes(self) -> tuple[str, ...]:
        """As of `Classifier`, like the next ones."""
        return self.members[0].classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return self.members[0].columns

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the mask classes."""
        return self.members[0].mask_classes

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.members[0].image_size

    @property
    def record(self) -> Mapping[str, Any]:
        """Of the first member."""
        return self.members[0].record

    @property
    def ordered(self) -> bool:
        """Whether the classes are a scale."""
        return self.members[0].ordered

    @property
    def private(self) -> bool:
        """Whether predictions have numbers in place of names."""
        return self.members[0].private

    def outputs(self, batches: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """Outputs for batches of images; see `Classifier.outputs`.

        Distances are the median of the members', each divided by that member's own limit.
        """
        first = self.members[0]
        # One compiled program serves all that differ in their parameters alone.
        runs = [first.run if _alike(member, first) else member.run for member in self.members]
        for images in batches:
            parts = [
                member.outputs_of(images, run)
                for member, run in zip(self.members, runs, strict=True)
            ]
            limits = [member.distance_limit for member in self.members]
            masks = [member.masks for member in parts if member.masks is not None]
            yield Outputs(
                np.mean([member.probabilities for member in parts], axis=0),
                np.median(
                    [member.distances / limit for member, limit in zip(parts, limits, strict=True)],
                    axis=0,
                ),
                _most_predicted(np.stack(masks), len(self.mask_classes)) if masks else None,
            )


def _alike(first: Classifier, second: Classifier) -> bool:
    """Whether two networks do the same with the same parameters."""
    of_first, of_second = (
        (network.model, network.scaling, network.program.objective.kind)
        for network in (first, second)
    )
    return of_first == of_second


def _most_predicted(masks: np.ndarray, classes: int) -> np.ndarray:
    """Of [M,N,S,S] the value that most of M have, the lower of equally many: [N,S,S] uint8."""
    votes = np.stack([(masks == label).sum(axis=0) for label in range(classes)])
    return votes.argmax(axis=0).astype(np.uint8)


def open_folder(folder: Path | str) -> Classifier | Ensemble:
    """Open a finished run, or all runs of a finished cross-validation.

    Raises:
      UserError: see `classifier.open_run`; or the cross-validation is not finished, or its folds'
        models do not belong together.
    """
    folder = Path(folder).expanduser()
    run = run_dir.RunDir(folder)
    if not run.has(run_dir.PROTOCOL):
        return classifier.open_run(folder)
    record = run.protocol()
    if record["status"] != "finished":
        raise UserError(
            f"the cross-validation in {folder} is not finished: give its own command again first"
        )
    try:
        return _build(folder, record)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        then = (record.get("versions") or {}).get("sscjax", "an unknown version")
        raise UserError(
            f"{folder / run_dir.PROTOCOL}, made by sscjax {then}, does not say what sscjax "
            f"{sscjax.__version__} needs ({type(error).__name__}: {error}): give the "
            "command again, or install that version"
        ) from error


def _build(folder: Path, record: dict[str, Any]) -> Ensemble:
    run = run_dir.RunDir(folder)
    members = tuple(
        classifier.open_run(run.fold(member["name"]).path) for member in record["folds"]
    )
    alike = {(member.columns, member.image_size, member.mask_classes) for member in members}
    if len(alike) > 1:
        raise UserError(
            f"{folder}: its folds have networks of different classes or image sizes, which cannot "
            f"predict together: name one, such as {members[0].folder}"
        )
    warnings = tuple(dict.fromkeys(line for member in members for line in member.warnings))
    names = (run_dir.PROTOCOL, run_dir.PREDICTIONS)
    content = {name: (folder / name).read_bytes() for name in names}
    return Ensemble(
        folder, members, _rules(folder, record["config"], members[0]), warnings, content
    )


def _rules(folder: Path, config: Mapping[str, Any], member: Classifier) -> Rules:
    """Chosen on the aggregated test predictions, all of images that the model had not seen.

    Where repeats tested an image several times, it counts once, with the mean of its probabilities.
    """
    table = Predictions.read_csv(run_dir.RunDir(folder).predictions)
    _, first, image = np.unique(table.files, return_index=True, return_inverse=True)
    aggregated = dataclasses.replace(
        table.take(first),
        splits=np.full(len(first), "val"),
        probabilities=group_means(table.probabilities, image),
    )
    options = read_block(reliability.Options, config["calibration"], of_record=True)
    names = member.classes
    point = thresholds.operating_point(aggregated, names, options.threshold, options.sensitivity)
    abstention = thresholds.abstention(aggregated, options.target_accuracy)
    return Rules(
        temperature=1.0,  # each model has its own
        threshold=float(point["value"]),
        positive=point["positive"],
        negative=point["negative"],
        threshold_rule=_on_test_images(point["rule"]),
        confidence_threshold=abstention["threshold"],
        abstention_rule=_on_test_images(abstention["rule"]),
    )


def _on_test_images(rule: str) -> str:
    """A rule's wording, with what stands in for the validation images."""
    rule = rule.replace("the validation images", "the folds' test images")
    rule = rule.replace("all validation images", "all test images of the folds")
    return rule.replace("on validation", "on the folds' test images")
