"""Freed memory stays with the process: counted page faults, with and without."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from sscjax import memory

# Takes and frees 64 MB a call, as a training step does with its temporary buffer.
PROGRAM = """
import resource
import sys
from sscjax import memory
kept = sys.argv[1] == "keep" and memory.keep()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jnp.sort(x * 2.0).sum())
x = jnp.ones(1 << 24)
for _ in range(2):
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, int(kept))
"""


def faults(*arguments: str) -> tuple[int, int]:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    count, kept = found.stdout.split()
    return int(count), int(kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_kept_memory_is_used_again() -> None:
    pages = 3 * 2**26 // resource.getpagesize()  # of the buffers of three calls
    count, kept = faults("keep")
    assert count < pages // 10
    assert kept
    count, kept = faults("leave")
    assert not kept
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not (huge.is_file() and "[always]" in huge.read_text("utf-8")):
        assert count > pages // 2


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    before = jax.config.read("jax_cpu_enable_async_dispatch")
    assert memory.keep() is False
    assert jax.config.read("jax_cpu_enable_async_dispatch") == before
