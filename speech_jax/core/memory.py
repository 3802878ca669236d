"""How a process on a CPU handles its memory."""

from __future__ import annotations

import ctypes
import os
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next use; returns whether it could.

    XLA's CPU client allocates and frees the same hundreds of megabytes in every step. By default glibc maps such blocks
    and gives them back, so each step faults every page in anew and the kernel clears it: about 160 ms of a gradient
    that takes 400 ms on two cores, where 10 are left (experiments/benchmarks/allocator.txt). The process stays as
    large as it ever was.

    Does nothing outside glibc, or where the environment already sets malloc up (MALLOC_*, GLIBC_TUNABLES, LD_PRELOAD).
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    # -1 is never: any number is an int, so at most 2 GB, which the programs of two losses leave free together.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) for name, value in settings)
