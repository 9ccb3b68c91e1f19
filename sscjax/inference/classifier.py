"""A finished run, opened to predict for new images: its network, its preprocessing, its rules.

Everything comes from the run's folder, nothing from flags: the stage that was chosen, the size and
the scaling of images, the temperature, the thresholds and the out-of-distribution flag. Prediction,
explanation and export all begin here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sscjax
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError
from sscjax.evaluation import calibration, ood
from sscjax.evaluation.map_check import Maps
from sscjax.evaluation.rules import Rules
from sscjax.inference import checked_maps, predictor, saliency
from sscjax.inference.outputs import BATCH as BATCH
from sscjax.inference.outputs import Outputs
from sscjax.models import MASK, Model, base, factory
from sscjax.models.factory import ModelSettings
from sscjax.models.pretrained import preprocessing
from sscjax.system import run_dir
from sscjax.training import checkpoint, evaluate, frozen_features, programs, setup
from sscjax.training.losses import LossSettings
from sscjax.training.settings import read_block


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classifier(predictor.Predictor):
    """A finished run's network and rules.

    Attributes:
      folder: the run's.
      name: of the run's config.
      stage: whose model it is.
      classes: names in the order of the labels.
      columns: names of the probabilities: the classes, then outputs that stand for none.
      mask_classes: names of the classes of masks; () for a network without.
      image_size: side of the images in pixels.
      decoding: what white is in 16-bit files, and so on, as it was for training.
      scaling: of pixels to the network's input, see `preprocessing.preprocess`.
      program: how the network is run; its inputs are uint8 [B,image_size,image_size,3].
      params: all parameters, by layer.
      batch_stats: all running averages, by layer; empty without BatchNorm.
      rules: what is made of the probabilities.
      detector: the flag for images unlike the training images.
      usable_flag: whether that flag finds most of the images made up to try it.
      record: the run's, see `run_record.make`.
      warnings: what a reader of the run's figures must know.
      ordered: whether the classes are a scale, so that kappa has a meaning.
      maps: by which method and of which layers its maps are made, and whether they may be read.
      content: the small files of the run's folder that `save` writes again, by name.
    """

    folder: Path
    name: str
    stage: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    mask_classes: tuple[str, ...]
    image_size: int
    decoding: Decoding
    scaling: preprocessing.Scaling
    program: programs.Program
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    rules: Rules
    detector: ood.Detector
    usable_flag: bool
    record: Mapping[str, Any]
    warnings: tuple[str, ...]
    ordered: bool
    maps: Maps
    content: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether the run wants no name of a file or subject anywhere."""
        return bool(self.record["config"].get("private", False))

    @property
    def model(self) -> Model:
        """The Linen module."""
        return self.program.model

    @property
    def distance_limit(self) -> float:
        """Images at a distance above this are unlike those of the training; infinite: unusable."""
        return self.detector.threshold if self.usable_flag else math.inf

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the runs that predict: this one."""
        return (self.folder,)

    @property
    def networks(self) -> tuple[Classifier, ...]:
        """The one network."""
        return (self,)

    @functools.cached_property
    def _drawings(self) -> dict[Maps, saliency.Drawing]:
        return {}

    def drawing(self, maps: Maps | None = None) -> saliency.Drawing:
        """What draws maps of this network, its own or others; compiled once."""
        maps = maps or self.maps
        if maps not in self._drawings:
            self._drawings[maps] = saliency.Drawing(
                self.model, self.program.inputs, maps.layers, maps.method
            )
        return self._drawings[maps]

    def save(self, folder: Path | str) -> None:
        """Write the classifier to a folder, which `load` and the commands accept.

        Args:
          folder: is created; a classifier that is there already is replaced.

        Raises:
          UserError: the folder holds something else, or cannot be written.
        """
        target = Path(folder).expanduser()
        if target.is_dir() and self.folder.is_dir() and target.samefile(self.folder):
            return
        predictor.refuse_folder(target, run_dir.RECORD, run_dir.CHECKPOINTS)
        # Without its record the folder is not taken for finished.
        (target / run_dir.RECORD).unlink(missing_ok=True)
        tree = {"params": self.params, "batch_stats": self.batch_stats}
        try:
            checkpoint.save_model(target / run_dir.STAGES / self.stage / run_dir.MODEL, tree)
        except OSError as error:
            raise UserError(
                f"{target} cannot be written ({error.strerror}): name another folder"
            ) from error
        predictor.write_files(target, self.content, run_dir.RECORD)

    @functools.cached_property
    def run(self) -> Callable[..., Any]:
        """See `_make_run`; compiled once."""
        return _make_run(self.program)

    def outputs(self, batches: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """Outputs for batches of images, one after the other.

        Args:
          batches: each uint8 [n,image_size,image_size,3] with n of 1 to `BATCH`.

        Raises:
          ValueError: a batch of another size.
        """
        for images in batches:
            yield self.outputs_of(images, self.run)

    def outputs_of(self, images: np.ndarray, run: Callable[..., Any]) -> Outputs:
        """Outputs for one batch, by `run` of this or of a network of the same layers."""
        count = len(images)
        if not 1 <= count <= BATCH:
            raise ValueError(f"{count} images in a batch, expected 1 to {BATCH}")
        filled = images[frozen_features.batch_rows(count, BATCH)]
        found, features, masks = run(self.params, self.batch_stats, jnp.asarray(filled))
        probabilities = np.asarray(found)[:count]
        return Outputs(
            calibration.calibrate(probabilities, self.rules.image.temperature),
            self.detector.distances(np.asarray(features)[:count]),
            None if masks is None else np.asarray(masks)[:count],
        )


def _make_run(
    program: programs.Program,
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array | None]]:
    """A jitted f(params, batch_stats, images [B,H,W,3]).

    It gives probabilities [B,C], features [B,D] and masks [B,H,W] uint8, None without, all from one
    pass through the network. Features are what the classifier is fed of the image as it is, masks
    are of that image, too.
    """
    model = program.model
    layers, end = len(model.layer_names), model.features_end
    rest = dataclasses.replace(program, first=end, inputs=lambda stored, key: stored, micro_batch=0)

    names = (MASK,) if program.predicts_masks else ()

    @programs.jit
    def run(
        params: Any, batch_stats: Any, images: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        masks = None
        trunk, seen = program.captured(params, batch_stats, images, end, names)
        if names:
            masks = seen[MASK].argmax(-1).astype(jnp.uint8)
        logits = rest.outputs(params, batch_stats, trunk, layers)
        features = evaluate.spatial_mean(trunk)
        return program.objective.probabilities(logits), features, masks

    return run


# What a folder needs beside the model, to be opened, exported and audited later.
_SAVED = (
    *(run_dir.RECORD, run_dir.METRICS, run_dir.CALIBRATION, run_dir.OUTLIERS),
    *(run_dir.PREDICTIONS, run_dir.SUBJECT_PREDICTIONS),
    *(run_dir.MAPS, run_dir.REPORT, run_dir.MANIFEST, run_dir.SLIDES),
)


# --- opening a run's folder -----------------------------------------------------------------------


def open_run(folder: Path | str) -> Classifier:
    """Open the folder of a finished run, or of a cross-validation that has a model of all images.

    Raises:
      UserError: the folder holds no finished run, a file in it is missing or damaged, or another
        version made it that this one cannot read.
    """
    run = run_dir.RunDir(Path(folder).expanduser()).of_model()
    folder = run.path
    record, figures, rules = run.finished_record(), run.metrics(), run.calibration()
    detector = ood.Detector.load(run.outliers)
    try:
        content = {name: _bytes(folder / name) for name in _SAVED if (folder / name).is_file()}
        return _build(folder, record, figures, rules, detector, content)
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        then = record["versions"].get("sscjax", "an unknown version")
        reason = f"{type(error).__name__}: {error}"
        if then == sscjax.__version__:
            raise UserError(f"{folder} is damaged ({reason}): train the run again") from error
        raise UserError(
            f"{folder} was made by sscjax {then}, and this is {sscjax.__version__} ({reason}): "
            "install that version to use the run"
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def _reading(record: Mapping[str, Any]) -> Decoding:
    """How the images of training were read; before 0.4 with full 16 bits and the first page."""
    asked = record["config"]["data"]
    bits = record["data"].get("pixel_bits", asked.get("pixel_bits", 16))
    return Decoding(int(bits), str(asked.get("pages", "first")), float(asked.get("mpp", -1)))


def _build(
    folder: Path,
    record: Mapping[str, Any],
    figures: Mapping[str, Any],
    calibrated: Mapping[str, Any],
    detector: ood.Detector,
    content: Mapping[str, bytes],
) -> Classifier:
    config, stage = record["config"], figures["final_stage"]
    if "name" not in config["model"]:
        # A default may stand in for a newer field, and not for the network itself.
        raise KeyError("config.model.name")
    settings = read_block(ModelSettings, config["model"], of_record=True, name="model")
    loss = read_block(LossSettings, config["loss"], of_record=True, name="loss")
    # A name from a file becomes a part of a path below.
    if stage not in [stage_record["name"] for stage_record in record["stages"]]:
        raise ValueError(f"no stage is called {stage!r}")
    classes = tuple(record["data"]["classes"])
    outputs = settings.output_count(len(classes))
    assumed = preprocessing.CONVENTIONS[record["weights"]["convention"]]
    masks = tuple(record["data"].get("mask_classes", ()))
    size = int(config["data"]["image_size"])
    model = factory.build_model(settings, factory.Task(outputs, size, len(masks)))
    model = factory.with_convention(model, assumed)
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    like = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    like = base.variables(like["params"], like.get("batch_stats", {}))
    variables = checkpoint.load_model(run_dir.RunDir(folder).stage(stage).model, like)
    program = programs.Program(
        model,
        loss.objective(outputs),
        setup.make_inputs(assumed.scaling),
        micro_batch=int(record["stages"][0]["micro_batch"]),
    )
    return Classifier(
        folder=folder,
        name=config["name"],
        stage=stage,
        classes=classes,
        columns=evaluate.class_columns(classes, max(outputs, 2)),
        mask_classes=masks if program.predicts_masks else (),
        image_size=size,
        decoding=_reading(record),
        scaling=assumed.scaling,
        program=program,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        rules=Rules.from_json(calibrated["rules"], len(classes)),
        detector=detector,
        usable_flag=bool(calibrated["outliers"]["usable"]),
        record=record,
        warnings=tuple(" ".join(line.split()) for line in figures["warnings"]),
        ordered=any(
            split["image"]["quadratic_kappa"] is not None for split in figures["splits"].values()
        ),
        maps=checked_maps.read(run_dir.RunDir(folder), model),
        content=content,
    )
