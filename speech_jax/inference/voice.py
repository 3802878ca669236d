"""`Voice`: text → mel frames with a Tacotron 2 checkpoint; retries failed alignments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from speech_jax.artifacts.voice import VoiceParts, load_voice_parts
from speech_jax.core.errors import UserError
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import END_REASONS, generate_mels, stream_mels, text_batch
from speech_jax.evaluation.alignment import AlignmentScore, score_alignment
from speech_jax.models.tacotron2 import utterance_seeds
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.tasks.tacotron2_task import network_config
from speech_jax.text.frontend import TextPiece
from speech_jax.training.checkpoint import Which

if TYPE_CHECKING:
    from speech_jax.inference.audio_output import Vocoder


class Piece(NamedTuple):
    """Synthesized piece of text.

    Attributes:
        text: The text; that of a `TextPiece` is what is spoken, in the voice's symbols.
        mel: Mel frames after the post-net.
        weights: Attention weights.
        score: Score of the alignment.
        tries: Attempts made.
    """

    text: str
    mel: Float[np.ndarray, "frames mels"]
    weights: Float[np.ndarray, "steps symbols"]
    score: AlignmentScore
    tries: int


def load_voice(path: str | Path, which: Which = "best", *, seed: int = 0) -> Voice:
    """Load the voice in a run's folder, ready to synthesize mel frames.

    Args:
        path: The folder of a run, or of one of its steps.
        which: The run's best or last checkpoint, or a step.
        seed: Seed of the prenet's dropout; the same seed and text give the same frames.

    Returns:
        The voice.

    Raises:
        UserError: If there is no whole checkpoint, or not a voice's.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.voice import VoiceParts, save_voice
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.voice import load_voice
        >>> from speech_jax.models.config import AttentionConfig, Tacotron2Config
        >>> from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
        >>> config = Tacotron2TaskConfig(model=Tacotron2Config(
        ...     embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
        ...     postnet_layers=2, postnet=8, attention=AttentionConfig(width=8, filters=2, filter_length=3),
        ... ))
        >>> front_end = config.make_reader(lambda: ["to be or not to be"])
        >>> weights = config.program(Bucket(rows=1, samples=0, labels=8), front_end.vocab_size).weights
        >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_voice(folder, VoiceParts(config, front_end, params, state))
        ...     voice = load_voice(folder)
        >>> voice.task == config, voice.front_end.encode("be") == front_end.encode("be")
        (True, True)
    """
    return Voice(load_voice_parts(path, which), seed=seed)


class Voice:
    """Tacotron 2 voice: text to mel frames.

    Args:
        parts: Task, front end, parameters and speakers of a checkpoint.
        decode: When an utterance ends.
        seed: Seed of the prenet's dropout; the same seed and text give the same frames.
        rows: Texts per batch.

    Attributes:
        task: The task's config.
        front_end: Text to symbols.
        speakers: Names of the speakers; empty for one.
        reduction: Mel frames per decoder step.
        sample_rate: Samples per second of the audio that the mel frames stand for.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.voice import VoiceParts
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.decoding.config import DecodeConfig
        >>> from speech_jax.inference.voice import Voice
        >>> from speech_jax.models.config import AttentionConfig, Tacotron2Config
        >>> from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
        >>> config = Tacotron2TaskConfig(model=Tacotron2Config(
        ...     embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
        ...     postnet_layers=2, postnet=8, attention=AttentionConfig(width=8, filters=2, filter_length=3),
        ... ))
        >>> front_end = config.make_reader(lambda: ["to be or not to be"])
        >>> weights = config.program(Bucket(rows=1, samples=0, labels=8), front_end.vocab_size).weights
        >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> decode = DecodeConfig(frames_per_symbol=2, frames_more=4, saturated_frames=0)
        >>> voice = Voice(VoiceParts(config, front_end, params, state), decode, rows=1)
        >>> [piece] = voice.synthesize(["be"], tries=1)
        >>> piece.mel.shape[1], piece.score.ended  # mel bands; this network runs into the frame limit
        (80, 'bound')
    """

    def __init__(self, parts: VoiceParts, decode: DecodeConfig | None = None, *, seed: int = 0, rows: int = 4):
        self.task, self.front_end, self.speakers = parts.task, parts.front_end, parts.speakers
        self._parts = make_parts(network_config(parts.task))
        self._params, self._state = jax.device_put((parts.params, parts.model_state))
        self._decode, self._key, self._rows = decode or DecodeConfig(), jax.random.key(seed), rows
        largest = network_config(parts.task).reduction
        if self._decode.reduction > largest:
            raise UserError(f"decode.reduction: found {self._decode.reduction}, expected 0 to the voice's {largest}")
        self.reduction = self._decode.reduction or largest
        self.sample_rate = parts.task.audio.sample_rate

    def wave(
        self,
        text: str,
        vocoder: Vocoder | None = None,
        *,
        tries: int = 3,
        pause: float = 0.2,
        speaker: int = 0,
    ) -> Float[np.ndarray, " time"]:
        """Return the waveform of a text of any length, at `sample_rate`.

        `text_to_speech.synthesize` also returns the pieces with the scores of their alignments.

        Args:
            text: The text.
            vocoder: Mel frames to samples, see `audio_output.find_vocoder`; None takes Griffin-Lim.
            tries: Attempts for a piece whose alignment fails; the best one is kept.
            pause: Seconds of silence between pieces.
            speaker: Speaker's number, for a voice of several.

        Returns:
            float32 samples in [-1, 1].

        Raises:
            UserError: If it is no text, the front end does not accept it, or there is no such speaker.

        Example:
            >>> import jax
            >>> import numpy as np
            >>> from speech_jax.artifacts.voice import VoiceParts
            >>> from speech_jax.core.types import Bucket
            >>> from speech_jax.decoding.config import DecodeConfig
            >>> from speech_jax.inference.voice import Voice
            >>> from speech_jax.models.config import AttentionConfig, Tacotron2Config
            >>> from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
            >>> config = Tacotron2TaskConfig(model=Tacotron2Config(
            ...     embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
            ...     postnet_layers=2, postnet=8, attention=AttentionConfig(width=8, filters=2, filter_length=3),
            ... ))
            >>> front_end = config.make_reader(lambda: ["to be or not to be"])
            >>> weights = config.program(Bucket(rows=1, samples=0, labels=8), front_end.vocab_size).weights
            >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
            >>> voice = Voice(VoiceParts(config, front_end, params, state), DecodeConfig(frames_more=4), rows=1)
            >>> wave = voice.wave("To be.", tries=1)  # in a notebook: Audio(wave, rate=voice.sample_rate)
            >>> wave.dtype, wave.ndim, voice.sample_rate
            (dtype('float32'), 1, 22050)
        """
        from speech_jax.inference.audio_output import GRIFFIN_LIM, find_vocoder
        from speech_jax.inference.text_to_speech import synthesize  # it imports this module

        vocoder = vocoder or find_vocoder(GRIFFIN_LIM, self.task.audio, "the voice")
        if not isinstance(text, str):
            raise UserError(f"text: found {text!r:.60}, expected a string")
        audio = synthesize(self, vocoder, text, tries=tries, pause=pause, speaker=speaker).audio
        return np.asarray(audio, np.float32)

    def synthesize(
        self, texts: Sequence[str | TextPiece], *, tries: int = 3, speaker: int = 0, first: int = 0
    ) -> list[Piece]:
        """Synthesize texts, each at one go.

        Args:
            texts: The texts, or pieces of a longer one from `front_end.split`.
            tries: Attempts for a text whose alignment fails, each with other dropout; the best one is kept.
            speaker: Speaker's number, for a voice of several.
            first: Number of the first text, where they are a part of a longer list; it has a share in the dropout.

        Returns:
            A piece per text, in their order.

        Raises:
            UserError: If the front end does not accept a text.
        """
        ids = [self._ids(text) for text in texts]
        best: dict[int, Piece] = {}
        waiting = list(range(len(texts)))
        for attempt in range(tries):
            for number, mel, weights, ended in self._batches(waiting, ids, attempt, speaker, first):
                score = score_alignment(weights, ended)
                if number not in best or score.quality > best[number].score.quality:
                    best[number] = Piece(_written(texts[number]), mel, weights, score, attempt + 1)
                else:
                    best[number] = best[number]._replace(tries=attempt + 1)
            waiting = [number for number in waiting if best[number].score.failure]
        return [best[number] for number in range(len(texts))]

    def stream(
        self, text: str | TextPiece, *, chunk_steps: int = 32, speaker: int = 0
    ) -> Iterator[tuple[Float[np.ndarray, "frames mels"], Piece | None]]:
        """Synthesize one text and yield its mel frames in chunks, with a single try.

        Args:
            text: The text.
            chunk_steps: Decoder steps per chunk.
            speaker: Speaker's number, for a voice of several.

        Yields:
            (mel frames, None), and at the end (mel frames, the whole piece).

        Raises:
            UserError: If the front end does not accept the text.
        """
        ids = self._ids(text)
        batch, seeds = self._batch([0], [ids], 0, speaker, rows=1)
        mels, steps = [], []
        for mel, weights, ended in stream_mels(
            self._parts, self._decode, self._params, self._state, batch, seeds, chunk_steps=chunk_steps
        ):
            mels.append(mel)
            steps.append(weights[:, : len(ids)])
            if not ended:
                yield mel, None
                continue
            attention = np.concatenate(steps)
            yield mel, Piece(_written(text), np.concatenate(mels), attention, score_alignment(attention, ended), 1)

    def _ids(self, text: str | TextPiece) -> list[int]:
        return text.ids if isinstance(text, TextPiece) else self.front_end.encode(text)

    def _batches(
        self, numbers: Sequence[int], ids: list[list[int]], attempt: int, speaker: int, first: int
    ) -> Iterator[tuple[int, Any, Any, Any]]:
        """Yield (number, mel, weights, reason of its end) of each text; those of similar length share a batch."""
        order = sorted(numbers, key=lambda n: len(ids[n]))
        for start in range(0, len(order), self._rows):
            chosen = order[start : start + self._rows]
            batch, seeds = self._batch(chosen, ids, attempt, speaker, rows=self._rows, first=first)
            generated = jax.device_get(
                generate_mels(self._parts, self._decode, self._params, self._state, batch, seeds)
            )
            for row, number in enumerate(chosen):
                frames = int(generated.lengths[row])
                weights = generated.weights[row, : -(-frames // self.reduction), : len(ids[number])]
                yield number, generated.mel[row, :frames], weights, END_REASONS[int(generated.ended[row])]

    def _batch(
        self, numbers: Sequence[int], ids: list[list[int]], attempt: int, speaker: int, rows: int, first: int = 0
    ) -> tuple:
        count = self.task.model.speakers
        if speaker not in range(count or 1):  # an index out of range would take another voice, or NaN
            raise UserError(f"speaker: found {speaker!r}, expected 0 to {max(count, 1) - 1}")
        speakers = [speaker] * len(numbers) if count else None
        batch = text_batch([ids[n] for n in numbers], rows=rows, speakers=speakers)
        index = np.array([*(first + n for n in numbers), *[0] * (rows - len(numbers))], np.int32)
        return batch, utterance_seeds(jax.random.fold_in(self._key, attempt), jnp.asarray(index))


def _written(text: str | TextPiece) -> str:
    return text.text if isinstance(text, TextPiece) else text
