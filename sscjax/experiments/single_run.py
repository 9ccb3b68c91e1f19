"""The recipe: a config to a finished run in its folder; run again, it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import anonymize, dataset, splits
from sscjax.data.audit import checks
from sscjax.data.dataset import ImageSet
from sscjax.data.manifest import root_of
from sscjax.errors import UserError
from sscjax.evaluation import metrics, ood, predictions, reliability, segmentation
from sscjax.experiments import data_from_config, provenance, run_record, summarize
from sscjax.reports import figures, html, tensorboard
from sscjax.system import cache_dir, files, locks, run_dir
from sscjax.system.progress import Progress
from sscjax.training import checkpoint, evaluate, frozen_features, programs, setup
from sscjax.training.freezing import Counts
from sscjax.training.loop import check, run_stage
from sscjax.training.network import Network
from sscjax.training.stage import Course, Finished, Result, Stage

_LOG = logging.getLogger(__name__)

# Images of each kind that the flag for foreign images is tried on.
_MADE_UP = 32

# Images whose masks are drawn.
_MASKS_DRAWN = 6


@dataclasses.dataclass(frozen=True)
class Given:
    """What a run is given in place of what its config says.

    Attributes:
      splits: [N] str, the split of each image; there may be no test images.
      network: as `setup.create_network` makes it.
    """

    splits: np.ndarray
    network: Network


def run(
    config: ConfigDict,
    folder: Path,
    *,
    fresh: bool = False,
    command: Sequence[str] = (),
    loaded: tuple[ImageSet, bool] | None = None,
    fallback: bool = False,
    features_at: Path | None = None,
    given: Given | None = None,
) -> str:
    """Train, evaluate and report; everything lies in `folder` afterwards.

    Args:
      config: see `configs/default.py`.
      folder: the run's; created when missing.
      fresh: delete the run in the folder, once it is certain that the new one can begin.
      command: arguments of `sscjax.main` that repeat the run, kept in its record.
      loaded: what `data_from_config.load_images` gives for this config, where the caller has it.
      fallback: a run that this one belongs to started from what stands in for ImageNet's weights,
        which could not be had: so does this one, without looking for them.
      features_at: folder for features of frozen layers; None for the cache's, with those of earlier
        runs.
      given: what the caller has made itself; the run then draws no pictures and writes no page.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: anything that the user can mend.
      OSError: a disk that fills up, or can no longer be written, while the run is at work.
    """
    run_dir.refuse_foreign(folder)
    if config.get("private"):
        anonymize.refuse_within(folder, config.data.path)
    with locks.Lock(folder) as lock:
        lock.take()
        run_dir.clear(folder)
        return _run(config, folder, fresh, command, loaded, fallback, features_at, lock, given)


def _run(
    config: ConfigDict,
    folder: Path,
    fresh: bool,
    command: Sequence[str],
    loaded: tuple[ImageSet, bool] | None,
    fallback: bool,
    features_at: Path | None,
    lock: locks.Lock,
    given: Given | None,
) -> str:
    """`run`, with the lock of its folder, which is taken if the folder is there."""
    earlier = None if fresh else run_dir.read(folder)
    if earlier is not None:
        free = run_record.free_to_change(earlier)
        now = config.to_dict()
        run_record.refuse(run_record.config_differences(earlier["config"], now, free=free), folder)
    stages = make_stages(config)
    summarize.options(config)
    image_set, synthetic = data_from_config.load_images(config) if loaded is None else loaded
    _say_source(image_set, synthetic)
    made = given.splits if given else None
    images = data_from_config.split_images(config, image_set, synthetic, made)
    _say_splits(images)
    inspected = inspect(config, images.originals, images.splits, None if fresh else folder)
    network = setup.build_network(
        config,
        images,
        earlier_fallback=fallback or bool(earlier and earlier["weights"]["fallback"]),
        created=given.network if given else None,
    )
    stages = _fit_to_weights(stages, network, config.scratch.learning_rate)
    for stage in stages:
        check(stage, network)
    stages = _drawn_as_begun(stages, earlier)
    now = {
        **run_record.make(config, images, network, stages),
        "command": run_record.shown_command(config, command),
    }
    if earlier is not None:
        run_record.refuse(run_record.differences(earlier, now), folder)
        report = run_dir.RunDir(folder).report()
        if earlier["status"] == "finished" and report is not None:
            if run_record.same_evaluation(earlier, now):
                _LOG.info("this run is finished: nothing is left to do (--fresh trains anew)")
                return report
            _LOG.info("config.calibration has changed: the figures are made anew, without training")
    if fresh:
        lock.check()
        lock.take()
        run_dir.delete(folder)
    _start(folder, now, earlier, lock)
    manifest = provenance.begin(
        folder, config, now, network.weights.name, images.originals, images.splits
    )
    splits.write_splits(folder / run_dir.SPLITS, images.originals, images.splits)
    _keep_slide_settings(config, folder)
    files.write_json(folder / run_dir.AUDIT, inspected)
    store = frozen_features.Store(
        features_at or cache_dir.cache_dir() / "features",
        float(config.features.disk_megabytes) * 2**20,
    )
    finished = _run_stages(config, folder, stages, images, network, store, lock)
    inputs = _features(config, folder, stages, images, network, summarize.choose(config, finished))
    masks = _masks(config, folder, stages, images, network, summarize.choose(config, finished))
    lock.check()
    text = summarize.write(
        config,
        folder,
        images,
        network,
        finished,
        inputs,
        checks.leaks(inspected),
        masks,
        pictures=given is None,
    )
    provenance.end(folder, manifest)
    if given is None:
        html.write(folder)
    lock.check()
    files.write_json(folder / run_dir.RECORD, {**now, "status": "finished"})
    return text


def inspect(
    config: ConfigDict, image_set: ImageSet, found: np.ndarray | None, folder: Path | None
) -> dict[str, Any]:
    """What `checks.audit` finds in the images, or found before; says it.

    Args:
      config: of the run or protocol.
      image_set: its images.
      found: [N] their splits; None where there are several.
      folder: of the run or protocol, where it may have been found before.

    Raises:
      UserError: something leaks, and the config does not want that.
    """
    wish = config.audit.on_leakage
    if wish not in ("stop", "report"):
        raise UserError(f"config.audit.on_leakage={wish!r}: expected 'stop' or 'report'")
    allowed = wish == "report" or config.split.by == "image"
    known = None if folder is None else checks.read(folder, image_set, found)
    if known is None:
        root = root_of(config)
        known = checks.audit(image_set, found, root, allowed=allowed)
        for one in known["findings"]:
            if one["severity"] != "note":
                _LOG.warning("audit: %s; %s", one["title"], one["detail"])
    checks.refuse(known)
    return known


def _start(
    folder: Path, now: dict[str, Any], earlier: dict[str, Any] | None, lock: locks.Lock
) -> None:
    """Write the run's record, alone in its folder."""
    lock.check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        # A folder that was not there yet could not be locked while the images were read.
        if run_dir.read(folder) != earlier:
            raise UserError(
                f"{folder}: another run was begun there just now; give the same command again to "
                "go on with it, or choose another --workdir"
            )
        files.write_json(folder / run_dir.RECORD, {**now, "status": "started"})
    except OSError as error:
        raise UserError(
            f"the run's folder {folder} cannot be written ({error.strerror}): choose another "
            "--workdir"
        ) from error


