"""One run: from a config to a finished run in its folder; given again, the command resumes it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import anonymize
from sscjax.data import splits as split_files
from sscjax.data.audit import checks
from sscjax.data.dataset import Images, ImageSet
from sscjax.errors import UserError
from sscjax.experiments import (
    data_from_config,
    final_model,
    handed_on,
    provenance,
    run_log,
    run_record,
    run_stages,
    summarize,
)
from sscjax.experiments.summarize import Pictures
from sscjax.inference import checked_maps
from sscjax.reports import html
from sscjax.system import cache_dir, files, locks, run_deletion, run_dir, whole_run
from sscjax.training import frozen_features, setup, stage_work
from sscjax.training import settings as run_settings
from sscjax.training.network import Network
from sscjax.training.settings import Settings
from sscjax.training.stage import FinishedStage, Stage

_LOG = logging.getLogger(__name__)

# Steps of the display; between audit and figures comes one for each stage.
READ, AUDIT, FIGURES, PAGE = "reading the images", "audit", "rules and figures", "the report"


def steps(settings: Settings) -> list[whole_run.Step]:
    """The steps that the display of a run shows."""
    stages = [f"stage {name}" for name in settings.stage_order]
    titles = [READ, AUDIT, *stages, FIGURES, PAGE]
    return [whole_run.Step(title, title) for title in titles]


@dataclasses.dataclass(frozen=True)
class Given:
    """What a run is given in place of what its config says.

    Attributes:
      splits: [N] str, the split of each image; there may be no test images.
      network: as `setup.create_network` makes it; None: it is made here.
      tested: how models that were trained likewise did, and the rules that follow from it, where
        the run's own images are all trained on.
    """

    splits: np.ndarray
    network: Network | None = None
    tested: handed_on.Tested | None = None


@dataclasses.dataclass(frozen=True)
class _Request:
    """The arguments of `run`, and the settings of its config."""

    config: ConfigDict
    settings: Settings
    folder: Path
    fresh: bool
    command: Sequence[str]
    loaded: tuple[ImageSet, bool] | None
    fallback: bool
    features_at: Path | None
    given: Given | None
    pictures: Pictures


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A run that is ready to train; nothing is written yet.

    Attributes:
      images: split, with their augmented copies.
      network: with its starting weights.
      stages: to be run.
      audit: of the images, see `inspect`.
      record: what identifies the run.
    """

    images: Images
    network: Network
    stages: list[Stage]
    audit: dict[str, Any]
    record: dict[str, Any]


# The last five are set by what makes several runs, or a run of a notebook.
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
    pictures: Pictures = "all",
) -> str:
    """Train, evaluate and report; everything lies in `folder` afterwards.

    Args:
      config: see `configs/default.py`.
      folder: the run's; created when missing.
      fresh: delete the run in the folder, once it is certain that the new one can start.
      command: arguments of `sscjax.main` that repeat the run, kept in its record.
      loaded: what `data_from_config.load_images` gives for its settings, where the caller has it.
      fallback: the cross-validation that this run belongs to could not get ImageNet's weights and
        uses what replaces them: so does this run, without looking for them again.
      features_at: folder for features of frozen layers; None for the cache's, with those of earlier
        runs.
      given: what the caller has made itself.
      pictures: 'all' draws pictures and writes the page; 'maps' draws where the network looked, of
        which the page of several runs is made; 'none'.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: anything that the user can fix.
      OSError: a disk that fills up, or can no longer be written, while the run is at work.
    """
    run_deletion.refuse_other_contents(folder)
    settings = run_settings.read(config)
    if settings.private:
        anonymize.refuse_within(folder, settings.data.path)
    request = _Request(
        config, settings, folder, fresh, command, loaded, fallback, features_at, given, pictures
    )
    with locks.Lock(folder) as lock:
        lock.take()
        run_deletion.clear(folder)
        return _run(request, lock)


def _run(request: _Request, lock: locks.Lock) -> str:
    """`run`, with the lock of its folder, which is taken if the folder is there."""
    folder = request.folder
    earlier = None if request.fresh else run_dir.read(folder)
    prepared = _prepare(request, earlier)
    if earlier is not None:
        run_record.refuse(run_record.differences(earlier, prepared.record), folder)
        report = run_dir.RunDir(folder).report()
        if earlier["status"] == "finished" and report is not None:
            if run_record.same_evaluation(earlier, prepared.record):
                _LOG.info("this run is finished: nothing is left to do (--fresh trains again)")
                return report
            _LOG.info(
                "config.calibration has changed: the figures are computed again, without training"
            )
    if request.fresh:
        lock.check()
        lock.take()
        run_deletion.delete(folder)
    _write_record(folder, prepared.record, earlier, lock)
    manifest = provenance.begin(
        folder,
        request.settings,
        prepared.record,
        prepared.network.weights.name,
        prepared.images.originals,
        prepared.images.splits,
    )
    text = _train_and_report(request, prepared, lock)
    provenance.end(folder, manifest)
    if request.pictures == "all":
        with whole_run.step(PAGE):
            html.write(folder)
    lock.check()
    # Last of all: the record marks the run as complete.
    finished = {**prepared.record, **whole_run.times(), "status": "finished"}
    files.write_json(folder / run_dir.RECORD, finished)
    return text


