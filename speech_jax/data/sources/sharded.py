"""Source: a folder of ArrayRecord shards without their manifest; every record contains its utterance's fields."""

from __future__ import annotations

from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.shards import SUFFIX, list_shard
from speech_jax.data.utterances import Utterances


def read_shards(path: str | Path, split: str = "") -> Utterances:
    """Read the utterances of one shard file, or of all shards of a folder whose names begin with `split`-.

    Args:
        path: the file or the folder.
        split: name of the split; "" reads all shards.

    Returns:
        The rows.

    Raises:
        UserError: there is no shard, one of a set is missing, or one is damaged.
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
    """Return the name of a shard that is missing from the set of `file` (split-00000-of-00004), or None."""
    stem, _, count = file.name.removesuffix(SUFFIX).rpartition("-of-")
    split = stem.rpartition("-")[0]
    if not count.isdecimal() or not split:
        return None
    names = (f"{split}-{i:05d}-of-{count}{SUFFIX}" for i in range(min(int(count), 100_000)))
    return next((name for name in names if not (folder / name).exists()), None)
