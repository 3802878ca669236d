"""Data config: sources of recordings, batches, and how recordings are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from speech_jax.core.claims import not_used_by
from speech_jax.core.config_dict import new_field


@dataclass(frozen=True)
class SourceConfig:
    """One set of recordings with text.

    Example:
        >>> from speech_jax.data.config import SourceConfig
        >>> SourceConfig(path="data/train.jsonl", domain="read").kind
        'manifest'
    """

    kind: Literal["manifest", "kaldi", "ljspeech", "folder", "tfds", "shards", "synthetic"] = "manifest"
    """Format of the set. "manifest" is a JSONL file as `prepare` writes it, or a list of NeMo, Hugging Face, lhotse or
    Common Voice; "shards" are ArrayRecord shards of `prepare`."""
    path: str = ""
    """Manifest file, Kaldi or LJSpeech directory, CSV file of a folder, folder of shards or of a synthetic set, or the
    data_dir of tensorflow-datasets."""
    split: str = ""
    """Part of a tfds ("train_clean100"), shards ("train") or synthetic ("A/train") set. Unused for other kinds."""
    name: str = ""
    """Name of the tfds set, for example "librispeech" or "ljspeech:1.1.1". Unused for other kinds."""
    domain: str = ""
    """Domain of the utterances that name none."""
    limit: int = 0
    """Keep only this many utterances, the first ones; 0 keeps all."""
    speakers: tuple[str, ...] = new_field(())
    """Keep only the utterances of these speakers; empty keeps all."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return not_used_by("kind", self.kind, {"split": "tfds shards synthetic", "name": "tfds"})


@dataclass(frozen=True)
class JoinConfig:
    """Training rows of several utterances, joined with quiet between them, for recognition of long recordings.

    Example:
        >>> from speech_jax.data.config import JoinConfig
        >>> JoinConfig(share=0.25).seconds
        20.0
    """

    share: float = 0.0
    """Joined rows per utterance: 0.25 adds to each epoch one joined row for every four utterances; 0 is off. They have
    batches of their own."""
    seconds: float = 20.0
    """Length of a joined row in seconds, at most `max_seconds`. Utterances are added while they fit."""
    gap: tuple[float, float] = (0.0, 2.0)
    """Shortest and longest pause before, between and after the utterances, in seconds; short ones are more frequent."""
    noise_db: tuple[float, float] = (-90.0, -40.0)
    """Range of the level of white noise under a joined row, in dB relative to full scale; -90 is digital silence."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return {} if self.share else dict.fromkeys(("seconds", "gap", "noise_db"), "with {share}")


@dataclass(frozen=True)
class PlanConfig:
    """Static shapes of batches, and how utterances are put together in batches.

    Example:
        >>> from speech_jax.data.config import PlanConfig
        >>> PlanConfig(bucket_seconds=(5.0, 10.0), bucket_labels=(80, 160), rows=16).num_buckets
        8
    """

    num_buckets: int = 8
    """Maximum number of shapes, each compiled once. Their bounds are chosen to minimize padding."""
    bucket_seconds: tuple[float, ...] = ()
    """Ascending bounds in seconds; empty chooses them from the data."""
    bucket_labels: tuple[int, ...] = ()
    """Bounds in labels, one for each of `bucket_seconds`; empty chooses them from the data."""
    seconds_per_batch: float = 120.0
    """Seconds of audio in a global batch, including padding; a bucket has as many rows as fit. Unused if `rows` is
    set."""
    rows: int = 0
    """Number of rows in every bucket; 0 derives it from `seconds_per_batch`."""
    row_multiple: int = 8
    """Rows are a multiple of this. Use a multiple of the number of devices that share a batch."""
    max_rows: int = 0
    """Maximum number of rows of a bucket; 0 for no limit."""
    seconds_multiple: float = 0.08
    """Chosen bounds are multiples of this. 0.08 s is 8 frames of 10 ms; 1.28 s is 128 frames, which suits TPUs."""
    label_multiple: int = 8
    """Chosen bounds in labels are rounded up to a multiple of this."""
    min_seconds: float = 0.1
    """Shorter utterances are left out of training, counted and logged."""
    max_seconds: float = 30.0
    """Longer utterances are left out of training, counted and logged."""
    max_labels: int = 1000
    """Utterances with more labels are left out of training, counted and logged."""
    eval_max_seconds: float = 300.0
    """Longer utterances are left out of an evaluation, counted and logged."""
    join: JoinConfig = new_field(JoinConfig())
    """Joined utterances, in training."""


@dataclass(frozen=True)
class DataConfig:
    """One stream of batches: sources, their plan, and how they are read.

    Example:
        >>> from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
        >>> config = DataConfig(sources=(SourceConfig(path="train.jsonl"),), plan=PlanConfig(num_buckets=4))
        >>> config.on_error, config.plan.num_buckets
        ('skip', 4)
    """

    sources: tuple[SourceConfig, ...] = ()
    """Sets of recordings; their utterances are concatenated."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Buckets and batches."""
    seed: int | None = None
    """Seed of the order of the utterances in training. None: `seed` of the run."""
    on_error: Literal["skip", "raise"] = "skip"
    """For a recording that cannot be read: "skip" logs it and continues without it, "raise" stops."""
    workers: int = 0
    """Processes that read and decode. 0 uses threads of this process, which can also cache small sets in memory."""
    threads: int = 2
    """Number of threads, with workers = 0; each reads one batch at a time."""
    prefetch: int = 4
    """Number of batches to read ahead."""
    cache_mb: int = 2048
    """MB of decoded audio to keep in memory between epochs, with workers = 0. One hour at 16 kHz takes 230 MB."""
    max_seconds: float = 3600.0
    """A longer recording or segment is an error; this guards against files that decode to endless audio."""
    channel: str = new_field("mean")
    """Channel of recordings that have several: mean (of all), left, right, or a number from 1."""
    allow_pipes: bool = False
    """Run the commands of a Kaldi wav.scp, the lines that end in "|". They run without a shell, but can be any program:
    only for files that you trust."""

    empty_texts: Literal["leave_out", "keep"] = new_field("leave_out")
    """For training utterances whose text is empty or normalizes to nothing: they are counted and named; "keep" trains
    on them, for recordings that are meant to be transcribed as nothing."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle: dict[str, str] = {}
        if self.workers:
            idle |= dict.fromkeys(("threads", "cache_mb"), "with {workers}")
        if all(source.kind != "kaldi" for source in self.sources):
            idle |= {"allow_pipes": "without a source of kind 'kaldi'"}
        return idle
