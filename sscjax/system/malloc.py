"""Freed memory: kept in the process for the next training step, or returned to the system.

XLA allocates one large buffer for a program's temporaries and frees it at the end of each call.
glibc's allocator returns such a buffer to the system, which clears every page again at the next
call: at 128x128 pixels 35,000 page faults for each step of 32 images, a tenth of its time. What
compilation frees (0.7 GiB) is not needed again, so it is returned.
"""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep() -> bool:
    """Let this process keep the memory that it frees; call it before any computation.

    Does nothing without glibc (macOS, Windows, Alpine Linux).

    Returns:
      whether the allocator accepted the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Allocate large blocks on the heap and never shrink it. Each thread keeps its own heap: with a
    # shared one the threads waited for each other, and steps took up to 1.5 times as long.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    taken = all([mallopt(name, value) == 1 for name, value in settings])
    import jax  # here, so that the help of a command does not wait for it

    # Run programs in the calling thread, on the main heap: heaps of other threads return freed
    # memory whatever the settings.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return taken


def give_back() -> bool:
    """Return all free memory to the system, such as what compilation left.

    A buffer that is reused comes back at its next use, its pages cleared once.

    Returns:
      whether memory was returned; False without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
