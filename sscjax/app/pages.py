"""The pages: each reads the state of its study when asked, so that all tabs show the same."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sscjax.app import look, places, uploads
from sscjax.app.access import FILE_POLICY, SANDBOX_POLICY
from sscjax.app.desk import Desk, Format, Look
from sscjax.app.render import render
from sscjax.app.study import EXPORTS, NEW_PATIENTS, PREDICTIONS_PAGE, Results, Study, studies
from sscjax.data import names, understood
from sscjax.errors import UserError
from sscjax.system import files, run_dir

# Fields of a form; names of classes are the longest.
_FORM_BYTES = 200_000

Fields = dict[str, list[str]]


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _study(request: Request) -> Study:
    return _desk(request).study(request.path_params["name"])


def _html(template: str, http_code: int = 200, /, **context: Any) -> HTMLResponse:
    return HTMLResponse(render(template, **context), http_code)


def _address(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _form(answer: Callable[[Request, Fields], Response]) -> Callable[[Request], Any]:
    """An endpoint of a form: `answer` is called in a thread, with the fields."""

    @functools.wraps(answer)
    async def endpoint(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _FORM_BYTES:
                raise UserError("this form is too long")
        fields: Fields = {}
        for name, value in parse_qsl(body.decode("utf-8", "replace"), max_num_fields=5000):
            fields.setdefault(name, []).append(value)
        return await run_in_threadpool(answer, request, fields)

    return endpoint


def _field(fields: Fields, name: str) -> str:
    value = fields.get(name, [""])[-1].strip()
    if not value:
        raise UserError(f"the field {name!r} is empty: fill it in")
    return value


def _go(*parts: str) -> RedirectResponse:
    return RedirectResponse(_address(*parts), 303)


# --- errors -----------------------------------------------------------------------------------


def on_error(request: Request, error: Exception) -> Response:
    """What the user can fix."""
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"error": files.escaped(str(error))}, 400)
    return _html("message.html.j2", 400, title="That did not work", text=str(error))


def on_missing(request: Request, error: Exception) -> Response:
    """No such page."""
    return _html("message.html.j2", 404, title="No such page", text=request.url.path)


# --- before training ----------------------------------------------------------------------------


def home(request: Request) -> Response:
    """All studies."""
    desk = _desk(request)
    listed = []
    for study in studies(desk.options.runs):
        try:
            record, status = study.record() or {}, desk.status(study)
        except UserError:
            record, status = {}, "interrupted"
        listed.append({"name": study.name, "status": status, "data": record.get("data", {})})
    return _html("home.html.j2", title="Studies", studies=listed, runs=desk.options.runs)


def icon(request: Request) -> Response:
    """What a browser asks for beside a page that names none, such as the report."""
    return RedirectResponse("/static/icon.svg")


def choose(request: Request) -> Response:
    """A folder of images, or for a finished study one of new images."""
    at, study = request.query_params.get("at", ""), request.query_params.get("study", "")
    problem, code = "", 200
    try:
        chosen = places.place(at or os.getcwd())
    except UserError as error:
        problem, chosen, code = str(error), places.place(str(Path.home())), 400
    shortcuts = {"Home": Path.home(), "Where the program was started": Path.cwd()}
    return _html(
        "choose.html.j2",
        code,
        title="Choose a folder",
        place=chosen,
        problem=problem,
        typed=at or str(chosen.path),
        shortcuts=shortcuts,
        study=study,
    )


def start_look(request: Request, fields: Fields) -> Response:
    """Look at a folder."""
    path = places.place(_field(fields, "path")).path
    _desk(request).look(path)
    return RedirectResponse(f"/look?path={quote(str(path), safe='')}", 303)


def show_look(request: Request) -> Response:
    """What was found in a folder so far."""
    path = Path(request.query_params.get("path", ""))
    desk = _desk(request)
    looked = desk.looked(path)
    if looked is None:
        return _go("choose")
    return _html(
        "look.html.j2",
        title="Check the images",
        path=path,
        job=looked.job,
        poll=looked.job.running,
        **_found(looked),
        suggested=_free_name(desk, path),
    )


def _found(looked: Look) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for key, file in (
        ("understood", look.UNDERSTOOD),
        ("audit", look.AUDIT),
        ("forecast", look.FORECAST),
    ):
        parts[key] = None
        with contextlib.suppress(OSError, ValueError):
            parts[key] = files.read_json(looked.out / file)
    described, audit = parts["understood"], parts["audit"]
    rows = None if described is None else understood.class_rows(described)
    order = [] if described is None else [one["name"] for one in described["classes"]]
    healthy = names.sounding_healthy(order)
    if healthy is not None:
        order = [healthy, *(name for name in order if name != healthy)]
    return {
        **parts,
        "rows": rows,
        "facts": [] if described is None else understood.rows(described),
        "order": order,
        "findings": [] if audit is None else audit["findings"],
        "leaks": bool(audit) and any(one["severity"] == "leak" for one in audit["findings"]),
    }


def _free_name(desk: Desk, path: Path) -> str:
    """A name for the study: that of the folder, with a number where that is taken."""
    base = path.name or "study"
    candidates = (base if k == 1 else f"{base}-{k}" for k in range(1, 10_000))
    return next(name for name in candidates if not (desk.options.runs / name).exists())


def train(request: Request, fields: Fields) -> Response:
    """Start a study."""
    desk, path = _desk(request), places.place(_field(fields, "path")).path
    study = desk.study(_field(fields, "name"))
    desk.train(study, path, fields.get("classes", []))
    return _go("studies", study.name)


# --- a study ------------------------------------------------------------------------------------


def show_study(request: Request) -> Response:
    """A study: how far it is, or its result."""
    desk, study = _desk(request), _study(request)
    status, job = desk.status(study), desk.training(study)
    if status == "none" and job is None:
        return on_missing(request, LookupError())
    context: dict[str, Any] = {"study": study, "status": status, "job": job, "poll": False}
    if status != "finished":
        context |= {"poll": status == "running", "progress": study.progress()}
        return _html("training.html.j2", title=study.name, **context)
    # Here, because of what it imports: the other pages have to be there at once.
    from sscjax.reports import headline

    figure, weak = headline.figure_and_weaknesses(study.folder)
    has_page = run_dir.RunDir(study.folder).has(run_dir.PAGE)
    return _html(
        "result.html.j2", title=study.name, **context, figure=figure, weak=weak, has_page=has_page
    )


def resume(request: Request, fields: Fields) -> Response:
    """Resume a study."""
    study = _study(request)
    _desk(request).resume(study)
    return _go("studies", study.name)


def stop(request: Request, fields: Fields) -> Response:
    """Stop a training."""
    study = _study(request)
    _desk(request).stop(study)
    return _go("studies", study.name)


def show_file(request: Request) -> Response:
    """A file of a study's folder."""
    study = _study(request)
    path = places.inside(study.folder, request.path_params["path"])
    if not path.is_file():
        return on_missing(request, LookupError())
    save = path.parent.name == EXPORTS
    policy = SANDBOX_POLICY if path.name == PREDICTIONS_PAGE else FILE_POLICY
    return FileResponse(
        path,
        headers={"Content-Security-Policy": policy},
        filename=path.name,
        content_disposition_type="attachment" if save else "inline",
    )


