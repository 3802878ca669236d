"""Words with times from decoded tokens, and subtitles from words."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from speech_jax.text.scripts import columns, has_unspaced, split_words
from speech_jax.text.tokenizer import WORD_START, Tokenizer, join_pieces


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
        silence: seconds of it that were left out as silence.
    """

    text: str
    words: tuple[Word, ...]
    seconds: float
    silence: float = 0.0

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 0 without words."""
        return float(np.mean([word.confidence for word in self.words])) if self.words else 0.0


def join_transcripts(parts: Sequence[tuple[float, Transcript]], seconds: float) -> Transcript:
    """Join the transcripts of parts of a recording, each with the part's start in seconds.

    Args:
        parts: (start, transcript) in order; what lies between them was left out as silence.
        seconds: length of the recording.
    """
    words = tuple(
        word._replace(start=round(start + word.start, 3), end=round(start + word.end, 3))
        for start, part in parts
        for word in part.words
    )
    text = " ".join(part.text for _, part in parts if part.text)
    return Transcript(text, words, seconds, max(0.0, seconds - sum(part.seconds for _, part in parts)))


def to_words(
    ids: Sequence[int] | Int[np.ndarray, " tokens"],
    starts: Sequence[int] | Int[np.ndarray, " tokens"],
    ends: Sequence[int] | Int[np.ndarray, " tokens"],
    confidence: Sequence[float] | Float[np.ndarray, " tokens"],
    tokenizer: Tokenizer,
    frame_seconds: float,
) -> list[Word]:
    """Join tokens into words; in scripts without spaces, each sign is a word, see `split_words`.

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
    parts: list[tuple[str, float, float, float]] = []  # of the word: text, first frame, end, confidence

    def close():
        parts[:] = _join_bytes(parts)
        text = "".join(part[0] for part in parts)
        units = split_words(text) if has_unspaced(text) else [text] if text else []
        characters = _characters(parts) if len(units) > 1 else parts
        place = 0
        for unit in units:
            mine = characters[place : place + len(unit)] if len(units) > 1 else parts
            place += len(unit)
            first, last = round(mine[0][1] * frame_seconds, 3), round(mine[-1][2] * frame_seconds, 3)
            words.append(Word(unit, first, last, min(1.0, *(part[3] for part in mine))))
        parts.clear()

    for token, start, end, token_confidence in zip(ids, starts, ends, confidence, strict=True):
        piece = tokenizer.texts[int(token)]
        space = tokenizer.kind == "char" and piece.isspace()
        if space or (tokenizer.kind != "char" and piece.startswith(WORD_START)):
            close()
        piece = "" if space else piece.replace(WORD_START, "")
        if piece:
            parts.append((piece, int(start), int(end), float(token_confidence)))
    close()
    return words


def _join_bytes(parts: list[tuple[str, float, float, float]]) -> Iterator[tuple[str, float, float, float]]:
    """Yield tokens, those that are bytes of characters joined."""
    for is_byte, group in itertools.groupby(parts, lambda part: "\udc80" <= part[0] <= "\udcff"):
        if is_byte:
            run = list(group)
            yield join_pieces(part[0] for part in run), run[0][1], run[-1][2], min(part[3] for part in run)
        else:
            yield from group


def _characters(parts: Sequence[tuple[str, float, float, float]]) -> list[tuple[str, float, float, float]]:
    """Return tokens as their characters, which share a token's time."""
    return [
        (char, first + (last - first) * n / len(text), first + (last - first) * (n + 1) / len(text), confidence)
        for text, first, last, confidence in parts
        for n, char in enumerate(text)
    ]


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


class _Piece(NamedTuple):
    """A word, or a part of one that is wider than a line, with the space before it."""

    text: str
    start: float
    end: float
    space: str


def to_cues(
    words: Sequence[Word], text: str = "", *, width: int = 42, max_seconds: float = 6.0, max_gap: float = 1.0
) -> list[Cue]:
    """Group words into subtitles of at most two lines.

    Args:
        words: words in order.
        text: the whole text, which says where spaces are; empty puts one between any two words.
        width: columns per line, see `scripts.columns`; a longer word is divided.
        max_seconds: length of a subtitle.
        max_gap: pause in seconds after which a new subtitle begins.
    """
    groups: list[list[_Piece]] = []
    for piece in _pieces(words, text, width):
        group = groups[-1] if groups else []
        if (
            not group
            or _lines([*group, piece], width) is None
            or piece.end - group[0].start > max_seconds
            or piece.start - group[-1].end > max_gap
        ):
            groups.append([piece])
        else:
            group.append(piece)
    return [Cue(g[0].start, max(g[-1].end, g[0].start + 0.04), "\n".join(_lines(g, width) or ())) for g in groups]


def _pieces(words: Sequence[Word], text: str, width: int) -> Iterator[_Piece]:
    place = 0
    for word in words:
        found = text.find(word.text, place)
        space = " " if found < 0 or text[place:found].strip() else text[place:found] and " "
        place = found + len(word.text) if found >= 0 else place
        for part, first, last, _ in _divided(word, width):
            yield _Piece(part, first, last, space)
            space = ""


def _divided(word: Word, width: int) -> list[tuple[str, float, float, float]]:
    """Return a word in parts of at most `width` columns."""
    if columns(word.text) <= width:
        return [word]
    parts: list[tuple[str, float, float, float]] = []
    for char, first, last, confidence in _characters([word]):
        if parts and columns(parts[-1][0] + char) <= width:
            parts[-1] = (parts[-1][0] + char, parts[-1][1], round(last, 3), confidence)
        else:
            parts.append((char, round(first, 3), round(last, 3), confidence))
    return parts


def _lines(pieces: Sequence[_Piece], width: int) -> list[str] | None:
    """Return one or two lines of at most `width` columns, as equal as can be; None if the pieces do not fit."""

    def join(part: Sequence[_Piece]) -> str:
        return "".join(piece.space + piece.text for piece in part).lstrip()

    if columns(join(pieces)) <= width:
        return [join(pieces)]
    pairs = [(join(pieces[:n]), join(pieces[n:])) for n in range(1, len(pieces))]
    fitting = [pair for pair in pairs if max(map(columns, pair)) <= width]
    return list(min(fitting, key=lambda pair: max(map(columns, pair)))) if fitting else None


def to_srt(cues: Sequence[Cue]) -> str:
    """Return subtitles as SubRip (.srt) text."""
    parts = [f"{n}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for n, cue in enumerate(cues, 1)]
    return "\n".join(parts)


def to_vtt(cues: Sequence[Cue]) -> str:
    """Return subtitles as WebVTT (.vtt) text, which browsers show."""
    parts = ["WEBVTT\n"]
    for cue in cues:
        times = f"{_clock(cue.start)} --> {_clock(cue.end)}".replace(",", ".")
        parts.append(f"{times}\n{html.escape(cue.text, quote=False)}\n")
    return "\n".join(parts)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d},{rest:03d}"
