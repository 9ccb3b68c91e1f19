"""The one exception that stands for a user's mistake, and what is nobody's."""

from __future__ import annotations

import errno

BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""Numbers of system errors that speak of the machine, and say nothing of the file that is read."""


class UserError(ValueError):
    """Something the user can fix: bad data, a bad config, a missing weight file.

    The message is one line that says what was found, what was expected and how to fix it. The
    command-line programs print it without a traceback and exit with code 2 (`system.terminal`).
    """


class DivergedError(UserError):
    """The training ran off to infinity: a learning rate too high for this network and these images.

    Apart from other mistakes, so that a search among learning rates can pass over the hopeless.
    """