# --- new patients ---------------------------------------------------------------------------------


def _finished(request: Request) -> Study:
    study = _study(request)
    if _desk(request).status(study) != "finished":
        raise UserError(f"{study.name} is not finished: wait until it is")
    return study


def show_new(request: Request) -> Response:
    """New patients: give images, and earlier results."""
    study = _finished(request)
    job = _desk(request).jobs.get(f"predict {study.name}")
    return _html(
        "new.html.j2",
        title=f"New patients: {study.name}",
        study=study,
        job=job,
        poll=job is not None and job.running,
        results=study.results(),
    )


def start_upload(request: Request, fields: Fields) -> Response:
    """A folder for images that follow."""
    return JSONResponse({"batch": _desk(request).new_batch(_finished(request))})


async def upload(request: Request) -> Response:
    """One image; its bytes are the body of the request."""
    study = await run_in_threadpool(_finished, request)
    folder = _desk(request).uploads(study, request.path_params["batch"])
    await uploads.receive(request.stream(), folder, request.query_params.get("name", ""))
    return JSONResponse({})


def predict(request: Request, fields: Fields) -> Response:
    """Predict for images that were uploaded, or that lie in a folder."""
    desk, study = _desk(request), _finished(request)
    if "batch" in fields:
        desk.predict(study, desk.uploads(study, _field(fields, "batch")), uploaded=True)
    else:
        desk.predict(study, places.place(_field(fields, "path")).path)
    return _go("studies", study.name, "new")


