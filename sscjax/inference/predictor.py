"""What a trained classifier does for a notebook: probabilities, classes and heat maps of images.

`Classifier` and `Ensemble` have it in common. Images are prepared and rules applied exactly as
`sscjax predict` does.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sscjax.data import batches
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Maps
from sscjax.evaluation.rules import Rules
from sscjax.inference import decisions, saliency
from sscjax.inference.outputs import BATCH, Outputs
from sscjax.reports import figures, overlays
from sscjax.system import files, formatting

# Images of a picture of heat maps, and pairs of an image and its map beside each other.
_MOST_DRAWN, _PAIRS = 48, 3

# Rows of a printed table.
_MOST_PRINTED = 20


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predicted:
    """What a classifier predicts of N images, or of N subjects; printed, it is a table.

    Attributes:
      files: [N] str, the images' names; of arrays '0', '1' and so on; of subjects theirs.
      subjects: [N] str, as far as the input names them.
      decisions: [N] str, a class name, or 'abstain' where the classifier is not confident enough,
        or 'out_of_distribution' where the image is unlike the training images.
      classes: [N] str, the most probable class, whatever the decision.
      probabilities: [N,C] float64, calibrated; columns in the order of `columns`.
      confidence: [N] float64, the probability of the most probable class.
      scores: [N] float64, the probability of any class but the first.
      positive: [N] bool, whether the score reaches the threshold chosen on held-out patients.
      abstained: [N] bool, the confidence is below the threshold chosen on held-out patients.
      out_of_distribution: [N] bool, unlike the training images.
      distances: [N] float64, how unlike the training images; about 1 is like them.
      prediction_sets: N tuples, the names of the classes that cannot be excluded, see
        `evaluation.conformal`.
      columns: C names of the probabilities.
    """

    files: np.ndarray
    subjects: np.ndarray
    decisions: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    confidence: np.ndarray
    scores: np.ndarray
    positive: np.ndarray
    abstained: np.ndarray
    out_of_distribution: np.ndarray
    distances: np.ndarray
    prediction_sets: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def records(self) -> list[dict[str, Any]]:
        """A dict for each row, ready for JSON or a data frame."""
        named = {
            "file": self.files,
            "subject": self.subjects,
            "decision": self.decisions,
            "class": self.classes,
            "confidence": self.confidence,
            "score": self.scores,
            "positive": self.positive,
            "abstained": self.abstained,
            "out_of_distribution": self.out_of_distribution,
            "distance": self.distances,
        }
        entries = [
            dict(zip(named, row, strict=True))
            for row in zip(*(column.tolist() for column in named.values()), strict=True)
        ]
        for record, row, names in zip(
            entries, self.probabilities.tolist(), self.prediction_sets, strict=True
        ):
            record["prediction_set"] = list(names)
            record["probabilities"] = dict(zip(self.columns, row, strict=True))
        return entries

    def __repr__(self) -> str:
        head = ["image", "decision", *(formatting.clean_name(name, 14) for name in self.columns)]
        lines = [head]
        for row in range(min(len(self), _MOST_PRINTED)):
            shares = [formatting.percent(float(share)) for share in self.probabilities[row]]
            file = formatting.clean_file(str(self.files[row]), 34)
            lines.append([file, formatting.clean_name(str(self.decisions[row])), *shares])
        more = len(self) - _MOST_PRINTED
        return formatting.align(lines, left=2) + (f"\n... and {more} more" if more > 0 else "")


class Predictor(abc.ABC):
    """A trained classifier, of one network or of several."""

    rules: Rules

    @property
    @abc.abstractmethod
    def distance_limit(self) -> float:
        """Images at a distance above this are unlike those of the training; infinite: unusable."""

    @property
    def flags(self) -> bool:
        """Whether the flag for images unlike the training images is usable."""
        return math.isfinite(self.distance_limit)

    @property
    @abc.abstractmethod
    def networks(self) -> Sequence[Any]:
        """The networks, one or more."""

    @abc.abstractmethod
    def outputs(self, batches: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """Probabilities, distances and masks of batches uint8 [n,size,size,3]."""

    def __repr__(self) -> str:
        first = self.networks[0]
        several = f"{len(self.networks)} networks, " if len(self.networks) > 1 else ""
        names = ", ".join(formatting.clean_name(name) for name in first.classes[:10])
        names += f" and {len(first.classes) - 10} more" if len(first.classes) > 10 else ""
        kind = type(first.model).__name__
        return (
            f"{type(self).__name__}({several}{kind}, {first.image_size}x{first.image_size} pixels, "
            f"classes: {names})"
        )

    def predict_proba(self, images: batches.Images) -> np.ndarray:
        """Calibrated probabilities of the classes.

        Args:
          images: uint8 [N,H,W,3] from 0 to 255, of any N and size; a list of [H,W,3] of different
            sizes; an `ImageSet`; a path of an image, a folder or a manifest, or a list of paths.
            Of each the central square is taken and reduced to the network's size.

        Returns:
          [N,C] float64, rows sum to 1, in the order of `columns`: the classes, then outputs of the
          network that stand for none.

        Raises:
          UserError: an image that cannot be read, or something that is no image.
        """
        return self._outputs(batches.of(images, *self._form)).probabilities

    def predict(self, images: batches.Images) -> Predicted:
        """Classes, with abstentions and flags for images unlike the training images.

        Args:
          images: as of `predict_proba`.

        Raises:
          UserError: likewise.
        """
        return self._predicted(self._decide(images))

    def predict_subjects(self, images: batches.Images) -> Predicted:
        """The same by subject, in the order of first appearance.

        Args:
          images: as of `predict_proba`, which have to name their subjects: an `ImageSet`, a folder
            or a manifest. Each image that names none counts as a subject.

        Raises:
          UserError: likewise.
        """
        classes = len(self.networks[0].classes)
        return self._predicted(decisions.by_subject(self._decide(images), self.rules, classes))

    def _decide(self, images: batches.Images) -> decisions.Decisions:
        given = batches.of(images, *self._form)
        outputs = self._outputs(given)
        return decisions.decide(
            given.named, outputs, self.rules, len(self.networks[0].classes), self.distance_limit
        )

    def _predicted(self, table: decisions.Decisions) -> Predicted:
        columns = np.array(self.networks[0].columns)
        return Predicted(
            files=table.names,
            subjects=table.subjects,
            decisions=np.array(table.outcomes(self.networks[0].columns), str),
            classes=columns[table.predicted],
            probabilities=table.probabilities,
            confidence=table.confidence,
            scores=table.scores,
            positive=table.positive,
            abstained=table.abstained,
            out_of_distribution=table.out_of_distribution,
            distances=table.distances,
            prediction_sets=tuple(map(tuple, table.set_names(columns.tolist()))),
            columns=tuple(columns.tolist()),
        )

    def explain(
        self,
        images: batches.Images,
        of: str = "",
        *,
        layer: str = "",
        method: saliency.Method | Literal[""] = "",
        save: str | os.PathLike[str] | None = None,
    ) -> np.ndarray:
        """Heat maps of the evidence for a class.

        Args:
          images: as of `predict_proba`.
          of: the class; '' takes each image's most probable one.
          layer: whose output is mapped, by its name; '' takes all that the classifier reads, as
            reports and commands do. Whether these maps may be read says `maps.verdict`.
          method: 'hires_cam' (Draelos and Carin 2020), which '' takes as well, or 'grad_cam'
            (Selvaraju et al. 2017).
          save: a PNG to write, the first images each beside its map.

        Returns:
          [N,H,W] float32, 0 to 1, of the prepared square images; each map's largest value is 1, or
          all of it 0 where there is no evidence for the class. Of several networks the mean.

        Raises:
          UserError: no such class, layer or method, or an image that cannot be read.
        """
        first = self.networks[0]
        given = batches.of(images, *self._form)
        if of and of not in first.classes:
            near = difflib.get_close_matches(of, first.classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"of={of!r}: the classes are {', '.join(first.classes)}{hint}")
        own = first.maps
        if layer or method:
            _check(first, layer, method)
            own = Maps(method or own.method, (layer,) if layer else own.layers)
        parts: list[np.ndarray] = []
        shown: list[np.ndarray] = []
        for pixels in given:
            if of:
                wanted = np.full(len(pixels), first.columns.index(of))
            else:
                wanted = self._outputs([pixels]).probabilities.argmax(axis=1)
            parts.append(self.heat(pixels, wanted, own))
            shown += list(pixels)[: _MOST_DRAWN - len(shown)]
        side = first.image_size
        heat = np.concatenate(parts) if parts else np.zeros((0, side, side), np.float32)
        if save is not None:
            _draw(Path(save), shown, heat, [one.file for one in given.named], of)
        return heat

    def heat(self, pixels: np.ndarray, classes: np.ndarray, maps: Maps | None = None) -> np.ndarray:
        """Heat maps as of `explain`, of prepared images and a class for each.

        Args:
          pixels: uint8 [n,S,S,3].
          classes: [n] int.
          maps: how they are made; None: as the model's maps are.
        """
        parts = []
        for one in self.networks:
            drawn = one.drawing(maps)(one.params, one.batch_stats, pixels, classes)
            parts.append(np.stack([_scaled(heat, one.image_size) for heat in drawn]))
        return parts[0] if len(parts) == 1 else _to_one(np.mean(parts, axis=0))

    @property
    def _form(self) -> tuple[int, int, tuple[str, ...], Decoding]:
        """Size, batch, classes and decoding of `batches.of`."""
        first = self.networks[0]
        return first.image_size, BATCH, first.classes, first.decoding

    def _outputs(self, given: Iterable[np.ndarray]) -> Outputs:
        parts = [dataclasses.replace(one, masks=None) for one in self.outputs(given)]
        if not parts:
            return Outputs(np.zeros((0, len(self.networks[0].columns))), np.zeros(0))
        return Outputs.join(parts)


def refuse_folder(folder: Path, record: str, of_run: str) -> None:
    """Raise a UserError unless a classifier may be saved there.

    Args:
      folder: where it is to be saved.
      record: the file that a saved classifier has.
      of_run: what only the folder has in which one was trained: it is not replaced.
    """
    held = folder.is_dir() and any(folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, expected a folder: name another")
    if held and ((folder / of_run).exists() or not (folder / record).is_file()):
        what = "the run that trained it or another" if (folder / of_run).exists() else "other files"
        raise UserError(f"{folder} holds {what}: name an empty folder, or one that is not there")


def write_files(folder: Path, content: Mapping[str, bytes], last: str) -> None:
    """Write the files of a classifier; `last` is the one without which the others are nothing.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        for name in sorted(content, key=lambda name: name == last):
            files.write_bytes(folder / name, content[name])
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): name another folder"
        ) from error


