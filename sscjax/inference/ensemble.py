"""All models of a protocol, asked together about new images.

A protocol ends with a model for each fold and none for new patients. Together they are one:
probabilities are the mean of the folds' calibrated ones (Breiman 1996, Machine Learning 24,
123-140), a pixel's mask class is the one that most of them tell. Threshold and least confidence are
chosen on the protocol's pooled test predictions, where each image was judged by a model that had
not seen it. Those are of single models, and what the models have together, such as a sensitivity at
that threshold, is measured nowhere; means are less extreme, so that more is unsure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import sscjax
from sscjax.errors import UserError
from sscjax.evaluation import reliability, thresholds
from sscjax.evaluation.predictions import Predictions, group_means
from sscjax.inference import classifier
from sscjax.inference.answers import Answers, Rules
from sscjax.inference.classifier import Classifier
from sscjax.inference.predictor import Predictor, refuse_folder, write_files
from sscjax.system import run_dir


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Predictor):
    """The finished models of a protocol; has what `predict` asks of a `Classifier`.

    Attributes:
      folder: of the protocol.
      members: its folds' models.
      rules: what is made of the mean probabilities.
      warnings: what a reader of the protocol's figures must know.
      content: the small files of the folder that `save` writes again, by name.
    """

    folder: Path
    members: tuple[Classifier, ...]
    rules: Rules
    warnings: tuple[str, ...]
    content: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def far(self) -> float:
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
        place = Path(folder).expanduser()
        if place.is_dir() and self.folder.is_dir() and place.samefile(self.folder):
            return
        refuse_folder(place, run_dir.PROTOCOL, run_dir.FOLDS_TABLE)
        (place / run_dir.PROTOCOL).unlink(missing_ok=True)
        for one in self.members:
            one.save(place / run_dir.FOLDS / one.folder.name)
        write_files(place, self.content, run_dir.PROTOCOL)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the members."""
        return tuple(one.folder for one in self.members)

    @property
    def name(self) -> str:
        """Of the config."""
        return self.members[0].name

    @property
    def stage(self) -> str:
        """Whose models the members are."""
        return ", ".join(sorted({one.stage for one in self.members}))

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
        """Whether answers have numbers in place of names."""
        return self.members[0].private

    def answer(self, batches: Iterable[np.ndarray]) -> Iterator[Answers]:
        """Answers for batches of images; see `Classifier.answer`.

        Distances are the median of the members', each divided by that member's own limit.
        """
        first = self.members[0]
        # One compiled program serves all that differ in their parameters alone.
        runs = [first.run if _alike(one, first) else one.run for one in self.members]
        for images in batches:
            found = [one.ask(images, run) for one, run in zip(self.members, runs, strict=True)]
            limits = [one.far for one in self.members]
            told = [one.masks for one in found if one.masks is not None]
            yield Answers(
                np.mean([one.probabilities for one in found], axis=0),
                np.median(
                    [one.distances / limit for one, limit in zip(found, limits, strict=True)],
                    axis=0,
                ),
                _most_told(np.stack(told), len(self.mask_classes)) if told else None,
            )


def _alike(one: Classifier, other: Classifier) -> bool:
    """Whether two networks do the same with the same parameters."""
    ours, theirs = (
        (each.model, each.scaling, each.program.objective.kind) for each in (one, other)
    )
    return ours == theirs


def _most_told(masks: np.ndarray, classes: int) -> np.ndarray:
    """Of [M,N,S,S] the value that most of M tell, the lower of equally many: [N,S,S] uint8."""
    votes = np.stack([(masks == label).sum(axis=0) for label in range(classes)])
    return votes.argmax(axis=0).astype(np.uint8)


def open_folder(folder: Path | str) -> Classifier | Ensemble:
    """Open a finished run, or all runs of a finished protocol.

    Raises:
      UserError: see `classifier.open_run`; or the protocol is not finished, or its folds' models do
        not belong together.
    """
    folder = Path(folder).expanduser()
    run = run_dir.RunDir(folder)
    if not run.has(run_dir.PROTOCOL):
        return classifier.open_run(folder)
    kept = run.protocol()
    if kept["status"] != "finished":
        raise UserError(
            f"the protocol in {folder} is not finished: give its own command again first"
        )
    try:
        return _build(folder, kept)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        then = (kept.get("versions") or {}).get("sscjax", "an unknown version")
        raise UserError(
            f"{folder / run_dir.PROTOCOL}, made by sscjax {then}, does not say what sscjax "
            f"{sscjax.__version__} needs ({type(error).__name__}: {error}): give the protocol's "
            "command again, or install that version"
        ) from error


def _build(folder: Path, kept: dict[str, Any]) -> Ensemble:
    run = run_dir.RunDir(folder)
    members = tuple(classifier.open_run(run.fold(one["name"]).path) for one in kept["folds"])
    alike = {(one.columns, one.image_size, one.mask_classes) for one in members}
    if len(alike) > 1:
        raise UserError(
            f"{folder}: its folds have networks of different classes or image sizes, which cannot "
            f"be asked together: name one, such as {members[0].folder}"
        )
    config = ConfigDict(kept["config"])
    warnings = tuple(dict.fromkeys(line for one in members for line in one.warnings))
    names = (run_dir.PROTOCOL, run_dir.PREDICTIONS)
    content = {name: (folder / name).read_bytes() for name in names}
    return Ensemble(folder, members, _rules(folder, config, members[0]), warnings, content)


def _rules(folder: Path, config: ConfigDict, member: Classifier) -> Rules:
    """Chosen on the pooled test predictions, all of images that the model had not seen.

    Where repeats tested an image several times, it counts once, with the mean of its probabilities.
    """
    table = Predictions.read_csv(run_dir.RunDir(folder).predictions)
    _, first, image = np.unique(table.files, return_index=True, return_inverse=True)
    pooled = dataclasses.replace(
        table.take(first),
        splits=np.full(len(first), "val"),
        probabilities=group_means(table.probabilities, image),
    )
    options = reliability.Options(**config.calibration.to_dict())
    names = member.classes
    point = thresholds.operating_point(pooled, names, options.threshold, options.sensitivity)
    least = thresholds.abstention(pooled, options.target_accuracy)
    return Rules(
        temperature=1.0,  # each model has its own
        threshold=float(point["value"]),
        positive=point["positive"],
        negative=point["negative"],
        threshold_rule=_pooled(point["rule"]),
        least_confidence=least["threshold"],
        abstention_rule=_pooled(least["rule"]),
    )


def _pooled(rule: str) -> str:
    """A rule's wording, with what stands in for the validation images."""
    rule = rule.replace("the validation images", "the folds' test images")
    rule = rule.replace("all validation images", "all test images of the folds")
    return rule.replace("on validation", "on the folds' test images")
