"""Images of new patients that the browser sends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from sscjax.app import places
from sscjax.errors import UserError

MOST_BYTES = 4 * 1024**3
"""Of one file."""


async def receive(body: AsyncIterator[bytes], folder: Path, name: str) -> Path:
    """Write one file; what did not arrive as a whole is removed.

    Args:
      body: its bytes, in parts.
      folder: of its batch; made when missing.
      name: its path in there, as the browser gives it, such as 'patient/image.png'.

    Returns:
      where it lies.

    Raises:
      UserError: a name that cannot be used, a file that is too large or there already, or a full
        disk.
    """
    path = places.inside(folder, str(places.upload_name(name)))
    if path.exists():
        raise UserError(f"{name!r} is given twice: rename one of the two")
    part = path.with_name(f".{path.name[:100]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with part.open("wb") as file:
            async for piece in body:
                size += len(piece)
                if size > MOST_BYTES:
                    raise UserError(
                        f"{name!r} is larger than {MOST_BYTES // 1024**3} GB: choose its folder "
                        "on this computer instead of sending it"
                    )
                file.write(piece)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{name!r} cannot be kept ({error.strerror}): free some space") from error
    finally:
        part.unlink(missing_ok=True)
    return path
