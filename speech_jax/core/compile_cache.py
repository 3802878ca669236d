"""JAX's persistent compilation cache, on by default: the same program is compiled once, not in every process."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import stat
import time
from pathlib import Path

MAX_BYTES = 4 << 30  # the entries used least recently are deleted beyond it


def use_compile_cache() -> None:
    """Let JAX keep compiled programs in the user's cache folder, unless the environment says otherwise.

    The environment is set, so that nothing loads JAX here and child processes have the same cache.
    JAX_COMPILATION_CACHE_DIR chooses another folder, and JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. A
    folder that cannot be written, or that others can write, is no error: nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not base.is_absolute():  # by the XDG specification as if it were not set
            base = Path.home() / ".cache"
        folder = base / "speech_jax" / "jax" / _machine()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # JAX runs what lies in it: for this user alone
        if not (_is_private(folder) and os.access(folder, os.W_OK)):
            return
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    if importlib.util.find_spec("filelock"):  # JAX needs it for a bounded size
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MAX_BYTES))
        with contextlib.suppress(OSError):  # of another process that does the same
            _remove_partial(folder)


def _is_private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):  # Windows
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _remove_partial(folder: Path) -> None:
    """Delete entries whose writer was killed: JAX would stop writing at the first one.

    In a cache of bounded size, JAX writes an entry's `-atime` file after its `-cache` file, within seconds.
    """
    for entry in folder.glob("*-cache"):
        whole = entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").exists()
        if not whole and entry.stat().st_mtime < time.time() - 600:
            entry.unlink(missing_ok=True)


def _machine() -> str:
    """Return a name of the processor type: programs for a CPU use its instructions, and a home can be shared."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "CPU part"))})
    return f"{platform.machine()}-{hashlib.sha256(''.join(flags or lines[:1]).encode()).hexdigest()[:8]}"
