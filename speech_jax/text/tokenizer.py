"""Conversion of text to token ids and back: characters, or sentencepiece's BPE and unigram pieces.

Id 0 is always the CTC blank, so other tokens are 1..V-1. A tokenizer is only its list of pieces and their scores, which
a checkpoint stores as readable JSON. sentencepiece trains the pieces; segmentation is implemented here (a test checks
that it equals sentencepiece's), so that reading a checkpoint parses no binary model.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.normalize import check_language, earlier_spelling, normalize
from speech_jax.text.texts import Texts

BLANK = "<blank>"
SPECIAL = ("<unk>", "<s>", "</s>")  # pieces that a char tokenizer may have besides characters; they stand for no text
_SILENT = re.compile(r"<(?:unk|s|/s|pad|mask|sep|cls|\|[^|]*\|)>")  # pieces of sentencepiece that stand for no text
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # of a sentencepiece model that spells unknown characters by their bytes
_CONTROLS = frozenset(map(chr, (*range(9), *range(11, 32), *range(127, 160))))  # but tabs and line breaks
WORD_START = "\u2581"  # sentencepiece's mark of a space before a piece


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: its pieces by id, and how texts are normalized before encoding.

    Attributes:
        kind: char, bpe or unigram.
        pieces: pieces by id; `pieces[0]` is the blank.
        scores: ranks of the merges (bpe) or log-probabilities (unigram), one per piece; empty for char.
        language: language whose rules normalize texts before encoding; empty for no normalization.

    Example:
        >>> from speech_jax.text.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["good morning", "2 cats"])
        >>> tokenizer.vocab_size, tokenizer.encode("Cats!")
        (14, [3, 2, 12, 11])
        >>> tokenizer.decode(tokenizer.encode("2 cats"))
        'two cats'
    """

    kind: Literal["char", "bpe", "unigram"]
    pieces: tuple[str, ...]
    scores: tuple[float, ...] = ()
    language: str = ""
    """Texts are normalized for this language before they are encoded; "" takes them as they are."""

    def __post_init__(self):
        if not self.pieces or self.pieces[0] != BLANK:
            raise UserError(f"tokenizer: found {self.pieces[:1]!r} as the first piece, expected {BLANK!r}")
        if len(set(self.pieces)) != len(self.pieces) or "" in self.pieces:
            raise UserError("tokenizer: found empty or repeated pieces, expected each piece once")
        control = next((piece for piece in self.pieces if _CONTROLS & set(piece)), None)
        if control is not None:  # texts are printed in terminals, which obey them
            raise UserError(f"tokenizer: found {control!r}, expected no control characters")
        if self.kind not in ("char", "bpe", "unigram"):
            raise UserError(f"tokenizer: found kind {self.kind!r}, expected char, bpe or unigram")
        if self.kind == "char" and any(len(piece) != 1 and piece not in SPECIAL for piece in self.pieces[1:]):
            raise UserError("tokenizer: found a piece of several characters, expected single ones in kind char")
        if self.language:
            check_language(self.language)
        if self.kind != "char" and len(self.scores) != len(self.pieces):
            raise UserError(f"tokenizer: found {len(self.scores)} scores, expected {len(self.pieces)}")

    @functools.cached_property
    def _tables(self) -> _Tables:
        return _Tables(self)

    def __reduce__(self):
        return Tokenizer, (self.kind, self.pieces, self.scores, self.language)  # without the tables

    @property
    def vocab_size(self) -> int:
        """Number of token ids, blank included."""
        return len(self.pieces)

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of each piece: empty for the blank and for marks such as <unk>; bytes as `join_pieces` takes them."""
        return self._tables.texts

    def characters(self) -> frozenset[str]:
        """Return the characters that `encode` accepts."""
        return self._tables.characters

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Return the token ids of a text, normalized first if the tokenizer has a language.

        Args:
            text: the text.
            source: position of the text ("FILE:LINE"), for messages.

        Raises:
            UserError: the text has characters outside the tokenizer, which the message names.
        """
        if self.language:
            text = normalize(text, self.language)
        tables = self._tables
        outside = sorted(set(text) - tables.characters)
        if outside and self.language:
            text = earlier_spelling(text, tables.characters)
            outside = sorted(set(text) - tables.characters)
        if outside:
            shown = " ".join(f"{c!r} (U+{ord(c):04X})" for c in outside[:8]) + (" …" if len(outside) > 8 else "")
            allowed = "".join(sorted(tables.characters))
            allowed = allowed if len(allowed) <= 60 else allowed[:60] + "…"
            raise UserError(
                f"{source or 'text'}: found characters outside the tokenizer: {shown}, expected {allowed!r}, or "
                "--start.tokenizer new where training starts from a checkpoint"
            )
        if self.kind == "char":
            return [tables.ids[c] for c in text]
        return [i for word in text.split() for i in tables.word_ids(WORD_START + word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without blanks and marks such as <unk>.

        decode(encode(text)) == text for normalized text with single spaces. Raises UserError for an id out of range.
        """
        indices = [int(i) for i in ids]
        wrong = [i for i in indices if not 0 <= i < len(self.pieces)]
        if wrong:
            raise UserError(f"token ids: found {wrong[0]}, expected 0..{len(self.pieces) - 1}")
        texts = self.texts
        text = join_pieces(texts[i] for i in indices)
        return text if self.kind == "char" else text.replace(WORD_START, " ").strip()

    def fingerprint(self) -> str:
        """Return the SHA-256 of kind, language and pieces; equal for tokenizers whose ids have the same meaning."""
        return hashlib.sha256(json.dumps([self.kind, self.language, list(self.pieces)]).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON values, from which `from_json` restores the tokenizer."""
        fields = {"kind": self.kind, "language": self.language}
        return fields | {"pieces": list(self.pieces), "scores": list(self.scores)}

    @staticmethod
    def from_json(value: dict[str, Any] | str) -> Tokenizer:
        """Restore a tokenizer from `to_json`'s dict, or from its JSON text."""
        try:
            fields: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
            pieces, scores = fields["pieces"], fields.get("scores", [])
            lists = isinstance(pieces, list | tuple) and isinstance(scores, list | tuple)
            if not lists or not all(isinstance(p, str) for p in pieces) or not all(map(math.isfinite, scores)):
                raise TypeError("pieces must be strings and scores finite numbers")
            return Tokenizer(fields["kind"], tuple(pieces), tuple(float(s) for s in scores), fields.get("language", ""))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"tokenizer: found bad JSON ({error}), expected kind, pieces and scores") from error


def join_pieces(texts: Iterable[str]) -> str:
    """Concatenate texts of pieces. Bytes beyond ASCII, which are lone surrogates in them, become characters."""
    text = "".join(texts)
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig | None = None) -> Tokenizer:
    """Make a tokenizer from training texts. Deterministic; for char, the order of the texts has no influence.

    Args:
        texts: the training texts as written. `Texts` are normalized only once, on all cores.
        config: kind, size and language of the tokenizer; by default a char tokenizer for English.

    Raises:
        UserError: there are no texts, or too few for `config.vocab_size`.

    Example:
        >>> from speech_jax.text.config import TokenizerConfig
        >>> from speech_jax.text.tokenizer import train_tokenizer
        >>> train_tokenizer(["good morning"], TokenizerConfig(kind="char")).pieces[:4]
        ('<blank>', ' ', 'd', 'g')
    """
    config = config or TokenizerConfig()
    if config.kind == "char":
        characters = list(config.alphabet) or sorted(Texts.from_strings(texts).characters(config.language).used)
        if not characters:
            raise UserError("tokenizer: found no characters in the training texts, expected at least one")
        return Tokenizer("char", (BLANK, *characters), language=config.language)
    if config.alphabet:
        raise UserError(f"tokenizer: found an alphabet with kind {config.kind}, expected one only with kind char")
    return _train_sentencepiece(Texts.from_strings(texts).normalized(config.language), config)


