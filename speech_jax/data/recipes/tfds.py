"""A prepared tensorflow-datasets speech set → a manifest that names its examples (with --shards: shards of our own)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.tfds import read_tfds


@dataclass(frozen=True)
class Options:
    source: Path
    """The data_dir in which the set lies prepared (file_format="array_record")."""
    name: str
    """The set, for example "librispeech" or "ljspeech:1.1.1"."""
    splits: tuple[str, ...] = ("train",)
    """Splits, each with its own manifest, for example train_clean100 dev_clean test_clean."""
    domain: str = ""
    """Written into every utterance."""


def prepare(out_dir: Path, options: Options) -> None:
    """Writes {split}.jsonl for every split that is not there yet."""
    for split in options.splits:
        path = out_dir / f"{split.replace('[', '_').replace(']', '').replace(':', '-').replace('%', 'pct')}.jsonl"
        if not path.exists():
            utterances = read_tfds(options.name, split, options.source.resolve())
            write_manifest(path, [u._replace(domain=options.domain) for u in utterances])
