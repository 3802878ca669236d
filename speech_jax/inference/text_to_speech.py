"""Text → waveform with a voice and a vocoder: long texts in pieces, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from speech_jax.inference.audio_output import Vocoder
from speech_jax.inference.voice import Piece, Voice
from speech_jax.text.frontend import TextPiece

PIECES = 16  # synthesized before the first of them is returned: memory does not grow with the text


class Recording(NamedTuple):
    """Synthesized text.

    Attributes:
        text: The text.
        audio: Samples in [-1, 1] at the voice's rate.
        pieces: The pieces that it was synthesized in.
    """

    text: str
    audio: Float[np.ndarray, " time"]
    pieces: list[Piece]


def synthesize(
    voice: Voice, vocoder: Vocoder, text: str, *, tries: int = 3, pause: float = 0.2, speaker: int = 0
) -> Recording:
    """Synthesize a text of any length.

    Args:
        voice: Text to mel frames.
        vocoder: Mel frames to samples.
        text: The text; a long one is cut into pieces.
        tries: Attempts for a piece whose alignment fails; the best one is kept.
        pause: Seconds of silence between pieces.
        speaker: Speaker's number, for a voice of several.

    Returns:
        The recording.

    Raises:
        UserError: If the front end does not accept the text.
    """
    waves, pieces = [], []
    for wave, finished in synthesize_pieces(voice, vocoder, text, tries=tries, pause=pause, speaker=speaker):
        waves.append(wave)
        pieces += finished
    return Recording(text, np.concatenate(waves), pieces)


def synthesize_pieces(
    voice: Voice,
    vocoder: Vocoder,
    text: str,
    *,
    tries: int = 3,
    pause: float = 0.2,
    speaker: int = 0,
    source: str = "",
) -> Iterator[tuple[Float[np.ndarray, " time"], list[Piece]]]:
    """Synthesize a text of any length and yield its audio piece by piece, so that memory is bounded.

    Args:
        voice: Text to mel frames.
        vocoder: Mel frames to samples.
        text: The text; a long one is cut into pieces.
        tries: Attempts for a piece whose alignment fails; the best one is kept.
        pause: Seconds of silence between pieces.
        speaker: Speaker's number, for a voice of several.
        source: Name of the text in errors, "FILE:LINE".

    Yields:
        (samples, pieces that end with them).

    Raises:
        UserError: If the front end does not accept the text.
    """
    texts = voice.front_end.split(text, source=source)
    for first in range(0, len(texts), PIECES):
        group = texts[first : first + PIECES]
        for number, piece in enumerate(voice.synthesize(group, tries=tries, speaker=speaker, first=first), first):
            if number:
                yield silence(pause, voice.sample_rate), []
            yield vocoder.wave(piece.mel), [piece]


def stream(
    voice: Voice,
    vocoder: Vocoder,
    text: str,
    *,
    chunk_steps: int = 32,
    pause: float = 0.2,
    speaker: int = 0,
    source: str = "",
) -> Iterator[tuple[Float[np.ndarray, " time"], list[Piece]]]:
    """Synthesize a text of any length and yield its audio in chunks, with one try per piece.

    Args:
        voice: Text to mel frames.
        vocoder: Mel frames to samples.
        text: The text; a long one is cut into pieces.
        chunk_steps: Decoder steps per chunk.
        pause: Seconds of silence between pieces.
        speaker: Speaker's number, for a voice of several.
        source: Name of the text in errors, "FILE:LINE".

    Yields:
        (samples, pieces that end with them).

    Raises:
        UserError: If the front end does not accept the text.
    """
    for number, text_piece in enumerate(voice.front_end.split(text, source=source)):
        if number:
            yield silence(pause, voice.sample_rate), []
        finished: list[Piece] = []

        def mels(text_piece: TextPiece = text_piece, finished: list[Piece] = finished) -> Iterator[np.ndarray]:
            for mel, piece in voice.stream(text_piece, chunk_steps=chunk_steps, speaker=speaker):
                finished += [piece] if piece is not None else []
                yield mel

        for wave in vocoder.stream(mels()):
            yield wave, []
        yield np.zeros(0, np.float32), finished


def silence(seconds: float, rate: int) -> Float[np.ndarray, " time"]:
    """Return `seconds` of silence at `rate` Hz."""
    return np.zeros(int(seconds * rate), np.float32)
