"""Speech to text with CTC: waveform → features → augmentation → model → loss, as one jitted function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.core.types import (
    Bucket,
    Program,
    StreamOptions,
    Task,
    TaskConfig,
)
from speech_jax.models.config import ConformerConfig, CRNNConfig, PlainConformerConfig, Wav2Vec2Config
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import BLANK, Tokenizer, train_tokenizer

if TYPE_CHECKING:
    from speech_jax.tasks.ctc_task import Teacher


@dataclasses.dataclass(frozen=True)
class CTCTaskConfig(TaskConfig):
    """CTC recognizer: features, augmentation, network, tokenizer.

    Example:
        >>> import jax
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.tasks.ctc import CTCTaskConfig
        >>> config = CTCTaskConfig(model=ConformerConfig(width=16, layers=1, heads=2, kernel_size=3))
        >>> task = config.build(config.make_reader(lambda: ["no", "one"]))
        >>> batch = task.batch_spec(Bucket(rows=2, samples=16000, labels=8))
        >>> params, state = jax.eval_shape(task.model.init, jax.random.key(0), batch)
        >>> outputs, state = jax.eval_shape(task.model.apply, params, state, batch)  # evaluation mode
        >>> outputs["logits"].shape  # rows, frames of 40 ms, blank and three letters
        (2, 25, 4)
    """

    model: ConformerConfig | CRNNConfig | Wav2Vec2Config | PlainConformerConfig = ConformerConfig()
    """The network."""
    audio: AudioConfig = AudioConfig()
    """Waveform to features."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of waveform and features, in training only."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer to train on the texts. Not used when the run starts from a checkpoint whose tokenizer is kept."""

    kind: ClassVar[str] = "recognizer"
    next_command: ClassVar[str] = "python -m speech_jax.transcribe --checkpoint {run} RECORDING.wav"
    takes_teacher: ClassVar[bool] = True
    takes_pre_task: ClassVar[bool] = True

    def build(self, reader: Tokenizer, teacher: Teacher | None = None) -> Task:
        """Return the recognition task."""
        from speech_jax.tasks.ctc_task import ctc_task

        return ctc_task(self, reader, teacher)

    def make_reader(self, texts: Callable[[], Iterable[str]]) -> Tokenizer:
        """Return a tokenizer of the training texts."""
        return train_tokenizer(texts(), self.tokenizer)

    def load_reader(self, value: Mapping[str, Any]) -> Tokenizer:
        """Return the tokenizer that a checkpoint holds as JSON."""
        return Tokenizer.from_json(dict(value))

    def placeholder_reader(self, vocab_size: int) -> Tokenizer:
        """Return a tokenizer of `vocab_size` characters that stand for nothing."""
        return Tokenizer("char", (BLANK, *(chr(0x4E00 + n) for n in range(vocab_size - 1))))

    def stream_options(self) -> StreamOptions:
        """Warn of transcripts with more labels than the network makes frames."""
        from speech_jax.tasks.ctc_task import output_frames

        rate = self.audio.sample_rate
        return StreamOptions(
            max_labels=lambda seconds: output_frames((seconds * rate).astype("int64"), self), joins=True
        )

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return recognition by the best path."""
        from speech_jax.tasks.ctc_task import recognition_program

        return recognition_program(self, bucket, vocab_size)

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        given = getattr(self.model, "num_features", self.audio.width)  # a network over samples has none
        return {} if given == self.audio.width else {"model.num_features": "with {audio.width}"}


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Teacher: a recognizer whose outputs the trained model imitates.

    The start model as teacher limits forgetting (LwF, Li and Hoiem 2016); a larger one is distilled into a smaller one.
    """

    checkpoint: str = ""
    """Checkpoint folder of the teacher; empty is none. Vocabulary, features and frame rate must be the same."""
    weight: float = 0.5
    """Weight of the teacher: loss = (1 - weight) · CTC per label + weight · divergence of the posteriors per frame."""
    temperature: float = 1.0
    """Temperature of both posteriors; > 1 makes them softer."""
    hidden: float = 0.0
    """Weight of the difference between the encoders' frame similarities, added to the divergence; 0 is off."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return {} if self.checkpoint else dict.fromkeys(("weight", "temperature", "hidden"), "with {checkpoint}")
