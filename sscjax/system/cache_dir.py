"""The cache folder: downloaded weights, compiled programs and prepared image sets."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

_FIX = "name a folder by the environment variable SSCJAX_CACHE, such as SSCJAX_CACHE=/data/cache"


def cache_dir() -> Path:
    """Return the absolute path of the cache folder; it need not exist yet.

    The environment variable `SSCJAX_CACHE` names it (`~` is expanded); unset or empty, it is the
    user's cache folder on this platform or, for a user without a home folder, one below the
    system's temporary folder; the log then warns.

    Raises:
      UserError: `~` cannot be resolved, or the temporary folder belongs to another user.
    """
    named = os.environ.get("SSCJAX_CACHE", "")
    try:
        folder = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("sscjax"))
    except RuntimeError as error:  # containers: no HOME, and a user who is not in /etc/passwd
        if named:
            raise UserError(
                f"SSCJAX_CACHE is {named}, but this user has no home folder; {_FIX}"
            ) from error
        return _temporary()
    if not named and not folder.is_absolute():  # older platformdirs leave the `~` there
        return _temporary()
    return folder.resolve()


@functools.cache
def _temporary() -> Path:
    """A private folder: programs are loaded from it, and the temporary folder is open to all users.

    Raises:
      UserError: another user can write to it, or it cannot be created.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()).resolve() / f"sscjax-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise UserError(
            f"{folder}: the cache folder cannot be created ({error.strerror}); {_FIX}"
        ) from error
    others = stat.S_IWGRP | stat.S_IWOTH if os.name != "nt" else 0
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != user or state.st_mode & others:
        raise UserError(f"{folder}: other users can write to this cache folder; {_FIX}")
    _LOG.warning(
        "this user has no home folder (HOME is not set): the cache is %s, which the system may "
        "empty; %s",
        *(folder, _FIX),
    )
    return folder
