"""A run's record: what identifies it, so that only the same run is ever gone on with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sscjax
from sscjax import build, files, locks, prepare
from sscjax.course import Stage
from sscjax.data import anonymous
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

FILE = "run.json"

# What a folder that is deleted goes into; as what a killed writer leaves, it is no one's work.
_DELETED = ".deleted.*.tmp"

# Files that a line for people names.
_NAMED = 3

KEYS = ("status", "config", "data", "weights", "stages", "versions")


def make(
    config: ConfigDict, images: prepare.Images, network: build.Network, stages: list[Stage]
) -> dict[str, Any]:
    """What identifies a run, and what a later program needs to use its model."""
    told = images.originals.mask_classes if network.model.mask_classes else ()
    return {
        "status": "started",
        "config": shown_config(config),
        "data": {
            "fingerprint": images.originals.fingerprint(),
            "splits_fingerprint": _digest(images.splits),
            "training_fingerprint": images.training.fingerprint(),
            "source": images.originals.source,
            "synthetic": images.synthetic,
            "classes": list(images.originals.classes),
            "images": len(images.originals),
            "training_images": len(images.training),
            **({"mask_classes": list(told)} if told else {}),
            **left_out(images.originals),
        },
        "weights": network.weights.identity(),
        # As they are run: without weights they differ from the config.
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "versions": versions(),
    }


def shown_config(config: ConfigDict) -> dict[str, Any]:
    """The config as it is recorded; of a private run without the place of the images."""
    found = json.loads(json.dumps(config.to_dict()))
    return anonymous.config(found) if config.get("private") else found


def shown_command(config: ConfigDict, words: Sequence[str]) -> list[str]:
    """The words of a command as they are recorded, likewise."""
    return anonymous.command(words, config.data.path) if config.get("private") else list(words)


def left_out(image_set: ImageSet) -> dict[str, Any]:
    """What a record says of images that cannot be read; nothing where all can."""
    return {"left_out": dict(image_set.left_out)} if image_set.left_out else {}


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """What a program's own record holds, all `keys` among it; None without the file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = files.read_json(path)
        return {**found, **{key: found[key] for key in keys}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): start anew with --fresh") from error


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    return {
        "sscjax": sscjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _digest(names: np.ndarray) -> str:
    return hashlib.sha256("\0".join(names.tolist()).encode()).hexdigest()


def refuse_foreign(folder: Path, file: str = FILE) -> None:
    """Raise a UserError if the folder is a file, or holds something without this record."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, expected a folder: choose another --workdir")
    # What a killed writer left behind is no one's work.
    others = folder.is_dir() and any(not name.match(".*.tmp") for name in folder.iterdir())
    # Nor is what a killed deletion did not come to (see `clear`).
    ours = [folder / file, *(one / file for one in folder.glob(_DELETED))]
    if others and not any(path.is_file() for path in ours):
        raise UserError(
            f"{folder} is not empty and holds no run of this kind (no {file}): choose another "
            "--workdir"
        )


def delete(folder: Path, file: str = FILE) -> None:
    """Delete a run; its record goes first, so that no half of a run is ever found.

    The folder itself stays: it may be a link, a disk of its own, or where the command is given.
    Who calls this has its lock.

    Raises:
      UserError: it holds no such run, or one that cannot be deleted.
    """
    refuse_foreign(folder, file)
    clear(folder, file)
    if (folder / file).is_file():
        prefix, suffix = _DELETED.split("*")
        doomed = Path(tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=suffix))
        (folder / file).rename(doomed / file)
        clear(folder, file)


def clear(folder: Path, file: str = FILE) -> None:
    """Delete what is left of a run whose deletion was begun, and then killed perhaps.

    Who calls this has the lock of the folder.

    Raises:
      UserError: that cannot be done.
    """
    for doomed in folder.glob(_DELETED):
        # The record goes last: while it is here, what lies beside it belongs to it.
        if (doomed / file).is_file():
            for path in list(folder.iterdir()):
                if path.name != locks.NAME and not path.match(_DELETED):
                    _move(path, doomed)
            (doomed / file).unlink()
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            _LOG.warning("%s: what is left there of a deleted run cannot be deleted", doomed)


def _move(path: Path, folder: Path) -> None:
    try:
        path.rename(folder / path.name)
    except OSError as error:  # such as a disk of its own
        raise UserError(
            f"{path} of a run that is to be deleted cannot be moved ({error.strerror}): delete it "
            "by hand and give the same command again, or choose another --workdir"
        ) from error


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where no run was started.

    Raises:
      UserError: the record is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        found = {key: record[key] for key in KEYS}
        sizes = [int(stage["micro_batch"]) for stage in found["stages"]]
        if not sizes or min(sizes) < 1:
            raise ValueError("a stage with a micro_batch above 0 is expected")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh") from error


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, part in value.items():
            found |= _flat(part, f"{prefix}.{key}")
        return found
    return {prefix: list(value) if isinstance(value, tuple) else value}


# How often a run is saved, and where images are held, changes nothing of its result, and what is
# done with its probabilities nothing of its training; what lies at the paths, and which images can
# be read of it, is compared itself, by pixels and by the hash of the weights.
_FREE = (
    "config.name",
    "config.data.corrupt",
    "config.data.max_megabytes",
    "config.data.path",
    "config.data.storage",
    "config.pretrained",
)
# What a field that earlier records lack stood for.
_ABSENT = {"config.private": False}
_FREE_BLOCKS = ("config.checkpoint.", "config.calibration.")


def config_differences(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    of: str = "config",
    free: Sequence[str] = (),
) -> list[str]:
    """Each field that differs, as `config.seed: 0 then, 1 now`; of those in `free` none counts."""
    before, after = _flat(then, of), _flat(json.loads(json.dumps(now)), of)
    return [
        f"{key}: {before.get(key, 'absent')} then, {after.get(key, 'absent')} now"
        for key in sorted(set(before) | set(after))
        if before.get(key, _ABSENT.get(key)) != after.get(key, _ABSENT.get(key))
        and key not in (*_FREE, *free)
        and not key.startswith(_FREE_BLOCKS)
    ]


def free_to_change(then: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields in which the config of a run or protocol that is resumed may differ from `then`.

    With a smaller micro-batch it needs less memory, and sums are rounded otherwise. Where nothing
    is left to be done, another one would do nothing.
    """
    return ("config.micro_batch",) if then["status"] != "finished" else ()


def same_evaluation(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a finished run's figures would be made by the same rules again."""
    return then["config"].get("calibration") == now["config"]["calibration"]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the data and weights of two records; other versions only warn."""
    found = []
    for of in ("data", "weights"):
        before, after = dict(then[of]), dict(now[of])
        found += _differing(before.pop("left_out", {}), after.pop("left_out", {}))
        found += config_differences(before, after, of)
    # The folder's own place and the wording of the source may change; its pixels may not.
    found = [line for line in found if not line.startswith("data.source")]
    for line in config_differences(then["versions"], now["versions"], "versions"):
        _LOG.warning("%s: the result may differ in the last bits", line)
    return found


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which images could be read then or now alone; the reason may be worded anew."""
    found = []
    for one, other, said in (
        (then, now, "left out then, read now"),
        (now, then, "read then, left out now"),
    ):
        names = sorted(one.keys() - other.keys())
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            found.append(f"{', '.join(names[:_NAMED])}{more}: {said}")
    return found


def refuse(found: list[str], folder: Path) -> None:
    """Raise a UserError that lists what changed, if anything did."""
    if found:
        raise UserError(
            f"{folder} holds a run that differs: {'; '.join(found)}. Undo this, choose "
            "another --workdir, or give --fresh to delete that run and start anew"
        )
