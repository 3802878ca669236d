"""SHA-256 of every file of a checkpoint: orbax writes atomically, but does not detect a flipped bit.

The checksum file is canonical JSON. A check recomputes it from the files and compares bytes, so that any change is
detected, also one in the checksum file itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

NAME = "sha256.json"


def write_checksums(folder: Path) -> None:
    """Hash every file under `folder` and write the checksum file into it, atomically."""
    os.replace(_write_partial(folder, _hashes(folder)), folder / NAME)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace one file of a checkpoint and its checksum; the other files are not read."""
    hashes = json.loads((folder / NAME).read_bytes())["files"]
    new = folder.with_name(f".{folder.name}.partial")  # outside, where it is no file of the checkpoint
    new.write_bytes(content)
    partial = _write_partial(folder, hashes | {name: _sha256(new)})
    os.replace(new, folder / name)
    os.replace(partial, folder / NAME)


def _write_partial(folder: Path, hashes: dict[str, str]) -> Path:
    partial = folder / f".{NAME}.partial"
    with open(partial, "w", encoding="utf-8") as f:
        f.write(_canonical(hashes))
        f.flush()
        os.fsync(f.fileno())
    return partial


def hash_arrays(folder: Path) -> str:
    """Return one hash for all arrays of a checkpoint, from its checksum file."""
    hashes = json.loads((folder / NAME).read_bytes())["files"]
    arrays = {name: digest for name, digest in hashes.items() if name.startswith("state/")}
    return hashlib.sha256(_canonical(arrays).encode()).hexdigest()


def find_damage(folder: Path) -> str | None:
    """Check every file of a checkpoint against its checksum.

    Args:
        folder: the step's folder.

    Returns:
        A line that names the first damaged file; None if every byte is as it was written.
    """
    path = folder / NAME
    if not path.is_file():
        return f"{path}: found no checksum file: the save did not finish"
    try:
        text = path.read_bytes()
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    try:
        hashes = _hashes(folder)
    except OSError as error:
        return f"{error.filename or folder}: cannot be read ({error.strerror})"
    if text == _canonical(hashes).encode() or _is_replaced(folder, hashes):
        return None
    try:
        expected = json.loads(text)["files"]
        changed = [n for n in sorted({*expected, *hashes}) if expected.get(n) != hashes.get(n)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path}: the checksum file is damaged"
    if not changed:
        return f"{path}: the checksum file is damaged"
    name = changed[0]
    if name not in hashes:
        return f"{folder / name}: the file is missing"
    if name not in expected:
        return f"{folder / name}: the file was added after the checkpoint was written"
    return f"{folder / name}: the file differs from its SHA-256 in {NAME}: damaged since it was written"


def _is_replaced(folder: Path, hashes: dict[str, str]) -> bool:
    """Return True if a process was killed in `replace_file`, between its file and the checksum file that waits."""
    partial = folder / f".{NAME}.partial"
    return partial.is_file() and partial.read_bytes() == _canonical(hashes).encode()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() or p.is_symlink())
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files if p.name not in (NAME, f".{NAME}.partial")}


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():  # a link to a device, which may have no end
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _canonical(files: dict[str, str]) -> str:
    return json.dumps({"files": files, "version": 1}, indent=1, sort_keys=True)
