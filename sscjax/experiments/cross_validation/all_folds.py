"""Cross-validation: several ordinary runs, one after the other, and their predictions aggregated.

Every fold is a run of `single_run.run` in a folder of its own. A finished fold is not run again; a
killed cross-validation, given again, resumes in the fold where it stopped, with the same result.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sscjax.data import anonymize
from sscjax.data.dataset import ImageSet
from sscjax.errors import DivergedError, UserError
from sscjax.evaluation import metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config, run_record, single_run
from sscjax.experiments.cross_validation import aggregate, choice, display, folds, refit
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.experiments.cross_validation.grid import Candidate, best, candidates, mean_score
from sscjax.experiments.cross_validation.outcomes import Outcome, read_fold
from sscjax.experiments.summarize import Pictures
from sscjax.reports import html
from sscjax.system import files, locks, run_deletion, run_dir
from sscjax.system.whole_run import Step, WholeRun, say
from sscjax.training import settings as run_settings

_LOG = logging.getLogger(__name__)

Loaded = tuple[ImageSet, bool]


def run(
    config: ConfigDict, folder: Path, *, fresh: bool = False, command: Sequence[str] = ()
) -> str:
    """Do what `config.protocol` says; everything lies in `folder` afterwards.

    Args:
      config: see `configs/default.py`.
      folder: of the cross-validation, or of the run for 'holdout'; created when missing.
      fresh: delete what is in the folder, once it is certain that the new one can start.
      command: arguments of `sscjax.main` that repeat it, kept in its record.

    Returns:
      the closing text for the terminal.

    Raises:
      UserError: anything that the user can fix.
    """
    settings = run_settings.read(config)
    if settings.protocol == "holdout":
        with WholeRun(details=True) as whole:
            whole.plan(*single_run.steps(settings))
            return single_run.run(config, folder, fresh=fresh, command=command)
    if settings.private:
        anonymize.refuse_within(folder, settings.data.path)
    if settings.protocol != "auto":
        run_deletion.refuse_other_contents(folder, run_dir.PROTOCOL)
    with WholeRun() as whole:
        if settings.protocol != "auto":
            with locks.Lock(folder) as lock:
                lock.take()
                run_deletion.clear(folder, run_dir.PROTOCOL)
                loaded = display.read_images(settings, whole)
                return _locked(_Request(config, folder, fresh, command, loaded), lock, whole)
        loaded = display.read_images(settings, whole)
        config, reason = choice.resolved(config, loaded[0])
        say(f"{reason[0].upper()}{reason[1:]}.")
        if config.protocol == "holdout":
            run_deletion.refuse_other_contents(folder)
            whole.write_to(folder / run_dir.PROGRESS)
            whole.plan(*single_run.steps(run_settings.read(config))[1:])
            return single_run.run(config, folder, fresh=fresh, command=command, loaded=loaded)
        run_deletion.refuse_other_contents(folder, run_dir.PROTOCOL)
        with locks.Lock(folder) as lock:
            lock.take()
            run_deletion.clear(folder, run_dir.PROTOCOL)
            return _locked(_Request(config, folder, fresh, command, loaded), lock, whole)


@dataclasses.dataclass(frozen=True)
class _Request:
    """The arguments of `run`, with the protocol that was chosen, and the images."""

    config: ConfigDict
    folder: Path
    fresh: bool
    command: Sequence[str]
    loaded: Loaded


def _locked(request: _Request, lock: locks.Lock, whole: WholeRun) -> str:
    whole.write_to(request.folder / run_dir.PROGRESS)
    text = _run_all(request, lock, whole)
    say(whole.took())
    return text


def _run_all(request: _Request, lock: locks.Lock, whole: WholeRun) -> str:
    """`run` of several folds, with the lock of the folder, which is taken if that is there."""
    config, folder, fresh = request.config, request.folder, request.fresh
    command, loaded = request.command, request.loaded
    earlier = None if fresh else _read(folder)
    if earlier is not None:
        free = run_record.free_to_change(earlier)
        now = config.to_dict()
        run_record.refuse(run_record.config_differences(earlier["config"], now, free=free), folder)
    grid = candidates(config) if config.protocol == "nested" else []
    settings = run_settings.read(config)
    for candidate in grid:
        # Each is checked before any is trained.
        run_settings.read(candidate.applied(config))
    image_set = data_from_config.copies_before_split(settings, loaded[0])
    # Without a split: leaks between any two folds are found now, so that no later fold stops.
    whole.plan(Step("audit", "audit"))
    with whole.step():
        inspected = single_run.inspect(settings, image_set, None, None if fresh else folder)
    plan = folds.plan(config, image_set)
    for fold in plan:
        # Before anything trains, not when the fold is run.
        of_fold = fold.settings
        part = data_from_config.without_outer_fold(of_fold, image_set)
        splits = data_from_config.make_splits(of_fold, part)
        data_from_config.refuse_unmasked(of_fold, part, splits)
    now = {
        **_record(config, image_set, loaded[1], plan, grid),
        "command": run_record.shown_command(config, command),
    }
    if earlier is not None:
        run_record.refuse(run_record.differences(earlier, now), folder)
        report = run_dir.RunDir(folder).report()
        finished = earlier["status"] == "finished"
        if finished and report is not None and run_record.same_evaluation(earlier, now):
            _LOG.info(
                "this cross-validation is finished: nothing is left to do (--fresh trains again)"
            )
            return report
    if fresh:
        lock.check()
        lock.take()
        run_deletion.delete(folder, run_dir.PROTOCOL)
    _write(folder, now, earlier, lock)
    files.write_json(folder / run_dir.AUDIT, inspected)
    display.announce(whole, settings, image_set, plan, folder, fallback=_fell_back(folder))
    outcomes: list[Outcome] = []
    for fold in plan:
        with whole.step():
            outcomes.append(_outcome(fold, folder, loaded, image_set, grid, outcomes))
        lock.check()
        now["folds"][len(outcomes) - 1]["status"] = "finished"
        files.write_json(folder / run_dir.PROTOCOL, now)
    with whole.step():
        text, tested = aggregate.write(settings, folder, image_set, loaded[1], outcomes, inspected)
    if tested is not None:
        with whole.step():
            refit.run(config, folder, (image_set, loaded[1]), tested, _fell_back(folder))
            of_all = run_dir.RunDir(folder).handed_on.path
            shutil.rmtree(of_all / run_dir.CHECKPOINTS, ignore_errors=True)
            _refuse_other_weights(run_dir.RunDir(folder).fold(plan[0].name).path, of_all)
        lock.check()
    with whole.step():
        html.write(folder)
    times = {"times": whole.record()}
    files.write_json(folder / run_dir.PROTOCOL, {**now, **times, "status": "finished"})
    return text


# --- the record ---------------------------------------------------------------------------------


def _record(
    config: ConfigDict,
    image_set: ImageSet,
    synthetic: bool,
    plan: Sequence[Fold],
    grid: Sequence[Candidate],
) -> dict[str, Any]:
    """What identifies the cross-validation, and what its folds are."""
    return {
        "kind": config.protocol,
        "status": "started",
        "config": run_record.shown_config(config),
        "data": {
            "fingerprint": image_set.fingerprint(),
            "source": image_set.source,
            "synthetic": synthetic,
            "classes": list(image_set.classes),
            "images": len(image_set),
            "subjects": len(set(image_set.subjects.tolist())),
            **run_record.skipped(image_set),
        },
        # Each fold keeps and compares its own; here only that all folds have the same.
        "weights": {},
        "candidates": [str(candidate) for candidate in grid],
        "folds": [
            {
                "name": fold.name,
                "repeat": fold.repeat,
                "status": "planned",
                "seed": fold.config.seed,
                "split_seed": fold.config.split.seed,
                "test_images": len(fold.tested),
                "test_subjects": len(set(image_set.subjects[fold.tested].tolist())),
            }
            for fold in plan
        ],
        "versions": run_record.versions(),
    }


def _read(folder: Path) -> dict[str, Any] | None:
    keys = ("status", "config", "data", "weights", "versions")
    record = run_dir.read_json(folder / run_dir.PROTOCOL, keys)
    return None if record is None else {key: record[key] for key in keys}


def _write(
    folder: Path, now: dict[str, Any], earlier: dict[str, Any] | None, lock: locks.Lock
) -> None:
    """Write the record, while no other cross-validation is in its folder."""
    lock.check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        if _read(folder) != earlier:
            raise UserError(
                f"{folder}: another cross-validation was started there just now; give the same "
                "command again to resume it, or choose another --workdir"
            )
        files.write_json(folder / run_dir.PROTOCOL, now)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror}): choose another --workdir"
        ) from error


# --- folds --------------------------------------------------------------------------------------


def _outcome(
    fold: Fold,
    folder: Path,
    loaded: Loaded,
    image_set: ImageSet,
    grid: Sequence[Candidate],
    before: Sequence[Outcome],
) -> Outcome:
    """Run a fold, unless it is finished; of 'nested' after the search within it."""
    cross_validation = run_dir.RunDir(folder)
    path = cross_validation.fold(fold.name).path
    fallback = _fell_back(folder)
    chosen, config = None, fold.config
    if grid:
        chosen = _search(fold, folder / run_dir.SEARCH / fold.name, loaded, grid, fallback)
        config = grid[chosen["chosen"]].applied(config)
    earlier = _finished(config, path)
    if earlier is not None and run_record.same_evaluation(earlier, {"config": config.to_dict()}):
        _LOG.info("%s: already finished", fold.name)
    else:
        # The page of the whole shows the maps of one test of each image.
        _run(fold.name, config, path, loaded, fallback, "none" if fold.repeat else "maps")
    # Of no use to a finished run, and most of what it takes on the disk.
    shutil.rmtree(path / run_dir.CHECKPOINTS, ignore_errors=True)
    if before:
        _refuse_other_weights(cross_validation.fold(before[0].fold.name).path, path)
    return read_fold(fold, path, image_set, chosen)


def _fell_back(folder: Path) -> bool:
    """Whether any run so far had to replace ImageNet's weights, which it could not get."""
    cross_validation = run_dir.RunDir(folder)
    runs = (*cross_validation.folds(), *cross_validation.searched())
    records = [run.record() for run in runs]
    return any(record is not None and record["weights"]["fallback"] for record in records)


