"""Unsupervised pre-training of a recognizer's encoder: recordings without text in, an encoder out.

Hidden frames of the features become noise, and the encoder has to tell what was there. What exactly is one file each:
pretrain_best_rq, pretrain_autoencoder, pretrain_contrastive. Parameters: {"encoder": …, "pretext": …}; fine-tuning
takes the first and leaves the second behind.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.core.errors import UserError
from speech_jax.core.types import Task, TaskConfig
from speech_jax.models.config import ConformerConfig


@dataclasses.dataclass(frozen=True)
class BestRQConfig:
    """The random quantizer. Nothing of it is learned; it follows from its seed."""

    codes: int = 1024
    """Entries of a codebook (the paper: 8192, for 60,000 hours)."""
    width: int = 16
    """Numbers an entry."""
    codebooks: int = 1
    """Codebooks, each with a head of its own; several make the targets finer."""
    seed: int = 0
    """Seed of the projections and the codebooks."""


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The decoder and what it is judged by."""

    width: int = 256
    """Hidden units of the decoder, which sees one encoder frame at a time: what is hard is left to the encoder."""
    shown_weight: float = 0.1
    """Weight of the frames that were not hidden. With noise in the augmentation they are to be cleaned."""


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """The quantizer and the choice."""

    groups: int = 2
    """Codebooks whose entries are put side by side."""
    codes: int = 160
    """Entries of each."""
    width: int = 128
    """Numbers of the vectors that are compared."""
    distractors: int = 50
    """Other hidden frames of the same utterance to choose from."""
    temperature: float = 0.1
    """Divides the cosines."""
    diversity: float = 0.1
    """Weight of the loss that wants all entries used alike."""
    gumbel: tuple[float, float, float] = (2.0, 0.5, 0.9995)
    """Temperature of the choice of entries at first, at last, and its factor a step."""


@dataclasses.dataclass(frozen=True)
class PretrainTaskConfig(TaskConfig):
    """An encoder that learns from recordings without text."""

    method: Literal["best_rq", "autoencoder", "contrastive"] = "best_rq"
    """best_rq: which entry of a random codebook the hidden frame would have (Chiu et al. 2022). autoencoder: its
    log-mel values. contrastive: which of some frames it is, as wav2vec 2.0 (Baevski et al. 2020)."""
    model: ConformerConfig = ConformerConfig()
    """The encoder, which is that of the recognizer to come."""
    audio: AudioConfig = AudioConfig()
    """Waveform to features."""
    augment: AugmentConfig = AugmentConfig()
    """Variations of the waveform. The autoencoder reconstructs what was there before reverberation, noise and gain."""
    hidden_share: float = 0.4
    """About how much of an utterance is hidden."""
    hidden_span: int = 10
    """Encoder frames of one hidden span: 10 of 40 ms are the 400 ms of BEST-RQ."""
    best_rq: BestRQConfig = BestRQConfig()
    """Settings of that method."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """Settings of that method."""
    contrastive: ContrastiveConfig = ContrastiveConfig()
    """Settings of that method."""

    kind: ClassVar[str] = "encoder"

    def build(self, reader: None = None, teacher: None = None) -> Task:
        """Return the pre-training task."""
        from speech_jax.tasks.pretrain_task import pretrain_task

        return pretrain_task(self)

    def __post_init__(self) -> None:
        for name, low, high in (("hidden_share", 0.0, 1.0), ("hidden_span", 0, 1000)):
            value = getattr(self, name)
            if not low < value < high:
                raise UserError(f"task.{name}: found {value}, expected {low} < {name} < {high}")
