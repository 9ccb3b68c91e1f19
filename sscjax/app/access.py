"""Who may talk to the local server: the browser that was given the one-time address, nobody else.

The server listens on 127.0.0.1 alone. That does not keep out the pages of other sites that are open
in the same browser, nor other users of the machine: so every request must name this host (a name
that was pointed at this machine does not), must not come from another page, and must bring the
cookie that the one-time address was exchanged for.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

# Of pages of the app: nothing is loaded from elsewhere, no script stands in a page, and no other
# page shows it in a frame.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

# Of files of a run, such as its report: they bring their own styles, run no script, send nothing.
FILE_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)

# Of pages of predictions, which have a script in them: it runs as that of a stranger, who can read
# neither the cookie nor another page.
SANDBOX_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-downloads"
)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # The browser names the sender of a form in `Origin`, unless it may tell nobody at all.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Keys:
    """The one-time token, and the session that it is exchanged for.

    Args:
      port: of the server.

    Attributes:
      origin: the address of the server, such as 'http://127.0.0.1:8765'.
      cookie: the name of the cookie; cookies of one host are shared by all its ports.
      session: the value of the cookie.
    """

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.cookie = f"sscjax_{port}"
        self.session = secrets.token_urlsafe(32)
        self._token = secrets.token_urlsafe(32)

    @property
    def address(self) -> str:
        """The address that opens the app once."""
        return f"{self.origin}/?token={self._token}"

    def exchanges(self, token: str) -> bool:
        """Whether this is the token; if so, it is of no use from now on, and `address` is new."""
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return False
        self._token = secrets.token_urlsafe(32)
        return True

    def knows(self, cookies: str) -> bool:
        """Whether a request's header `Cookie` brings the session.

        Args:
          cookies: the header, '' where there is none.
        """
        try:
            sent = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        value = "" if sent is None else sent.value
        return secrets.compare_digest(value.encode(), self.session.encode())

    def refusal(self, method: str, headers: Mapping[str, str]) -> str:
        """Why a request is refused whoever sends it; '' where it is not.

        Args:
          method: such as 'GET'.
          headers: by their names in small letters.

        Example:
          >>> keys = Keys(8765)
          >>> keys.refusal("GET", {"host": "rebound.example:8765"})
          'the request is for another host'
          >>> keys.refusal("POST", {"host": "127.0.0.1:8765"})
          'the request does not say which page sent it'
        """
        if headers.get("host") != self.origin.removeprefix("http://"):
            return "the request is for another host"
        origin = headers.get("origin")
        if origin is None and method not in ("GET", "HEAD"):
            return "the request does not say which page sent it"
        if origin is not None and origin != self.origin:
            return "the request comes from another page"
        return ""

    def foreign(self, headers: Mapping[str, str]) -> bool:
        """Whether the browser says that a page of another site, or another port, sent this."""
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
