"""Settings of the data plane: where recordings come from, how they are batched, how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from speech_jax.core.config_dict import new_field


@dataclass(frozen=True)
class SourceConfig:
    """One set of recordings with text."""

    kind: Literal["manifest", "kaldi", "ljspeech", "folder", "tfds", "shards", "synthetic"] = "manifest"
    """How the set is laid out. "manifest" is the JSONL that `prepare` writes; "shards" its ArrayRecord shards."""
    path: str = ""
    """The manifest file, the Kaldi or LJSpeech directory, the CSV file of a folder, the folder of the shards or of the
    synthetic set, or the data_dir of tensorflow-datasets."""
    split: str = ""
    """Which part: of tfds ("train_clean100"), of shards ("train"), of synthetic ("a/train"). Elsewhere unused."""
    name: str = ""
    """The name of the tfds set, for example "librispeech" or "ljspeech:1.1.1". Elsewhere unused."""
    domain: str = ""
    """Written into every utterance that does not name its own domain."""
    limit: int = 0
    """Keep only the first so many utterances; 0 keeps all."""
    speakers: tuple[str, ...] = new_field(())
    """Keep only the utterances of these speakers; empty keeps all."""


@dataclass(frozen=True)
class PlanConfig:
    """Which utterances share a batch, and the static shapes of batches."""

    num_buckets: int = 8
    """At most so many shapes, each compiled once. Their bounds are chosen to waste the least padding."""
    bucket_seconds: tuple[float, ...] = ()
    """The bounds in seconds, ascending, instead of chosen ones."""
    bucket_labels: tuple[int, ...] = ()
    """The bounds in labels that go with `bucket_seconds`; left out, they are chosen from the data."""
    seconds_per_batch: float = 120.0
    """Seconds of audio in a global batch, padding included: a bucket has as many rows as fit in. Not used
    where `rows` is set."""
    rows: int = 0
    """The same number of rows in every bucket; 0 lets `seconds_per_batch` decide."""
    row_multiple: int = 8
    """Rows are a multiple of this. Make it a multiple of the devices that share a batch."""
    max_rows: int = 0
    """No bucket has more rows than this; 0 for no limit."""
    seconds_multiple: float = 0.08
    """Chosen bounds are multiples of this: 0.08 s is 8 frames of 10 ms; 1.28 s is the 128 frames that a TPU likes."""
    label_multiple: int = 8
    """Bounds in labels are rounded up to a multiple of this."""
    min_seconds: float = 0.1
    """Shorter utterances are left out of training, counted and named."""
    max_seconds: float = 30.0
    """Longer utterances are left out of training, counted and named."""
    max_labels: int = 1000
    """Utterances with more labels are left out of training, counted and named."""
    eval_max_seconds: float = 300.0
    """Longer utterances are left out of an evaluation, counted and named."""


@dataclass(frozen=True)
class DataConfig:
    """One stream of batches."""

    sources: tuple[SourceConfig, ...] = ()
    """The sets, one after the other."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Buckets and batches."""
    seed: int = 0
    """Which shuffle."""
    on_error: Literal["skip", "raise"] = "skip"
    """A recording that cannot be read: name it, count it and train without it, or stop."""
    workers: int = 0
    """Processes that read and decode. 0: threads of this process, which can also keep small sets in memory."""
    threads: int = 2
    """Batches that are read at the same time by threads where workers = 0."""
    prefetch: int = 4
    """Batches that are ready ahead of the one in use."""
    cache_mb: int = 2048
    """Decoded audio that is kept in memory between epochs where workers = 0, in MB. 1 hour at 16 kHz is 230 MB."""
    max_seconds: float = 3600.0
    """A longer decoded recording (or segment) is an error: it stops decompression bombs."""
    allow_pipes: bool = False
    """Run the commands of a Kaldi wav.scp that ends lines in "|". They run without a shell, but they are programs of
    whoever wrote the file."""
