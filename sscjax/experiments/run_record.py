"""A run's record: what identifies it, so that only the same run is ever resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sscjax
from sscjax.data import anonymize, dataset
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.training.network import Network
from sscjax.training.stage import Stage

_LOG = logging.getLogger(__name__)

# Files that a line for people names.
_NAMED = 3


def make(
    config: ConfigDict, images: dataset.Images, network: Network, stages: list[Stage]
) -> dict[str, Any]:
    """What identifies a run, and what a later program needs to use its model."""
    mask_classes = images.originals.mask_classes if network.model.mask_classes else ()
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
            **({"mask_classes": list(mask_classes)} if mask_classes else {}),
            **({} if "val" in images.splits else {"validation": "none: all are trained on"}),
            **({"pixel_bits": bits} if (bits := images.originals.pixel_bits) else {}),
            **skipped(images.originals),
        },
        "weights": network.weights.identity(),
        # As they are run: without weights they differ from the config.
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "versions": versions(),
    }


def shown_config(config: ConfigDict) -> dict[str, Any]:
    """The config as it is recorded; of a private run without the place of the images."""
    recorded = json.loads(json.dumps(config.to_dict()))
    return anonymize.config(recorded) if config.get("private") else recorded


def shown_command(config: ConfigDict, words: Sequence[str]) -> list[str]:
    """The words of a command as they are recorded, likewise."""
    return anonymize.command(words, config.data.path) if config.get("private") else list(words)


def skipped(image_set: ImageSet) -> dict[str, Any]:
    """What a record says about images that cannot be read; nothing where all can."""
    return {"skipped": dict(image_set.skipped)} if image_set.skipped else {}


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    return {
        "sscjax": sscjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _digest(names: np.ndarray) -> str:
    return hashlib.sha256("\0".join(names.tolist()).encode()).hexdigest()


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        fields: dict[str, Any] = {}
        for key, part in value.items():
            fields |= _flat(part, f"{prefix}.{key}")
        return fields
    return {prefix: list(value) if isinstance(value, tuple) else value}


# How often a run is saved, and where images are held, changes nothing of its result, and what is
# done with its probabilities nothing of its training; what lies at the paths, and which images can
# be read of it, is compared itself, by pixels and by the hash of the weights.
_FREE = (
    "config.name",
    "config.data.corrupt",
    "config.data.max_megabytes",
    "config.data.path",
    "config.data.subject_label",
    "config.data.storage",
    "config.intended_use",
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
    """Fields in which the config of a resumed run or cross-validation may differ from `then`.

    With a smaller micro-batch it needs less memory, and sums are rounded otherwise. Where nothing
    is left to be done, another one would do nothing.
    """
    return ("config.micro_batch",) if then["status"] != "finished" else ()


def same_evaluation(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a finished run's figures and texts would be made by the same rules again."""
    before, after = then["config"], now["config"]
    if before["data"].get("subject_label") != after["data"]["subject_label"]:
        return False
    same_use = before.get("intended_use", "") == after.get("intended_use", "")
    return same_use and before.get("calibration") == after["calibration"]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the data and weights of two records; other versions only warn."""
    lines = []
    for of in ("data", "weights"):
        before, after = dict(then[of]), dict(now[of])
        lines += _differing(before.pop("skipped", {}), after.pop("skipped", {}))
        lines += config_differences(before, after, of)
    # The folder's own place and the wording of the source may change; its pixels may not.
    lines = [line for line in lines if not line.startswith("data.source")]
    for line in config_differences(then["versions"], now["versions"], "versions"):
        _LOG.warning("%s: the result may differ in the last bits", line)
    return lines


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which images could be read then or now alone; the reason may be worded differently."""
    lines = []
    for first, second, said in (
        (then, now, "left out then, read now"),
        (now, then, "read then, left out now"),
    ):
        names = sorted(first.keys() - second.keys())
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"{', '.join(names[:_NAMED])}{more}: {said}")
    return lines


def refuse(changes: list[str], folder: Path) -> None:
    """Raise a UserError that lists what changed, if anything did."""
    if changes:
        raise UserError(
            f"{folder} holds a run that differs: {'; '.join(changes)}. Undo this, choose "
            "another --workdir, or give --fresh to delete that run and start again"
        )
