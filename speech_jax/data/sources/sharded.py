"""A folder of ArrayRecord shards, without their manifest: every shard carries the fields of its utterances."""

from __future__ import annotations

from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.shards import SUFFIX, list_shard
from speech_jax.data.utterances import Utterances


def read_shards(path: str | Path, split: str = "") -> Utterances:
    """The utterances of one shard file, or of all shards of a folder whose names begin with `split`-.

    Raises UserError when there is none, one of several is missing, or one is damaged.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob(f"{split}-*{SUFFIX}" if split else f"*{SUFFIX}"))
    if not files:
        raise UserError(f"{path}: found no {split + '-' if split else ''}*{SUFFIX} files, expected shards")
    for file in files:
        missing = _missing(file, path) if path.is_dir() else None
        if missing:
            raise UserError(f"{path}: {missing} is missing, expected all shards of {file.name}'s set")
    return Utterances.concatenate([Utterances.of(list_shard(file)) for file in files])


def _missing(file: Path, folder: Path) -> str | None:
    """The name of a shard that should be beside `file` (split-00000-of-00004) and is not."""
    stem, _, count = file.name.removesuffix(SUFFIX).rpartition("-of-")
    split = stem.rpartition("-")[0]
    if not count.isdecimal() or not split:
        return None
    names = (f"{split}-{i:05d}-of-{count}{SUFFIX}" for i in range(min(int(count), 100_000)))
    return next((name for name in names if not (folder / name).exists()), None)
