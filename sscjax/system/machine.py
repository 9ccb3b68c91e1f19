"""The processor and the version of this code, on which timings and rounding depend."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


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
    setting = os.environ.get("NPROC", "")
    return f"{processors()}-as-{setting}" if setting.isdecimal() else str(processors())


def source_sha256(folder: Path = Path(__file__).parent.parent) -> str:
    """SHA-256 over the names and contents of the package's Python files."""
    named = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*.py")))
    # Only an installed package contains the configs; a run records its own config anyway.
    return _files_sha256((name, path) for name, path in named if not name.startswith("configs/"))


def modules_sha256(*modules: ModuleType) -> str:
    """SHA-256 over the names and source of modules, of packages with all modules in them.

    A cache key contains it for the modules that decide the cached values.
    """
    named = []
    for module in modules:
        path = Path(str(module.__file__))
        paths = sorted(path.parent.rglob("*.py")) if hasattr(module, "__path__") else [path]
        named += [(f"{module.__name__} {p.relative_to(path.parent).as_posix()}", p) for p in paths]
    return _files_sha256(named)


def _files_sha256(named: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in named:
        # A checkout on Windows may have other line endings.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()
