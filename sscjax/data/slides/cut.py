"""Find slides, cut several at a time, resume where an earlier call stopped."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sscjax.data import csv_table, image_folder, resolution, scan
from sscjax.data.slides import output, tiling
from sscjax.data.slides.listing import slides_of
from sscjax.data.slides.output import Source
from sscjax.data.slides.reader import SUFFIXES, Slide, file_mpp, open_slide
from sscjax.data.slides.tiling import Plan, Settings
from sscjax.data.table_files import Finder
from sscjax.errors import UserError
from sscjax.system import files, formatting

_LOG = logging.getLogger("sscjax.data.slides")

FAILED = 1
MOST_ROWS = 40


def cut(
    slides: Path, out: Path, settings: Settings, *, table: Path | None = None, jobs: int = 0
) -> int:
    """Cut slides into tiles, and print what became of each.

    Args:
      slides: a slide, or a folder of them.
      out: folder of the tiles.
      settings: what they are cut by.
      table: csv with the columns file (relative to the folder of slides), label and subject.
      jobs: slides at a time; 0: one per core.

    Returns:
      the exit code: 1 where a slide could not be cut, else 0.

    Raises:
      UserError: a mistake of the user; a single bad slide is only reported.
    """
    if jobs < 0:
        raise UserError(f"--jobs={jobs}: expected 0 (one per core) or more")
    slides, out = slides.expanduser(), out.expanduser()
    sources = find(slides, table)
    _refuse_several_resolutions(sources, settings)
    output.begin(out, settings)
    results = cut_all(out, sources, settings, jobs)
    done = [
        (source, one.kept)
        for source, one in zip(sources, results, strict=True)
        if one.kept is not None
    ]
    count = output.write_manifest(out, done)
    print(_text(sources, results, out, count))
    return FAILED if len(done) < len(sources) else 0


def cut_all(
    out: Path, sources: Sequence[Source], settings: Settings, jobs: int = 0
) -> list[Result]:
    """Cut slides, several at a time, into a folder that `output.begin` made: a result for each."""
    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
        try:
            futures = [pool.submit(_one, out, source, settings) for source in sources]
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _refuse_several_resolutions(sources: Sequence[Source], settings: Settings) -> None:
    """Fields of so many pixels show different areas where slides differ in their resolution."""
    if settings.field_um or settings.mpp or len(sources) < 2:
        return
    known = {source.name: mpp for source in sources if (mpp := file_mpp(source.path))}
    if known and len(known) < len(sources):
        _LOG.warning(
            "%d of %d slides do not say their micrometres per pixel: whether their tiles show "
            "areas of the same size is not known",
            len(sources) - len(known),
            len(sources),
        )
    if not resolution.differ(list(known.values())):
        return
    finest, coarsest = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    raise UserError(
        f"the slides have several resolutions ({finest}: {known[finest]:g}, {coarsest}: "
        f"{known[coarsest]:g} micrometres per pixel), so that fields of {settings.field_px} pixels "
        f"show different areas; give --field-um={settings.field_px * known[finest]:g}, the same "
        "area of all slides"
    )


# --- which slides ---------------------------------------------------------------------------------


def find(slides: Path, table: Path | None) -> list[Source]:
    """The slides with their labels and subjects, by name.

    A table names them. Else the folders do: `class/subject/slide.svs`, or `class/slide.svs`, where
    each slide is a subject of its own. Slides beside each other have no label.

    Raises:
      UserError: there is none, or one with a name that cannot be used, or the table does not fit.
    """
    if table is not None:
        listed = _from_table(slides, table)
    elif slides.is_file():
        listed = [(slides, slides.name, "", slides.name)]
    elif slides.is_dir():
        listed = _from_folder(slides)
    else:
        raise UserError(f"{slides}: no such slide or folder; correct the path")
    for path, *_ in listed:
        csv_table.refuse_undecodable(path)
    names = output.keys(name for _, name, _, _ in listed)
    return [Source(path, name, names[name], *labels) for path, name, *labels in listed]


def _from_folder(slides: Path) -> list[tuple[Path, str, str, str]]:
    listed = []
    for path in slides_of(list(scan.walk(slides)), slides):
        parts = path.relative_to(slides).parts
        name = "/".join(parts)
        label = parts[0] if len(parts) > 1 else ""
        listed.append((path, name, label, parts[1] if len(parts) > 2 else name))
    if not listed:
        raise UserError(
            f"{slides}: holds no slide ({' '.join(SUFFIXES)}); give a folder with slides"
        )
    labelled = sum(bool(label) for _, _, label, _ in listed)
    if 0 < labelled < len(listed):
        raise UserError(
            f"{slides}: {labelled} of {len(listed)} slides lie in a folder that names their class, "
            "the others do not; sort all of them, or give --table"
        )
    without_subject = sum(subject == name for _, name, _, subject in listed)
    if labelled and without_subject:
        _LOG.warning(
            "%d of %d slides name no subject, so each counts as its own; use "
            "class/subject/slide.svs folders or --table where patients have several",
            without_subject,
            len(listed),
        )
    return listed


def _from_table(slides: Path, table: Path) -> list[tuple[Path, str, str, str]]:
    finder = Finder(image_folder.existing_folder(slides))
    listed = []
    seen: dict[str, str] = {}
    for line, row in csv_table.read_rows(table, ("file", "label", "subject")):
        where = f"{table}, row {line}"
        for column in ("file", "subject"):
            if not row[column]:
                raise UserError(f"{where}: empty {column}; fill it in")
        path, name = finder.named(where, row["file"])
        if name in seen:
            raise UserError(f"{where}: {name} is already given by {seen[name]}; remove one")
        seen[name] = where
        listed.append((path, name, row["label"], row["subject"]))
    if not listed:
        raise UserError(f"{table}: has no rows; expected one row per slide")
    return listed


# --- one slide ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """The record of a slide that was cut, or the reason why it was not."""

    kept: dict[str, Any] | None
    reason: str = ""
    earlier: bool = False


def _one(out: Path, source: Source, settings: Settings) -> Result:
    record = output.finished(out, source)
    if record is not None:
        return Result(record, earlier=True)
    try:
        record = _cut_slide(out, source, settings)
    except UserError as error:
        text = str(error)
        reason = text if str(source.path) in text else f"{source.path}: {text}"
        _LOG.warning("left out: %s", reason)
        return Result(None, reason)
    _LOG.info("%s: %d tiles in %.1f s", source.name, len(record["tiles"]), record["seconds"])
    return Result(record)


def _cut_slide(out: Path, source: Source, settings: Settings) -> dict[str, Any]:
    with open_slide(source.path) as slide:
        planned = tiling.plan(slide, settings)
        _say_resolution(source.name, slide, settings)
        try:
            with output.Writer(out, source) as writer:
                return _written(writer, slide, planned, settings, source)
        except OSError as error:
            raise UserError(
                f"--out={out} cannot be written ({error.strerror}); free the space or name another "
                "folder"
            ) from error


def _say_resolution(name: str, slide: Slide, settings: Settings) -> None:
    """Log where what a slide says of its resolution does not count, or differs from the option."""
    said = slide.said_mpp
    if said is None:
        return
    if settings.mpp and resolution.differ([said, settings.mpp]):
        if tiling.level_mpp(slide, settings) == settings.mpp:
            text = "%s: taken as %g micrometres per pixel (--mpp), the file says %g"
        else:
            text = (
                "%s: the tiles of training were cut with --mpp=%g; this slide says %g, which counts"
            )
        _LOG.warning(text, name, settings.mpp, said)
    elif slide.mpp is None and not settings.mpp:
        _LOG.warning(
            "%s: says %g micrometres per pixel, which no microscope has (%g to %g): taken as "
            "unknown; give --mpp",
            name, said, resolution.LOWEST, resolution.HIGHEST,
        )  # fmt: skip


def _written(
    writer: output.Writer, slide: Slide, planned: Plan, settings: Settings, source: Source
) -> dict[str, Any]:
    """Write all tiles of a slide, and return its record."""
    started = time.monotonic()
    skipped: dict[tuple[int, int], str] = {}
    taken: list[tuple[int, int]] = []
    for tile in tiling.tiles(slide, planned, settings, source.name, skipped):
        writer.add(tile, planned.mpp)
        taken.append((tile.x, tile.y))
    rejected = Counter(skipped.values())
    about = {
        "width": slide.width,
        "height": slide.height,
        "mpp": slide.mpp,
        "field": planned.field,
        "saturation": planned.level,
        "tissue": round(planned.tissue, 4),
        "fields": len(planned.places),
        "rejected": {reason: rejected[reason] for reason in tiling.REASONS},
        "seconds": round(time.monotonic() - started, 2),
    }
    return writer.close(about, output.drawing(planned, taken, skipped))


# --- what is printed ------------------------------------------------------------------------------


def _text(sources: Sequence[Source], results: Sequence[Result], out: Path, count: int) -> str:
    rows = [["slide", "tiles", "tissue", *tiling.REASONS, "seconds"]]
    for source, result in zip(sources, results, strict=True):
        if result.kept is None or len(rows) > MOST_ROWS:
            continue
        record = result.kept
        cells = [formatting.clean_file(source.name, 34), f"{len(record['tiles']):,}"]
        cells.append(formatting.percent(record["tissue"]))
        cells += [f"{record['rejected'][reason]:,}" for reason in tiling.REASONS]
        rows.append([*cells, "before" if result.earlier else f"{record['seconds']:.1f}"])
    bad = [result.reason for result in results if result.kept is None]
    lines = []
    if len(rows) > 1:
        lines.append(formatting.align(rows))
        omitted = len(results) - len(bad) - len(rows) + 1
        lines += [f"... and {omitted} more slides"] if omitted > 0 else []
        lines.append("")
    lines += [f"could not be cut: {files.escaped(reason)}" for reason in bad]
    complete = len(results) - len(bad)
    lines.append(f"{count:,} tiles of {complete} slides: {out / image_folder.MANIFEST}")
    if complete and any(source.label for source in sources):
        lines.append(f"Train on them with --config.data.path={out}")
    return "\n".join(lines)
