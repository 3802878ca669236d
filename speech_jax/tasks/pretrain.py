"""Config of unsupervised pre-training of a recognizer's encoder; its functions are in tasks/pretrain_task.py."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from speech_jax.audio.config import MASKS, AudioConfig, AugmentConfig
from speech_jax.core.claims import not_used_by
from speech_jax.core.errors import UserError
from speech_jax.core.types import Task, TaskConfig
from speech_jax.models.config import ConformerConfig


@dataclasses.dataclass(frozen=True)
class BestRQConfig:
    """Random quantizer of BEST-RQ; it is not trained and follows from its seed."""

    codes: int = 1024
    """Entries per codebook (the paper: 8192, for 60,000 hours)."""
    width: int = 16
    """Dimensions of an entry."""
    codebooks: int = 1
    """Codebooks, each with its own softmax head; more make the targets finer."""
    seed: int = 0
    """Seed of the random projections and codebooks."""


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Decoder and loss of the masked autoencoder."""

    width: int = 256
    """Hidden units of the decoder, which takes one encoder frame at a time: context is left to the encoder."""
    shown_weight: float = 0.1
    """Weight of the error on frames that were not hidden; with noise in the augmentation these are denoised."""


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Quantizer and contrastive loss of wav2vec 2.0."""

    groups: int = 2
    """Codebooks; a target is one entry of each, concatenated."""
    codes: int = 160
    """Entries per codebook."""
    width: int = 128
    """Dimensions of the vectors that are compared."""
    distractors: int = 50
    """Negatives per hidden frame, drawn from the other hidden frames of the utterance."""
    temperature: float = 0.1
    """Temperature by which the cosine similarities are divided."""
    diversity: float = 0.1
    """Weight of the diversity loss, which is lowest if all entries are used equally."""
    gumbel: tuple[float, float, float] = (2.0, 0.5, 0.9995)
    """Temperature of the Gumbel softmax: start, minimum, factor per step."""


@dataclasses.dataclass(frozen=True)
class PretrainTaskConfig(TaskConfig):
    """Encoder pre-trained on recordings without text.

    Example:
        >>> import jax
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.tasks.pretrain import PretrainTaskConfig
        >>> network = ConformerConfig(width=16, layers=1, heads=2, kernel_size=3)
        >>> task = PretrainTaskConfig(method="best_rq", model=network).build()
        >>> batch = task.batch_spec(Bucket(rows=2, samples=16000, labels=1))
        >>> params, state = jax.eval_shape(task.model.init, jax.random.key(0), batch)
        >>> sorted(params)  # fine-tuning takes the encoder and leaves the pretext head behind
        ['encoder', 'pretext']
        >>> outputs, state = jax.eval_shape(task.model.apply, params, state, batch)
        >>> outputs["encoded"].shape  # rows, frames of 40 ms, width
        (2, 25, 16)
    """

    method: Literal["best_rq", "autoencoder", "contrastive"] = "best_rq"
    """Target for a hidden frame. best_rq: its entry in a random codebook (Chiu et al. 2022). autoencoder: its log-mel
    values. contrastive: its quantized vector among negatives, as wav2vec 2.0 (Baevski et al. 2020)."""
    model: ConformerConfig = ConformerConfig()
    """Encoder; the recognizer that is fine-tuned later must have the same."""
    audio: AudioConfig = AudioConfig()
    """Waveform to features."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of the waveform. The autoencoder reconstructs the signal before reverberation, noise and gain."""
    hidden_share: float = 0.4
    """Approximate share of an utterance's frames that are hidden, 0 to 1."""
    hidden_span: int = 10
    """Encoder frames per hidden span; 10 frames of 40 ms are the 400 ms of BEST-RQ."""
    best_rq: BestRQConfig = BestRQConfig()
    """Settings of `method` best_rq."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """Settings of `method` autoencoder."""
    contrastive: ContrastiveConfig = ContrastiveConfig()
    """Settings of `method` contrastive."""

    kind: ClassVar[str] = "encoder"
    next_command: ClassVar[str] = "python -m speech_jax.train --config NAME --init-from {run}"
    reads_text: ClassVar[bool] = False

    def build(self, reader: None = None, teacher: None = None) -> Task:
        """Return the pre-training task."""
        from speech_jax.tasks.pretrain_task import pretrain_task

        return pretrain_task(self)

    def __post_init__(self) -> None:
        for name, low, high in (("hidden_share", 0.0, 1.0), ("hidden_span", 0, 1000)):
            value = getattr(self, name)
            if not low < value < high:
                raise UserError(f"task.{name}: found {value}, expected {low} < {name} < {high}")

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        methods = {name: name for name in ("best_rq", "autoencoder", "contrastive")}
        idle = not_used_by("method", self.method, methods)
        idle |= {f"augment.{name}": "in pre-training, which hides frames itself" for name in MASKS}
        given = self.model.num_features
        return idle if given == self.audio.width else idle | {"model.num_features": "with {audio.width}"}