def _run(
    name: str,
    config: ConfigDict,
    path: Path,
    loaded: Loaded,
    fallback: bool,
    pictures: Pictures = "none",
) -> None:
    try:
        single_run.run(config, path, loaded=loaded, fallback=fallback, pictures=pictures)
    except DivergedError as error:
        raise DivergedError(f"{name}: {error}") from error
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _finished(config: ConfigDict, path: Path) -> dict[str, Any] | None:
    """The record of the finished run of this config, if the folder holds it."""
    earlier = run_dir.read(path)
    if earlier is None or earlier["status"] != "finished":
        return None
    # The folds that are left may need less memory than those that are done.
    free = ("config.micro_batch",)
    different = run_record.config_differences(earlier["config"], config.to_dict(), free=free)
    return None if different else earlier


def _refuse_other_weights(first: Path, other: Path) -> None:
    """Random weights differ by the seed; a file must be the same file for all folds."""
    first_record, other_record = run_dir.read(first), run_dir.read(other)
    assert first_record is not None and other_record is not None
    expected, weights = first_record["weights"], other_record["weights"]
    names = ["kind", "convention", "fallback"]
    names += ["sha256"] if expected["kind"] == "file" else []
    different = [name for name in names if expected[name] != weights[name]]
    if different:
        raise UserError(
            f"{other.name} started from other weights than {first.name} ({', '.join(different)} "
            f"differ): delete {other}, make config.pretrained available, and give the same "
            "command again"
        )


