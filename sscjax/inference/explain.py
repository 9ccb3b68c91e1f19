"""Show where a finished run's network looks: `sscjax explain RUN INPUT...`.

For each image a sheet: the image, what hiding each part costs (occlusion, which looks into no
network), and the map of what supports the class, as reports and pages draw it. Where the model's
maps failed their check (`evaluation.map_check`), or were not checked, they are drawn only if asked
for. Each map has its own figures of that check beside it.
"""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import anonymize
from sscjax.data.inputs import InputImage, decode
from sscjax.errors import UserError
from sscjax.evaluation.map_check import HIDDEN, Maps, Show
from sscjax.inference import checked_maps, classifier, decisions, predict, saliency
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.outputs import Outputs
from sscjax.reports import figures, overlays
from sscjax.system import files, formatting, run_dir, terminal
from sscjax.system.progress import Progress

# By name: run as a program, this module is `__main__`.
_LOG = logging.getLogger("sscjax.inference.explain")

INDEX = run_dir.EXPLANATIONS_INDEX
MOST = 50

# Parts of an image's side that a patch hides, and steps from one to the next within a patch.
_PATCH_SHARE, _STEPS = 8, 2

OCCLUSION = "occlusion"
_METHODS = (OCCLUSION, *saliency.TITLES)

# What stands under every sheet's title.
_LEGEND = "grey: none; violet to yellow: some to the most of this image"


def _sheet(number: int) -> str:
    return f"{number:03d}.png"


def _overlay(number: int, method: str) -> str:
    return f"{number:03d}_{method}.png"


def explain(
    run: Path,
    inputs: Sequence[Path],
    out: Path | None = None,
    *,
    layer: str = "",
    of: str = "",
    most: int = MOST,
    overwrite: bool = False,
    private: bool = False,
    show: Show = "checked",
) -> int:
    """Write a sheet for each image, the overlays and `explanations.json` to `out`, print.

    Args:
      run: the folder of a finished run.
      inputs: see `inputs.find`.
      out: folder of the results; None makes a new one, see `predict.new_folder`.
      layer: whose output is mapped; '' takes all that the classifier reads.
      of: the class whose score is explained; '' takes each image's most probable one.
      most: images beyond this number are left out, and counted.
      overwrite: results that lie there may be replaced.
      private: see `predict.predict`.
      show: 'checked' draws maps that passed their check, 'anyway' others as well, 'none' none.
        Those of a `layer` are drawn all the same.

    Returns:
      the exit code: 1 where an image could not be read, else 0.

    Raises:
      UserError: anything that the user can fix.
    """
    out = out or predict.new_folder(run, "explanations")
    predict.refuse_folder(out, overwrite, INDEX)
    if most < 1:
        raise UserError(f"--most={most}: expected 1 or more")
    opened = classifier.open_run(run)
    private = private or opened.private
    maps = _maps(opened, layer)
    drawn = bool(layer) or maps.drawn(show)
    images = predict.listed(inputs, opened, private)
    if of and of not in opened.classes:
        near = terminal.nearest(of, list(opened.classes))
        hint = f"; did you mean {near!r}?" if near else ""
        known = ", ".join(opened.classes)
        raise UserError(f"--of={of!r}: the network's classes are {known}{hint}")
    if len(images) > most:
        _LOG.warning("the first %d of %d images are explained (--most)", most, len(images))
        images = images[:most]
    entries: list[dict[str, Any]] = []
    failed: list[str] = []
    earlier = _earlier(out, len(images))
    with Progress("explanations", len(images)) as progress:
        for batch in decode(images, opened.image_size, saliency.BATCH, opened.decoding):
            failed += [
                anonymize.failure(images[row], why) if private else why for row, why in batch.failed
            ]
            if batch.rows:
                while earlier:  # the index first: without it the others are of nothing
                    (out / earlier.pop(0)).unlink(missing_ok=True)
                chosen = [images[row] for row in batch.rows]
                drawing = opened.drawing(maps) if drawn else None
                entries += _explained(opened, drawing, chosen, batch.images, of, out, len(entries))
            progress.advance(len(batch.rows) + len(batch.failed))
    for reason in failed:
        _LOG.warning("left out: %s", reason)
    if not entries:
        raise UserError(f"none of the {len(images)} images could be read: nothing is explained")
    index = {
        "use": predict.RESEARCH_ONLY,
        "run": str(opened.folder.resolve()),
        "stage": opened.stage,
        "maps": {**maps.to_json(), "drawn": drawn},
        "warnings": list(opened.warnings),
        "failed": failed,
        "images": entries,
    }
    files.write_json(out / INDEX, index)
    print(_text(entries, out, maps, drawn))
    return predict.FAILED if failed else 0


def _earlier(out: Path, count: int) -> list[str]:
    """Names of the files of earlier results in a folder, the index first; none without one.

    Raises:
      UserError: the index is damaged, or one of the `count` sheets to be written, or an overlay,
        would replace a file that it does not name.
    """
    path = out / INDEX
    if not path.is_file():
        ours = []
    else:
        try:
            entries = files.read_json(path)["images"]
            named = [entry["sheet"] for entry in entries]
            named += [drawn["overlay"] for entry in entries for drawn in entry["maps"].values()]
            # Whatever it names, nothing else is removed, and nothing outside.
            ours = [INDEX, *(name for name in named if re.fullmatch(r"\d{3,}(_\w+)?\.png", name))]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}), so which files are its is not known: name another "
                "folder"
            ) from error
    for number in range(count):
        for name in (_sheet(number), *(_overlay(number, method) for method in _METHODS)):
            if name not in ours and (out / name).exists():
                raise UserError(
                    f"--out={out} holds {name}, which is none of its results: name another folder"
                )
    return ours


