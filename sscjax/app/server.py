"""The local server: its guard, its routes, its start and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, MutableMapping
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

import sscjax
from sscjax.app import pages
from sscjax.app.access import HEADERS, PAGE_POLICY, Keys
from sscjax.app.desk import Desk, Options
from sscjax.app.render import render
from sscjax.errors import UserError
from sscjax.system import files


class Guard:
    """Refuses what `Keys` does not know, and sends the same headers with every answer.

    Args:
      app: what answers the other requests.
      keys: who may ask.
      exchanged: called when the one-time address was used.
    """

    def __init__(self, app: ASGIApp, keys: Keys, exchanged: Callable[[], None]) -> None:
        self._app, self._keys, self._exchanged = app, keys, exchanged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Content-Security-Policy": PAGE_POLICY}.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(Request(scope))
        await (self._app if answer is None else answer)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """A refusal, or what the one-time address is answered by; None: the app answers."""
        keys = self._keys
        refusal = keys.refusal(request.method, request.headers)
        if refusal:
            return Response(f"Refused: {refusal}.\n", 403, media_type="text/plain")
        if request.url.path == "/" and keys.exchanges(request.query_params.get("token", "")):
            self._exchanged()
            answer = _page("entered.html.j2", 200)
            # It lasts as long as the browser is open.
            answer.set_cookie(keys.cookie, keys.session, httponly=True, samesite="strict")
            return answer
        if not keys.knows(request.headers.get("cookie", "")):
            return _page("locked.html.j2", 403)
        if keys.foreign(request.headers):
            return Response("Refused: sent by another page.\n", 403, media_type="text/plain")
        return None


def _page(template: str, status: int) -> Response:
    return Response(render(template, title="sscjax"), status, media_type="text/html")


def application(desk: Desk, exchanged: Callable[[], None] = lambda: None) -> ASGIApp:
    """The whole app.

    Args:
      desk: what the pages work with.
      exchanged: called when the one-time address was used.
    """
    static = StaticFiles(directory=str(resources.files("sscjax.app") / "static"))
    made = Starlette(
        routes=[*pages.ROUTES, Mount("/static", static)],
        exception_handlers={UserError: pages.on_error, 404: pages.on_missing},
    )
    made.state.desk = desk
    return Guard(made, desk.keys, exchanged)


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1.

    Args:
      port: 0 takes a free one.

    Raises:
      UserError: the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # where it would share the port with another program
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        # Now: the address is printed before the first request is read.
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--port={port} cannot be used ({reason}): name another, or leave it out"
        ) from error
    return listening


def serve(options: Options, port: int = 0, *, browser: bool = True) -> int:
    """Serve the app until Ctrl-C; then stop what is at work, which can be resumed.

    Args:
      options: how the program was started.
      port: 0 takes a free one.
      browser: whether the page is opened.

    Returns:
      the exit code.

    Raises:
      UserError: the port is taken, or the folder of studies cannot be made.
    """
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--runs={options.runs} cannot be made ({error.strerror}): name another folder"
        ) from error
    listening = listen(port)
    keys = Keys(listening.getsockname()[1])
    desk = Desk(options, keys)
    _say(
        f"sscjax {sscjax.__version__}. For research, not for diagnosis.",
        f"Studies are kept in {options.runs}.",
        "Open this address in a browser on this computer; it works once:",
        f"  {keys.address}",
        "Ctrl-C ends the program; a training that is at work can be resumed.",
    )

    def exchanged() -> None:
        _say("Opened. For another browser:", f"  {keys.address}")

    server = uvicorn.Server(
        uvicorn.Config(
            application(desk, exchanged),
            # Nothing optional.
            http="h11",
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    if browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(keys.address,), daemon=True).start()
    try:
        with _ended_by_closing(), contextlib.suppress(KeyboardInterrupt):
            server.run([listening])
    finally:
        desk.jobs.close(_say)
    _say("Ended. `sscjax app` starts it again.")
    return 0


def _say(*lines: str) -> None:
    # The terminal may be gone.
    with contextlib.suppress(OSError, ValueError):
        print("\n".join(map(files.escaped, lines)), file=sys.stderr, flush=True)


def _has_screen() -> bool:
    """Whether a browser would have one: elsewhere one in the terminal would be started."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def _ended_by_closing() -> Any:
    """Closing the terminal's window counts as Ctrl-C."""
    number = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(number, before)