# --- the search of 'nested' ---------------------------------------------------------------------


def _search(
    fold: Fold, folder: Path, loaded: Loaded, grid: Sequence[Candidate], fallback: bool
) -> dict[str, Any]:
    """Score every candidate in every inner fold, and choose the best; kept in search.json.

    The images that `fold` tests are in none of these runs. A candidate is scored on the images that
    an inner fold tests: those of its validation picked the epochs.
    """
    path = folder / run_dir.SEARCH_RESULT
    if path.is_file():
        return files.read_json(path)
    metric = fold.config.select.metric
    scores: list[list[float | None]] = []
    for number, candidate in enumerate(grid):
        scores.append([])
        for inner in fold.inner:
            name = f"candidate_{number}-{inner.name}"
            _LOG.info("-- %s, %s: %s", fold.name, name, candidate)
            config = candidate.applied(inner.config)
            scores[-1].append(_score(metric, name, config, folder / name, loaded, fallback))
            if scores[-1][-1] is None:
                break
    chosen = best(metric, scores)
    search = {
        "metric": metric,
        "candidates": [
            {
                "name": str(candidate),
                "overrides": candidate.overrides,
                "scores": of_one,
                "mean": mean_score(of_one),
            }
            for candidate, of_one in zip(grid, scores, strict=True)
        ],
        "chosen": chosen,
    }
    _LOG.info("%s: chosen %s", fold.name, grid[chosen])
    files.write_json(path, search)
    return search


def _score(
    metric: str, name: str, config: ConfigDict, path: Path, loaded: Loaded, fallback: bool
) -> float | None:
    """The metric on the images that the inner fold tests; None where the training diverged."""
    if _finished(config, path) is None:
        try:
            _run(name, config, path, loaded, fallback)
        except DivergedError as error:
            _LOG.warning("%s", error)
            return None
    # Only its figures are of use from here on, and there are many such runs.
    run = run_dir.RunDir(path)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for trained in run.stages():
        shutil.rmtree(trained.model, ignore_errors=True)
    # As the network gave them: calibration is not used for the choice.
    stage = run.metrics()["final_stage"]
    table = Predictions.read_csv(run.stage(stage).predictions).where("test")
    return metrics.validation_metric(metric, table)
