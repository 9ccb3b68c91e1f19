"""Progress on the terminal: a bar with images/s and the time left, or a log line every 15 s."""

from __future__ import annotations

import contextlib
import logging
import time
from types import TracebackType

import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from sscjax.system import whole_run

_LOG = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0

# The bar has a fixed length: at 80 columns none would be left for it. The end of the line is cut.
_BAR = (
    "{desc}: {percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    ", {rate_noinv_fmt}"
)


class Progress:
    """Counts images; a bar on a terminal, log lines where the output goes to a file.

    Args:
      title: what is being done.
      total: number of images.
      done: images finished before the run was resumed.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done = title, total, done
        self._new, self._first, self._started, self._said = 0, 0, 0.0, time.monotonic()
        self._said_at = 0  # images at the last line
        self._note = ""
        # Within the display of a whole run this is a part of that.
        self._whole = whole_run.active()
        self._bar = tqdm.tqdm(
            desc=title,
            total=total,
            initial=done,
            unit=" images",
            bar_format=_BAR,
            dynamic_ncols=True,
            smoothing=0.1,
            disable=True if self._whole else None,  # None: only on a terminal
        )
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        log = logging.getLogger("sscjax")
        if not self._bar.disable and log.handlers:
            # Print log lines above the bar, not into it.
            self._redirected.enter_context(logging_redirect_tqdm([log]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._redirected.close()
        if self._whole:
            return
        if self._bar.disable and kind is None and self._new > self._said_at:
            self._say()
        self._bar.close()

    def note(self, text: str) -> None:
        """Show `text` (the newest figures) behind the bar."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def advance(self, images: int) -> None:
        """Count `images` more."""
        if self._new == 0:
            # The first images include compilation, so they do not count for the rate.
            self._first, self._started = images, time.monotonic()
        self._new += images
        self._bar.update(images)
        if self._whole:
            share = (self._done + self._new) / max(self._total, 1)
            self._whole.inside(self._title, min(share, 1.0), self._note)
            return
        if self._bar.disable and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._say()

    def _say(self) -> None:
        self._said, self._said_at = time.monotonic(), self._new
        rate = (self._new - self._first) / max(time.monotonic() - self._started, 1e-9)
        done = self._done + self._new
        share = min(done / max(self._total, 1), 1.0)
        note = f", {self._note}" if self._note else ""
        speed = ""
        if rate > 0:
            minutes, rest = divmod(round(max(self._total - done, 0) / rate), 60)
            speed = f", {rate:.0f} images/s, {minutes}:{rest:02d} left"
        _LOG.info("%s: %s%s%s", self._title, f"{share:.0%}", speed, note)