def _prepare(request: _Request, earlier: dict[str, Any] | None) -> _Prepared:
    """Everything up to the first step of training; raises before anything is written."""
    config, settings = request.config, request.settings
    folder, given = request.folder, request.given
    if earlier is not None:
        # Before the images are read, which may take minutes.
        free = run_record.free_to_change(earlier)
        now = config.to_dict()
        run_record.refuse(run_record.config_differences(earlier["config"], now, free=free), folder)
    with whole_run.step(READ):
        loaded = request.loaded or data_from_config.load_images(settings)
    image_set, synthetic = loaded
    run_log.log_source(image_set, synthetic)
    made = given.splits if given else None
    images = data_from_config.split_images(settings, image_set, synthetic, made)
    run_log.log_splits(images)
    with whole_run.step(AUDIT):
        earlier_audit = None if request.fresh else folder
        audit = inspect(settings, images.originals, images.splits, earlier_audit)
    network = setup.build_network(
        settings,
        images,
        earlier_fallback=request.fallback or bool(earlier and earlier["weights"]["fallback"]),
        created=given.network if given else None,
    )
    stages = run_stages.fit_to_weights(
        settings.ordered_stages(), network, settings.scratch.learning_rate
    )
    for stage in stages:
        stage_work.check(stage, network)
    stages = run_stages.keep_dropout_draws(stages, earlier)
    record = {
        **run_record.make(config, images, network, stages),
        "command": run_record.shown_command(config, request.command),
        **({"tested_by": given.tested.about} if given and given.tested else {}),
    }
    return _Prepared(images, network, stages, audit, record)


def _train_and_report(request: _Request, prepared: _Prepared, lock: locks.Lock) -> str:
    """Run the stages and write what follows from the chosen one; returns the closing text."""
    settings, folder = request.settings, request.folder
    images, network = prepared.images, prepared.network
    split_files.write_splits(folder / run_dir.SPLITS, images.originals, images.splits)
    _copy_slide_settings(settings.data.root, folder)
    files.write_json(folder / run_dir.AUDIT, prepared.audit)
    store = frozen_features.Store(
        request.features_at or cache_dir.cache_dir() / "features",
        settings.features.disk_bytes,
    )
    finished = run_stages.run_stages(
        settings, folder, prepared.stages, images, network, store=store, lock=lock
    )
    with whole_run.step(FIGURES):
        return _report(request, prepared, finished, store, lock)


def _report(
    request: _Request,
    prepared: _Prepared,
    finished: dict[str, FinishedStage],
    store: frozen_features.Store,
    lock: locks.Lock,
) -> str:
    """Write figures, pictures and texts of the chosen stage; returns the closing text."""
    settings, folder = request.settings, request.folder
    images, network = prepared.images, prepared.network
    model = final_model.read(settings, folder, network, summarize.choose(settings.select, finished))
    tested = request.given.tested if request.given else None
    features = model.features(images, store, None if tested is None else tested.folds)
    if tested is not None:
        lock.check()
        checked_maps.write(
            run_dir.RunDir(folder),
            checked_maps.drawing(model.program.model, model.program.inputs),
            model.variables,
            images.originals.images,
            finished[summarize.choose(settings.select, finished)].predictions,
        )
        return handed_on.write(settings, folder, images, finished, features, tested)
    masks = model.masks(images, folder)
    lock.check()
    return summarize.write(
        settings,
        folder,
        images,
        network,
        finished,
        features,
        prepared.audit,
        masks,
        pictures=request.pictures,
    )


def inspect(
    settings: Settings, image_set: ImageSet, splits: np.ndarray | None, folder: Path | None
) -> dict[str, Any]:
    """The audit of the images, or that of an earlier start; logs its findings.

    Args:
      settings: of the run or cross-validation.
      image_set: its images.
      splits: [N] their splits; None where there are several.
      folder: of the run or cross-validation, which may hold an earlier audit.

    Raises:
      UserError: something leaks, and the settings do not allow it.
    """
    allowed = settings.audit.on_leakage == "report" or settings.split.by == "image"
    audit = None if folder is None else checks.read(folder, image_set, splits)
    if audit is None:
        audit = checks.audit(image_set, splits, settings.data.root, allowed=allowed)
        for finding in audit["findings"]:
            if finding["severity"] != "note":
                _LOG.warning("audit: %s; %s", finding["title"], finding["detail"])
    checks.refuse(audit)
    return audit


def _write_record(
    folder: Path, record: dict[str, Any], earlier: dict[str, Any] | None, lock: locks.Lock
) -> None:
    """Write the record of a run that starts or resumes, while no other is in its folder."""
    lock.check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        # A folder that was not there yet could not be locked while the images were read.
        if run_dir.read(folder) != earlier:
            raise UserError(
                f"{folder}: another run was started there just now; give the same command again to "
                "resume it, or choose another --workdir"
            )
        files.write_json(folder / run_dir.RECORD, {**record, "status": "started"})
    except OSError as error:
        raise UserError(
            f"the run's folder {folder} cannot be written ({error.strerror}): choose another "
            "--workdir"
        ) from error


def _copy_slide_settings(root: Path | None, folder: Path) -> None:
    """Copy how the tiles were cut from slides, where they were: new slides are cut the same way."""
    if root is not None and (root / run_dir.SLIDES).is_file():
        text = (root / run_dir.SLIDES).read_text(encoding="utf-8")
        files.write_text(folder / run_dir.SLIDES, text)
