"""Where downloaded weights lie, and whatever else is worth keeping between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the absolute path of the cache folder; it need not exist yet.

    The environment variable `SSCJAX_CACHE` names it (`~` is expanded); unset or empty, it is the
    platform's folder for caches of this user.
    """
    named = os.environ.get("SSCJAX_CACHE", "")
    folder = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("sscjax"))
    return folder.resolve()
