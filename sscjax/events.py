"""TensorBoard's event file of a run, written without TensorBoard."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Row = Mapping[str, Any]


class EventLog:
    """TensorBoard's event file of a run, scalars only.

    The format is written here: tensorboardX would import torch and start a thread for it. Each
    record stands on disk when `add` returns, so a killed run loses nothing.
    """

    def __init__(self, folder: Path | str, rows_so_far: Sequence[Row] = ()) -> None:
        """Start the event file afresh from the rows so far: a resumed run doubles no point.

        Args:
          folder: holds nothing but this log; event files in it are removed.
          rows_so_far: the learning curves before this start.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        now = time.time()
        # Nanoseconds: a file of the same name would look to an open TensorBoard as if it grew.
        self.path = folder / f"events.out.tfevents.{int(now)}.{time.time_ns() % 10**9:09d}"
        self._file: BinaryIO = self.path.open("wb")
        self._file.write(_record(_event(now, version="brain.Event:2")))
        for row in rows_so_far:
            self._write(row, now)
        self._file.flush()

    def add(self, row: Row) -> None:
        """Append one row: `train_loss` becomes the scalar 'train/loss' at step `epoch`.

        Numbers whose name starts with neither `train_` nor `val_` go under 'run/'; None, text and
        `epoch` itself are left out.
        """
        self._write(row, time.time())
        self._file.flush()

    def _write(self, row: Row, now: float) -> None:
        for key, value in row.items():
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if key != "epoch" and is_number:
                event = _event(now, step=int(row["epoch"]), tag=_tag(key), value=float(value))
                self._file.write(_record(event))

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tag(key: str) -> str:
    for split in ("train", "val"):
        if key.startswith(f"{split}_"):
            return f"{split}/{key.removeprefix(f'{split}_')}"
    return f"run/{key}"


def _event(
    wall_time: float, *, step: int = 0, version: str = "", tag: str = "", value: float = 0.0
) -> bytes:
    """TensorFlow's protocol buffer `Event` (event.proto), with a version or with one scalar."""
    parts = [b"\x09", struct.pack("<d", wall_time), b"\x10", _varint(step)]
    if version:
        parts.append(_field(3, version.encode()))
    if tag:
        scalar = _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
        parts.append(_field(5, _field(1, scalar)))
    return b"".join(parts)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: key, length, content."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """A non-negative integer, seven bits per byte, lowest first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _record(payload: bytes) -> bytes:
    """TFRecord framing: length and content, each followed by its masked CRC-32C."""
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> list[int]:
    """CRC-32C (Castagnoli), bits reversed, of each byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()