def _train_sentencepiece(texts: Sequence[str], config: TokenizerConfig) -> Tokenizer:
    import sentencepiece  # only training needs it

    if not any(text.strip() for text in texts):
        raise UserError("tokenizer: found no training texts, expected at least one")
    if any(WORD_START in text for text in texts):
        raise UserError(f"tokenizer: found U+2581 ({WORD_START}) in the training texts, expected it nowhere")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text for text in texts if text.strip()),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,
            unk_id=0,  # id 0 becomes the blank, since unknown characters are refused, not replaced
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].split("] ")[-1]
        size = config.vocab_size
        found = f"task.tokenizer.vocab_size: found {size}, with which {config.kind} cannot be trained"
        raise UserError(f"{found}: {reason}") from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = processor.get_piece_size()
    pieces = (BLANK, *(processor.id_to_piece(i) for i in range(1, size)))
    scores = (0.0, *(float(processor.get_score(i)) for i in range(1, size)))
    return Tokenizer(config.kind, pieces, scores, config.language)


def _text_of(piece: str) -> str:
    """Return the text that a piece stands for."""
    if _SILENT.fullmatch(piece):
        return ""
    byte = _BYTE.fullmatch(piece)
    if byte is None:
        return piece
    text = bytes.fromhex(byte[1]).decode("utf-8", "surrogateescape")
    return "" if text in _CONTROLS else text


class _Tables:
    """Lookup tables of a tokenizer, built once."""

    def __init__(self, tokenizer: Tokenizer):
        self.texts = ("", *map(_text_of, tokenizer.pieces[1:]))
        self.ids = {piece: i for i, piece in enumerate(tokenizer.pieces) if i}
        self.longest = max((len(piece) for piece in self.ids), default=1)
        single = frozenset(piece for piece in self.ids if len(piece) == 1)
        self.characters = single if tokenizer.kind == "char" else (single - {WORD_START}) | {" "}
        self._segment = functools.partial(_bpe if tokenizer.kind == "bpe" else _unigram, scores=tokenizer.scores)
        self.word_ids = functools.lru_cache(maxsize=1 << 17)(self._word_ids)

    def _word_ids(self, word: str) -> tuple[int, ...]:
        return tuple(self.ids[piece] for piece in self._segment(word, self))


def _bpe(word: str, tables: _Tables, scores: Sequence[float]) -> list[str]:
    """Merge the adjacent pair with the best score, leftmost first, until no pair is a piece."""
    parts = list(word)
    while True:
        best, position = -math.inf, -1
        for i in range(len(parts) - 1):
            merged = tables.ids.get(parts[i] + parts[i + 1])
            if merged is not None and scores[merged] > best:
                best, position = scores[merged], i
        if position < 0:
            return parts
        parts[position : position + 2] = [parts[position] + parts[position + 1]]


def _unigram(word: str, tables: _Tables, scores: Sequence[float]) -> list[str]:
    """Return the segmentation with the highest sum of log-probabilities (Viterbi)."""
    best = [0.0] + [-math.inf] * len(word)
    came_from = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - tables.longest), end):
            piece = tables.ids.get(word[start:end])
            if piece is not None and best[start] + scores[piece] > best[end]:
                best[end], came_from[end] = best[start] + scores[piece], start
    parts, end = [], len(word)
    while end:
        parts.append(word[came_from[end] : end])
        end = came_from[end]
    return parts[::-1]
