"""Arrays in a file beside the data that they were computed from, for the next start.

An entry is found again only under the same key: a text that names all that its content depends on (hashes of the data,
settings, `code_version`). Where the folder cannot be written there is no cache; a damaged entry is none.
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
from typing import NamedTuple

import numpy as np


class ArrayCache(NamedTuple):
    """The cached arrays of one file, `folder`/.NAME.KIND-HASH.npz.

    Attributes:
        folder: where the entries lie.
        name: the name of the file that they belong to.
    """

    folder: str
    name: str

    @staticmethod
    def beside(path: str | Path) -> ArrayCache:
        """Return the cache of a file."""
        path = Path(path)
        return ArrayCache(os.path.abspath(path.parent), path.name)

    def has(self, kind: str) -> bool:
        """Return whether there is any entry of a kind."""
        return any(Path(self.folder).glob(self._pattern(kind)))

    def load(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved under `key`; None where there are none, or they are damaged."""
        path = self._path(kind, key)
        try:
            with zipfile.ZipFile(path) as archive:  # an honest entry is not compressed: no more is read than is there
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
        """Save arrays under `key`, whole or not at all. Does nothing where the folder cannot be written.

        Of the entries of this kind the `keep` that were used last stay.
        """
        path = self._path(kind, key)
        temporary = None
        with contextlib.suppress(OSError):
            try:
                handle, temporary = tempfile.mkstemp(prefix=f".{self.name}.", suffix=".part", dir=self.folder)
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, key=np.frombuffer(key.encode(), np.uint8), **arrays)
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
    """Return a hash of the source of some modules and of Python's tables of Unicode."""
    digest = hashlib.sha256(unicodedata.unidata_version.encode())
    for name in modules:
        spec = importlib.util.find_spec(name)
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()
