"""TensorBoard's event file of a run, written by tensorboardX where it is installed."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_LOG = logging.getLogger(__name__)

Row = Mapping[str, Any]


@functools.cache
def _library() -> ModuleType | None:
    """Import tensorboardX, which takes seconds where torch is installed; None without it."""
    try:
        import tensorboardX
        import tensorboardX.proto.event_pb2
    except ImportError:
        _LOG.info(
            "no tensorboard folder is written, curves.csv and curves.png are: "
            "pip install 'sscjax[tensorboard]' adds it"
        )
        return None
    return tensorboardX


class EventLog:
    """TensorBoard's event file of a run, scalars only; without tensorboardX it writes nothing.

    Each record stands on disk when `add` returns, so a killed run loses nothing. tensorboardX's
    `SummaryWriter` would write from a thread of its own that `flush` does not wait for.

    Attributes:
      path: the event file; None without tensorboardX.
    """

    def __init__(self, folder: Path | str, rows_so_far: Sequence[Row] = ()) -> None:
        """Start a new event file with the rows so far: a resumed run doubles no point.

        Args:
          folder: holds nothing but this log; event files in it are removed. Created when missing.
          rows_so_far: the learning curves before this start.

        Raises:
          OSError: the disk is full or cannot be written.
        """
        self.path: Path | None = None
        self._writer: Any = None
        library = _library()
        if library is None:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        now = time.time()
        # Nanoseconds: a file of the same name would look to an open TensorBoard as if it grew.
        self.path = folder / f"events.out.tfevents.{int(now)}.{time.time_ns() % 10**9:09d}"
        self._proto = library.proto.event_pb2
        self._writer = library.RecordWriter(str(self.path.resolve()))
        self._write(self._proto.Event(wall_time=now, file_version="brain.Event:2"))
        for row in rows_so_far:
            self._write_row(row, now)
        self._writer.flush()

    def add(self, row: Row) -> None:
        """Append one row: `train_loss` becomes the scalar 'train/loss' at step `epoch`.

        Numbers whose name starts with neither `train_` nor `val_` go under 'run/'; None, text and
        `epoch` itself are left out.
        """
        if self._writer is not None:
            self._write_row(row, time.time())
            self._writer.flush()

    def _write_row(self, row: Row, now: float) -> None:
        for key, value in row.items():
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if key != "epoch" and is_number:
                event = self._proto.Event(wall_time=now, step=int(row["epoch"]))
                event.summary.value.add(tag=_tag(key), simple_value=float(value))
                self._write(event)

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error, such as a full disk, closing tries to write once more: the first counts.
        with contextlib.suppress(*([OSError] if kind is not None else [])):
            self.close()


def _tag(key: str) -> str:
    for split in ("train", "val"):
        if key.startswith(f"{split}_"):
            return f"{split}/{key.removeprefix(f'{split}_')}"
    return f"run/{key}"