# --- heat maps ------------------------------------------------------------------------------------


def _check(network: Any, layer: str, method: str) -> None:
    """Raise a UserError unless there are such maps."""
    if method and method not in saliency.TITLES:
        raise UserError(f"method={method!r}: expected one of {', '.join(saliency.TITLES)}")
    try:
        if layer:
            saliency.check_layer(network.model, layer, network.image_size)
    except ValueError as error:
        near = difflib.get_close_matches(layer, network.model.layer_names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"layer={layer!r}: {str(error).partition(':')[0]}{hint}") from error


def _scaled(heat: np.ndarray, side: int) -> np.ndarray:
    """[h,w] as [side,side] float32 from 0 to 1, linear between its own points."""
    large = Image.fromarray(_to_one(np.maximum(heat, 0)[None])[0])
    return np.clip(np.asarray(large.resize((side, side), Image.Resampling.BILINEAR)), 0, 1)


def _to_one(maps: np.ndarray) -> np.ndarray:
    """[N,h,w] float32, each divided by its largest value."""
    highest = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(highest > 0, highest, 1)).astype(np.float32)


def _draw(
    path: Path, shown: Sequence[np.ndarray], heat: np.ndarray, names: Sequence[str], of: str
) -> None:
    """Images, each beside its map."""
    if not shown:
        raise UserError(f"save={path}: there are no images to draw")
    panels: list[tuple[str, np.ndarray]] = []
    for name, pixels, values in zip(names, shown, heat, strict=False):
        title = formatting.clean_file(name, 24)
        panels += [(title, pixels), ("heat map", overlays.overlay(pixels, values))]
    title = f"Evidence for {formatting.clean_name(of) if of else 'the most probable class'}"
    try:
        sheet = figures.image_sheet(title, panels, columns=min(len(panels), 2 * _PAIRS))
        figures.write_png(path, sheet)
    except OSError as error:
        raise UserError(f"save={path} cannot be written ({error.strerror})") from error
