"""The audit of a folder as `sscjax audit` does it, and its findings as text."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sscjax.data import loading, sources, understood
from sscjax.data.audit.checks import LEAK, audit, leaks
from sscjax.data.layout import FIND_OUT, Reading
from sscjax.data.pixel_range import Decoding
from sscjax.data.splits import read_splits
from sscjax.errors import UserError
from sscjax.system import files

_LOG = logging.getLogger(__name__)

_PLAIN = Decoding(
    mpp=-1, masks=False
)  # the audit says what resolutions differ by, and refuses no set for it

# Examples of a finding that the terminal shows; audit.json has more.
_SHOWN = 5


def audit_folder(
    data: Path,
    image_size: int = 128,
    *,
    corrupt: sources.Policy = "few",
    splits: Path | None = None,
    json_path: Path | None = None,
    reading: Reading = FIND_OUT,
    decoding: Decoding = _PLAIN,
) -> int:
    """Audit a folder or a table of images; print how it was read, and the findings.

    Args:
      data: the folder or table.
      image_size: side in pixels that images are compared at.
      corrupt: what to do about an image that cannot be read, see `sources.Policy`.
      splits: splits.csv of a run, to look across its splits; None takes those of the manifest.
      json_path: file for the findings, too.
      reading: how layout, columns and names are read.
      decoding: how files are read where there is a choice.

    Returns:
      the exit code: `LEAK` where something leaks, else 0.

    Raises:
      UserError: anything that the user can correct.
    """
    if image_size < 32:
        raise UserError(f"--image-size={image_size}: expected 32 pixels or more")
    data = data.expanduser()
    source = sources.with_headers(
        sources.from_path(data, image_size, corrupt=corrupt, reading=reading, decoding=decoding)
    )
    print(understood.text(source.listing.understood), end="\n\n", flush=True)
    image_set = loading.in_memory(source)
    for file, reason in image_set.skipped.items():
        _LOG.warning("left out: %s: %s", file, reason)
    divided = read_splits(splits, image_set) if splits else image_set.splits
    findings = audit(image_set, divided, data.parent if data.is_file() else data)
    if json_path:
        files.write_json(json_path, findings)
    print(text(findings, json_path), end="")
    return LEAK if leaks(findings) else 0


def text(found: dict[str, Any], json_path: Path | None = None) -> str:
    """The findings for the terminal.

    Args:
      found: what `audit` returns.
      json_path: the file with all of them, if one was written.
    """
    lines = [f"{found['n_images']:,} images of {found['n_subjects']:,} subjects"]
    for one in found["findings"]:
        lines += ["", f"{one['severity'].upper()}: {one['title']}", f"  {one['detail']}"]
        for example in one.get("examples", [])[:_SHOWN]:
            lines.append(f"  - {_shown(example)}")
        rest = one["count"] - min(_SHOWN, len(one.get("examples", [])))
        if one.get("examples") and rest > 0:
            lines.append(f"  - and {rest:,} more: {_where(one, json_path)}")
    passed = [check["title"] for check in found["checks"] if check["passed"]]
    if passed:
        lines += ["", "Passed:", *(f"  {title}" for title in passed)]
    if found["unchecked"]:
        lines += ["", "Not checked:"]
        lines += [f"  {check['title']}: {check['reason']}" for check in found["unchecked"]]
    return "\n".join(lines) + "\n"


def _where(finding: dict[str, Any], json_path: Path | None) -> str:
    """Where the examples that the terminal does not show are listed."""
    listed = len(finding["examples"])
    what = "all" if listed == finding["count"] else f"the first {listed:,}"
    if json_path is None:
        return f"--json=FILE lists {what}"
    return _plain(f"{json_path} lists {what}")


def _shown(example: dict[str, Any]) -> str:
    def side(key: str) -> str:
        of = [example.get(f"{what}_{key}") for what in ("split", "label", "subject")]
        known = ", ".join(value for value in of if value)
        return _plain(f"{example[key]} ({known})" if known else example[key])

    if "b" not in example:
        return side("a")
    return f"{side('a')} and {side('b')}: {example['relation']}, {example['similarity']:.2f}"


def _plain(name: str) -> str:
    """Nothing that moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
