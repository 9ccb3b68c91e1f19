"""All models of a cross-validation, which predict together for new images.

A cross-validation whose stages need validation images, or whose folds each chose their settings,
ends with a model for each fold and none of all images. Together they are an ensemble: probabilities
are the mean of the folds' calibrated ones (Breiman 1996, Machine Learning 24, 123-140), a pixel's
mask class is the one that most of them predict. Its rules, for subjects and for images, are chosen
on the aggregated test predictions, where each image was predicted by a model that had not seen it
(`evaluation.cross_fit`). Those are predictions of single models. The performance of the ensemble,
such as its sensitivity at that threshold, is not measured; its mean probabilities are less extreme,
so it abstains more often, and its sets are rather too large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Maps
from sscjax.evaluation.rules import Rules
from sscjax.inference import classifier
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs
from sscjax.inference.predictor import Predictor, refuse_folder, write_files
from sscjax.system import run_dir


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
        """Distances are in units of each member's own limit; infinite: most flags are unusable."""
        usable = sum(member.usable_flag for member in self.members)
        return 1.0 if 2 * usable > len(self.members) else math.inf

    @property
    def maps(self) -> Maps:
        """Of the members, which are alike, checked on the images of all."""
        return Maps.join([member.maps for member in self.members])

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
    def decoding(self) -> Decoding:
        """How files are read, the same for all members."""
        return self.members[0].decoding

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
            limits = [member.detector.threshold for member in self.members]
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
    """Open a finished run, or of a cross-validation the model of all images, else all its runs.

    Raises:
      UserError: see `classifier.open_run`; or the cross-validation is not finished, or its folds'
        models do not belong together.
    """
    folder = Path(folder).expanduser()
    run = run_dir.RunDir(folder)
    if not run.has(run_dir.PROTOCOL) or run.handed_on.has(run_dir.RECORD):
        return classifier.open_run(folder)
    record = run.protocol()
    if record["status"] != "finished":
        raise UserError(
            f"the cross-validation in {folder} is not finished: give its own command again first"
        )
    try:
        return _build(folder, record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
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
    alike = {(one.columns, one.image_size, one.mask_classes, one.decoding) for one in members}
    if len(alike) > 1:
        raise UserError(
            f"{folder}: its folds have networks of different classes or image sizes, which cannot "
            f"predict together: name one, such as {members[0].folder}"
        )
    # Those of the whole: a fold's own are of its test patients alone.
    warnings = tuple(" ".join(line.split()) for line in run.metrics()["warnings"])
    names = (
        *(run_dir.PROTOCOL, run_dir.METRICS, run_dir.CALIBRATION),
        *(run_dir.PREDICTIONS, run_dir.SUBJECT_PREDICTIONS),
    )
    content = {name: (folder / name).read_bytes() for name in names}
    rules = Rules.from_json(run.calibration()["rules"], len(members[0].classes))
    return Ensemble(folder, members, rules, warnings, content)
