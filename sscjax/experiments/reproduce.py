"""Repeat a finished run and report which figures are identical: `sscjax reproduce RUN`.

First everything that went into the run is compared with its manifest: each image, the weights, the
code, the machine. Then it is trained again in a folder of its own, by the config and the
micro-batch of its record, and each prediction and figure is compared. Of a cross-validation each
fold is such a run; the model of all images, which has no test of its own, is not fitted again, and
the command says so.

Exit code 0: identical to the bit. 1: something differs. 2: a mistake that the user can fix.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import manifest
from sscjax.errors import UserError
from sscjax.experiments import (
    data_from_config,
    provenance,
    run_differences,
    run_record,
    single_run,
)
from sscjax.system import files, run_deletion, run_dir
from sscjax.training import settings as run_settings
from sscjax.training import setup
from sscjax.training.settings import OtherVersionError

# --- what went into the run -----------------------------------------------------------------------


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, relative to it: itself, or the folds of a cross-validation.

    Raises:
      UserError: the folder holds no finished run.
    """
    own = run_dir.RunDir(folder)
    runs = [own] if own.has(run_dir.RECORD) else own.folds()
    if not runs:
        raise UserError(
            f"{folder} holds no run (no {run_dir.RECORD}) and no folds: give the folder of a run"
        )
    for run in runs:
        run.finished_record()
    return [run.path.relative_to(folder) for run in runs]


def recorded_config(record: Mapping[str, Any], data: str | None, weights: str | None) -> ConfigDict:
    """The config of a run's record, with another place for its images or its weights."""
    config = ConfigDict(record["config"])
    if data is not None:
        config.data.path = data
    if weights is not None:
        config.pretrained = weights
    return config


def changed_inputs(folder: Path, config: ConfigDict) -> list[str]:
    """What would make it another run: every change of an image, of its split, of the weights.

    Raises:
      UserError: the images or the weights are not available.
    """
    record, then = run_dir.read(folder), manifest.read(folder)["images"]
    assert record is not None
    settings = run_settings.read(config)
    root = settings.data.root
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: the images are not there; name their folder by --data=PATH")
    # Before any image is decoded: one that is missing would stop that, and be the only one named.
    # A private run has numbers for them.
    changed = list(_changed_files(then, root)) if root is not None and not settings.private else []
    if changed:
        return changed
    image_set, synthetic = data_from_config.load_images(settings)
    # Before they are split, which other images might not allow.
    unsplit = manifest.image_rows(image_set, np.full(len(image_set), ""), root)
    copied = bool(settings.augment.counts_before_split)
    before = [row for row in then if not (copied and re.search(r"#\d+$", row["file"]))]
    changed = changed_images(before, unsplit, ("label", "subject", "of", "sha256"))
    if changed:
        return changed
    images = data_from_config.split_images(settings, image_set, synthetic)
    fallback = bool(record["weights"]["fallback"])
    network = setup.build_network(settings, images, earlier_fallback=fallback)
    now = run_record.make(config, images, network, [])
    changed = run_record.config_differences(record["weights"], now["weights"], "weights")
    # With it what no single image shows: the order, the classes, the augmented copies.
    lines = run_record.config_differences(record["data"], now["data"], "data")
    lines = [line for line in lines if not line.startswith("data.source")]
    if lines:
        rows = manifest.image_rows(images.originals, images.splits, root)
        changed += changed_images(then, rows, ("split", "sha256"))
    return changed + lines


def _changed_files(then: list[dict[str, Any]], root: Path) -> Iterator[str]:
    """A line for each image whose file is gone or holds something else."""
    rows = [row for row in then if row["of"] == "file"]
    present = [row for row in rows if (root / row["file"]).is_file()]
    hashes = manifest.hash_files([root / row["file"] for row in present])
    now = {row["file"]: value for row, value in zip(present, hashes, strict=True)}
    for row in rows:
        if row["file"] not in now:
            yield f"image {row['file']}: missing now"
        elif now[row["file"]] != row["sha256"]:
            yield _changed("image " + row["file"], "sha256", row["sha256"], now[row["file"]])


def changed_images(
    then: list[dict[str, Any]], now: list[dict[str, Any]], keys: Sequence[str]
) -> list[str]:
    """A line for every image that is missing, new, or other than it was.

    Args:
      then: `images` of a manifest.
      now: what `manifest.image_rows` gives.
      keys: what is compared of each image.
    """
    before, after = ({row["file"]: row for row in rows} for rows in (then, now))
    lines = [f"image {file}: missing now" for file in before if file not in after]
    lines += [f"image {file}: new" for file in after if file not in before]
    lines += [
        _changed(f"image {file}", key, row[key], after[file][key])
        for file, row in before.items()
        for key in keys
        if file in after and row[key] != after[file][key]
    ]
    return lines


def _changed(what: str, key: str, then: Any, now: Any) -> str:
    if key == "sha256":
        then, now = f"{then[:16]}...", f"{now[:16]}..."
    return f"{what}: {key} {then} then, {now} now"


