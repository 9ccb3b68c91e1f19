"""Write an exported file: check the request, write, and move the result to its name."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sscjax.errors import UserError
from sscjax.export.formats import FORMATS
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference import classifier, predict
from sscjax.system import files


def export(run: Path, name: str, out: Path, options: ExportOptions, overwrite: bool = False) -> str:
    """Write an exported file and, beside a file, `NAME.json`: metadata, SHA-256 and the check.

    Args:
      run: the folder of a finished run.
      name: of the format, see `FORMATS`.
      out: the file, or the folder, to write.
      options: further settings.
      overwrite: an earlier export there may be replaced.

    Returns:
      the text to print.

    Raises:
      UserError: anything that the user can fix, and a file that does not predict as the run does;
        nothing is left under its name then.
    """
    form = FORMATS[name]
    out = out.expanduser()
    if options.ort_web is not None and name != "web":
        raise UserError(f"--ort-web goes with --format=web, not with {name}: leave it out")
    _refuse(out, form.suffix, overwrite)
    opened = classifier.open_run(run)
    with _moved_in_place(out) as target:
        outcome = form.write(opened, target, options)
        if target.is_file():
            written = {
                **outcome.metadata,
                "file": _of_file(target),
                "check": outcome.agreement.as_json(),
            }
            files.write_json(target.with_name(f"{target.name}.json"), written)
        size = _size(target)
    return _text(out, size, outcome)


def _refuse(out: Path, suffix: str, overwrite: bool) -> None:
    """Raise a UserError if `--out` cannot be used."""
    if suffix and out.suffix != suffix:
        raise UserError(f"--out={out}: expected a name that ends in {suffix}")
    if out.exists() and bool(suffix) == out.is_dir():
        what, wanted = ("folder", "file") if suffix else ("file", "folder")
        raise UserError(f"--out={out} is a {what}, expected a {wanted}")
    if out.exists() and not overwrite:
        raise UserError(f"--out={out} exists: add --overwrite to replace it, or give another name")


@contextlib.contextmanager
def _moved_in_place(out: Path) -> Iterator[Path]:
    """A path in a temporary folder beside `out`; all in it is moved there if no error comes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        near = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".tmp"))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        yield near / out.name
        if out.is_dir():
            out.rename(near / ".old")
        # The export itself is moved last: where it is, all the others are.
        for part in sorted(near.glob("[!.]*"), key=lambda part: part.name == out.name):
            part.replace(out.with_name(part.name))
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(near, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"--out={out} cannot be written ({error.strerror or error}): name another")


def _of_file(target: Path) -> dict[str, object]:
    return {
        "name": target.name,
        "bytes": target.stat().st_size,
        "sha256": files.sha256(target),
    }


def _size(target: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    paths = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths)


def _text(out: Path, size: int, outcome: Outcome) -> str:
    agreement = outcome.agreement
    lines = [f"warning: {line}" for line in outcome.metadata["warnings"]]
    lines += [
        f"{out}: {size / 1e6:.2f} MB",
        f"checked on {agreement.images} {agreement.split} images, by its own runtime: "
        f"probabilities differ from the run's by up to {agreement.probabilities:.1e}, distances by "
        f"{agreement.distances:.1e}, {agreement.changed} decisions differ",
    ]
    if agreement.pixels is not None:
        lines.append(f"of the masks {100 * agreement.pixels:.2g} % of the pixels differ")
    if None not in agreement.speed:
        there, here = agreement.speed
        lines.append(
            f"{there:.0f} images/s by its runtime, {here:.0f} images/s by sscjax, in batches of "
            f"{classifier.BATCH}"
        )
    return "\n".join([*lines, *outcome.notes, predict.RESEARCH_ONLY])
