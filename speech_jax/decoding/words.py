"""Words with times from decoded tokens, and subtitles from words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from speech_jax.text.tokenizer import WORD_START, Tokenizer


class Word(NamedTuple):
    """A recognized word.

    CTC emits a token somewhere inside its sound and blanks elsewhere: times are accurate to about 0.1 s, and words tend
    to be too short.

    Attributes:
        text: the word.
        start: seconds.
        end: seconds.
        confidence: the smallest confidence of its tokens, in (0, 1].
    """

    text: str
    start: float
    end: float
    confidence: float


class Transcript(NamedTuple):
    """Recognized text of a recording.

    Attributes:
        text: the whole text.
        words: words with times.
        seconds: length of the recording.
    """

    text: str
    words: tuple[Word, ...]
    seconds: float

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 0 without words."""
        return float(np.mean([word.confidence for word in self.words])) if self.words else 0.0


def to_words(
    ids: Sequence[int] | Int[np.ndarray, " tokens"],
    starts: Sequence[int] | Int[np.ndarray, " tokens"],
    ends: Sequence[int] | Int[np.ndarray, " tokens"],
    confidence: Sequence[float] | Float[np.ndarray, " tokens"],
    tokenizer: Tokenizer,
    frame_seconds: float,
) -> list[Word]:
    """Join tokens into words.

    The first four arguments are one row of a `speech_jax.decoding.ctc.BestPath`, cut to its length.

    Args:
        ids: token ids.
        starts: first frame of each token.
        ends: one past the last frame of each token.
        confidence: confidence of each token.
        tokenizer: the vocabulary.
        frame_seconds: duration of an output frame in seconds.
    """
    words: list[Word] = []
    text, first, last, lowest = "", 0, 0, 1.0

    def close():
        if text:
            words.append(Word(text, round(first * frame_seconds, 3), round(last * frame_seconds, 3), lowest))

    for token, start, end, token_confidence in zip(ids, starts, ends, confidence, strict=True):
        piece = tokenizer.texts[int(token)]
        space = tokenizer.kind == "char" and piece.isspace()
        if space or (tokenizer.kind != "char" and piece.startswith(WORD_START)):
            close()
            text, lowest = "", 1.0
        piece = "" if space else piece.replace(WORD_START, "")
        if not piece:
            continue
        if not text:
            first = int(start)
        text, last, lowest = text + piece, int(end), min(lowest, float(token_confidence))
    close()
    return words


class Cue(NamedTuple):
    """One subtitle.

    Attributes:
        start: seconds.
        end: seconds.
        text: at most two lines.
    """

    start: float
    end: float
    text: str


def to_cues(
    words: Sequence[Word], *, max_letters: int = 84, max_seconds: float = 6.0, max_gap: float = 1.0
) -> list[Cue]:
    """Group words into subtitles of at most two lines.

    Args:
        words: words in order.
        max_letters: letters per subtitle, spaces included.
        max_seconds: length of a subtitle.
        max_gap: pause in seconds after which a new subtitle begins.
    """
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        letters = sum(len(w.text) + 1 for w in group) + len(word.text)
        if (
            not group
            or letters > max_letters
            or word.end - group[0].start > max_seconds
            or word.start - group[-1].end > max_gap
        ):
            groups.append([word])
        else:
            group.append(word)
    return [Cue(g[0].start, max(g[-1].end, g[0].start + 0.04), _two_lines([w.text for w in g])) for g in groups]


def _two_lines(words: Sequence[str], width: int = 42) -> str:
    text = " ".join(words)
    if len(text) <= width:
        return text
    breaks = [i for i, c in enumerate(text) if c == " "]
    if not breaks:
        return text
    middle = min(breaks, key=lambda i: abs(i - len(text) / 2))
    return text[:middle] + "\n" + text[middle + 1 :]


def to_srt(cues: Sequence[Cue]) -> str:
    """Return subtitles as SubRip (.srt) text."""
    parts = [f"{n}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for n, cue in enumerate(cues, 1)]
    return "\n".join(parts)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d},{rest:03d}"