def show_results(request: Request) -> Response:
    """Predictions by patient."""
    study = _finished(request)
    name = places.named(request.path_params["results"])
    results = Results(places.inside(study.folder / NEW_PATIENTS, name))
    document = results.read()
    return _html(
        "results.html.j2",
        title=f"Predictions of {results.name}",
        study=study,
        results=results,
        document=document,
        page=PREDICTIONS_PAGE if (results.folder / PREDICTIONS_PAGE).is_file() else None,
    )


# --- export ---------------------------------------------------------------------------------------

_FORMS: tuple[tuple[Format, str, str], ...] = (
    (
        "web",
        "A page for the clinic",
        "A folder that any web server can offer. Images are classified in the browser and never "
        "leave it. To make it, the program needs onnxruntime-web (14 MB); unless it was named at "
        "the start or fetched before, it is downloaded once from cdn.jsdelivr.net.",
    ),
    (
        "onnx",
        "An ONNX file for other programs",
        "The network and its rules in one file, checked against this study's own predictions.",
    ),
)


def show_export(request: Request) -> Response:
    """The exports."""
    desk, study = _desk(request), _finished(request)
    forms = []
    for form, title, about in _FORMS:
        job, target = desk.jobs.get(f"{form} {study.name}"), desk.exported(study, form)
        ready = target.name if target.is_file() and not (job and job.running) else ""
        forms.append({"form": form, "title": title, "about": about, "job": job, "ready": ready})
    jobs = [desk.jobs.get(f"{form} {study.name}") for form, *_ in _FORMS]
    return _html(
        "export.html.j2",
        title=f"Hand on: {study.name}",
        study=study,
        forms=forms,
        poll=any(job is not None and job.running for job in jobs),
        folder=EXPORTS,
    )


def export(request: Request, fields: Fields) -> Response:
    """Export the model."""
    study, form = _finished(request), _field(fields, "form")
    if form not in ("onnx", "web"):
        raise UserError(f"there is no export {form!r}: expected onnx or web")
    _desk(request).export(study, form)  # type: ignore[arg-type]
    return _go("studies", study.name, "export")


_ONE = "/studies/{name}"

ROUTES = [
    Route("/", home),
    Route("/favicon.ico", icon),
    Route("/choose", choose),
    Route("/look", show_look),
    Route("/look", _form(start_look), methods=["POST"]),
    Route("/train", _form(train), methods=["POST"]),
    Route(_ONE, show_study),
    Route(f"{_ONE}/resume", _form(resume), methods=["POST"]),
    Route(f"{_ONE}/stop", _form(stop), methods=["POST"]),
    Route(f"{_ONE}/new", show_new),
    Route(f"{_ONE}/new/{{results}}", show_results),
    Route(f"{_ONE}/uploads", _form(start_upload), methods=["POST"]),
    Route(f"{_ONE}/uploads/{{batch}}", upload, methods=["PUT"]),
    Route(f"{_ONE}/predict", _form(predict), methods=["POST"]),
    Route(f"{_ONE}/export", show_export),
    Route(f"{_ONE}/export", _form(export), methods=["POST"]),
    Route(f"{_ONE}/files/{{path:path}}", show_file),
]
