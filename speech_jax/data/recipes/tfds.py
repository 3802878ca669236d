"""Recipe for a prepared tensorflow-datasets speech set: manifests of its examples (with --shards: our shards)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.tfds import read_tfds


@dataclass(frozen=True)
class Options:
    """Options of the recipe `tfds`."""

    source: Path
    """The data_dir that contains the prepared set (file_format="array_record")."""
    name: str
    """Name of the set, for example "librispeech" or "ljspeech:1.1.1"."""
    splits: tuple[str, ...] = ("train",)
    """Splits, for example train_clean100 dev_clean test_clean. Each gets its own manifest."""
    audio_rate: int = 0
    """Sample rate of the recordings, in Hz, of a set whose Audio feature names none; 0 takes the feature's."""
    domain: str = ""
    """Domain of all utterances."""
    language: str = ""
    """Language of the texts, such as "de", for the manifests; `evaluate` normalizes by it. Empty writes none."""


def prepare(out_dir: Path, options: Options) -> None:
    """Write {split}.jsonl for every split that has none yet."""
    for split in options.splits:
        path = out_dir / f"{split.replace('[', '_').replace(']', '').replace(':', '-').replace('%', 'pct')}.jsonl"
        if not path.exists():
            name = f"{options.name}@{options.audio_rate}" if options.audio_rate else options.name
            utterances = read_tfds(name, split, options.source.resolve())
            named = {"domain": options.domain, "language": options.language}
            write_manifest(path, [u._replace(**named) for u in utterances])
