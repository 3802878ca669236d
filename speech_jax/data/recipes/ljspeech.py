"""LJSpeech, or any set in its layout → train, dev and test manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.ljspeech import read_ljspeech


@dataclass(frozen=True)
class Options:
    source: Path
    """The folder of metadata.csv and wavs/."""
    speaker: str = "lj"
    """The name of the one speaker."""
    dev: int = 100
    """Utterances for dev, the first ones, as is usual for LJSpeech (Tacotron 2's reimplementations take 100)."""
    test: int = 500
    """Utterances for test, those after dev."""


def prepare(out_dir: Path, options: Options) -> None:
    """Writes train.jsonl, dev.jsonl and test.jsonl."""
    utterances = read_ljspeech(options.source, speaker=options.speaker, on_error="skip")
    held_out = options.dev + options.test
    if options.dev < 0 or options.test < 0 or held_out >= len(utterances):
        found = f"{len(utterances)} utterances"
        raise UserError(f"{options.source}: found {found}, expected more than dev + test = {held_out}")
    parts = {
        "dev": utterances[: options.dev],
        "test": utterances[options.dev : held_out],
        "train": utterances[held_out:],
    }
    for name, rows in parts.items():
        if rows:
            write_manifest(out_dir / f"{name}.jsonl", rows)