def changed_surroundings(folder: Path) -> list[str]:
    """Every change of code and machine since any session: the result may differ in last bits."""
    lines: dict[str, None] = {}
    code, environment = provenance.code(), provenance.environment()
    for number, session in enumerate(manifest.read(folder)["sessions"], 1):
        if "code" not in session or "environment" not in session:
            lines[f"session {number}: its code and machine were not recorded"] = None
            continue
        changes = run_record.config_differences(session["code"], code, "code")
        # The same sources are the same code, whatever a repository calls them.
        if session["code"]["source_sha256"] == code["source_sha256"]:
            changes = [line for line in changes if not line.startswith("code.git")]
        changes += run_record.config_differences(session["environment"], environment, "environment")
        lines |= dict.fromkeys(changes)
    return list(lines)


# --- again ----------------------------------------------------------------------------------------


def run_again(folder: Path, target: Path, config: ConfigDict) -> None:
    """Train the run of `folder` again in `target`; a target that was started is resumed."""
    record = run_dir.read(folder)
    assert record is not None
    run_deletion.refuse_other_contents(target)
    if not (target / run_dir.RECORD).is_file():
        # As a run just started, with its micro-batch and whether it had ImageNet's weights.
        files.write_json(target / run_dir.RECORD, {**record, "status": "started"})
    # Cached features of frozen layers may be the first run's: they are computed again.
    with tempfile.TemporaryDirectory(dir=target, prefix=".features.", suffix=".tmp") as features:
        single_run.run(config, target, features_at=Path(features))


@contextlib.contextmanager
def _config_of_another_version(folder: Path) -> Iterator[None]:
    """Raise a UserError where a run of another version lacks fields that this version needs."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, OtherVersionError) as error:
        then, now = manifest.read(folder)["sessions"][-1].get("code", {}), provenance.code()
        if then.get("source_sha256") == now["source_sha256"]:
            raise
        version = then.get("version", "another version")
        raise UserError(
            f"the config of {folder} is that of sscjax {version} ({error}): install that version "
            "to run it again"
        ) from error


# --- the command ----------------------------------------------------------------------------------


def reproduce(
    folder: Path,
    target: Path,
    data: str | None = None,
    weights: str | None = None,
    check_only: bool = False,
) -> int:
    """Check, run again, compare, and print all of it; returns the exit code.

    Args:
      folder: of a finished run, or of a cross-validation with its folds.
      target: where it runs again; not the folder itself.
      data: where the images are now; None: where they were.
      weights: the file of weights now; None: what the config says.
      check_only: compare only what goes into the run.

    Raises:
      UserError: no finished run, or its images or weights are not available.
    """
    parts = runs_in(folder)
    if target == folder or target.is_relative_to(folder):
        raise UserError(f"--workdir={target} is the run itself: give a folder outside it")
    surroundings = changed_surroundings(folder / parts[0])
    print("code and machine: " + _listed(surroundings, "as they were"))
    configs, changes = [], []
    for part in parts:
        record = run_dir.read(folder / part)
        assert record is not None
        configs.append(recorded_config(record, data, weights))
        with _config_of_another_version(folder / part):
            differences = changed_inputs(folder / part, configs[-1])
        changes += differences
        print(f"{_name(folder, part)}: images and weights: " + _listed(differences, "as they were"))
    if changes:
        print("not run again: it would be another run")
        return 1
    if check_only:
        return 1 if surroundings else 0
    outcomes = {}
    for part, config in zip(parts, configs, strict=True):
        with _config_of_another_version(folder / part):
            run_again(folder / part, target / part, config)
        outcome = run_differences.compare_outcomes(folder / part, target / part)
        outcomes[part.as_posix()] = outcome
        print("\n" + run_differences.figures_text(folder / part, target / part))
        print("\n" + run_differences.outcome_text(_name(folder, part), outcome), flush=True)
    same = all(outcome["identical"] for outcome in outcomes.values())
    left_out = _not_run_again(folder)
    files.write_json(
        target / run_dir.REPRODUCTION,
        {
            "identical": same,
            "surroundings": surroundings,
            "runs": outcomes,
            "not_run_again": left_out,
        },
    )
    if left_out:
        print(
            f"\n{_name(folder, Path(run_dir.HANDED_ON))}: not fitted again, so its parameters are "
            "not compared.\nIts figures and rules follow from the folds, which are compared above."
        )
    print("\n" + ("IDENTICAL to the bit" if same else "DIFFERENT") + f": see {target}")
    return 0 if same else 1


def _not_run_again(folder: Path) -> list[str]:
    """The model of all images of a cross-validation, if it has one."""
    run = run_dir.RunDir(folder)
    handed_on = not run.has(run_dir.RECORD) and run.handed_on.has(run_dir.RECORD)
    return [run_dir.HANDED_ON] if handed_on else []


def _name(folder: Path, part: Path) -> str:
    return folder.name if part == Path() else f"{folder.name}/{part.as_posix()}"


def _listed(lines: list[str], none: str) -> str:
    return "\n".join([f"{len(lines)} differ", *(f"  {line}" for line in lines)]) if lines else none