def _keep_slide_settings(config: ConfigDict, folder: Path) -> None:
    """How the tiles were cut from slides, where they were: new slides have to be cut alike."""
    root = root_of(config)
    if root is not None and (root / run_dir.SLIDES).is_file():
        text = (root / run_dir.SLIDES).read_text(encoding="utf-8")
        files.write_text(folder / run_dir.SLIDES, text)


# --- the stages ---------------------------------------------------------------------------------


def make_stages(config: ConfigDict) -> list[Stage]:
    """The stages of a config, in order.

    Raises:
      UserError: a stage is not defined, or its fields make no sense.
    """
    if not config.stage_order:
        raise UserError("config.stage_order is empty: name at least one of config.stages")
    if len(set(config.stage_order)) < len(config.stage_order):
        raise UserError(f"config.stage_order={config.stage_order}: expected distinct names")
    if config.checkpoint.keep < 1:
        raise UserError(f"config.checkpoint.keep={config.checkpoint.keep}: expected 1 or more")
    for name in ("max_megabytes", "disk_megabytes"):
        if config.features[name] < 0:
            raise UserError(f"config.features.{name}={config.features[name]}: expected 0 or more")
    if config.select.stage not in ("best", "last"):
        raise UserError(f"config.select.stage={config.select.stage!r}: expected 'best' or 'last'")
    return [_stage(config, index) for index in range(len(config.stage_order))]


def _stage(config: ConfigDict, index: int) -> Stage:
    name = config.stage_order[index]
    if name not in config.stages:
        known = ", ".join(config.stages.keys())
        raise UserError(f"config.stage_order names {name!r}; config.stages has {known}")
    wanted = config.stages[name].to_dict()
    return Stage(
        name=name,
        index=index,
        seed=config.seed,
        batch_size=config.batch_size,
        micro_batch=config.micro_batch,
        drawn_by=0,
        metric=config.select.metric,
        feature_megabytes=config.features.max_megabytes,
        checkpoint_seconds=config.checkpoint.every_seconds,
        **wanted,
    )


