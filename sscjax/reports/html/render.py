"""From a folder to its page and its model card, by the templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sscjax
from sscjax.errors import UserError
from sscjax.reports.html import charts, evidence, gallery, manuscript, provenance, sections
from sscjax.reports.html.checklists import CHECKLISTS, Checklist
from sscjax.reports.html.run_data import Folder, read
from sscjax.system import files, formatting
from sscjax.system.run_dir import CARD, PAGE

# Sections of the page in their order: id, heading, and whether a folder has what it shows.
SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], bool]], ...] = (
    ("summary", "At a glance", lambda context: True),
    ("data", "Images and subjects", lambda context: True),
    ("audit", "Leakage audit", lambda context: context["audit"] is not None),
    ("results", "Results", lambda context: True),
    ("confusion", "Confusion matrices", lambda context: bool(context["confusions"])),
    ("curves", "ROC and precision-recall curves", lambda context: bool(context["roc"])),
    ("masks", "Masks", lambda context: context["masks"] is not None),
    ("calibration", "Calibration", lambda context: context["calibration"] is not None),
    ("paper", "Beside the paper", lambda context: context["paper"] is not None),
    ("training", "Training", lambda context: True),
    ("subjects", "Subject by subject", lambda context: bool(context["subjects"]["rows"])),
    ("errors", "Errors, and where the network looked", lambda context: bool(context["galleries"])),
    ("labels", "Labels to check", lambda context: context["labels"] is not None),
    ("manuscript", "For a manuscript", lambda context: True),
    ("provenance", "What was run", lambda context: True),
    ("limits", "Limits", lambda context: True),
    ("checklists", "Reporting guidelines", lambda context: True),
)


def write(path: Path) -> tuple[Path, Path]:
    """Write the page and the model card of a finished run or cross-validation into its folder.

    Args:
      path: the folder.

    Returns:
      where the two lie.

    Raises:
      UserError: the folder holds no finished run, or a file in it is damaged.
    """
    context = gather(read(path))
    texts = {PAGE: render("report.html.j2", context), CARD: render("model_card.md.j2", context)}
    for name, text in texts.items():
        files.write_text(path / name, text)
    return path / PAGE, path / CARD


def write_again(path: Path) -> tuple[Path, Path]:
    """As `write`, of a folder that may have been changed since its run.

    Raises:
      UserError: it holds no finished run, or what it holds is damaged.
    """
    import jinja2

    try:
        return write(path)
    except UserError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
        jinja2.TemplateRuntimeError,
    ) as error:
        raise UserError(
            f"{path} is damaged or of another version ({type(error).__name__}: {error}): give "
            "the run's command again, or train it again in another folder"
        ) from error


def gather(folder: Folder) -> dict[str, Any]:
    """Everything that the templates show."""
    roc = charts.roc_charts(folder)
    context: dict[str, Any] = {
        "title": folder.config["name"],
        "run": folder.path.resolve().name,
        "is_cross_validation": folder.is_cross_validation,
        "version": sscjax.__version__,
        "warnings": sections.warnings(folder),
        "summary": sections.summary(folder),
        "flow": sections.flow(folder),
        "audit": evidence.audit(folder),
        "results": sections.results(folder),
        "paper": sections.paper(folder),
        "confusions": sections.confusions(folder),
        "roc": [group for group in roc if group["charts"]],
        "too_few": list(dict.fromkeys(name for group in roc for name in group["too_few"])),
        "masks": gallery.masks(folder),
        "calibration": evidence.calibration(folder),
        "reliability": charts.reliability(folder),
        "coverage": charts.coverage(folder),
        "curves": bool(folder.curves),
        "courses": charts.learning_curves(folder),
        "subjects": sections.subjects(folder),
        "galleries": gallery.galleries(folder),
        "labels": gallery.labels(folder),
        "provenance": provenance.provenance(folder),
        "manuscript": manuscript.texts(folder),
    }
    context["sections"] = [
        {"id": key, "title": title, "available": present(context)}
        for key, title, present in SECTIONS
        # Few runs have masks, folds or the paper's config: the others do not miss these sections.
        if key not in ("masks", "paper", "labels") or present(context)
    ]
    by_id = {entry["id"]: entry for entry in context["sections"]}
    context["checklists"] = [_with_links(checklist, by_id) for checklist in CHECKLISTS]
    return context


def _with_links(checklist: Checklist, by_id: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A checklist with links to the sections that this page has."""
    rows, counts = [], {"here": 0, "in part": 0, "author": 0}
    for item in checklist.items:
        links = [by_id[key] for key in item.sections]
        answered = any(link["available"] for link in links)
        kind = "author" if not answered else "in part" if item.author else "here"
        counts[kind] += 1
        rows.append({"item": item, "links": links, "kind": kind})
    return {"list": checklist, "rows": rows, "counts": counts}


def render(template: str, context: dict[str, Any]) -> str:
    """A template filled in; every value is escaped for its format."""
    # Here, because a run needs it only at its end.
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("sscjax.reports.html")
    html = template.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=html,
        # In Markdown there is no such thing: every value that is put in goes through this.
        finalize=None if html else _markdown_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=formatting.percent, number=formatting.number, plain=plain, duration=duration
    )
    environment.globals.update(
        plural=sections.plural,
        span=formatting.span,
        style=Markup(loader.get_source(environment, "style.css")[0]),
    )
    return environment.get_template(template).render(context)


def plain(name: Any) -> str:
    """A name in which nothing is hidden; see `files.escaped`."""
    return files.escaped(str(name))


# What Markdown, or the HTML within it, could take for its own.
_MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_{}[]()#+!|~$"})
_ENTITIES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def _markdown_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return plain(value).translate(_ENTITIES).translate(_MARKDOWN)


def duration(seconds: float | None) -> str:
    """Seconds as `1 h 02 min`, `3 min 05 s` or `4 s`."""
    if seconds is None:
        return formatting.UNDEFINED
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