# --- the maps -------------------------------------------------------------------------------------


def _maps(opened: Classifier, layer: str) -> Maps:
    """The model's own maps, or unchecked ones of a layer.

    Raises:
      UserError: there is no such layer, or its output has no place in the image.
    """
    if not layer:
        return opened.maps
    try:
        saliency.check_layer(opened.model, layer, opened.image_size)
    except ValueError as error:
        near = terminal.nearest(layer, list(opened.model.layer_names))
        hint = f" (did you mean {near!r}?)" if near and near != layer else ""
        raise UserError(f"--layer={layer!r}{hint}: {error}") from error
    return Maps(opened.maps.method, (layer,))


def _explained(
    opened: Classifier,
    drawing: saliency.Drawing | None,
    chosen: Sequence[InputImage],
    images: np.ndarray,
    of: str,
    out: Path,
    number: int,
) -> list[dict[str, Any]]:
    """Write what explains some images, and say what is where."""
    table = predict.decide(opened, chosen, list(opened.outputs([images]))[0])
    wanted = np.full(len(chosen), opened.columns.index(of)) if of else table.predicted
    maps: dict[str, np.ndarray] = {OCCLUSION: _occluded(opened, images, wanted)}
    likeness: Sequence[float | None] = ()
    method = opened.maps.method
    if drawing is not None:
        given = opened.params, opened.batch_stats, images, wanted
        maps[method] = drawing(*given)
        likeness = checked_maps.with_random_classifier(drawing, *given, maps[method])
    entries = []
    for k, image in enumerate(images):
        of_image = {name: values[k] for name, values in maps.items()}
        entries.append(_written(opened, table, k, image, of_image, int(wanted[k]), out, number + k))
        if drawing is not None:
            entries[-1]["maps"][method]["with_random_classifier"] = likeness[k]
    return entries


def _occluded(opened: Classifier, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[N,h,w] loss of probability by hiding parts; see `saliency.occlusion`."""

    def probabilities(hidden: np.ndarray) -> np.ndarray:
        parts = [hidden[k : k + classifier.BATCH] for k in range(0, len(hidden), classifier.BATCH)]
        return Outputs.join(opened.outputs(parts)).probabilities

    patch = max(1, opened.image_size // _PATCH_SHARE)
    return saliency.occlusion(
        probabilities, images, classes, patch=patch, stride=max(1, patch // _STEPS)
    )


def _written(
    opened: Classifier,
    table: Decisions,
    k: int,
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    wanted: int,
    out: Path,
    number: int,
) -> dict[str, Any]:
    """Write an image's overlays and its sheet, and return its entry of the index."""
    entry: dict[str, Any] = {
        **decisions.as_rows(table, opened.columns, "image")[k],
        "explained": opened.columns[wanted],
        "sheet": _sheet(number),
        "maps": {},
    }
    titles: dict[str, str] = {OCCLUSION: "occlusion"}
    titles |= {str(method): name for method, name in saliency.TITLES.items()}
    panels = [("image", image)]
    for method, values in maps.items():
        overlay = overlays.overlay(image, values)
        file = _overlay(number, method)
        files.write_bytes(out / file, overlays.png(overlay))
        panels.append((titles[method], overlay))
        entry["maps"][method] = {"overlay": file, "size": list(values.shape)}
        if method != OCCLUSION:
            entry["maps"][method]["with_occlusion"] = saliency.agreement(values, maps[OCCLUSION])
    share = formatting.percent(float(table.probabilities[k, wanted]))
    name_of_class = formatting.clean_name(opened.columns[wanted], 24)
    # As wide as two pictures.
    file = formatting.clean_file(str(table.names[k]), 44)
    title = f"{file}\n{name_of_class} {share}\n{_LEGEND}"
    figures.write_png(out / entry["sheet"], figures.image_sheet(title, panels))
    return entry


def _text(entries: Sequence[dict[str, Any]], out: Path, maps: Maps, drawn: bool) -> str:
    """The table for the screen."""
    title = saliency.TITLES[maps.method]
    lines = [["sheet", "image", "decision", "of", "p", *(["occlusion", "random"] if drawn else [])]]
    for entry in entries[: decisions.MOST_ROWS]:
        of = entry["explained"]
        cells = [entry["sheet"], formatting.clean_file(entry["file"], 26)]
        cells += [
            formatting.clean_name(decisions.SHORT.get(entry["decision"], entry["decision"]), 19),
            formatting.clean_name(of, 14),
            formatting.percent(entry["probabilities"][of]),
        ]
        if drawn:
            drawn_map = entry["maps"][maps.method]
            figures_of = (drawn_map["with_occlusion"], drawn_map["with_random_classifier"])
            cells += map(formatting.number, figures_of)
        lines.append(cells)
    left = len(entries) - decisions.MOST_ROWS
    more = f"\n... and {left} more in {out / INDEX}" if left > 0 else ""
    if drawn:
        about = [f"{maps.verdict}."]
        about.append(
            f"{title} of {', '.join(maps.layers)}. Rank correlation of each map, -1 to 1, with "
            "occlusion (high: it shows what the prediction depends on) and with maps of random "
            "classifiers (high: it shows the image, not the prediction); - where a map is flat."
        )
    else:
        about = [
            f"{maps.verdict}{HIDDEN if not maps.shown else ''}. The sheets have occlusion alone."
        ]
    about.append(f"{len(entries)} sheets and their overlays: {out}")
    wrapped = [textwrap.fill(line, formatting.WIDTH, break_on_hyphens=False) for line in about]
    return "\n".join([formatting.align(lines, left=4) + more, "", *wrapped, predict.RESEARCH_ONLY])