def _fit_to_weights(stages: list[Stage], network: Network, learning_rate: float) -> list[Stage]:
    """With random weights BatchNorm has no averages worth keeping: it trains on the batch.

    And where they stand in for ImageNet's, the rate of fine-tuning would hardly move them.
    """
    if network.weights.kind == "file":
        if network.weights.fallback:
            _LOG.warning(
                "BUNDLED WEIGHTS: no ImageNet weights to be had, so the network starts from the "
                "backbone that this package trained on drawn textures. It does better than random "
                "weights and worse than ImageNet's (docs/bundled_backbone.md)."
            )
        _LOG.info("weights: %s, sha256 %s", network.weights.name, network.weights.sha256[:16])
        return stages
    if not network.batch_stats:
        return stages
    _LOG.warning(
        "RANDOM WEIGHTS: %s. The network learns from these images alone, BatchNorm trains on the "
        "batch (frozen layers stay random), and the result will be far below that of pre-trained "
        "weights.",
        network.weights.name,
    )
    changed: dict[str, Any] = {"batch_norm": "batch"}
    if network.weights.fallback:
        changed["learning_rate"] = learning_rate
    return [
        dataclasses.replace(stage, **changed) if stage.trainable == "all" else stage
        for stage in stages
    ]


def _drawn_as_begun(stages: list[Stage], earlier: Mapping[str, Any] | None) -> list[Stage]:
    """Dropout stays as it was begun where a run goes on with a smaller micro-batch.

    Raises:
      UserError: the micro-batch does not divide the one that the run was begun with.
    """
    if earlier is None:
        return stages
    then, now, batch = earlier["stages"][0], stages[0].micro_batch, stages[0].batch_size
    begun = then["drawn_by"] or then["micro_batch"]
    if programs.part_size(begun, batch) % programs.part_size(now, batch):
        raise UserError(
            f"config.micro_batch={now}: this run was begun with {begun}; set it to {begun}, or to "
            "a number that divides it"
        )
    if now != then["micro_batch"]:
        _LOG.warning(
            "config.micro_batch: %d then, %d from here on: the result differs in its rounding",
            then["micro_batch"],
            now,
        )
    return [dataclasses.replace(stage, drawn_by=0 if begun == now else begun) for stage in stages]


def _run_stages(
    config: ConfigDict,
    folder: Path,
    stages: list[Stage],
    images: dataset.Images,
    network: Network,
    store: frozen_features.Store,
    lock: locks.Lock,
) -> dict[str, Finished]:
    curves: list[dict[str, Any]] = []
    finished: dict[str, Finished] = {}
    run = run_dir.RunDir(folder)
    with checkpoint.Checkpoints(run.checkpoints, config.checkpoint.keep) as checkpoints:
        for stage in stages:
            place = run.stage(stage.name)
            done = _read_finished(place)
            if done is None:
                with tensorboard.EventLog(folder / run_dir.TENSORBOARD, curves) as log:
                    inputs = setup.make_inputs(
                        config, network.weights.convention.scaling, online=stage.online_augment
                    )
                    result = run_stage(
                        stage,
                        images,
                        network,
                        inputs,
                        store=store,
                        checkpoints=checkpoints,
                        curves=curves,
                        on_epoch=_Curves(folder, log, len(curves), lock),
                    )
                lock.check()
                done = _write_finished(place, stage, result)
                model = result.variables
            else:
                _LOG.info("stage %s: finished before", stage.name)
                model = checkpoint.load_model(place.model, network.variables)
            network = dataclasses.replace(
                network, params=dict(model["params"]), batch_stats=dict(model["batch_stats"])
            )
            curves = done.course.rows
            finished[stage.name] = done
    return finished


def _features(
    config: ConfigDict,
    folder: Path,
    stages: list[Stage],
    images: dataset.Images,
    network: Network,
    chosen: str,
) -> reliability.Features:
    """What the chosen stage's network hands to its classifier, of every original and of others."""
    model = checkpoint.load_model(run_dir.RunDir(folder).stage(chosen).model, network.variables)
    program = programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(config, network.weights.convention.scaling, online=False),
        micro_batch=stages[0].micro_batch,
    )
    originals = images.originals.images
    some = originals[np.flatnonzero(images.splits == "val")[:_MADE_UP]]
    made_up = ood.made_up(some, config.seed)
    total = len(originals) + sum(map(len, made_up.values()))
    with Progress("features of the images", total) as progress:
        find = functools.partial(
            evaluate.penultimate,
            evaluate.make_penultimate(program),
            model["params"],
            model["batch_stats"],
            batch_size=config.batch_size,
            progress=progress.advance,
        )
        return reliability.Features(find(originals), {kind: find(x) for kind, x in made_up.items()})


