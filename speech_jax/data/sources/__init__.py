"""Sources of utterances: every kind of speech set becomes `Utterances`."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.data.manifest import listed_twice, read_manifest
from speech_jax.data.utterances import Utterances


def load_source(source: SourceConfig, *, allow_pipes: bool = False, on_error: str = "raise") -> Utterances:
    """Read the utterances of one set.

    Args:
        source: the set, and which of its utterances are selected.
        allow_pipes: accept a Kaldi wav.scp with commands.
        on_error: "raise", or "skip": leave out recordings whose length cannot be measured, with a warning.

    Returns:
        The utterances in the set's own order.

    Raises:
        UserError: anything else is wrong; the message names file and line.
    """
    return _select(_read(source, allow_pipes, on_error), source)


def load_sources(config: DataConfig, read: MutableMapping | None = None) -> Utterances:
    """Read the utterances of all sets of a stream, one set after the other.

    Args:
        config: the stream.
        read: sets that were read already. They are not read again, and new ones are added to it.

    Returns:
        The utterances.

    Raises:
        UserError: something in a set is wrong; the message names file and line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from speech_jax.data.config import DataConfig, SourceConfig
        >>> from speech_jax.data.sources import load_sources
        >>> from speech_jax.data.manifest import write_manifest
        >>> from speech_jax.data.utterances import Utterance
        >>> path = Path(tempfile.mkdtemp()) / "train.jsonl"
        >>> write_manifest(path, [Utterance(name, "1.flac", text="hello", seconds=1.0) for name in ("a", "b", "c")])
        >>> source = SourceConfig(path=str(path), domain="read", limit=2)
        >>> [(u.id, u.domain) for u in load_sources(DataConfig(sources=(source,)))]
        [('a', 'read'), ('b', 'read')]
    """
    if not config.sources:
        raise UserError("data: found no sources, expected at least one")
    read = {} if read is None else read
    sets = []
    for source in config.sources:
        key = (source.kind, source.path, source.split, source.name, config.allow_pipes, config.on_error)
        if key not in read:
            read[key] = _read(source, config.allow_pipes, config.on_error)
        sets.append(_select(read[key], source))
    twice = listed_twice(sets) if len(sets) > 1 else None
    if twice:
        one, other = twice
        log.warning("sources: %s (%s) is the recording of %s, too: it counts twice", other.where, other.id, one.where)
    return Utterances.concatenate(sets)


def _read(source: SourceConfig, allow_pipes: bool, on_error: str) -> Utterances:
    """Read all utterances of a set."""
    path = Path(source.path)
    if not source.path:
        raise UserError(f"source of kind {source.kind!r}: found no path, expected one")
    match source.kind:  # a kind's module is imported where it is needed: tfds is an extra
        case "manifest":
            return read_manifest(path, on_error=on_error)
        case "kaldi":
            from speech_jax.data.sources.kaldi import read_kaldi

            return read_kaldi(path, allow_pipes=allow_pipes, on_error=on_error)
        case "ljspeech":
            from speech_jax.data.sources.ljspeech import read_ljspeech

            return read_ljspeech(path, on_error=on_error)
        case "folder":
            from speech_jax.data.sources.folder import read_folder

            return read_folder(path, on_error=on_error)
        case "shards":
            from speech_jax.data.sources.sharded import read_shards

            return read_shards(path, source.split)
        case "tfds":
            from speech_jax.data.sources.tfds import read_tfds

            return read_tfds(source.name, source.split, path)
        case "synthetic":
            from speech_jax.data.sources.synthetic import read_synthetic

            return read_synthetic(path, source.split)
        case _:
            raise UserError(f"source: found kind {source.kind!r}, expected manifest, kaldi, ljspeech, folder, …")


def _select(utterances: Utterances, source: SourceConfig) -> Utterances:
    """Return the utterances of a set that `source` selects, with its domain."""
    if source.domain:
        utterances = utterances.with_domain(source.domain)
    if source.speakers:
        selected = np.array([name in source.speakers for name in utterances.speakers.names], bool)
        utterances = utterances.take(np.flatnonzero(selected[utterances.speakers.codes]))
        missing = set(source.speakers) - set(utterances.speakers.used())
        if missing:
            name = min(missing)
            raise UserError(f"{Path(source.path)}: found no utterance of speaker {name!r}, expected at least one")
    if 0 < source.limit < len(utterances):
        return utterances.take(np.arange(source.limit))  # a copy, so that the rest can be freed
    return utterances
