"""SHA-256 of every file of a checkpoint. Orbax writes atomically but does not notice a flipped bit; this does.

The manifest is canonical JSON: a check makes it anew from the files and compares bytes, so that a change anywhere is
found, in the manifest itself too.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

NAME = "sha256.json"


def write_checksums(folder: Path) -> None:
    """Hashes every file under `folder` and writes the manifest beside them, atomically."""
    partial = folder / f".{NAME}.partial"
    with open(partial, "w", encoding="utf-8") as f:
        f.write(_canonical(_hashes(folder)))
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, folder / NAME)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file, or None if every byte is as it was written."""
    path = folder / NAME
    try:
        text = path.read_bytes()
    except OSError:
        return f"{path}: found no manifest, expected one: the save did not finish"
    try:
        found = _hashes(folder)
    except OSError as error:
        return f"{error.filename or folder}: cannot be read ({error.strerror})"
    if text == _canonical(found).encode():
        return None
    try:
        expected = json.loads(text)["files"]
        changed = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path}: the manifest is damaged"
    if not changed:
        return f"{path}: the manifest is damaged"
    name = changed[0]
    if name not in found:
        return f"{folder / name}: the file is missing"
    if name not in expected:
        return f"{folder / name}: the file was not there when the checkpoint was written"
    return f"{folder / name}: the file differs from its SHA-256 in {NAME}: damaged since it was written"


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() or p.is_symlink())
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files if p.name not in (NAME, f".{NAME}.partial")}


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _canonical(files: dict[str, str]) -> str:
    return json.dumps({"files": files, "version": 1}, indent=1, sort_keys=True)
