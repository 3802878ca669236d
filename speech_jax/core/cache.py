"""Cache of computed arrays in files next to the data that they were computed from.

An entry is valid only for the same key: a text with everything that its content depends on (hashes of the data,
settings, `code_version`). If the folder is not writable, nothing is cached; damaged entries are ignored.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ArrayCache(NamedTuple):
    """Cached arrays of one file, in `folder`/.NAME.KIND-HASH.npz.

    Attributes:
        folder: folder of the entries.
        name: name of the file that they belong to.
    """

    folder: str
    name: str

    @staticmethod
    def beside(path: str | Path) -> ArrayCache:
        """Return the cache of a file."""
        path = Path(path)
        return ArrayCache(os.path.abspath(path.parent), path.name)

    def has(self, kind: str) -> bool:
        """Return True if there is any entry of a kind."""
        return any(Path(self.folder).glob(self._pattern(kind)))

    def load(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved under `key`, or None if there are none or they are damaged."""
        path = self._path(kind, key)
        try:
            with zipfile.ZipFile(path) as archive:  # entries are uncompressed, so no more is read than the file holds
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    return None
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
            return None
        saved = arrays.pop("key", None)
        if saved is None or saved.dtype != np.uint8 or saved.tobytes() != key.encode():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return arrays

    def save(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], *, keep: int = 8) -> None:
        """Save arrays under `key` atomically. Does nothing if the folder is not writable.

        Only the `keep` most recently used entries of this kind are kept.
        """
        path = self._path(kind, key)
        temporary = None
        with contextlib.suppress(OSError):
            try:
                handle, temporary = tempfile.mkstemp(prefix=f".{self.name}.", suffix=".part", dir=self.folder)
                with os.fdopen(handle, "wb") as file:
                    contents: Any = {"key": np.frombuffer(key.encode(), np.uint8), **arrays}
                    np.savez(file, **contents)
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
                temporary = None
                entries = sorted(Path(self.folder).glob(self._pattern(kind)), key=lambda p: p.stat().st_mtime_ns)
                for entry in entries[:-keep]:
                    entry.unlink()
            finally:
                if temporary is not None:
                    os.unlink(temporary)

    def _path(self, kind: str, key: str) -> Path:
        return Path(self.folder) / f".{self.name}.{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"

    def _pattern(self, kind: str) -> str:
        name = "".join(f"[{c}]" if c in "*?[" else c for c in self.name)
        return f".{name}.{kind}-{'[0-9a-f]' * 16}.npz"


@functools.lru_cache(maxsize=16)
def code_version(*modules: str) -> str:
    """Return a hash of the modules' source code and of Python's Unicode version."""
    digest = hashlib.sha256(unicodedata.unidata_version.encode())
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None  # modules of this package
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()