def _masks(
    config: ConfigDict,
    folder: Path,
    stages: list[Stage],
    images: dataset.Images,
    network: Network,
    chosen: str,
) -> segmentation.Table | None:
    """Pixels of each class in the masks of the originals, by the chosen stage; None without."""
    if not network.model.mask_classes:
        return None
    originals = images.originals
    assert originals.masks is not None
    model = checkpoint.load_model(run_dir.RunDir(folder).stage(chosen).model, network.variables)
    program = programs.Program(
        network.model,
        network.objective,
        setup.make_inputs(config, network.weights.convention.scaling, online=False),
        micro_batch=stages[0].micro_batch,
    )
    with_mask = dataset.with_masks(originals, np.arange(len(originals)))
    some = originals.take(with_mask)
    with Progress("masks of the images", len(some)) as progress:
        found = evaluate.mask_counts(
            programs.make_masks(program),
            model["params"],
            model["batch_stats"],
            some,
            batch_size=config.batch_size,
            progress=progress.advance,
        )
    _draw_masks(folder, programs.make_masks(program), model, some, images.splits[with_mask])
    return segmentation.Table(
        some.files, some.subjects, images.splits[with_mask], some.mask_classes, *found
    )


def _draw_masks(
    folder: Path,
    ask: Callable[..., Any],
    model: Any,
    some: ImageSet,
    found: np.ndarray,
) -> None:
    """Pictures of a few images with their masks, of other subjects where there are: of the test."""
    chosen = np.flatnonzero(found == "test")
    if not len(chosen):
        return
    _, first = np.unique(some.subjects[chosen], return_index=True)
    shown = chosen[np.sort(first)][:_MASKS_DRAWN]
    pixels = some.images[shown[frozen_features.batch_rows(len(shown), _MASKS_DRAWN)]]
    told = np.asarray(ask(model["params"], model["batch_stats"], pixels))[: len(shown)]
    assert some.masks is not None
    sheet = figures.mask_sheet(
        pixels[: len(shown)], np.asarray(some.masks[shown]), told, some.mask_classes
    )
    figures.write_png(folder / run_dir.MASKS_SHEET, sheet)


class _Curves:
    """Keeps curves.csv and the TensorBoard events up with the training."""

    def __init__(
        self, folder: Path, log: tensorboard.EventLog, written: int, lock: locks.Lock
    ) -> None:
        self._folder, self._log, self._written, self._lock = folder, log, written, lock

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        self._lock.check()
        for row in rows[self._written :]:
            self._log.add(row)
        self._written = len(rows)
        if rows:
            figures.write_curves_csv(self._folder / run_dir.CURVES, rows)


def _write_finished(place: run_dir.StageDir, stage: Stage, result: Result) -> Finished:
    """Keep a stage's model and predictions; stage.json comes last and says that it is whole."""
    checkpoint.save_model(place.model, result.variables)
    result.predictions.write_csv(place.predictions)
    value = result.course.best_value if stage.metric == metrics.MASK_METRIC else None
    if stage.metric in metrics.VALIDATION_METRICS:
        value = metrics.validation_metric(stage.metric, result.predictions.where("val"))
    kept = {
        "course": dataclasses.asdict(result.course),
        "counts": dataclasses.asdict(result.counts),
        "value": value,
    }
    files.write_json(place.about, kept)
    return Finished(result.course, result.counts, result.predictions, value)


def _read_finished(place: run_dir.StageDir) -> Finished | None:
    kept = place.read()
    if kept is None:
        return None
    try:
        return Finished(
            course=Course(**kept["course"]),
            counts=Counts(**kept["counts"]),
            predictions=predictions.Predictions.read_csv(place.predictions),
            value=kept["value"],
        )
    except UserError as error:
        raise UserError(f"{error}; or delete {place.path} to train this stage again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place.about} is damaged ({type(error).__name__}: {error}): delete {place.path} to "
            "train this stage again"
        ) from error


# --- what is said -------------------------------------------------------------------------------


def _say_source(image_set: ImageSet, synthetic: bool) -> None:
    _LOG.info("images: %s", image_set.source)
    if image_set.left_out:
        _LOG.warning(
            "%s (config.data.corrupt=skip)", " ".join(summarize.left_out_warning(image_set).split())
        )
    if synthetic:
        _LOG.warning(
            "SYNTHETIC IMAGES: config.data.path is empty, so the run trains on tiles drawn by a "
            "program. Its figures say nothing about patients."
        )


def _say_splits(images: dataset.Images) -> None:
    originals = images.originals
    for split in predictions.SPLITS:
        chosen = images.splits == split
        if not chosen.any():
            continue
        counts = ", ".join(
            f"{(originals.labels[chosen] == index).sum()} {name}"
            for index, name in enumerate(originals.classes)
        )
        subjects = len(set(originals.subjects[chosen].tolist()))
        _LOG.info("%s: %d images of %d subjects (%s)", split, chosen.sum(), subjects, counts)
    copies = len(images.training) - int((images.splits == "train").sum())
    if copies:
        _LOG.info("train: %d augmented copies besides", copies)
