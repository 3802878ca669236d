"""Every kind of speech set → one list of utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.data.manifest import read_manifest
from speech_jax.data.utterances import Utterances


def load_source(source: SourceConfig, *, allow_pipes: bool = False, on_error: str = "raise") -> Utterances:
    """The utterances of one set, in its own order.

    allow_pipes: accept a Kaldi wav.scp with commands. on_error: "skip" names recordings whose length cannot be measured
    in a warning and leaves them out. Raises UserError naming the file and line of anything else that is wrong.
    """
    path = Path(source.path)
    if not source.path:
        raise UserError(f"source of kind {source.kind!r}: found no path, expected one")
    match source.kind:  # a kind's module is imported when it is asked for: tfds is an extra
        case "manifest":
            utterances = read_manifest(path, on_error=on_error)
        case "kaldi":
            from speech_jax.data.sources.kaldi import read_kaldi

            utterances = read_kaldi(path, allow_pipes=allow_pipes, on_error=on_error)
        case "ljspeech":
            from speech_jax.data.sources.ljspeech import read_ljspeech

            utterances = read_ljspeech(path, on_error=on_error)
        case "folder":
            from speech_jax.data.sources.folder import read_folder

            utterances = read_folder(path, on_error=on_error)
        case "shards":
            from speech_jax.data.sources.sharded import read_shards

            utterances = read_shards(path, source.split)
        case "tfds":
            from speech_jax.data.sources.tfds import read_tfds

            utterances = read_tfds(source.name, source.split, path)
        case "synthetic":
            from speech_jax.data.sources.synthetic import read_synthetic

            utterances = read_synthetic(path, source.split)
        case _:
            raise UserError(f"source: found kind {source.kind!r}, expected manifest, kaldi, ljspeech, folder, …")
    if source.domain:
        utterances = utterances.with_domain(source.domain)
    if source.speakers:
        chosen = np.array([name in source.speakers for name in utterances.speakers.names], bool)
        utterances = utterances.take(np.flatnonzero(chosen[utterances.speakers.codes]))
        missing = set(source.speakers) - set(utterances.speakers.used())
        if missing:
            raise UserError(f"{path}: found no utterance of speaker {min(missing)!r}, expected at least one")
    return utterances[: source.limit] if source.limit else utterances


def load_sources(config: DataConfig) -> Utterances:
    """The utterances of all sets of a stream, one after the other."""
    if not config.sources:
        raise UserError("data: found no sources, expected at least one")
    options = {"allow_pipes": config.allow_pipes, "on_error": config.on_error}
    return Utterances.concatenate([load_source(source, **options) for source in config.sources])
