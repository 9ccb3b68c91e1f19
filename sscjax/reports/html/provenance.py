"""What identifies a run, and how it was trained, as plain values for the templates."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from sscjax.reports.html import method
from sscjax.reports.html.run_data import Folder
from sscjax.reports.html.sections import plural


def provenance(folder: Folder) -> dict[str, Any]:
    """Everything that identifies the run and lets it be run again."""
    record, config = folder.record, folder.config
    stages = _stages(folder)
    for name, fold in folder.folds.items():
        stages += [{**stage, "name": f"{name}, {stage['name']}"} for stage in _stages(fold)]
    manifest = folder.optional["manifest"]
    return {
        "stages": stages,
        "fitted": [stage for stage in stages if stage["l2"] is not None],
        "parameters": stages[0]["frozen"] + stages[0]["trained"] if stages else None,
        "select": config["select"],
        "weights": record["weights"],
        "start": method.start(folder),
        "layers": method.layers_read(folder),
        "course": method.course(folder),
        "choice": method.choice(folder),
        "new_images": method.new_images(folder),
        "sessions": method.sessions(folder),
        "pretrained": config["pretrained"],
        "model": config["model"],
        "seed": config["seed"],
        "versions": record["versions"],
        "fingerprints": {
            key.removesuffix("_fingerprint") if key != "fingerprint" else "images": value
            for key, value in record["data"].items()
            if key.endswith("fingerprint")
        },
        "command": command(record),
        "config": [(key, shown(value)) for key, value in flat(config)],
        "manifest": None if manifest is None else _outline(manifest),
    }


def _stages(folder: Folder) -> list[dict[str, Any]]:
    stages = []
    for name, about in folder.stages.items():
        progress, counts = about["progress"], about["counts"]
        several = len(folder.stages) > 1 and name == folder.metrics.get("final_stage")
        stages.append(
            {
                "name": f"{name} (chosen)" if several else name,
                "epochs": progress["epoch"],
                "best": progress["best_epoch"] or None,
                "early": progress["stopped_early"],
                "l2": progress.get("l2"),
                "seconds": progress["seconds"],
                "frozen": counts["total"] - counts["trained"],
                "trained": counts["trained"],
            }
        )
    return stages


def command(record: Mapping[str, Any]) -> str:
    """The command line that began the run, '' where none was kept."""
    arguments = [part for part in record.get("command", []) if part.lstrip("-") != "fresh"]
    return shlex.join(["python", "-m", "sscjax.main", *arguments]) if arguments else ""


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every field of nested mappings with its dotted name, in their order."""
    fields: list[tuple[str, Any]] = []
    for key, part in value.items():
        name = f"{prefix}{key}"
        fields += flat(part, f"{name}.") if isinstance(part, Mapping) else [(name, part)]
    return fields


def shown(value: Any) -> str:
    """A value of a config or a manifest as text."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _outline(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Fields of a manifest: what is short as it is, what is long by its number of entries."""
    fields = []
    for key, value in manifest.items():
        if key == "sessions":
            # Of each the rest is in the file; what a reader asks first is by which code, and where.
            for number, session in enumerate(value, 1):
                name = "session" if len(value) == 1 else f"session {number}"
                fields += [(f"{name}.{field}", shown(part)) for field, part in flat(session)]
        elif isinstance(value, Mapping) and len(flat(value)) <= 12:
            fields += [(f"{key}.{name}", shown(part)) for name, part in flat(value)]
        elif isinstance(value, (list, Mapping)):
            fields.append((key, plural(len(value), "entry").replace("entrys", "entries")))
        else:
            fields.append((key, shown(value)))
    return fields
