"""A checkpoint as something that speaks: text → mel frames, scored, and tried again where the score says it failed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from speech_jax.artifacts.voice import VoiceParts, load_voice_parts
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import END_REASONS, generate_mels, stream_mels, text_batch
from speech_jax.evaluation.alignment import AlignmentScore, score_alignment
from speech_jax.models.tacotron2 import utterance_seeds
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.tasks.tacotron2_task import network_config
from speech_jax.text.frontend import FrontEnd
from speech_jax.training.checkpoint import Which

LONGEST = 200  # characters of a piece; longer text is cut at sentences, then at commas, then between words


class Piece(NamedTuple):
    """One piece of text, spoken: frames after the post-net, the attention's weights, and what they are worth."""

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
    """
    return Voice(load_voice_parts(path, which), seed=seed)


class Voice:
    """Speaks pieces of text. seed: of the prenet's dropout; the same seed and text make the same frames."""

    def __init__(self, parts: VoiceParts, decode: DecodeConfig | None = None, *, seed: int = 0, rows: int = 4):
        self.task, self.front_end, self.speakers = parts.task, parts.front_end, parts.speakers
        self._parts = make_parts(network_config(parts.task))
        self._params, self._state = jax.device_put((parts.params, parts.model_state))
        self._decode, self._key, self._rows = decode or DecodeConfig(), jax.random.key(seed), rows
        self.reduction = self._decode.reduction or network_config(parts.task).reduction

    def say(self, texts: Sequence[str], *, tries: int = 3, speaker: int = 0) -> list[Piece]:
        """Every text, in order. One whose alignment failed is tried again with other randomness, `tries` times in all;
        the best of the tries is kept. Raises UserError for a text that the front end does not accept."""
        ids = [self.front_end.encode(text) for text in texts]
        best: dict[int, Piece] = {}
        waiting = list(range(len(texts)))
        for attempt in range(tries):
            for number, mel, weights, ended in self._batches(waiting, ids, attempt, speaker):
                score = score_alignment(weights, ended)
                if number not in best or score.quality > best[number].score.quality:
                    best[number] = Piece(texts[number], mel, weights, score, attempt + 1)
                else:
                    best[number] = best[number]._replace(tries=attempt + 1)
            waiting = [number for number in waiting if best[number].score.failure]
        return [best[number] for number in range(len(texts))]

    def stream(
        self, text: str, *, chunk_steps: int = 32, speaker: int = 0
    ) -> Iterator[tuple[Float[np.ndarray, "frames mels"], Piece | None]]:
        """The frames of one piece of text as they are made, the first after `chunk_steps` steps; with the last ones the
        whole piece and its score: what is out cannot be tried again."""
        ids = self.front_end.encode(text)
        batch, seeds = self._batch([0], [ids], 0, speaker, rows=1)
        mels, walked = [], []
        for mel, weights, ended in stream_mels(
            self._parts, self._decode, self._params, self._state, batch, seeds, chunk_steps=chunk_steps
        ):
            mels.append(mel)
            walked.append(weights[:, : len(ids)])
            if not ended:
                yield mel, None
                continue
            path = np.concatenate(walked)
            yield mel, Piece(text, np.concatenate(mels), path, score_alignment(path, ended), 1)

    def _batches(self, numbers: Sequence[int], ids: list[list[int]], attempt: int, speaker: int) -> Iterator[tuple[int, Any, Any, Any]]:
        """(number, mel, weights, how it ended) of each, those of like length together."""
        order = sorted(numbers, key=lambda n: len(ids[n]))
        for start in range(0, len(order), self._rows):
            some = order[start : start + self._rows]
            batch, seeds = self._batch(some, ids, attempt, speaker, rows=self._rows)
            said = jax.device_get(generate_mels(self._parts, self._decode, self._params, self._state, batch, seeds))
            for row, number in enumerate(some):
                frames = int(said.lengths[row])
                weights = said.weights[row, : -(-frames // self.reduction), : len(ids[number])]
                yield number, said.mel[row, :frames], weights, END_REASONS[int(said.ended[row])]

    def _batch(self, numbers: Sequence[int], ids: list[list[int]], attempt: int, speaker: int, rows: int) -> tuple:
        speakers = [speaker] * len(numbers) if self.task.model.speakers else None
        batch = text_batch([ids[n] for n in numbers], rows=rows, speakers=speakers)
        index = np.array([*numbers, *[0] * (rows - len(numbers))], np.int32)
        return batch, utterance_seeds(jax.random.fold_in(self._key, attempt), jnp.asarray(index))


def spoken_pieces(front_end: FrontEnd, text: str, longest: int = LONGEST) -> list[str]:
    """A long text in pieces, of which each is at most 2 · `longest` symbols when spoken: figures and signs grow when
    they are read aloud. Raises UserError for a text that the front end does not accept."""
    found, waiting = [], pieces(text, longest)[::-1]
    while waiting:
        piece = waiting.pop()
        prepared = front_end.prepare(piece)
        if not prepared.unknown and not any(c.isalpha() for c in prepared.text):
            continue  # a dash between two sentences: nothing to say
        if len(front_end.encode(piece)) > 2 * longest and len(piece) > 1:
            waiting += pieces(piece, -(-len(piece) // 2))[::-1]
        else:
            found.append(piece)
    if not found:
        front_end.encode(text)
    return found


def pieces(text: str, longest: int = LONGEST) -> list[str]:
    """A long text in pieces of at most `longest` characters: at the ends of sentences, else at commas, else between
    words, else anywhere. Nothing is lost but the spaces in between."""
    found: list[str] = []
    for line in text.splitlines():
        for sentence in re.split(r"(?<=[.!?…])[\"'”’)]*\s+", line.strip()):
            found += _cut(sentence, longest)
    return [piece for piece in found if piece]


def _cut(sentence: str, longest: int) -> list[str]:
    found = []
    while len(sentence) > longest:
        head = sentence[:longest]
        ends = [max(head.rfind(mark) for mark in marks) for marks in ((", ", "; ", ": ", " - "), (" ",))]
        at = next((end + 1 for end in ends if end > longest // 4), longest)
        found.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*found, sentence]
