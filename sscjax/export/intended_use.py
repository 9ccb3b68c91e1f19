"""Whom an exported file is for, how it was tested, and where its limits are: for its readers.

The page shows these beside every answer; other programs find them in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.errors import UserError
from sscjax.inference.classifier import Classifier
from sscjax.reports import tested
from sscjax.system import formatting, run_dir

NOT_STATED = (
    "Nothing is stated about the patients that it is meant for. Research use, not a diagnosis."
)
"""What a file says where neither the config nor the export says more."""

_LONGEST = 1000


def use(opened: Classifier, given: str | None = None) -> dict[str, Any]:
    """The intended use: text, and stated, whether anybody stated it.

    Args:
      opened: the run.
      given: what the export says; None takes `config.intended_use` of the run.

    Raises:
      UserError: the text is too long.
    """
    text = opened.record["config"].get("intended_use", "") if given is None else given
    text = " ".join(str(text).split())
    if len(text) > _LONGEST:
        raise UserError(
            f"the intended use has {len(text):,} characters, expected at most {_LONGEST:,}: shorten"
            " --intended-use or config.intended_use"
        )
    return {"text": text or NOT_STATED, "stated": bool(text)}


def test(opened: Classifier) -> dict[str, Any] | None:
    """How the run was tested: what `tested.about` gives, with sentence and detail; or None."""
    about = run_dir.RunDir(opened.folder).metrics().get("tested")
    if about is None:
        return None
    return {**about, "sentence": tested.sentence(about), "detail": tested.detail(about)}


def training(opened: Classifier, manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the network was trained on: images, subjects (null: none is named), classes; or None.

    Args:
      opened: the run.
      manifest: the run's, None where it is not known.
    """
    if manifest is None:
        return None
    rows = [row for row in manifest["images"] if row["split"] == "train"]
    named = any(row["subject"] != row["file"].partition("#")[0] for row in rows)
    by_class = []
    for name in opened.classes:
        of_class = [row for row in rows if row["label"] == name]
        by_class.append({"name": name, **_counts(of_class, named)})
    return {**_counts(rows, named), "classes": by_class}


def _counts(rows: Sequence[Mapping[str, str]], named: bool) -> dict[str, int | None]:
    subjects = len({row["subject"] for row in rows}) if named else None
    return {"images": len(rows), "subjects": subjects}


def limits(opened: Classifier, trained_on: Mapping[str, Any] | None) -> list[str]:
    """What the network cannot know or was not tried on, in sentences.

    Args:
      opened: the run.
      trained_on: what `training` gives.
    """
    names = ", ".join(formatting.clean_name(name, 60) for name in opened.classes)
    others = (
        "of most images of anything else it says that they are unlike the training images, of "
        "some it names a class all the same"
        if opened.flags
        else "of an image of anything else it names one of them all the same, for nothing is "
        "flagged as unlike the training images"
    )
    return [
        f"It knows the classes {names} and no other: {others}.",
        *([_trained(trained_on)] if trained_on else []),
        _elsewhere(run_dir.RunDir(opened.folder).metrics()),
        _images(opened),
        _subjects(opened),
    ]


def _trained(about: Mapping[str, Any]) -> str:
    """'Trained on 463 images of 19 patients: ...'."""
    of = "" if about["subjects"] is None else f" of {about['subjects']:,} patients"
    parts = []
    for entry in about["classes"]:
        patients = "" if entry["subjects"] is None else f" ({entry['subjects']:,} patients)"
        parts.append(f"{formatting.clean_name(entry['name'], 60)} {entry['images']:,}{patients}")
    return f"Trained on {about['images']:,} images{of}: {', '.join(parts)}."


def _elsewhere(metrics: Mapping[str, Any]) -> str:
    if (metrics.get("sites") or {}).get("apart"):
        return "Each hospital or scanner was tested by a network that had seen none of its images."
    return (
        "How it does on patients of another hospital, with another stain, scanner or camera, was "
        "not measured."
    )


def _images(opened: Classifier) -> str:
    size = opened.image_size
    files = _files(opened)
    sizes = [key for key in files.get("size", {}) if key]
    were = f"; files of training were {', '.join(sizes[:3])} pixels" if sizes else ""
    more = " and others" if len(sizes) > 3 else ""
    return (
        f"Of each image the central square is reduced to {size} x {size} pixels{were}{more}. "
        f"{_resolution(opened, files)} Images of another magnification show other structures: "
        "answers to them mean nothing."
    )


def _resolution(opened: Classifier, files: Mapping[str, Any]) -> str:
    asked = float(opened.record["config"]["data"].get("mpp", 0))
    if asked > 0:
        return f"All were brought to {asked:g} micrometres per pixel."
    known = sorted(float(key) for key in files.get("mpp", {}))
    if not known:
        return "Their resolution, in micrometres per pixel, is not recorded."
    if known[0] == known[-1]:
        return f"They had {known[0]:g} micrometres per pixel."
    return f"They had {known[0]:g} to {known[-1]:g} micrometres per pixel."


def _files(opened: Classifier) -> Mapping[str, Any]:
    """What the audit read of the files' headers."""
    audit = run_dir.RunDir(opened.folder).optional(run_dir.AUDIT) or {}
    return (audit.get("understood") or {}).get("files") or {}


def _subjects(opened: Classifier) -> str:
    """Abstention and prediction set of a patient."""
    rules = opened.rules.subject
    threshold = rules.confidence_threshold
    answers = (
        "It always answers, for no confidence threshold could be chosen"
        if threshold is None
        else f"For a patient it gives no answer below a probability of "
        f"{formatting.percent(threshold)}"
    )
    return f"{answers}. Beside the answer stand the classes that cannot be excluded: " + (
        f"{rules.sets.rule}."
    )
