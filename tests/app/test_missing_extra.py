"""Without the extra the command says how to install it."""

from __future__ import annotations

import sys

import pytest

from sscjax.cli import app
from sscjax.errors import UserError


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sscjax app", "--no-browser"])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sscjax.app.server", raising=False)
    with pytest.raises(UserError, match=r"needs it: pip install 'sscjax\[app\]'"):
        app.main()
