"""Inputs that nobody meant: sound files with some bytes changed, and what an error must be like."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sscjax.errors import UserError


def tried(examples: int) -> settings:
    """So many inputs, the same ones every time, however long each takes."""
    return settings(
        max_examples=examples * int(os.environ.get("HOSTILE_EXAMPLES", "1")),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def clear(error: UserError) -> None:
    """One line that names something, of a bounded length."""
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000


@st.composite
def changed(draw: Callable[..., Any], sound: list[bytes]) -> bytes:
    """A sound file with some bytes changed, cut off, put in or taken out."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 6))):
        # Headers are where most can be broken.
        place = draw(st.integers(0, min(len(data) - 1, 200)) | st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("set", "flip", "cut", "insert", "remove"))):
            case "set":
                data[place] = draw(st.integers(0, 255))
            case "flip":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut" if place:
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "remove":
                del data[place : place + draw(st.integers(1, 8))]
        if not data:
            break
    return bytes(data)
