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

from sscjax.system import malloc

# Takes and frees 64 MB a call, as a training step does with its temporary buffer, and prints the
# page faults of each of the last calls.
PROGRAM = """
import resource
import sys
from sscjax.system import malloc as memory
kept = sys.argv[1] == "keep" and memory.keep()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y[::-1] * 2.0, x).sum())
x = jnp.ones(1 << 24)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(kept), *[faults() for _ in range(8)][3:])
"""
PAGES = 2**26 // resource.getpagesize()  # of one call's buffer


def page_faults(*arguments: str) -> tuple[bool, list[int]]:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    kept, *counts = map(int, found.stdout.split())
    return bool(kept), counts


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_kept_memory_is_used_again() -> None:
    kept, counts = page_faults("keep")
    assert kept
    # Of several calls, because the heap may still have to grow once for a fragment in the way.
    assert min(counts) < PAGES // 10
    kept, counts = page_faults("leave")
    assert not kept
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not (huge.is_file() and "[always]" in huge.read_text("utf-8")):
        assert min(counts) > PAGES // 2


# Takes and frees 200 MB in small blocks, as a compiler does, and prints how many resident pages
# giving back has freed.
FREED = """
import numpy as np
from sscjax.system import malloc as memory
memory.keep()
def resident():
    return int(open("/proc/self/statm").read().split()[1])
blocks = [np.ones(12500) for _ in range(2000)]
last = np.ones(12500)  # at the end of the heap: nothing before it would go by itself
del blocks
before = resident()
print(memory.give_back(), before - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_what_is_free_is_given_back() -> None:
    command = [sys.executable, "-c", FREED]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True"
    assert int(found[1]) * resource.getpagesize() > 150e6


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    before = jax.config.read("jax_cpu_enable_async_dispatch")
    assert malloc.keep() is False
    assert malloc.give_back() is False
    assert jax.config.read("jax_cpu_enable_async_dispatch") == before
