"""Settings of the memory allocator for training on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for reuse; return True if that was possible.

    XLA's CPU client allocates and frees the same hundreds of megabytes in every step. By default glibc maps such blocks
    and returns them to the kernel, so each step faults in and clears every page again: about 160 ms of a gradient that
    takes 400 ms on two cores, reduced to 10 ms (experiments/benchmarks/allocator.txt). In return, the process never
    shrinks.

    Does nothing outside glibc, or if the environment already configures malloc (MALLOC_*, GLIBC_TUNABLES, LD_PRELOAD).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    # -1 is never. A number is an int, so at most 2 GB, and the programs of two losses free as much at once.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) for name, value in settings)
