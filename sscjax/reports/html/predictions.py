"""The page of predictions for new images, patients first: `index.html` of `sscjax predict`.

One file that asks for nothing: pictures, styles and script lie inside it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

from sscjax.evaluation.map_check import HIDDEN
from sscjax.evaluation.rules import Unit
from sscjax.reports import overlays
from sscjax.reports.html.render import render
from sscjax.system import formatting

ABSTAIN, OUT_OF_DISTRIBUTION = "abstain", "out_of_distribution"

# What stands in place of a class.
_ANSWERS = {ABSTAIN: "No answer", OUT_OF_DISTRIBUTION: "Unlike the training images"}

_AGGREGATED = {"mean": "mean", "geometric": "geometric mean"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A small picture of an image, to stand inside a page.

    Attributes:
      image: as a data URI.
      map: the map over it, likewise; '' without.
      of: the class that the map is evidence for.
    """

    image: str
    map: str
    of: str


def render_page(
    document: Mapping[str, Any],
    shown: Sequence[Sequence[int]],
    pictures: Mapping[int, Picture],
    unit: Unit,
    slides: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as HTML.

    Args:
      document: predictions.json.
      shown: of each subject the rows of `images` in it whose pictures are shown, in order.
      pictures: by row; one that could not be read again is missing.
      unit: what the page has an entry of; 'image' where no image names its subject.
      slides: of each slide's name its heat map, as a data URI.
    """
    rules = document["rules"][unit]
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(document["images"]):
        rows_of.setdefault(image["subject"], []).append(row)
    of_slide = {
        slide["slide"]: {"picture": slides.get(slide["slide"], ""), "viewer": slide.get("viewer")}
        for slide in document["slides"]
    }
    entries = []
    for number, subject in enumerate(document["subjects"]):
        rows = rows_of[subject["subject"]]
        entry = subject if unit == "subject" else document["images"][rows[0]]
        entries.append(
            {
                **_entry(entry, unit, rules),
                "name": subject["subject"],
                "images": [_image(document["images"][row]) for row in rows],
                "pictures": [
                    {**_image(document["images"][row]), **dataclasses.asdict(pictures[row])}
                    for row in shown[number]
                    if row in pictures
                ],
                "slide": of_slide.get(subject["subject"]),
            }
        )
    context = {
        **_header(document, unit),
        "entries": entries,
        "kinds": list(Counter(entry["answer"] for entry in entries).most_common()),
        "rules": _rules(document, unit),
        "failed": document["failed"],
        "maps": _maps(document["maps"], any(entry["pictures"] for entry in entries)),
        "colours": _colours(),
        "page_style": _file("predictions.css"),
        "script": _file("predictions.js"),
    }
    return render("predictions.html.j2", context)


def _header(document: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    run = document["run"]
    against = document["against_labels"]
    known = None
    if against is not None and against["figures"].get(unit):
        figures, ranges = against["figures"][unit], against["intervals"][unit]
        known = {
            "number": against["subjects" if unit == "subject" else "images"],
            "right": round(figures["accuracy"] * figures["n"]),
            "accuracy": formatting.percent(figures["accuracy"]),
            "interval": formatting.share_span(ranges["accuracy"]),
        }
    return {
        "run": run["name"],
        "made": document["made"][:16].replace("T", " "),
        "version": document["sscjax"],
        "use": document["use"],
        "unit": unit,
        "noun": "patient" if unit == "subject" else "image",
        "images": len(document["images"]),
        "tested": run["tested"],
        "warnings": run["warnings"],
        "trained_on": document["trained_on"],
        "known": known,
        "labels_problem": document["labels_problem"],
        "masks": bool(document["masks"]),
    }


def _entry(row: Mapping[str, Any], unit: Unit, rules: Mapping[str, Any]) -> dict[str, Any]:
    """What a patient's card says."""
    decision, best = row["decision"], row["most_probable"]
    share = formatting.percent(row["confidence"])
    note = ""
    if decision == OUT_OF_DISTRIBUTION:
        what = "It is" if unit == "image" else "More than half of its images are"
        note = (
            f"{what} unlike the images that the model was trained on: do not rely on the "
            "probabilities."
        )
    elif decision == ABSTAIN:
        least = formatting.percent(rules["confidence_threshold"])
        note = f"Most probable is {best} with {share}; an answer needs {least}."
    return {
        "decision": decision,
        "answer": _ANSWERS.get(decision, decision),
        "is_class": decision not in _ANSWERS,
        "note": note,
        "confidence": row["confidence"],
        "bars": [
            {"name": name, "share": value, "width": f"{100 * value:.1f}", "best": name == best}
            for name, value in row["probabilities"].items()
        ],
        "set": row["prediction_set"],
        "score": row["disease_score"],
        "positive": row["positive"],
        "label": row.get("label", ""),
        "right": row.get("label") == best,
        "site": row.get("site", ""),
    }


def _image(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "file": row["file"],
        "answer": _ANSWERS.get(row["decision"], row["decision"]),
        "probabilities": row["probabilities"],
        "best": row["most_probable"],
        "share": row["confidence"],
        "unlike": row["out_of_distribution"],
    }


def _rules(document: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    """What the answers mean, by the rules that were applied."""
    rules = document["rules"]
    own = rules[unit]
    return {
        "aggregated": _AGGREGATED[rules["aggregation"]],
        "positive": rules["positive"],
        "threshold": own["threshold"],
        "threshold_rule": own["threshold_rule"],
        "confidence": own["confidence_threshold"],
        "confidence_rule": own["abstention_rule"],
        "sets": own["prediction_set"]["rule"],
        "flags": rules["distance_limit"] is not None,
    }


def _maps(maps: Mapping[str, Any], pictures: bool) -> dict[str, Any]:
    """What is said of maps: the verdict, and what to do where they are left out."""
    hidden = "" if maps["drawn"] or maps["shown"] else HIDDEN
    return {
        "drawn": maps["drawn"] and pictures,
        "failed": maps["drawn"] and not maps["shown"],
        "verdict": f"{maps['verdict']}{hidden}.",
        "method": {"hires_cam": "HiResCAM", "grad_cam": "Grad-CAM"}[maps["method"]],
        "layers": maps["layers"],
    }


def _colours() -> str:
    """The colours of maps as a CSS gradient, over grey as the maps are."""
    cover = overlays.COVER
    stops = []
    for place in (0, 0.25, 0.5, 0.75, 1.0):
        colour = overlays.colour_table()[round(255 * place)].astype(float)
        mixed = (1 - cover * place) * 150 + cover * place * colour
        stops.append(f"rgb({', '.join(str(round(part)) for part in mixed)}) {100 * place:.0f}%")
    return f"linear-gradient(to right, {', '.join(stops)})"


def _file(name: str) -> Any:
    """A style or script as it is, for it must not be escaped."""
    from markupsafe import Markup

    folder = resources.files("sscjax.reports.html") / "templates"
    return Markup((folder / name).read_text(encoding="utf-8"))
