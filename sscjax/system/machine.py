"""The processor and the version of this code, on which timings and rounding depend."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name as the system reports it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallelism() -> str:
    """A name for how XLA divides programs between threads, on which rounding depends.

    It contains the number of usable processors and, if set, the environment variable `NPROC`.
    """
    told = os.environ.get("NPROC", "")
    return f"{processors()}-as-{told}" if told.isdecimal() else str(processors())


def source_sha256(folder: Path = Path(__file__).parent.parent) -> str:
    """SHA-256 over the names and contents of the package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        # Only an installed package contains the configs; a run records its own config anyway.
        if not name.startswith("configs/"):
            # A checkout on Windows may have other line endings.
            text = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()
