"""Recipe for LJSpeech, or any set in its layout: train, dev and test manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.ljspeech import read_ljspeech


@dataclass(frozen=True)
class Options:
    """Options of the recipe `ljspeech`."""

    source: Path
    """The folder of metadata.csv and wavs/, or another file of such lines beside wavs/."""
    columns: str = ""
    """The columns in their order, where they are not id,text,normalized: of id, text, normalized, speaker, language and
    - for one that is not read. A set of several speakers may be `id,speaker,text`."""
    speaker: str = "lj"
    """Name of the speaker of lines that name none."""
    dev: Annotated[int, Range(0, 10**9)] = 100
    """Number of utterances in dev, the first of the set. 100 is usual for LJSpeech."""
    test: Annotated[int, Range(0, 10**9)] = 500
    """Number of utterances in test, those after dev."""
    language: str = ""
    """Language of the texts, such as "de", for the manifests; `evaluate` normalizes by it. Empty writes none."""


def lists(options: Options) -> list[Path]:
    """Return the files of texts that the recipe reads."""
    return [options.source / "metadata.csv" if options.source.is_dir() else options.source]


def prepare(out_dir: Path, options: Options) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl."""
    columns = tuple(name.strip() for name in options.columns.split(",") if name.strip())
    utterances = read_ljspeech(options.source, speaker=options.speaker, columns=columns, on_error="skip")
    if options.language:
        utterances = utterances.with_language(options.language)
    held_out = options.dev + options.test
    if options.dev < 0 or options.test < 0 or held_out >= len(utterances):
        raise UserError(
            f"{options.source}: found {len(utterances)} utterances, expected more than dev + test = {held_out}"
        )
    parts = {
        "dev": utterances[: options.dev],
        "test": utterances[options.dev : held_out],
        "train": utterances[held_out:],
    }
    for name, rows in parts.items():
        if rows:
            write_manifest(out_dir / f"{name}.jsonl", rows)
